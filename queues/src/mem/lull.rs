//! [`Lull`]: waiting for a word to change without running, where the processor can.
//!
//! Two instruction pairs do the same: name a cache line, then stop until somebody writes to it, an
//! interrupt comes, or the time stamp counter reaches a bound. They save power and leave the core
//! to its other thread; the wake-up costs about what a pause does.
//!
//! * Intel `WAITPKG`: `umonitor` and `umwait` (Intel SDM volume 2B; CPUID 7.0 ECX bit 5);
//! * AMD `MONITORX`: `monitorx` and `mwaitx` (AMD APM volume 3; CPUID 8000_0001h ECX bit 29).
//!
//! Detected at run time, once per program. A virtual machine may advertise an instruction that it
//! then intercepts, at a thousand times the cost, so it is tried: what takes much longer than its
//! bound is not used. Elsewhere a lull is a pause (`spin_loop`).
//!
//! What it does not do: it promises nothing. It may return at once, and returns after the bound at
//! the latest; whoever waits looks again.
//!
//! Part of the crate's `unsafe` code: instructions that read one address and no more.

#[cfg(target_arch = "x86_64")]
use core::sync::atomic::{AtomicU8, Ordering};

/// How this processor waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lull {
    /// By a pause: `spin_loop`.
    Pause,
    /// By `umonitor` and `umwait`.
    #[cfg(target_arch = "x86_64")]
    Umwait,
    /// By `monitorx` and `mwaitx`.
    #[cfg(target_arch = "x86_64")]
    Mwaitx,
}

/// The longest lull, in ticks of the time stamp counter: below a microsecond.
#[cfg(target_arch = "x86_64")]
const BOUND: u32 = 2_000;

impl Lull {
    /// What a lull counts for, in looks after a pause each: as long as both take at most.
    pub(crate) fn looks(self) -> u32 {
        match self {
            Self::Pause => 1,
            #[cfg(target_arch = "x86_64")]
            Self::Umwait | Self::Mwaitx => 32,
        }
    }

