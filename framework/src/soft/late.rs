//! Interrupts of vectors without an arm word: they wait a moment for more completions.
//!
//! Such a vector is signalled whether its host waits or polls, as the host has no means to say which. Each signal is a
//! system call, longer than a whole round trip of a host that polls. So the signal is put off until the device has looked
//! for work in vain for about a microsecond: a host that waits does not notice, and one that polls has brought its next
//! command by then. It is put off for some tens of microseconds at most.

/// Looks in vain after the last completion until the interrupt.
const QUIET: u32 = 64;
/// Looks, also those that found work, from the first completion to the interrupt at the latest.
const MOST: u32 = 1024;

/// The vectors whose interrupts are put off, each once.
#[derive(Debug, Default)]
pub(super) struct Late {
    vectors: Vec<u16>,
    quiet: u32,
    looks: u32,
}

impl Late {
    /// Puts an interrupt off.
    #[inline]
    pub(super) fn add(&mut self, vector: u16) {
        self.quiet = 0;
        if !self.vectors.contains(&vector) {
            self.vectors.push(vector);
        }
    }

    /// Called before each look for work: true if the interrupts must wait no longer.
    #[inline]
    pub(super) fn is_due(&mut self) -> bool {
        if self.vectors.is_empty() {
            return false;
        }
        self.quiet += 1;
        self.looks += 1;
        self.quiet > QUIET || self.looks > MOST
    }

    /// The next vector to interrupt on.
    pub(super) fn take(&mut self) -> Option<u16> {
        self.looks = 0;
        self.vectors.pop()
    }

    /// Nothing is to come any more.
    #[cfg(feature = "vfio-user")]
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks until the interrupts are due.
    fn looks(late: &mut Late, mut busy: impl FnMut(u32, &mut Late)) -> u32 {
        let mut looks = 0;
        while !late.is_due() {
            looks += 1;
            busy(looks, late);
        }
        looks
    }

    #[test]
    fn a_host_that_is_silent_is_interrupted_soon_and_once() {
        let mut late = Late::default();
        assert!(!late.is_due());
        late.add(3);
        late.add(3);
        late.add(1);
        assert_eq!(looks(&mut late, |_, _| {}), QUIET);
        let mut taken = [late.take().unwrap(), late.take().unwrap()];
        taken.sort_unstable();
        assert_eq!((taken, late.take()), ([1, 3], None));
        assert!((0..10 * MOST).all(|_| !late.is_due()));
    }

    #[test]
    fn a_host_that_never_pauses_is_interrupted_all_the_same() {
        let mut late = Late::default();
        for _ in 0..3 {
            late.add(0);
            let more = |look: u32, late: &mut Late| {
                if look.is_multiple_of(10) {
                    late.add(0);
                }
            };
            assert_eq!(looks(&mut late, more), MOST);
            assert_eq!((late.take(), late.take()), (Some(0), None));
        }
    }
}
