//! Instructions of each hot path, counted by callgrind: the same at each run, whatever else the
//! machine does, so that a change of a few in a hundred is told from noise.
//!
//! A case is run twice, with twice the operations the second time, and the difference is divided by
//! the operations in between: what comes before and after cancels out.

use std::path::Path;
use std::process::Command;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use doorbell::client::{Client, QueueSpec};
use doorbell::dma::DmaBox;
use doorbell::local;
use doorbell_bench::floors::BLOCK;
use doorbell_nvme::{Io, Lba, Namespace, Nvme};
use doorbell_queues::SharedQueue;
use serde::{Deserialize, Serialize};

use crate::counting::allocations;
use crate::in_thread::{self, Bench, Kind, SLOTS, read_from};

/// Commands in flight at a time on an NVMe queue.
const DEPTH: usize = 32;

/// The longest that the controller of a case may take for a batch.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a case does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Submit, flush and complete with the device in the same thread, its work included.
    Ring { depth: usize, kind: Kind },
    /// The same by callback on a shared queue, by one thread: what its atomics cost besides moving lines.
    Shared { depth: usize },
    /// An NVMe client's reads of 4 KiB (one PRP entry): submit and complete, without the doorbell's
    /// store, of which there is one in a batch. The controller is a thread of its own that is not
    /// counted.
    Read { futures: bool },
}

/// One hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// As it stands in the table.
    pub name: &'static str,
    what: What,
}

const fn ring(name: &'static str, depth: usize, kind: Kind) -> Case {
    Case { name, what: What::Ring { depth, kind } }
}

const fn read(name: &'static str, futures: bool) -> Case {
    Case { name, what: What::Read { futures } }
}

/// Every case. Names last: a table that was committed is compared by them.
pub const CASES: [Case; 9] = [
    ring("device-qd1", 1, Kind::Device),
    ring("direct-qd1", 1, Kind::Direct),
    ring("futures-qd1", 1, Kind::Futures),
    ring("device-qd32", 32, Kind::Device),
    ring("direct-qd32", 32, Kind::Direct),
    ring("futures-qd32", 32, Kind::Futures),
    Case { name: "shared-qd32", what: What::Shared { depth: 32 } },
    read("nvme-read-4k-direct", false),
    read("nvme-read-4k-futures", true),
];

/// The case whose instructions stand for submit plus complete.
pub const SUBMIT_COMPLETE: &str = "direct-qd32";

/// The share of the device in it.
pub const DEVICE_SHARE: &str = "device-qd32";

/// What one operation costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Instructions of this program; the kernel's are not counted.
    pub instructions: f64,
    /// Calls of the allocator, by the thread that submits.
    pub allocations: f64,
}

impl Case {
    /// The case of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        CASES.into_iter().find(|case| case.name == name)
    }

    /// Operations that are counted: a multiple of each depth, and so many that a single instruction
    /// in each shows.
    fn operations(self) -> u64 {
        match self.what {
            What::Ring { .. } | What::Shared { .. } => 64_000,
            // Each batch waits for another thread, which takes valgrind a while.
            What::Read { .. } => 64 * DEPTH as u64,
        }
    }

    /// Runs it in this process; returns the allocations after the first batches.
    ///
    /// # Errors
    /// If a command fails.
    pub fn run(self, operations: u64) -> Result<u64> {
        match self.what {
            What::Ring { depth, kind } => run_ring(depth, kind, operations),
            What::Shared { depth } => run_shared(depth, operations),
            What::Read { futures } => pollster::block_on(run_reads(futures, operations)),
        }
    }

    /// Counts it in a process of its own: `program` is one that calls [`Case::run`] with the name and
    /// the operations that its arguments say and prints `allocations` and their number.
    ///
    /// # Errors
    /// If valgrind is not there or the case fails.
    pub fn count(self, program: &Path) -> Result<Cost> {
        let operations = self.operations();
        let (once, _) = self.count_once(program, operations)?;
        let (twice, allocations) = self.count_once(program, 2 * operations)?;
        Ok(Cost {
            instructions: (twice as f64 - once as f64) / operations as f64,
            allocations: allocations as f64 / (2 * operations) as f64,
        })
    }

    fn count_once(self, program: &Path, operations: u64) -> Result<(u64, u64)> {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        if matches!(self.what, What::Read { .. }) {
            // Only what these functions do counts; other threads do not run them.
            valgrind.args(["--toggle-collect=*counted_submit*", "--toggle-collect=*counted_reap*"]);
        }
        valgrind.arg(program).args([self.name, &operations.to_string()]);
        let output = valgrind.output().context("valgrind (the package of that name has it)")?;
        let (out, log) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{} under valgrind: {}: {log}", self.name, output.status);
        let missing = || format!("{} under valgrind: no counts in what it said: {log}", self.name);
        let instructions = number_after(&log, "Collected").with_context(missing)?;
        let allocations = number_after(&out, "allocations").with_context(missing)?;
        Ok((instructions, allocations))
    }
}

