//! A load that checks what it reads, from inside the guest.

use super::{LOAD, must, namespace};
use crate::plan::cx::{Cx, Verdict, check};

/// Entries of a queue of 1024 that can be in use at a time.
const DEPTH: u32 = 1023;

pub(in crate::plan) fn load(cx: &mut Cx<'_>) -> Verdict {
    let depth = namespace(LOAD)?.attribute("queue/nr_requests")?;
    check(depth == DEPTH.to_string(), || {
        format!("the kernel uses {depth} entries of a queue, not {DEPTH}")
    })?;
    // Every processor has a queue pair of its own, and a part of the disk.
    let deep = ["--bs=4k", "--size=8m", "--offset_increment=8m", "--iodepth=1023", "--numjobs=2"];
    fio(cx, "deep", &deep)?;
    // Lists of PRP entries that fill one page and more, at every alignment that the block size allows.
    let mixed = [
        "--bssplit=512/10:4k/20:12k/20:64k/20:100k/10:512k/10:1m/10",
        "--bs_unaligned=1",
        "--offset=24m",
        "--size=12m",
        "--iodepth=64",
    ];
    fio(cx, "mixed", &mixed)?;
    Ok(format!("two jobs of {DEPTH} commands at a time; transfers from 512 bytes to 1 MiB"))
}

/// Writes at random, then reads everything and compares it with what was written.
fn fio(cx: &mut Cx<'_>, name: &str, job: &[&str]) -> Result<(), crate::plan::cx::Trouble> {
    let mut command = cx.tool("fio")?;
    command.arg(format!("--name={name}")).arg(format!("--filename={}", namespace(LOAD)?.device));
    command.args(["--ioengine=libaio", "--direct=1", "--rw=randwrite", "--randseed=20"]);
    command.args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1"]);
    command.args(["--verify_state_save=0", "--thread", "--group_reporting", "--minimal"]);
    command.args(["--cpus_allowed=0,1", "--cpus_allowed_policy=split"]);
    must(cx, command.args(job))?;
    Ok(())
}
