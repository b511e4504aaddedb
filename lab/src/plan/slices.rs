//! Slices of a BAR, for clients that want one of their own.

use super::clients::client;
use super::cx::{Cx, Verdict, refused};
use super::io::disk;

/// The number of tier `Paged` on the command line of the plan's clients.
const PAGED: u64 = 1;

/// QEMU's NVMe has all doorbells in one page, the driver's own among them (CAP.DSTRD is 0), so whatever the kernel can
/// do, a client that wants a page of its own must be told that there is none.
pub(super) fn slice(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let ended = client(cx, &broker, "work", &[0, 1, 0, 0, PAGED])?.wait()?;
    let said = refused(&ended, &["paged"])?;
    broker.stop()?;
    Ok(said)
}
