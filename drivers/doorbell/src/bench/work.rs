//! A namespace as a load: which commands are sent, by callbacks or by futures.

use std::cell::RefCell;

use anyhow::{Context, Result, bail, ensure};
use doorbell::dma::DmaBox;
use doorbell_bench::load::Work;
use doorbell_bench::page::Page;
use doorbell_nvme::{Lba, Namespace, Nvme};
use serde::{Deserialize, Serialize};

use crate::demo::dice::Dice;

/// What one command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    Flush,
}

/// Which commands are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mix {
    /// Reads and writes of one size; so many percent read.
    ReadWrite { read_percent: u8 },
    /// Flushes: commands that move no data.
    Flush,
}

/// A load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) mix: Mix,
    /// Bytes of each read or write.
    pub(crate) block: usize,
    /// Bytes of the namespace that are used, from its beginning.
    pub(crate) span: u64,
    /// One block after the other, instead of in random order.
    pub(crate) sequential: bool,
}

impl Load {
    /// Bytes that each operation moves.
    pub(crate) fn bytes_each(&self) -> u64 {
        if self.mix == Mix::Flush { 0 } else { self.block as u64 }
    }

    /// Memory that one operation's buffer takes: whole pages.
    pub(crate) fn buffer(&self) -> usize {
        self.block.checked_next_multiple_of(4096).unwrap_or(usize::MAX)
    }

    /// Checks the load against a namespace.
    ///
    /// # Errors
    /// If a block is no whole number of the namespace's blocks, or does not fit it or a command.
    pub(crate) fn check(&self, ns: &Namespace<'_>) -> Result<()> {
        if self.mix == Mix::Flush {
            return Ok(());
        }
        let (block, size) = (self.block, ns.block_size());
        ensure!(
            block.is_multiple_of(size),
            "a block of {block} bytes is no whole number of the namespace's blocks of {size} bytes; \
             choose another with --block"
        );
        ensure!(
            block <= ns.max_transfer(),
            "a block of {block} bytes is more than the {} that one command can move; choose a \
             smaller one with --block",
            ns.max_transfer()
        );
        ensure!(
            block as u64 <= self.span.min(ns.len_bytes()),
            "a block of {block} bytes does not fit into {} bytes; choose a smaller --block or a \
             larger --span",
            self.span.min(ns.len_bytes())
        );
        Ok(())
    }
}

/// Chooses commands, one after the other.
#[derive(Debug)]
pub(crate) struct Choice {
    load: Load,
    blocks_each: u64,
    places: u64,
    next: u64,
    dice: Dice,
}

impl Choice {
    /// The same seed makes the same choices.
    pub(crate) fn new(load: Load, ns: &Namespace<'_>, seed: u64) -> Self {
        let blocks_each = (load.block / ns.block_size()).max(1) as u64;
        let places = (load.span.min(ns.len_bytes()) / load.block.max(1) as u64).max(1);
        Self { load, blocks_each, places, next: 0, dice: Dice::new(0x0d00_4be1 ^ seed) }
    }

    /// The next command.
    #[inline]
    pub(crate) fn next(&mut self) -> (Operation, Lba) {
        let place = if self.load.sequential {
            self.next = if self.next + 1 == self.places { 0 } else { self.next + 1 };
            self.next
        } else {
            self.dice.below(self.places)
        };
        let operation = match self.load.mix {
            Mix::Flush => Operation::Flush,
            Mix::ReadWrite { read_percent: 100 } => Operation::Read,
            Mix::ReadWrite { read_percent } => {
                let reads = self.dice.below(100) < u64::from(read_percent);
                if reads { Operation::Read } else { Operation::Write }
            }
        };
        (operation, Lba(place * self.blocks_each))
    }
}

/// A loop's work by `post` and `reap`.
pub(crate) struct Posting<'n> {
    nvme: &'n Nvme,
    ns: Namespace<'n>,
    choice: Choice,
    /// The buffer of each slot while it is not in flight.
    buffers: Vec<Option<DmaBox<[u8]>>>,
    /// The slot and kind of command of each tag in flight.
    tags: Vec<(u16, Operation)>,
    page: Box<Page>,
}

impl<'n> Posting<'n> {
    /// Work for a loop of `depth` on a namespace.
    ///
    /// # Errors
    /// If there is not enough DMA memory.
    pub(crate) fn new(
        nvme: &'n Nvme,
        ns: Namespace<'n>,
        load: Load,
        depth: usize,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self {
            nvme,
            ns,
            choice: Choice::new(load, &ns, seed),
            buffers: buffers(nvme, load, depth)?.into_iter().map(Some).collect(),
            tags: vec![(0, Operation::Flush); 1 << 16],
            page: Page::new(),
        })
    }
}

/// One page-aligned buffer for each operation in flight, filled with something that is not zero.
pub(crate) fn buffers(nvme: &Nvme, load: Load, depth: usize) -> Result<Vec<DmaBox<[u8]>>> {
    let mut dice = Dice::new(1);
    let mut make = || -> Result<DmaBox<[u8]>> {
        let mut buffer = nvme.dma().alloc(load.block)?;
        dice.fill(&mut buffer);
        Ok(buffer)
    };
    (0..depth).map(|_| make()).collect()
}

impl Work for Posting<'_> {
    #[inline]
    fn start(&mut self, slot: usize) -> Result<u64> {
        let (operation, lba) = self.choice.next();
        let mut take = || self.buffers[slot].take().context("a slot in flight was started again");
        let tag = match operation {
            Operation::Flush => self.ns.post_flush()?,
            Operation::Read => self.ns.post_read(lba, take()?)?,
            Operation::Write => self.ns.post_write(lba, take()?)?,
        };
        self.tags[usize::from(tag.0)] = (slot as u16, operation);
        Ok(if operation == Operation::Flush { 0 } else { self.choice.load.block as u64 })
    }

    #[inline]
    fn flush(&mut self) {
        self.nvme.flush();
    }

    #[inline]
    fn reap(&mut self, done: &mut Vec<usize>) -> Result<()> {
        let Self { nvme, buffers, tags, page, .. } = self;
        let mut failed = None;
        nvme.reap(usize::MAX, |completed| {
            let (slot, operation) = tags[usize::from(completed.tag.0)];
            if !completed.status.is_success() {
                failed.get_or_insert((operation, completed.status));
            }
            if let Some(buffer) = completed.buffer {
                if operation == Operation::Read {
                    page.take(&buffer);
                }
                buffers[usize::from(slot)] = Some(buffer);
            }
            done.push(usize::from(slot));
        })?;
        match failed {
            None => Ok(()),
            Some((operation, status)) => {
                bail!("{}: {operation:?} failed: {status}", nvme.queue().name())
            }
        }
    }
}

/// The same commands as futures, for [`doorbell_bench::load::run_futures`].
pub(crate) async fn once(
    ns: Namespace<'_>,
    (operation, lba): (Operation, Lba),
    buffer: DmaBox<[u8]>,
    page: &RefCell<Box<Page>>,
) -> Result<DmaBox<[u8]>> {
    match operation {
        Operation::Flush => {
            ns.flush().await?;
            Ok(buffer)
        }
        Operation::Write => Ok(ns.write(lba, buffer).await?),
        Operation::Read => {
            let buffer = ns.read(lba, buffer).await?;
            page.borrow_mut().take(&buffer);
            Ok(buffer)
        }
    }
}
