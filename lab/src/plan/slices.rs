//! Slices of a BAR: clients that hold nothing but their part of it, until that is taken from them.

use super::clients::{client, session_with_queue};
use super::cx::{Cx, VFIO, Verdict, check, refused, succeeded};
use super::io::{DISK_NAME, disk};
use crate::guest::process::until;
use crate::guest::programs::Serve;
use crate::protocol::Wrote;

/// What the lab's patched kernel numbers its features by (no released kernel has them).
const FEATURES: &str = "dmabuf-revoke=14,dmabuf-memattr=15";

/// The number of tier `Paged` on the command line of the plan's clients.
const PAGED: u64 = 1;
/// Rounds that do not end before somebody ends them.
const WITHOUT_END: u64 = 1 << 40;
/// Where these clients write.
const FIRST: u64 = 2048;

pub(super) fn slice(cx: &mut Cx<'_>) -> Verdict {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if release.ends_with("-dmabuf") { revocable(cx) } else { not_to_be_had(cx) }
}

/// Where the kernel cannot do it, a client that wants it is told so.
fn not_to_be_had(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let ended = client(cx, &broker, "work", &[FIRST, 16, 1, 1, PAGED])?.wait()?;
    let said = refused(&ended, &["paged"])?;
    broker.stop()?;
    Ok(said)
}

fn revocable(cx: &mut Cx<'_>) -> Verdict {
    disk().bind(VFIO)?;
    let spec = format!("{},{FEATURES}", cx.spec(&disk()));
    let broker = cx.programs.serve(&spec, &Serve::default())?;
    let (seed, lba) = (0x6000 + cx.turn() * 2, FIRST + cx.turn() * 32);
    let victim = client(cx, &broker, "work", &[lba, 16, seed, WITHOUT_END, PAGED])?;
    session_with_queue(cx, &broker, victim.pid())?;
    cx.ask(&broker, &["revoke", "--pid", &victim.pid().to_string()])?;
    let ended = victim.wait()?;
    check(ended.status.code().is_some(), || format!("the revoked client died: {}", ended.status))?;
    let said = refused(&ended, &["revoked"])?;
    // What it had written when it was stopped is not known; its successor writes all of it.
    let next = client(cx, &broker, "work", &[lba, 16, seed, 2, PAGED])?;
    let next = succeeded(next.wait()?)?;
    let next = String::from_utf8_lossy(&next.out).trim_end().to_owned();
    check(next.contains("paged"), || format!("the queue is not of tier paged: {next}"))?;
    cx.wrote(Wrote { disk: DISK_NAME.to_owned(), lba, blocks: 16, seed })?;
    until("the broker to have nothing left of the revoked client", || {
        let status = broker.status(&mut cx.programs)?;
        Ok(status["sessions"].as_array().is_none_or(Vec::is_empty).then_some(()))
    })?;
    broker.stop()?;
    Ok(format!("{said}; then {next}"))
}
