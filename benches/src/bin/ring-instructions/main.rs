//! Counts the instructions and allocations of one command on a queue, with the device in the same
//! thread and its work included. The device's share is counted on its own as well.
//!
//! Without arguments it runs itself under callgrind, twice for each case, and divides the
//! difference by the operations in between, so that start-up cancels out. `ring-instructions CASE
//! OPERATIONS` is what it runs, and can be run under any profiler.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is its purpose")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};

mod in_thread;

use doorbell_queues::EntryStores;
use in_thread::{Bench, Kind};

/// Name, commands in flight, what a batch does.
const CASES: [(&str, usize, Kind); 6] = [
    ("device-qd1", 1, Kind::Device),
    ("direct-qd1", 1, Kind::Direct),
    ("futures-qd1", 1, Kind::Futures),
    ("device-qd32", 32, Kind::Device),
    ("direct-qd32", 32, Kind::Direct),
    ("futures-qd32", 32, Kind::Futures),
];

/// A multiple of all depths.
const OPERATIONS: u64 = 64_000;

type Failure = Box<dyn std::error::Error>;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes every call on to the system's allocator unchanged.
#[allow(unsafe_code, reason = "an allocator that counts is an unsafe trait by nature")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs one case; returns the allocations after the first batches.
fn run(depth: usize, kind: Kind, operations: u64) -> Result<u64, Failure> {
    let (queue, mut side) = in_thread::queue(EntryStores::Plain)?;
    let mut bench = Bench::new(&queue, depth);
    // Once around the rings, so that all of their memory was touched.
    for _ in 0..256 / depth {
        bench.batch(&mut side, Kind::Direct);
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..operations / depth as u64 {
        bench.batch(&mut side, kind);
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    if bench.failed() > 0 {
        return Err(format!("{} commands failed", bench.failed()).into());
    }
    std::hint::black_box(side.sum());
    Ok(allocations)
}

/// The number behind `key` in a program's output.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = &text[text.find(key)? + key.len()..];
    let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Instructions and allocations of a whole run of this program.
fn count(case: &str, operations: u64) -> Result<(u64, u64), Failure> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([case, &operations.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error} (install the package valgrind)"))?;
    let (out, log) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(format!("{case} under valgrind: {}: {log}", output.status).into());
    }
    let missing = || format!("{case} under valgrind: no counts in its output: {log}");
    let instructions = number_after(&log, "Collected").ok_or_else(missing)?;
    let allocations = number_after(&out, "allocations").ok_or_else(missing)?;
    Ok((instructions, allocations))
}

fn table() -> Result<(), Failure> {
    println!("{:<14} {:>22} {:>22}", "case", "instructions/operation", "allocations/operation");
    for (case, _, _) in CASES {
        let ((once, _), (twice, allocations)) =
            (count(case, OPERATIONS)?, count(case, 2 * OPERATIONS)?);
        let each = (twice - once) as f64 / OPERATIONS as f64;
        let allocated = allocations as f64 / (2 * OPERATIONS) as f64;
        println!("{case:<14} {each:>22.1} {allocated:>22.1}");
    }
    Ok(())
}

fn main_or_failure() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => table(),
        [case, operations] => {
            let known = CASES.iter().find(|(name, _, _)| *name == case);
            let names = CASES.map(|(name, _, _)| name).join(", ");
            let (_, depth, kind) = known.ok_or(format!("no case {case}; there are {names}"))?;
            let operations = operations.parse().map_err(|_| format!("{operations}: a number"))?;
            println!("allocations {}", run(*depth, *kind, operations)?);
            Ok(())
        }
        _ => Err("usage: ring-instructions [CASE OPERATIONS]".into()),
    }
}

fn main() -> ExitCode {
    match main_or_failure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ring-instructions: {error}");
            ExitCode::FAILURE
        }
    }
}
