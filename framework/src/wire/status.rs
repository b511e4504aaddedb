//! What `status` reports.

use serde::{Deserialize, Serialize};

use super::message::{DeviceInfo, EndCause, PollerAbout};
use crate::dma::Fault;
use crate::poll::PollerCounters;
use crate::tier::Tier;

/// Everything that the broker holds, as its own records say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The broker's process id.
    pub broker_pid: i32,
    /// Version of the `doorbell` crate.
    pub broker_version: String,
    /// Version of the control protocol.
    pub protocol: u16,
    /// How the device was named when the broker was started.
    pub spec: String,
    /// The device and what it can give out.
    pub device: DeviceInfo,
    /// Why the device is out of service, if it is.
    pub out_of_service: Option<String>,
    /// DMA accesses that were refused since the start.
    pub faults: u64,
    /// The last of them.
    pub last_fault: Option<Fault>,
    /// Times that the device was reset to recover it.
    pub resets: u64,
    /// The clients, by session number: all for an operator, else those of the asking user.
    pub sessions: Vec<SessionStatus>,
    /// Sessions left out because the report would not fit in one message.
    pub sessions_omitted: u32,
    /// The last reclaims, oldest first; at most 16. For operators only.
    pub reclaims: Vec<ReclaimReport>,
    /// Bytes of partitions that are never used again, because the device may still reach them.
    pub quarantined_bytes: u64,
    /// Queue ids that are never used again.
    pub quarantined_queues: Vec<u16>,
    /// The device's virtual functions that are enabled and can be opened, by index.
    pub virtual_functions: Vec<FunctionStatus>,
}

/// One virtual function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// Its index, from 0.
    pub index: u16,
    /// What it is used for.
    pub state: FunctionState,
}

/// What a virtual function is used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionState {
    /// A client can get it.
    Free,
    /// It is being made ready, or turned off.
    Changing,
    /// A client has it alone.
    Given {
        /// The client's session.
        session: u64,
        /// What the function is called: its PCI address, where it has one.
        name: String,
    },
    /// It is never used again: it did not let go.
    Lost {
        /// What happened.
        why: String,
    },
}

/// One client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The session's number.
    pub session: u64,
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The program's name, as it says itself.
    pub program: String,
    /// True if it may revoke, and change the device for everyone.
    pub operator: bool,
    /// The virtual function that it has alone; its queues are there. `None`: they are the device's.
    pub function: Option<String>,
    /// Its queues.
    pub queues: Vec<QueueStatus>,
    /// Its arenas.
    pub arenas: Vec<ArenaStatus>,
    /// Its pollers, as it says itself.
    pub pollers: Vec<PollerStatus>,
    /// What it may hold.
    pub quota: QuotaStatus,
    /// Operations that it waits for.
    pub pending: u32,
}

/// One queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its id on the device, or on the session's virtual function.
    pub id: u16,
    /// Entries of each ring.
    pub entries: u32,
    /// The isolation that it really has.
    pub tier: Tier,
    /// Why it has ended, if the client has not yet acknowledged that.
    pub ended: Option<EndCause>,
}

/// One poller of a client. All of it is the client's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollerStatus {
    /// What it is.
    pub about: PollerAbout,
    /// The queues of this session that it serves.
    pub queues: Vec<u16>,
    /// What it has counted, over all of its queues; `None` if that cannot be read.
    pub counters: Option<PollerCounters>,
}

/// One arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArenaStatus {
    /// Its number in the session.
    pub id: u32,
    /// First address on the device.
    pub iova: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a client may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaStatus {
    /// Queues.
    pub queues: u32,
    /// Bytes of arenas.
    pub bytes: u64,
    /// Arenas.
    pub mappings: u32,
}

/// Why grants were taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReclaimCause {
    /// The client closed its connection in good order: it held no queue.
    Closed,
    /// The client's process ended, or its connection broke, while it held queues.
    Died,
    /// The operator revoked the session's grants.
    Revoked,
    /// The client broke the protocol.
    Protocol,
    /// The device is gone.
    DeviceGone,
    /// The broker was shut down.
    Shutdown,
}

/// What was taken back from one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReclaimReport {
    /// The session.
    pub session: u64,
    /// Its process.
    pub pid: i32,
    /// Why.
    pub cause: ReclaimCause,
    /// Queues that were ended on the device.
    pub queues: u32,
    /// Arenas that were unmapped.
    pub mappings: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Microseconds from the first sign to the last id that could be given out again.
    pub micros: u64,
    /// Mappings that could not be taken back and are quarantined.
    pub quarantined: u32,
}

impl ReclaimReport {
    /// How long it took, in milliseconds.
    #[must_use]
    pub fn ms(&self) -> f64 {
        self.micros as f64 / 1000.0
    }
}
