//! Bring-up and data.

use std::fs;

use serde_json::Value;

use super::cx::{Cx, Trouble, Verdict, check};
use crate::guest::pci::Function;
use crate::pattern;
use crate::protocol::Wrote;

/// Where the machine has its first disk, and what it was made with (see [`crate::host::sites`]).
pub(super) const DISK: &str = "0000:00:04.0";
pub(super) const DISK_NAME: &str = "disk";
pub(super) const DISK_BLOCKS: u64 = crate::host::sites::DISK.blocks;

/// How many blocks `write` writes in each turn.
const WRITTEN: u64 = 64;

pub(super) fn disk() -> Function {
    Function::at(DISK)
}

pub(super) fn bring_up(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let status = broker.status(&mut cx.programs)?;
    let queues = status.pointer("/device/queues").and_then(Value::as_u64).unwrap_or(0);
    check(queues > 0, || format!("the broker reports no queues: {status}"))?;
    let text = cx.ask(&broker, &["status"])?;
    let text = String::from_utf8_lossy(&text.out).into_owned();
    check(text.contains(cx.bus()), || format!("the status does not say {}: {text}", cx.bus()))?;
    broker.stop()?;
    Ok(format!("{queues} queues"))
}

pub(super) fn identify(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let ended = cx.ask(&broker, &["nvme", "identify", "--json"])?;
    let text = String::from_utf8_lossy(&ended.out).into_owned();
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| Trouble::Failed(format!("identify prints no JSON: {error}")))?;
    let serial = find(&value, "serial").and_then(Value::as_str).unwrap_or_default().trim();
    check(serial == DISK_NAME, || format!("the serial number is {serial:?}, not {DISK_NAME:?}"))?;
    let blocks = find(&value, "blocks").and_then(Value::as_u64);
    check(blocks == Some(DISK_BLOCKS), || format!("{blocks:?} blocks, not {DISK_BLOCKS}: {text}"))?;
    // QEMU's controller offers them, so the driver must have them in use.
    let shadows = find(&value, "shadow_doorbells").and_then(Value::as_bool);
    check(shadows == Some(true), || format!("no shadow doorbells: {text}"))?;
    broker.stop()?;
    Ok(format!("serial number {serial}, {DISK_BLOCKS} blocks, shadow doorbells"))
}

/// The first value of that name at any depth.
fn find<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    match value {
        Value::Object(fields) => {
            fields.get(name).or_else(|| fields.values().find_map(|field| find(field, name)))
        }
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        _ => None,
    }
}

/// Turns of [`write`] leave their blocks behind: reading compares the rest.
pub(super) fn read(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let first = first_untouched();
    let blocks = DISK_BLOCKS - first;
    let data = read_blocks(cx, &broker, first, blocks)?;
    let seed = crate::host::sites::DISK.seed;
    compare(seed, first, blocks, &data)?;
    broker.stop()?;
    Ok(format!("{blocks} blocks are equal"))
}

/// Below this block proofs write.
fn first_untouched() -> u64 {
    16 * WRITTEN
}

/// Reads blocks by a process of its own.
pub(super) fn read_blocks(
    cx: &mut Cx<'_>,
    broker: &crate::guest::programs::Broker,
    lba: u64,
    blocks: u64,
) -> Result<Vec<u8>, Trouble> {
    let (lba, blocks) = (lba.to_string(), blocks.to_string());
    let ended = cx.ask(
        broker,
        &["nvme", "read", "--lba", &lba, "--blocks", &blocks, "--out", "/tmp/process-data"],
    )?;
    drop(ended);
    Ok(fs::read("/tmp/process-data")?)
}

/// Compares what was read with a pattern.
pub(super) fn compare(seed: u64, lba: u64, blocks: u64, data: &[u8]) -> Result<(), Trouble> {
    let want = usize::try_from(blocks).unwrap_or(usize::MAX).saturating_mul(pattern::BLOCK);
    check(data.len() == want, || format!("{} bytes were read, not {want}", data.len()))?;
    let different = pattern::first_difference(seed, lba, data);
    check(different.is_none(), || {
        format!("block {} differs from the image", different.unwrap_or(0))
    })
}

pub(super) fn write(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let (seed, lba) = (0x1000 + cx.turn(), cx.turn() * WRITTEN);
    write_blocks(cx, &broker, seed, lba, WRITTEN)?;
    let data = read_blocks(cx, &broker, lba, WRITTEN)?;
    compare(seed, lba, WRITTEN, &data)?;
    broker.stop()?;
    Ok(format!("blocks {lba} to {} written, flushed and read back", lba + WRITTEN - 1))
}

/// Writes and flushes a pattern by a process of its own, and tells the host.
pub(super) fn write_blocks(
    cx: &mut Cx<'_>,
    broker: &crate::guest::programs::Broker,
    seed: u64,
    lba: u64,
    blocks: u64,
) -> Result<(), Trouble> {
    let file = "/tmp/process-pattern";
    fs::write(file, pattern::blocks(seed, lba, blocks))?;
    let at = lba.to_string();
    cx.ask(broker, &["nvme", "write", "--lba", &at, "--in", file])?;
    cx.wrote(Wrote { disk: DISK_NAME.to_owned(), lba, blocks, seed })
}