    /// What this processor offers. Asked once per program, then remembered.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn detect() -> Self {
        const UNKNOWN: u8 = 0;
        static KNOWN: AtomicU8 = AtomicU8::new(UNKNOWN);
        // Relaxed: the value stands for itself, and whoever asks anew finds the same.
        match KNOWN.load(Ordering::Relaxed) {
            UNKNOWN => {
                let found = Self::tried();
                let code = match found {
                    Self::Pause => 1,
                    Self::Umwait => 2,
                    Self::Mwaitx => 3,
                };
                KNOWN.store(code, Ordering::Relaxed);
                found
            }
            2 => Self::Umwait,
            3 => Self::Mwaitx,
            _ => Self::Pause,
        }
    }

    /// Elsewhere there is only the pause.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn detect() -> Self {
        Self::Pause
    }

    /// What the processor advertises, if it keeps its bound.
    #[cfg(target_arch = "x86_64")]
    fn tried() -> Self {
        const TRIES: usize = 4;
        let advertised = advertised();
        if advertised == Self::Pause {
            return advertised;
        }
        let word = 0_u32;
        let shortest = (0..TRIES).map(|_| {
            let before = ticks();
            advertised.wait(&raw const word, || true);
            ticks().wrapping_sub(before)
        });
        // The shortest: any other may have been interrupted.
        let kept = shortest.min().is_some_and(|took| took < 4 * u64::from(BOUND));
        if kept { advertised } else { Self::Pause }
    }

    /// Stops until the line of `word` is written to, for a lull at most. `quiet` is asked once the
    /// processor watches the line: what was written before is seen by that, what is written later
    /// ends the lull. Where there is only the pause, it is one.
    ///
    /// `word` is an address to watch, and need not be readable: a line that is not leads to a fault
    /// that is the caller's own, so callers pass what they load from anyway.
    #[inline]
    pub(super) fn wait(self, word: *const u32, quiet: impl FnOnce() -> bool) {
        match self {
            Self::Pause => core::hint::spin_loop(),
            #[cfg(target_arch = "x86_64")]
            Self::Umwait => {
                // SAFETY:
                // * WAITPKG is there (`detect`), so the instruction exists;
                // * it reads nothing but one byte at `word`, which the caller loads from as well.
                unsafe {
                    core::arch::asm!("umonitor {0}", in(reg) word, options(nostack, preserves_flags));
                }
                if quiet() {
                    let until = ticks().wrapping_add(BOUND.into());
                    // SAFETY: as above; it changes the flags and nothing else. State C0.1 (bit 0
                    // set): the quicker wake-up. EDX:EAX is the counter's value at which it ends.
                    // For the compiler it may touch memory: looks stay on their side of it.
                    unsafe {
                        core::arch::asm!(
                            "umwait ecx",
                            in("ecx") 1_u32,
                            in("eax") until as u32,
                            in("edx") (until >> 32) as u32,
                            options(nostack),
                        );
                    }
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Mwaitx => {
                // SAFETY:
                // * MONITORX is there (`detect`), so the instruction exists; no extension (ECX) and
                //   no hint (EDX);
                // * it reads nothing but one byte at `word`, which the caller loads from as well.
                unsafe {
                    core::arch::asm!(
                        "monitorx",
                        in("rax") word,
                        in("ecx") 0_u32,
                        in("edx") 0_u32,
                        options(nostack, preserves_flags),
                    );
                }
                if quiet() {
                    // SAFETY: as above. The timer is used (ECX bit 1), with its bound in EBX, which
                    // the compiler keeps for itself: it is exchanged, and back. State C0 (EAX F0h;
                    // 0 would be C1): the quicker wake-up. Memory as above.
                    unsafe {
                        core::arch::asm!(
                            "xchg {bound:r}, rbx",
                            "mwaitx",
                            "xchg {bound:r}, rbx",
                            bound = inout(reg) u64::from(BOUND) => _,
                            in("eax") 0xf0_u32,
                            in("ecx") 2_u32,
                            options(nostack, preserves_flags),
                        );
                    }
                }
            }
        }
    }
}

/// What CPUID says.
#[cfg(target_arch = "x86_64")]
fn advertised() -> Lull {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    /// CPUID 7.0, ECX.
    const WAITPKG: u32 = 1 << 5;
    /// CPUID 8000_0001h, ECX.
    const MONITORX: u32 = 1 << 29;
    #[allow(unused_unsafe, reason = "the intrinsic was unsafe in older versions of Rust")]
    let ecx = |leaf, highest: u32| {
        // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
        unsafe { if __cpuid(highest).eax < leaf { 0 } else { __cpuid_count(leaf, 0).ecx } }
    };
    if ecx(7, 0) & WAITPKG != 0 {
        Lull::Umwait
    } else if ecx(0x8000_0001, 0x8000_0000) & MONITORX != 0 {
        Lull::Mwaitx
    } else {
        Lull::Pause
    }
}

/// The time stamp counter.
#[cfg(target_arch = "x86_64")]
fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_lull_ends_when_the_word_changes_and_at_its_bound() {
        let lull = Lull::detect();
        println!("this processor waits by {lull:?}");
        assert_eq!(lull, Lull::detect(), "remembered");
        let word = AtomicU32::new(0);
        let deadline = Instant::now() + Duration::from_secs(30);
        // At its bound, with nobody to write: each of these returns.
        for _ in 0..1_000 {
            lull.wait(word.as_ptr(), || word.load(Ordering::Acquire) == 0);
            assert!(Instant::now() < deadline);
        }
        // Written from elsewhere, again and again.
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    word.fetch_add(1, Ordering::Release);
                    std::thread::yield_now();
                }
            });
            for _ in 0..1_000 {
                let before = word.load(Ordering::Acquire);
                while word.load(Ordering::Acquire) == before {
                    lull.wait(word.as_ptr(), || word.load(Ordering::Acquire) == before);
                    assert!(Instant::now() < deadline);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
