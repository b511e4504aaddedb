//! Resets of a controller that is in use.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::commands::until_scanned;
use super::{LOAD, namespace};
use crate::guest::process::until;
use crate::host::served::SHADOWS;
use crate::pattern;
use crate::plan::cx::{Cx, Trouble, Verdict, check};
use crate::plan::io::disk;
use crate::protocol::Request;

/// The blocks that are written meanwhile: the last MiB that no load uses.
const BYTES: usize = 1 << 20;
const AT: u64 = 40 << 20;

/// Each kind of reset happens so often.
const TIMES: u64 = 2;

/// Resets the controller (CC.EN) and the function (FLR) while blocks are written; the kernel's driver tries again what
/// a reset has taken away, so every write must succeed and be read back. What it does not try again are the commands
/// by which it looks at namespaces after a reset: each reset waits for the look that the one before has asked for.
pub(in crate::plan) fn resets(cx: &mut Cx<'_>) -> Verdict {
    let device = namespace(LOAD)?.device;
    until_scanned(cx)?;
    let done = AtomicBool::new(false);
    let (written, reset) = thread::scope(|scope| {
        let writer = scope.spawn(|| write_until(&device, &done));
        let reset = reset_all(cx);
        done.store(true, Ordering::Release);
        (writer.join(), reset)
    });
    reset?;
    let rounds = written
        .map_err(|_| Trouble::Failed("the thread that writes has panicked".to_owned()))??;
    written_is_there(&device, rounds)?;
    Ok(format!(
        "{TIMES} resets of the controller and {TIMES} of the function, under {rounds} writes of 1 MiB"
    ))
}

/// The guest's driver has told the controller of its shadow doorbells once before, and does so again after a reset. A
/// controller that was told looks at nothing else, so data that moves has gone by them.
pub(in crate::plan) fn shadows(cx: &mut Cx<'_>) -> Verdict {
    let device = namespace(LOAD)?.device;
    let at_once = AtomicBool::new(true);
    for told in 1..=2 {
        cx.host(Request::Logged(SHADOWS.to_owned(), told))?;
        let rounds = write_until(&device, &at_once)?;
        written_is_there(&device, rounds)?;
        until_scanned(cx)?;
        fs::write("/sys/class/nvme/nvme0/reset_controller", "1")?;
        live()?;
    }
    until_scanned(cx)?;
    Ok("shadow doorbells before and after a reset".to_owned())
}

/// Whether the disk holds what was written in a round.
fn written_is_there(device: &str, round: u64) -> Result<(), Trouble> {
    super::drop_caches()?;
    let mut data = vec![0; BYTES];
    let file = fs::File::open(device)?;
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut data, AT)?;
    let different = pattern::first_difference(round, 0, &data);
    check(different.is_none(), || format!("block {} is wrong", different.unwrap_or(0)))
}

/// The kernel's files answer when the driver has brought the controller up and asked for a look at its namespaces.
fn reset_all(cx: &mut Cx<'_>) -> Result<(), Trouble> {
    for _ in 0..TIMES {
        fs::write("/sys/class/nvme/nvme0/reset_controller", "1")?;
        live()?;
        until_scanned(cx)?;
        disk().write("reset", "1")?;
        live()?;
        until_scanned(cx)?;
    }
    Ok(())
}

/// Waits for the kernel's driver to have brought the controller up again.
fn live() -> io::Result<()> {
    until("the controller to be live again", || {
        let state = fs::read_to_string("/sys/class/nvme/nvme0/state")?;
        Ok((state.trim() == "live").then_some(()))
    })
}

/// Writes the pattern of 1, 2, 3..., each made durable, at least once; returns the last.
fn write_until(device: &str, done: &AtomicBool) -> io::Result<u64> {
    let file = fs::File::options().write(true).open(device)?;
    let mut round = 0;
    loop {
        let last = done.load(Ordering::Acquire);
        round += 1;
        let data = pattern::blocks(round, 0, (BYTES / pattern::BLOCK) as u64);
        std::os::unix::fs::FileExt::write_all_at(&file, &data, AT)?;
        file.sync_all()?;
        if last {
            return Ok(round);
        }
    }
}
