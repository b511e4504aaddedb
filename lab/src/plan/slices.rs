//! Slices of a BAR, for clients that want one of their own.

use std::fs;

use super::clients::{busy, client, worker};
use super::cx::{Cx, Trouble, VFIO, Verdict, check, refused};
use super::io::disk;
use crate::guest::process::Process;
use crate::guest::programs::Serve;

/// The number of tier `Paged` on the command line of the plan's clients.
const PAGED: u64 = 1;

/// QEMU's NVMe has all doorbells in one page, the driver's own among them (CAP.DSTRD is 0), and their shadows in another,
/// so whatever the kernel can do, a client that wants a page of its own must be told that there is none.
pub(super) fn slice(cx: &mut Cx<'_>) -> Verdict {
    disk().bind(VFIO)?;
    let (more, why) = match kernel_revokes() {
        true => (options(), "shadow doorbells"),
        false => (String::new(), "cannot revoke"),
    };
    let broker = cx.programs.serve(&(cx.spec(&disk()) + &more), &Serve::default())?;
    let ended = client(cx, &broker, "work", &[0, 1, 0, 0, PAGED])?.wait()?;
    let said = refused(&ended, &["paged", why])?;
    broker.stop()?;
    Ok(said)
}

/// The numbers that the lab's own kernel gives the features that no released kernel has: revoke, and how a slice's
/// memory is cached.
pub(super) const REVOKE: &str = "14";
const MEMATTR: &str = "15";

/// Whether the running kernel is the one that has them.
pub(super) fn kernel_revokes() -> bool {
    rustix::system::uname().release().to_string_lossy().ends_with(crate::host::kernel::REVOCABLE)
}

/// What tells a broker of them, behind a device's address and bus.
pub(super) fn options() -> String {
    format!(",dmabuf-revoke={REVOKE},dmabuf-memattr={MEMATTR}")
}

/// A client that has a dma-buf and no more of the device is revoked under load. A kernel that cannot revoke is found
/// out, whatever the configuration says of it.
pub(super) fn revocable(cx: &mut Cx<'_>) -> Verdict {
    disk().bind(VFIO)?;
    let spec = cx.spec(&disk()) + &options();
    let broker = cx.programs.serve(&spec, &Serve::default())?;
    if !kernel_revokes() {
        let ended = client(cx, &broker, "work", &[0, 1, 0, 0, PAGED])?.wait()?;
        let said = refused(&ended, &["paged", "this kernel cannot revoke BAR slices"])?;
        broker.stop()?;
        return Ok(said);
    }
    // The neighbour has to be at work all the time; on a machine on which it was too fast it gets more to do.
    for rounds in [16, 64, 256, 1024] {
        let mut neighbour = worker(cx, &broker, 5, rounds)?;
        let victim = busy(cx, &broker)?;
        let held = holdings(&victim)?;
        check(!held.is_empty() && held.iter().all(|name| name.starts_with("/dmabuf")), || {
            format!("the client holds {held:?}")
        })?;
        cx.ask(&broker, &["revoke", "--pid", &victim.pid().to_string()])?;
        let ended = victim.wait()?;
        check(ended.status.code() == Some(1), || {
            format!("the client ended with {}", ended.status)
        })?;
        let said = refused(&ended, &["revoked"])?;
        let there = neighbour.works();
        let did = neighbour.finish(cx)?;
        if there {
            broker.stop()?;
            return Ok(format!("it held {}; {said}; the neighbour: {did}", held.join(", ")));
        }
    }
    Err(Trouble::Failed("the neighbour always ended before the revoked client".to_owned()))
}

/// What a process has open and mapped of a device.
fn holdings(process: &Process) -> Result<Vec<String>, Trouble> {
    let folder = format!("/proc/{}", process.pid());
    let maps = fs::read_to_string(format!("{folder}/maps"))?;
    let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5).map(str::to_owned));
    let open = fs::read_dir(format!("{folder}/fd"))?.flatten();
    let open =
        open.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()));
    let ours = |name: &String| ["vfio", "iommu", "dmabuf"].iter().any(|part| name.contains(part));
    let mut all: Vec<_> = mapped.chain(open).filter(ours).collect();
    all.sort();
    all.dedup();
    Ok(all)
}
