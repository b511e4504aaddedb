//! The two clients that compare: one reads the image, the other writes and reads back a pattern.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::pin::Pin;

use anyhow::{Context, Result};
use doorbell::client::{Client, QueueSpec};
use doorbell::dma::DmaBox;
use doorbell_nvme::{Io, Namespace, Nvme};

use super::dice::Dice;
use super::role::{Role, Said, Verified, say, told_to_end};
use crate::connect::block_on;

/// Bytes of one request; longer than a command may move, so that splitting is part of the run.
const CHUNK: usize = 256 << 10;

/// Requests in flight.
const WINDOW: usize = 8;

/// Bytes of memory that a client donates.
const ARENA: usize = 8 << 20;

/// Reads the image through the device and compares it with the file.
pub(super) fn read_image(role: &Role, file: &File, bytes: u64) -> Result<()> {
    let told_to_end = told_to_end();
    with_namespace(role, async |nvme, ns| {
        say(&Said::Started)?;
        let mut verified = Verified::default();
        loop {
            let mut expected = |offset: u64, to: &mut [u8]| {
                file.read_exact_at(to, offset).context("reading the image's file")
            };
            compare(nvme, ns, 0..bytes, &mut expected, &mut verified).await?;
            if told_to_end() || verified.errors > 0 {
                return say(&Said::Verified(verified));
            }
        }
    })
}

/// Writes a pattern, a new one in each pass, and reads it back.
pub(super) fn write_pattern(role: &Role, start: u64, bytes: u64, seed: u64) -> Result<()> {
    let told_to_end = told_to_end();
    with_namespace(role, async |nvme, ns| {
        say(&Said::Started)?;
        let mut verified = Verified::default();
        for pass in 0.. {
            let pattern = |offset: u64, to: &mut [u8]| {
                Dice::new(seed ^ (pass << 48) ^ offset).fill(to);
                Ok(())
            };
            let written = write(nvme, ns, start..start + bytes, pattern).await;
            let flushed = match written {
                Ok(()) => ns.flush().await.map_err(Into::into),
                failed => failed,
            };
            match flushed {
                Ok(()) => {
                    compare(nvme, ns, start..start + bytes, &mut { pattern }, &mut verified)
                        .await?;
                }
                Err(error) => verified.failed(&error),
            }
            if told_to_end() || verified.errors > 0 {
                break;
            }
        }
        say(&Said::Verified(verified))
    })
}

/// Connects, claims a queue, and gives it back in the end.
pub(super) fn with_namespace(
    role: &Role,
    work: impl AsyncFnOnce(&Nvme, Namespace<'_>) -> Result<()>,
) -> Result<()> {
    block_on(async {
        let client = Client::builder().arena_bytes(ARENA).connect(&role.socket).await?;
        let nvme = Nvme::claim(&client, QueueSpec::depth(WINDOW as u32 * 2)).await?;
        work(&nvme, nvme.namespace(role.namespace)?).await?;
        Ok(nvme.release().await?)
    })
}

/// The chunks of a range.
fn chunks(range: std::ops::Range<u64>) -> impl Iterator<Item = (u64, usize)> {
    let end = range.end;
    range.step_by(CHUNK).map(move |at| (at, (end - at).min(CHUNK as u64) as usize))
}

async fn write(
    nvme: &Nvme,
    ns: Namespace<'_>,
    range: std::ops::Range<u64>,
    pattern: impl Fn(u64, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let mut window: VecDeque<Pin<Box<Io<'_>>>> = VecDeque::new();
    let mut free: Vec<DmaBox<[u8]>> = Vec::new();
    for (offset, len) in chunks(range) {
        if window.len() == WINDOW
            && let Some(oldest) = window.pop_front()
        {
            free.push(oldest.await?);
        }
        let mut buffer = buffer_of(nvme, &mut free, len)?;
        pattern(offset, &mut buffer)?;
        window.push_back(Box::pin(ns.write_at(offset, buffer)));
        nvme.flush();
    }
    for io in window {
        io.await?;
    }
    Ok(())
}

/// Reads a range and compares it with what `expected` fills in.
async fn compare(
    nvme: &Nvme,
    ns: Namespace<'_>,
    range: std::ops::Range<u64>,
    expected: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
    verified: &mut Verified,
) -> Result<()> {
    let mut window: VecDeque<(u64, Pin<Box<Io<'_>>>)> = VecDeque::new();
    let mut free: Vec<DmaBox<[u8]>> = Vec::new();
    let mut wanted = vec![0; CHUNK];
    let mut left = chunks(range);
    loop {
        while window.len() < WINDOW
            && let Some((offset, len)) = left.next()
        {
            let buffer = buffer_of(nvme, &mut free, len)?;
            window.push_back((offset, Box::pin(ns.read_at(offset, buffer))));
        }
        nvme.flush();
        let Some((offset, io)) = window.pop_front() else { return Ok(()) };
        match io.await {
            Ok(buffer) => {
                let wanted = &mut wanted[..buffer.len()];
                expected(offset, wanted)?;
                verified.compare(offset, &buffer, wanted);
                free.push(buffer);
                say(&Said::Compared(verified.bytes))?;
            }
            Err(error) => verified.failed(&error.into()),
        }
    }
}

fn buffer_of(nvme: &Nvme, free: &mut Vec<DmaBox<[u8]>>, len: usize) -> Result<DmaBox<[u8]>> {
    match free.pop() {
        Some(buffer) if buffer.len() == len => Ok(buffer),
        _ => Ok(nvme.dma().alloc(len)?),
    }
}

impl Verified {
    /// Compares what was read at `offset` with what should be there.
    fn compare(&mut self, offset: u64, got: &[u8], wanted: &[u8]) {
        self.bytes += got.len() as u64;
        if got == wanted {
            return;
        }
        for (at, (got, wanted)) in got.iter().zip(wanted).enumerate() {
            if got != wanted {
                self.mismatches += 1;
                let place = offset + at as u64;
                self.first.get_or_insert_with(|| {
                    format!("byte {place:#x} is {got:#04x} instead of {wanted:#04x}")
                });
            }
        }
    }

    fn failed(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| crate::output::one_line(error));
    }

    /// Adds what another client found.
    pub(super) fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.mismatches += other.mismatches;
        self.errors += other.errors;
        self.first = self.first.take().or_else(|| other.first.clone());
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_counted_and_the_first_is_named() {
        let mut verified = Verified::default();
        verified.compare(0, &[1, 2, 3, 4], &[1, 2, 3, 4]);
        verified.compare(0x1000, &[1, 2, 3, 4], &[1, 9, 3, 8]);
        assert_eq!((verified.bytes, verified.mismatches), (8, 2));
        assert_eq!(verified.first.as_deref(), Some("byte 0x1001 is 0x02 instead of 0x09"));
        let mut all = Verified::default();
        all.add(&verified);
        assert_eq!(all, verified);
    }

    #[test]
    fn chunks_tile_a_range() {
        let all: Vec<_> = chunks(0..CHUNK as u64 * 2 + 512).collect();
        assert_eq!(all, [(0, CHUNK), (CHUNK as u64, CHUNK), (CHUNK as u64 * 2, 512)]);
    }
}
