//! What client and broker say to each other.

use doorbell_queues::EndReason;
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::status::StatusReport;
use crate::tier::Tier;

/// Where a ring lies: in which of the client's arenas, at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The arena.
    pub arena: u32,
    /// Offset in bytes, a multiple of 4096.
    pub offset: u64,
}

/// A poller, as its client tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollerAbout {
    /// The name of its thread; the broker cuts it at 64 characters.
    pub name: String,
    /// The processor that it is pinned to.
    pub cpu: Option<u32>,
    /// The NUMA node whose devices it serves.
    pub node: Option<u32>,
    /// The node that its thread takes new memory from.
    pub memory: Option<u32>,
    /// What its kernel refused, in words; the broker cuts it at 200 characters.
    pub trouble: String,
}

/// Whose grants the operator takes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RevokeTarget {
    /// Everything of every session of a process.
    Pid(i32),
    /// Everything of one session.
    Session(u64),
    /// One queue.
    Queue(u16),
}

/// What a client asks of the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first message of a connection. Answer: [`Reply::Welcome`].
    Hello {
        /// The program's name, for `status`; the broker cuts it at 64 bytes.
        program: String,
    },
    /// Maps a sealed memfd (one descriptor) into the client's partition. Answer:
    /// [`Reply::ArenaMapped`].
    DonateArena {
        /// Its size in bytes.
        len: u64,
    },
    /// Unmaps an arena. Only a client without queues may: a queue's commands can name any arena.
    /// Answer: [`Reply::Done`].
    ReleaseArena {
        /// The arena.
        arena: u32,
    },
    /// A queue pair. Answer: [`Reply::Granted`].
    Claim {
        /// Entries of each ring.
        entries: u32,
        /// The least isolation that will do.
        at_least: Tier,
        /// Zeroed memory for the submission ring; `None` for a device with portals, and only there.
        submission: Option<Place>,
        /// Zeroed memory for the completion ring.
        completion: Place,
    },
    /// Ends a queue, and acknowledges one that the broker has ended. Answer: [`Reply::Done`], once
    /// the device is done with it.
    ReleaseQueue {
        /// The queue.
        queue: u16,
    },
    /// A poller of the client, with a page of its counters (one descriptor, a sealed memfd; see
    /// [`PollerCounters`](crate::poll::PollerCounters)): for `status` alone. A number that was reported
    /// before is replaced. Answer: [`Reply::Done`].
    ReportPoller {
        /// The client's own number for it.
        poller: u32,
        /// What it is.
        about: PollerAbout,
    },
    /// A queue is served by a poller. Answer: [`Reply::Done`].
    PolledBy {
        /// The queue.
        queue: u16,
        /// The poller, as [`Request::ReportPoller`] numbers it.
        poller: u32,
    },
    /// A command has outlived its time limit. Answer: [`Reply::TimeoutHandled`].
    TimedOut {
        /// The queue.
        queue: u16,
        /// The command; `None` if a task has waited too long for a free slot.
        tag: Option<u16>,
        /// False asks the driver to abort the command, true to end the queue.
        last: bool,
    },
    /// An operation of the driver: postcard bytes of `Driver::Admin`. Answer: [`Reply::Admin`].
    Admin {
        /// The operation.
        operation: Vec<u8>,
    },
    /// What the broker holds. Answer: [`Reply::Status`].
    Status,
    /// Takes grants back; operators only. Answer: [`Reply::Revoked`].
    Revoke {
        /// Whose.
        target: RevokeTarget,
    },
    /// Resets the device: every client's queue ends; operators only. Answer: [`Reply::Done`], once
    /// the device is up again.
    Reset,
}

impl Request {
    /// Descriptors that travel with it.
    #[must_use]
    pub fn fds(&self) -> usize {
        usize::from(matches!(self, Self::DonateArena { .. } | Self::ReportPoller { .. }))
    }

    /// The kind in words, for errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::DonateArena { .. } => "donate an arena",
            Self::ReleaseArena { .. } => "release an arena",
            Self::Claim { .. } => "claim a queue",
            Self::ReleaseQueue { .. } => "release a queue",
            Self::ReportPoller { .. } => "report a poller",
            Self::PolledBy { .. } => "report a queue's poller",
            Self::TimedOut { .. } => "report a timeout",
            Self::Admin { .. } => "admin operation",
            Self::Status => "status",
            Self::Revoke { .. } => "revoke",
            Self::Reset => "reset",
        }
    }
}

/// The device, as a client learns of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// As the operator names it.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// PCI vendor id.
    pub vendor: u16,
    /// PCI device id.
    pub device: u16,
    /// PCI class code, 24 bits.
    pub class: u32,
    /// NUMA node, if known.
    pub numa_node: Option<u32>,
    /// The bus that reaches it: `soft`, `container`, `cdev`, `vfio-user`.
    pub bus: String,
    /// Why that bus, and what it found, in one line; empty if there is nothing to say.
    pub about_bus: String,
    /// I/O queues that can exist at once, over all clients.
    pub queues: u16,
    /// Most entries of one ring, or portal.
    pub max_entries: u32,
    /// True if entries are written to a portal instead of a submission ring in memory.
    pub portal: bool,
    /// Bytes of a submission entry.
    pub submission_entry: u32,
    /// Bytes of a completion entry.
    pub completion_entry: u32,
}

