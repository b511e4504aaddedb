//! Why a broker refuses.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tier::Tier;

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// Queues of one client.
    Queues,
    /// Bytes of one client's arenas.
    Bytes,
    /// Mappings (arenas) of one client.
    Mappings,
    /// Pollers of one client that are reported.
    Pollers,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queues => "queues",
            Self::Bytes => "bytes",
            Self::Mappings => "mappings",
            Self::Pollers => "pollers",
        })
    }
}

/// Why a broker did not do what it was asked. The text says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The policy has no rule that lets this user at this device.
    #[error(
        "the policy gives uid {uid} no access to device {device}; \
         the operator can add a rule for it to the policy file"
    )]
    Policy {
        /// Who asked.
        uid: u32,
        /// The device.
        device: String,
    },
    /// The policy reserves this for operators.
    #[error(
        "uid {uid} is no operator of device {device}: {what} needs `operator = true` in its policy rule"
    )]
    NotOperator {
        /// Who asked.
        uid: u32,
        /// The device.
        device: String,
        /// What was asked for.
        what: String,
    },
    /// A quota is used up.
    #[error(
        "quota of {limit} exceeded: {asked} asked for, {held} held, {allowed} allowed; \
         release some, or have the operator raise `{limit}` in the policy file"
    )]
    Quota {
        /// Which quota.
        limit: Limit,
        /// What was asked for.
        asked: u64,
        /// What the client holds.
        held: u64,
        /// What it may hold.
        allowed: u64,
    },
    /// The tier cannot be had, or the policy does not allow it.
    #[error("tier {asked} cannot be had: {why}")]
    Tier {
        /// The tier asked for.
        asked: Tier,
        /// Why not.
        why: String,
    },
    /// All of the device's queues are taken.
    #[error("all {total} queues of device {device} are taken; `doorbell status` says by whom")]
    NoQueueLeft {
        /// The device.
        device: String,
        /// How many there are.
        total: u16,
    },
    /// Every virtual function is some client's.
    #[error(
        "all {total} virtual functions of device {device} are taken or out of use; `doorbell status` \
         says by whom; wait until one is free, or ask for less isolation"
    )]
    NoFunctionLeft {
        /// The device.
        device: String,
        /// How many there are.
        total: u16,
    },
    /// The descriptor is no usable arena.
    #[error("{0}")]
    BadArena(String),
    /// The session has no such arena, or the place lies outside of it.
    #[error("arena {arena}: {why}")]
    Arena {
        /// The arena that was named.
        arena: u32,
        /// What is wrong.
        why: String,
    },
    /// The ring's size is not possible.
    #[error("rings of {entries} entries cannot be had; 2 to {max} are possible on device {device}")]
    Entries {
        /// What was asked for.
        entries: u32,
        /// The most.
        max: u32,
        /// The device.
        device: String,
    },
    /// The session has no such queue.
    #[error("queue {queue} is not this client's")]
    NotYours {
        /// The queue that was named.
        queue: u16,
    },
    /// Nobody holds what should be revoked.
    #[error("nothing to revoke: {0}; `doorbell status` lists sessions and queues")]
    NoTarget(String),
    /// The driver or the device failed.
    #[error("{0}")]
    Driver(String),
    /// The device is gone, or failed and could not be recovered.
    #[error("device {device} is out of service: {why}")]
    OutOfService {
        /// The device.
        device: String,
        /// What happened.
        why: String,
    },
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    ShuttingDown,
    /// The broker did not finish in time.
    #[error("{0}")]
    TimedOut(String),
    /// The message breaks the protocol; the broker closes the connection after this.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// Everything that the session holds was, or is just being, taken back.
    #[error("this session's grants were taken back from device {device}; connect again")]
    Revoked {
        /// The device.
        device: String,
    },
}
