//! Closed loops of one client process on an NVMe queue.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use doorbell::client::{Client, QueueSpec};
use doorbell::dma::DmaBox;
use doorbell_bench::floors::{BLOCK, WORKING_SET};
use doorbell_bench::load::{self, Stop, Work};
use doorbell_bench::{Page, Series};
use doorbell_nvme::{Lba, Namespace, Nvme};

/// The deepest queue that is measured.
pub const DEPTH: usize = 32;

/// Connects to a broker and claims a queue of [`DEPTH`].
///
/// # Errors
/// What broker or device say.
pub async fn claim(socket: &Path) -> Result<Nvme> {
    let client = Client::builder().arena_bytes(4 << 20).connect(socket).await?;
    Ok(Nvme::claim(&client, QueueSpec::depth(DEPTH as u32)).await?)
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// No data.
    Flush,
    /// 4 KiB.
    Read,
}

/// The blocks that are read, in turn: as many and as close together as those of the floor, or the
/// two would measure different levels of the cache.
#[derive(Debug)]
pub(crate) struct Places {
    next: usize,
    blocks_each: u64,
}

impl Places {
    pub(crate) fn of(ns: Namespace<'_>) -> Result<Self> {
        ensure!(BLOCK.is_multiple_of(ns.block_size()), "blocks of {} bytes", ns.block_size());
        Ok(Self { next: 0, blocks_each: (BLOCK / ns.block_size()) as u64 })
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Lba {
        self.next = (self.next + 1) % WORKING_SET;
        Lba(self.next as u64 * self.blocks_each)
    }
}

/// A closed loop's commands by `post` and `reap`.
struct Posting<'n> {
    nvme: &'n Nvme,
    ns: Namespace<'n>,
    command: Command,
    places: Places,
    /// The buffer of each slot while it is not in flight.
    buffers: Vec<Option<DmaBox<[u8]>>>,
    /// The slot of each tag in flight.
    slots: Vec<u16>,
    page: Box<Page>,
}

impl Work for Posting<'_> {
    #[inline]
    fn start(&mut self, slot: usize) -> Result<u64> {
        let (tag, bytes) = match self.command {
            Command::Flush => (self.ns.post_flush()?, 0),
            Command::Read => {
                let buffer = self.buffers[slot].take().context("a slot was started twice")?;
                (self.ns.post_read(self.places.next(), buffer)?, BLOCK as u64)
            }
        };
        self.slots[usize::from(tag.0)] = slot as u16;
        Ok(bytes)
    }

    #[inline]
    fn flush(&mut self) {
        self.nvme.flush();
    }

    #[inline]
    fn reap(&mut self, done: &mut Vec<usize>) -> Result<()> {
        let Self { nvme, buffers, slots, page, .. } = self;
        let mut failed = None;
        nvme.reap(usize::MAX, |completed| {
            let slot = usize::from(slots[usize::from(completed.tag.0)]);
            if !completed.status.is_success() {
                failed.get_or_insert(completed.status);
            }
            if let Some(buffer) = completed.buffer {
                page.take(&buffer);
                buffers[slot] = Some(buffer);
            }
            done.push(slot);
        })?;
        match failed {
            None => Ok(()),
            Some(status) => bail!("{}: {:?} failed: {status}", nvme.queue().name(), self.command),
        }
    }
}

/// One round by `post` and `reap`, after a warm-up of a tenth of it: as the floors have.
///
/// # Errors
/// What the queue says, a command that failed, or that nothing completes for seconds.
pub fn direct(
    nvme: &Nvme,
    ns: Namespace<'_>,
    command: Command,
    depth: usize,
    time: Duration,
) -> Result<Series> {
    let mut work = Posting {
        nvme,
        ns,
        command,
        places: Places::of(ns)?,
        buffers: (0..depth).map(|_| buffer(nvme).map(Some)).collect::<Result<_>>()?,
        slots: vec![0; 1 << 16],
        page: Page::new(),
    };
    load::run(&mut work, depth, Stop::After(time / 10))?;
    load::run(&mut work, depth, Stop::After(time))
}

/// One round of reads at depth 1 as futures, after the same warm-up.
///
/// # Errors
/// As [`direct`].
pub fn futures(nvme: &Nvme, ns: Namespace<'_>, time: Duration) -> Result<Series> {
    let page = RefCell::new(Page::new());
    let mut places = Places::of(ns)?;
    let mut round = |time| {
        load::run_futures(vec![buffer(nvme)?], Stop::After(time), BLOCK as u64, |buffer| {
            let (lba, page) = (places.next(), &page);
            async move {
                let buffer = ns.read(lba, buffer).await?;
                page.borrow_mut().take(&buffer);
                Ok(buffer)
            }
        })
    };
    round(time / 10)?;
    round(time)
}

/// A page-aligned buffer whose memory was touched.
///
/// # Errors
/// If the client's memory is used up.
pub fn buffer(nvme: &Nvme) -> Result<DmaBox<[u8]>> {
    let mut buffer = nvme.dma().alloc(BLOCK)?;
    buffer.fill(0xa5);
    Ok(buffer)
}
