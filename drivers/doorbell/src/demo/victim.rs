//! The client that is killed with a full queue in flight, and the one that comes after it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use doorbell::client::{Client, QueueSpec};
use doorbell::dma::{DmaBox, HugePages, Memfd, Prefault};
use doorbell::queues::{Word, Word32};
use doorbell_nvme::{Lba, Nvme};

use super::role::{Role, Said, say};
use crate::connect::block_on;

/// Commands in flight of the victim's queue.
pub(super) const DEPTH: u32 = 63;

/// Bytes of each of its reads, at most: long enough that a full queue of them takes milliseconds.
const BYTES: usize = 128 << 10;

/// Bytes of memory that it donates.
const ARENA: usize = 16 << 20;

/// The longest that it lives if nobody kills it.
const LIFE: Duration = Duration::from_secs(30);

/// A word that outlives the process that writes it: how many commands it had told the device and
/// not yet seen completed when it died.
#[derive(Debug)]
pub(super) struct Tally {
    memory: Memfd,
    in_flight: Word32,
}

impl Tally {
    pub(super) fn create() -> Result<Self> {
        let memory = Memfd::create("doorbell-demo-tally", 4096, HugePages::No)?;
        Self::over(memory)
    }

    /// The tally behind a descriptor from the demo.
    fn receive(fd: BorrowedFd<'_>) -> Result<Self> {
        let fd = fd.try_clone_to_owned().context("taking the tally")?;
        Self::over(Memfd::check(fd)?)
    }

    fn over(memory: Memfd) -> Result<Self> {
        let view = memory.map(Prefault::Yes)?;
        Ok(Self { in_flight: view.word32(0).context("the tally is a page")?, memory })
    }

    /// For the victim's standard input.
    pub(super) fn descriptor(&self) -> Result<OwnedFd> {
        Ok(self.memory.try_clone()?.into_fd())
    }

    /// Commands in flight.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    fn set(&self, in_flight: usize) {
        self.in_flight.store(in_flight as u32, Ordering::Release);
    }
}

/// Keeps a queue full of reads until it is killed.
pub(super) fn run(role: &Role) -> Result<()> {
    use std::os::fd::AsFd;
    let tally = Tally::receive(std::io::stdin().as_fd())?;
    block_on(async {
        let client = Client::builder().arena_bytes(ARENA).connect(&role.socket).await?;
        let nvme = Nvme::claim(&client, QueueSpec::depth(DEPTH)).await?;
        let ns = nvme.namespace(role.namespace)?;
        let bytes = BYTES.min(ns.max_transfer());
        let blocks = (bytes / ns.block_size()) as u64;
        let mut free = Vec::new();
        for _ in 0..DEPTH {
            free.push(client.dma().alloc(bytes)?);
        }
        say(&Said::Started)?;
        let mut full = false;
        let mut lba = 0;
        let begin = Instant::now();
        while begin.elapsed() < LIFE {
            while let Some(buffer) = free.pop() {
                ns.post_read(Lba(lba), buffer)?;
                lba = (lba + blocks) % (ns.blocks() - blocks);
            }
            nvme.flush();
            tally.set(DEPTH as usize);
            if !full {
                say(&Said::Full)?;
                full = true;
            }
            // One at a time: the queue is never more than one command short of full.
            nvme.reap(1, |done| free.extend(done.buffer))?;
            tally.set(DEPTH as usize - free.len());
        }
        bail!("nobody has killed the victim for {LIFE:?}")
    })
}

/// Claims the same resources again and uses them. The demo looks at the broker's records meanwhile.
pub(super) fn inherit(role: &Role) -> Result<()> {
    let told_to_end = super::role::told_to_end();
    block_on(async {
        let client = Client::builder().arena_bytes(ARENA).connect(&role.socket).await?;
        let nvme = Nvme::claim(&client, QueueSpec::depth(DEPTH)).await?;
        let ns = nvme.namespace(role.namespace)?;
        let buffer: DmaBox<[u8]> = client.dma().alloc(BYTES)?;
        ns.read(Lba(0), buffer).await?;
        say(&Said::Started)?;
        let begin = Instant::now();
        while !told_to_end() && begin.elapsed() < LIFE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(nvme.release().await?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tally_is_shared() {
        let ours = Tally::create().unwrap();
        let theirs = Tally::receive(std::os::fd::AsFd::as_fd(&ours.descriptor().unwrap())).unwrap();
        theirs.set(63);
        assert_eq!(ours.in_flight(), 63);
    }
}