/// The number behind `key` in a program's output.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = text.get(text.find(key)? + key.len()..)?;
    let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn run_ring(depth: usize, kind: Kind, operations: u64) -> Result<u64> {
    let (queue, mut side) = in_thread::queue(SLOTS)?;
    let mut bench = Bench::new(&queue, depth);
    // Once around the rings, so that all of their memory was touched.
    for _ in 0..256 / depth {
        bench.batch(&mut side, Kind::Direct);
    }
    let before = allocations();
    for _ in 0..operations / depth as u64 {
        bench.batch(&mut side, kind);
    }
    let allocated = allocations() - before;
    ensure!(bench.failed() == 0, "{} commands failed", bench.failed());
    std::hint::black_box(side.sum());
    Ok(allocated)
}

fn run_shared(depth: usize, operations: u64) -> Result<u64> {
    let (parts, mut device) = in_thread::parts(SLOTS)?;
    let queue = SharedQueue::<in_thread::Nvme, in_thread::Buffer>::new(parts)?;
    let mut buffers: Vec<in_thread::Buffer> = (0..depth).map(|_| Box::default()).collect();
    let (mut lba, mut failed) = (0, 0);
    let mut batch = || {
        while let Some(buffer) = buffers.pop() {
            lba += 8;
            failed += u64::from(queue.post(buffer, |_, _| read_from(1, lba)).is_err());
        }
        queue.flush();
        device.run(|_| ());
        let reaped = queue.reap(usize::MAX, |done| {
            failed += u64::from(done.outcome);
            buffers.push(done.buffer);
        });
        failed += u64::from(reaped != Ok(depth));
    };
    // Once around the rings, so that all of their memory was touched.
    (0..256 / depth).for_each(|_| batch());
    let before = allocations();
    (0..operations / depth as u64).for_each(|_| batch());
    let allocated = allocations() - before;
    ensure!(failed == 0, "{failed} commands failed");
    Ok(allocated)
}

/// Two queues of one controller: one whose commands are counted, and one by whose flushes it is
/// known that the controller has gone past the first.
struct Reads<'n> {
    counted: &'n Nvme,
    ns: Namespace<'n>,
    other: Namespace<'n>,
    other_queue: &'n Nvme,
    buffers: Vec<DmaBox<[u8]>>,
    futures: Vec<Io<'n>>,
    allocated: u64,
}

async fn run_reads(futures: bool, operations: u64) -> Result<u64> {
    let builder = Client::builder().arena_bytes(4 << 20);
    let client = local::open_with("soft:nvme,ram=8M", &doorbell_nvme::registry(), builder).await?;
    let spec = || QueueSpec::depth(DEPTH as u32);
    let (counted, other) =
        (Nvme::claim(&client, spec()).await?, Nvme::claim(&client, spec()).await?);
    let allocated = {
        let buffers = (0..DEPTH).map(|_| crate::nvme::buffer(&counted)).collect::<Result<_>>()?;
        let mut reads = Reads {
            ns: counted.namespace(1)?,
            other: other.namespace(1)?,
            counted: &counted,
            other_queue: &other,
            buffers,
            futures: Vec::with_capacity(DEPTH),
            allocated: 0,
        };
        for _ in 0..operations / DEPTH as u64 {
            reads.batch(futures)?;
        }
        reads.allocated
    };
    counted.release().await?;
    other.release().await?;
    Ok(allocated)
}

