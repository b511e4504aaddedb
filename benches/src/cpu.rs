//! CPU time: of this thread, of this process, and of another process.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// CPU time that the calling thread has used, in nanoseconds.
#[must_use]
pub fn of_thread() -> u64 {
    read(ClockId::ThreadCPUTime)
}

/// CPU time that all threads of this process have used, in nanoseconds.
#[must_use]
pub fn of_process() -> u64 {
    read(ClockId::ProcessCPUTime)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let (seconds, ns) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(ns.unwrap_or(0))
}

/// CPU time that the running threads of a process have used, in nanoseconds, as the kernel's
/// scheduler counts it. `None` if there is no such process, or the kernel does not say.
#[must_use]
pub fn of_other(pid: u32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut sum = None;
    for thread in threads.flatten() {
        // A thread may end between the two looks.
        let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
        let ns: u64 = text.split_whitespace().next()?.parse().ok()?;
        sum = Some(sum.unwrap_or(0_u64).saturating_add(ns));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_time() {
        // In this order: what passes between the two readings counts for the process only.
        let process = of_process();
        let thread = of_thread();
        let mut sum = 0_u64;
        while of_thread() < thread + 1_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(of_process() >= process + 1_000_000);
        // The kernel brings it up to date at its ticks, so only that it is there is certain.
        assert!(of_other(std::process::id()).is_none_or(|ns| ns > 0));
        assert_eq!(of_other(u32::MAX), None);
    }
}
