//! Floors: what the machine itself can do at best, measured in the same run and by the same method
//! as the figures that stand beside them.
//!
//! * [`Floor::Shm`]: the bare shared-memory ping-pong of the shape of one command at queue depth 1,
//!   between two processes: a 64-byte entry, a doorbell, a 16-byte completion with a phase.
//! * [`Floor::Shm4k`]: the same with 4 KiB that the device's side writes into the client's buffer
//!   and the client then reads: the shape of a 4 KiB read.
//! * [`Floor::Uds`]: 64 bytes there and back over a Unix stream socket, both sides blocking: what a
//!   request costs that goes through a broker.
//! * [`memcpy`]: one copy of 4 KiB in one thread: below a read of a device that is software.
//!
//! The other side is a process of its own: this same executable, started by [`peer`]. Both sides
//! spin without a `pause` instruction, and every buffer is page-aligned.
//!
//! What they are not: limits of hardware. They say nothing about a device behind a bus.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::cores::Placement;
use crate::series::Series;

pub mod memcpy;
pub mod memory;
pub mod peer;
pub mod shm;
pub mod uds;

/// Bytes that [`Floor::Shm4k`] moves per round trip.
pub const BLOCK: usize = 4096;

/// Distinct blocks that the device's side of [`Floor::Shm4k`] reads from in turn. A figure that is
/// compared with it must work on as many, or it measures another level of the cache.
pub const WORKING_SET: usize = 256;

/// Which floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Floor {
    /// Entry, doorbell, completion.
    Shm,
    /// The same, with 4 KiB of data.
    Shm4k,
    /// A Unix stream socket.
    Uds,
}

impl Floor {
    /// As it stands in a table.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Shm => "shared-memory ping-pong",
            Self::Shm4k => "the same with 4 KiB",
            Self::Uds => "Unix-socket ping-pong",
        }
    }

    /// The word that names it on a command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Shm4k => "shm4k",
            Self::Uds => "uds",
        }
    }

    /// The floor of that name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Shm, Self::Shm4k, Self::Uds].into_iter().find(|floor| floor.word() == word)
    }

    /// Measures one round of about `time`, after a warm-up of a tenth of it. The calling thread is
    /// the client and must be pinned already (see [`crate::cores::pin_to`]); the other side is
    /// started on the device's core and has ended when this returns.
    ///
    /// # Errors
    /// If the other process cannot be started, or does not answer within seconds.
    pub fn measure(self, placement: Option<Placement>, time: Duration) -> Result<Series> {
        let warm_up = time / 10;
        match self {
            Self::Shm | Self::Shm4k => {
                let memory = memory::Shared::create(shm::SIZE)?;
                let peer = peer::Peer::start(self, placement, memory.descriptor()?)?;
                let mut client = shm::Client::new(memory.view(), self, placement.is_none())?;
                let measured = client.wait_for_device().and_then(|()| {
                    client.round_trips(warm_up)?;
                    client.round_trips(time)
                });
                client.stop();
                peer.finish(measured)
            }
            Self::Uds => {
                let (mut client, far) = uds::Client::pair()?;
                let peer = peer::Peer::start(self, placement, far)?;
                let measured = client.round_trips(warm_up).and_then(|_| client.round_trips(time));
                drop(client);
                peer.finish(measured)
            }
        }
    }
}

/// The three floors of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Floors {
    /// See [`Floor::Shm`].
    pub shm: Series,
    /// See [`Floor::Shm4k`].
    pub shm_4k: Series,
    /// See [`Floor::Uds`].
    pub uds: Series,
}

impl Floors {
    /// Nothing measured yet.
    ///
    /// # Errors
    /// As [`Series::new`].
    pub fn new() -> Result<Self> {
        Ok(Self { shm: Series::new()?, shm_4k: Series::new()?, uds: Series::new()? })
    }

    /// Measures one more round of each. Rounds that alternate with those of the figures see the
    /// same machine.
    ///
    /// # Errors
    /// As [`Floor::measure`].
    pub fn add_round(&mut self, placement: Option<Placement>, time: Duration) -> Result<()> {
        self.shm.append(&Floor::Shm.measure(placement, time)?);
        self.shm_4k.append(&Floor::Shm4k.measure(placement, time)?);
        self.uds.append(&Floor::Uds.measure(placement, time)?);
        Ok(())
    }
}