impl<'n> Reads<'n> {
    fn batch(&mut self, futures: bool) -> Result<()> {
        let before = allocations();
        if futures {
            counted_submit_futures(self.ns, &mut self.buffers, &mut self.futures);
        } else {
            counted_submit_direct(self.ns, &mut self.buffers)?;
        }
        self.counted.flush();
        let submitted = allocations();
        self.let_the_device_finish()?;
        let settled = allocations();
        if futures {
            counted_reap_futures(&mut self.futures, &mut self.buffers)?;
        } else {
            counted_reap_direct(self.counted, &mut self.buffers)?;
        }
        self.allocated += (submitted - before) + (allocations() - settled);
        ensure!(self.buffers.len() == DEPTH, "the controller was late: {}", self.buffers.len());
        Ok(())
    }

    /// Flushes on the other queue, one after the other, until the controller must have looked at the
    /// counted one often enough to be done with it.
    fn let_the_device_finish(&self) -> Result<()> {
        let begin = Instant::now();
        for _ in 0..2 * DEPTH {
            self.other.post_flush()?;
            self.other_queue.flush();
            while self.other_queue.reap(1, |_| ())? == 0 {
                // The controller has work for its thread; under valgrind it is this one's turn else.
                std::thread::yield_now();
                ensure!(begin.elapsed() < PATIENCE, "no flush completed within {PATIENCE:?}");
            }
        }
        Ok(())
    }
}

#[inline(never)]
fn counted_submit_direct(ns: Namespace<'_>, buffers: &mut Vec<DmaBox<[u8]>>) -> Result<()> {
    for at in 0..DEPTH as u64 {
        let Some(buffer) = buffers.pop() else { bail!("a buffer is missing") };
        ns.post_read(Lba(at * (BLOCK / 512) as u64), buffer)?;
    }
    Ok(())
}

#[inline(never)]
fn counted_reap_direct(nvme: &Nvme, buffers: &mut Vec<DmaBox<[u8]>>) -> Result<()> {
    nvme.reap(usize::MAX, |done| {
        if done.status.is_success()
            && let Some(buffer) = done.buffer
        {
            buffers.push(buffer);
        }
    })?;
    Ok(())
}

#[inline(never)]
fn counted_submit_futures<'n>(
    ns: Namespace<'n>,
    buffers: &mut Vec<DmaBox<[u8]>>,
    futures: &mut Vec<Io<'n>>,
) {
    for (at, buffer) in (0..).zip(buffers.drain(..)) {
        futures.push(ns.read(Lba(at * (BLOCK / 512) as u64), buffer));
    }
}

#[inline(never)]
fn counted_reap_futures(futures: &mut Vec<Io<'_>>, buffers: &mut Vec<DmaBox<[u8]>>) -> Result<()> {
    let mut cx = TaskContext::from_waker(Waker::noop());
    // In their place, as an executor polls them.
    for future in futures.iter_mut() {
        let Poll::Ready(read) = std::pin::Pin::new(future).poll(&mut cx) else {
            bail!("a read has not completed");
        };
        buffers.push(read?);
    }
    futures.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs() {
        for case in CASES {
            case.run(128).unwrap();
            assert_eq!(Case::named(case.name), Some(case));
        }
        assert_eq!(Case::named("no such case"), None);
    }

    #[test]
    fn numbers_are_found_behind_their_key() {
        assert_eq!(number_after("==1== Collected : 4711 7", "Collected"), Some(4711));
        assert_eq!(number_after("==1== Collected :", "Collected"), None);
        assert_eq!(number_after("", "Collected"), None);
    }
}
