//! [`Laps`]: where a number that only grows lies in a ring.

/// How a count that only grows is cut into passes over a ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Laps {
    count: u64,
    /// Whether it is a power of two: most are, and a division takes longer than all the rest.
    power: bool,
}

impl Laps {
    pub(super) fn new(count: usize) -> Self {
        Self { count: count as u64, power: count.is_power_of_two() }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The index in the ring.
    #[inline]
    pub(super) fn index(&self, number: u64) -> usize {
        let index = if self.power { number & (self.count - 1) } else { number % self.count };
        index as usize
    }
}
