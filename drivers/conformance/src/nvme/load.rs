//! A client process that keeps its queue full and verifies everything.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use doorbell::client::{Client, QueueSpec};
use doorbell::dma::DmaBox;
use doorbell::queues::{EndReason, QueueError};
use doorbell_nvme::spec::Status;
use doorbell_nvme::{Lba, Namespace, Nvme, NvmeError};
use serde::{Deserialize, Serialize};

use super::{Part, first};
use crate::dice::Dice;
use crate::process::PATIENCE;
use crate::role::{Said, say};

/// What it does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Load {
    /// Which part of the namespace.
    pub part: u64,
    /// Commands in flight.
    pub depth: u32,
    /// Of the data.
    pub seed: u64,
    /// How often the part is written and read back, if there is an end to it.
    pub rounds: u64,
}

/// The client process: until it is done, killed, or its queue ends.
///
/// # Errors
/// Data that differs, or an error that is no queue's end.
pub async fn play(socket: &Path, load: &Load, rounds: Option<u64>) -> Result<()> {
    let client = Client::builder().arena_bytes(8 << 20).connect(socket).await?;
    let nvme = Nvme::claim(&client, QueueSpec::depth(load.depth)).await?;
    match work(&nvme, load, rounds) {
        Ok(()) => {
            nvme.release().await?;
            say(&Said::Done)
        }
        Err(error) => ended(&error).unwrap_or(Err(error)),
    }
}

fn work(nvme: &Nvme, load: &Load, rounds: Option<u64>) -> Result<()> {
    let ns = first(nvme)?;
    let mut worker = Worker::new(nvme, &ns, load)?;
    let mut round = 0;
    while rounds.is_none_or(|rounds| round < rounds) {
        worker.round(round == 0)?;
        round += 1;
        say(&Said::Round(round))?;
    }
    Ok(())
}

/// Says so if the error is the end of the queue.
fn ended(error: &anyhow::Error) -> Option<Result<()>> {
    let queue = error.downcast_ref::<NvmeError>().and_then(NvmeError::queue)?;
    let QueueError::Ended { reason, .. } = queue else { return None };
    let why = match reason {
        EndReason::Revoked => "revoked",
        EndReason::DeviceReset => "device_reset",
        EndReason::DeviceGone => "device_gone",
        EndReason::BrokerGone => "broker_gone",
        EndReason::DoorbellLost => "doorbell_lost",
        _ => "other",
    };
    Some(say(&Said::Ended { why: why.to_owned(), error: error.to_string() }))
}

struct Worker<'a> {
    nvme: &'a Nvme,
    ns: &'a Namespace<'a>,
    /// The first block of what each slot works on, and its buffer while nobody else has it.
    slots: Vec<(u64, Option<DmaBox<[u8]>>)>,
    dice: Dice,
}

impl<'a> Worker<'a> {
    fn new(nvme: &'a Nvme, ns: &'a Namespace<'a>, load: &Load) -> Result<Self> {
        let part = Part::of(ns, load.part)?;
        let depth = u64::from(load.depth);
        let most = (ns.max_transfer().min(32 << 10) / ns.block_size()) as u64;
        let blocks = (part.blocks / depth).min(most).max(1);
        ensure!(blocks * depth <= part.blocks, "{depth} commands do not fit the part");
        let slot = |number| {
            let buffer = nvme.dma().alloc(blocks as usize * ns.block_size())?;
            Ok((part.start + number * blocks, Some(buffer)))
        };
        let slots = (0..depth).map(slot).collect::<Result<_>>()?;
        Ok(Self { nvme, ns, slots, dice: Dice::new(load.seed) })
    }

    /// Writes everything anew, in a random order and all at once, and reads it back.
    fn round(&mut self, first: bool) -> Result<()> {
        let seeds: Vec<u64> = self.slots.iter().map(|_| self.dice.roll()).collect();
        for ((_, buffer), seed) in self.slots.iter_mut().zip(&seeds) {
            Dice::new(*seed).fill(buffer.as_mut().context("a buffer is missing")?);
        }
        self.all(true, first)?;
        for (_, buffer) in &mut self.slots {
            buffer.as_mut().context("a buffer is missing")?.fill(0);
        }
        self.all(false, false)?;
        for ((lba, buffer), seed) in self.slots.iter().zip(&seeds) {
            let buffer = buffer.as_ref().context("a buffer is missing")?;
            let same = Dice::new(*seed).bytes(buffer.len())[..] == buffer[..];
            ensure!(same, "{} bytes from LBA {lba} are not what was written", buffer.len());
        }
        Ok(())
    }

    /// One command for each slot, until all are complete.
    fn all(&mut self, write: bool, tell: bool) -> Result<()> {
        let mut order: Vec<usize> = (0..self.slots.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.dice.below(at as u64 + 1) as usize);
        }
        let mut in_flight = HashMap::new();
        for number in order {
            let (lba, buffer) = &mut self.slots[number];
            let buffer = buffer.take().context("a buffer is missing")?;
            let posted = if write {
                self.ns.post_write(Lba(*lba), buffer)
            } else {
                self.ns.post_read(Lba(*lba), buffer)
            };
            in_flight.insert(posted.map_err(|failed| failed.error)?, number);
        }
        self.nvme.flush();
        if tell {
            say(&Said::Started)?;
        }
        self.reap(&mut in_flight)
    }

    fn reap(&mut self, in_flight: &mut HashMap<doorbell::queues::Tag, usize>) -> Result<()> {
        let begin = Instant::now();
        while !in_flight.is_empty() {
            let mut bad = None;
            let slots = &mut self.slots;
            let reaped = self.nvme.reap(64, |done| match in_flight.remove(&done.tag) {
                Some(number) if done.status.is_success() => slots[number].1 = done.buffer,
                // Only the broker deletes a queue. That it has ended, and why, is told right after.
                Some(number) if done.status.is(Status::ABORTED_SQ_DELETION) => {
                    in_flight.insert(done.tag, number);
                }
                _ => bad = Some((done.tag, done.status)),
            });
            if reaped.map_err(NvmeError::from)? == 0 {
                let left = in_flight.len();
                ensure!(begin.elapsed() < PATIENCE, "{left} commands are not done in {PATIENCE:?}");
                std::thread::yield_now();
            }
            if let Some((tag, status)) = bad {
                bail!("command {tag}: {status}");
            }
        }
        Ok(())
    }
}