/// Where the signal words of a software device lie (see `bus::SignalWords`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalLayout {
    /// Bytes of the memory to map.
    pub len: u64,
    /// Byte offset of the asleep word.
    pub asleep: u64,
    /// Byte offset of the arm word.
    pub armed: u64,
}

/// The two words of one shadow doorbell, as byte offsets in their memory, multiples of 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowWords {
    /// The doorbell's value, written by the host.
    pub value: u64,
    /// EventIdx, written by the device.
    pub event: u64,
}

/// Where the shadow doorbells of a queue lie (see [`crate::driver::QueueShadow`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowLayout {
    /// Bytes of the memory to map.
    pub len: u64,
    /// Of the submission tail doorbell.
    pub submission: ShadowWords,
    /// Of the completion head doorbell.
    pub completion: ShadowWords,
}

/// A queue. Descriptors: the BAR slice, the interrupt's eventfd, with `signals` the words' memory and
/// the eventfd that wakes the device, and with `shadow` the shadow doorbells' memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The queue's id on the device.
    pub queue: u16,
    /// The isolation that it really has.
    pub tier: Tier,
    /// Entries of each ring.
    pub entries: u32,
    /// Offset of the slice in its descriptor, page-aligned.
    pub slice_offset: u64,
    /// Bytes of the slice, whole pages.
    pub slice_len: u64,
    /// Byte offset of the submission tail doorbell in the slice, or of the portal's first cell.
    pub submission_doorbell: u64,
    /// Byte offset of the completion head doorbell in the slice.
    pub completion_doorbell: u64,
    /// True if entries are best stored past the caches (see `Bus::entry_stores`).
    pub non_temporal: bool,
    /// Present on software devices.
    pub signals: Option<SignalLayout>,
    /// Present if the device looks at copies of its doorbells.
    pub shadow: Option<ShadowLayout>,
}

/// What was done about a command that timed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Timeout {
    /// The device was asked to abort it; it completes through its queue, or times out again.
    AbortRequested,
    /// The queue was ended.
    QueueEnded,
}

/// The broker's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The connection stands.
    Welcome {
        /// The session's number, as `status` shows it.
        session: u64,
        /// Requests that may be unanswered at once; more end the connection.
        max_pending: u32,
        /// The device.
        device: DeviceInfo,
    },
    /// The arena is mapped.
    ArenaMapped {
        /// Its number.
        arena: u32,
        /// Its first address on the device.
        iova: u64,
    },
    /// A queue.
    Granted(Grant),
    /// It is done.
    Done,
    /// See [`Timeout`].
    TimeoutHandled(Timeout),
    /// Postcard bytes of `Driver::Reply`.
    Admin {
        /// The reply.
        reply: Vec<u8>,
    },
    /// What the broker holds.
    Status(Box<StatusReport>),
    /// What was taken back.
    Revoked {
        /// Queues that ended.
        queues: u32,
        /// Sessions that were concerned.
        sessions: u32,
    },
    /// The broker did not do it.
    Refused(Refusal),
}

impl Reply {
    /// Descriptors that travel with it.
    #[must_use]
    pub fn fds(&self) -> usize {
        match self {
            Self::Granted(Grant { signals, shadow, .. }) => {
                2 + 2 * usize::from(signals.is_some()) + usize::from(shadow.is_some())
            }
            _ => 0,
        }
    }

    /// The kind in words, for errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Welcome { .. } => "welcome",
            Self::ArenaMapped { .. } => "arena mapped",
            Self::Granted(_) => "queue granted",
            Self::Done => "done",
            Self::TimeoutHandled(_) => "timeout handled",
            Self::Admin { .. } => "admin reply",
            Self::Status(_) => "status",
            Self::Revoked { .. } => "revoked",
            Self::Refused(_) => "refused",
        }
    }
}

/// Why the broker ended a queue; the part of [`EndReason`] that a broker can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// The operator took it back.
    Revoked,
    /// The device was reset.
    DeviceReset,
    /// The device is gone or failed for good.
    DeviceGone,
    /// A command timed out.
    TimedOut,
    /// The broker is shutting down.
    Shutdown,
    /// Its client gave it back.
    Released,
}

impl From<EndCause> for EndReason {
    fn from(cause: EndCause) -> Self {
        match cause {
            EndCause::Revoked => Self::Revoked,
            EndCause::DeviceReset => Self::DeviceReset,
            EndCause::DeviceGone => Self::DeviceGone,
            EndCause::TimedOut => Self::TimedOut,
            EndCause::Shutdown => Self::BrokerGone,
            EndCause::Released => Self::Released,
        }
    }
}

/// What the broker tells without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A queue has ended. Its id stays the client's until it sends [`Request::ReleaseQueue`].
    QueueEnded {
        /// The queue.
        queue: u16,
        /// Why.
        cause: EndCause,
        /// True if the device can no longer touch the memory of the queue's commands.
        quiesced: bool,
    },
    /// The device is gone, or failed for good: nothing more can be claimed.
    DeviceGone,
}
