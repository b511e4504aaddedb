//! The figures of one run: the object that `cargo xtask bench --json` prints.

use serde::{Deserialize, Serialize};

/// A figure, or `None` if it could not be had; why not, the run has said on standard error.
pub type Figure = Option<f64>;

/// All figures. Field names are the object's keys: programs read them, so they stay.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// What the machine can do at best.
    pub floors: Floors,
    /// Queues without another process.
    pub ring: Ring,
    /// A client process and a software controller in another.
    pub device: Device,
    /// From completion to task.
    pub wait: Wait,
    /// Submit plus complete in one thread over commands in flight.
    pub scaling: Option<Vec<Scaling>>,
    /// The cost of an operation over the queues that one poller serves.
    pub queues_per_poller: Option<Vec<QueuesPerPoller>>,
}

/// Nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floors {
    /// Shared-memory ping-pong between two processes: entry, doorbell, completion.
    pub shm_ns: Figure,
    /// The same with 4 KiB that are written and read.
    pub shm_4k_ns: Figure,
    /// 64 bytes there and back by a Unix socket.
    pub uds_ns: Figure,
    /// One copy of 4 KiB.
    pub memcpy_4k_ns: Figure,
}

/// Per command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Submit plus complete by callback, 32 in flight, the device in the thread.
    pub direct_qd32_ns: Figure,
    /// The same as futures.
    pub async_qd32_ns: Figure,
    /// Instructions of the first, the device's included.
    pub instructions_per_op: Figure,
    /// Calls of the allocator, of the more of the two.
    pub allocations_per_op: Figure,
    /// Two producers on one `Shared` queue.
    pub shared_2p_ns: Figure,
    /// Two producers on one `Single` queue in a mutex.
    pub mutex_2p_ns: Figure,
    /// Two threads at one `fetch_add`.
    pub fetch_add_2p_ns: Figure,
}

/// Round trips in nanoseconds (the median), throughput in millions of operations per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// A flush, one at a time.
    pub nodata_qd1_ns: Figure,
    /// A read of 4 KiB, one at a time.
    pub read4k_qd1_ns: Figure,
    /// Flushes, 32 at a time.
    pub nodata_qd32_mops: Figure,
    /// Reads of 4 KiB, 32 at a time.
    pub read4k_qd32_mops: Figure,
}

/// Nanoseconds from completion to task, the median.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// A bare eventfd awaited in the same runtime.
    pub eventfd_floor_ns: Figure,
    /// A queue that always parks.
    pub interrupt_ns: Figure,
    /// A queue within its spin budget.
    pub hybrid_ns: Figure,
}

/// One point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// Commands in flight.
    pub in_flight: usize,
    /// Nanoseconds of one.
    pub ns_per_op: f64,
}

/// One point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueuesPerPoller {
    /// Queues that one poller serves.
    pub queues: usize,
    /// Nanoseconds of one operation.
    pub ns_per_op: f64,
}
