//! When the operations of an open loop arrive.

use serde::{Deserialize, Serialize};

/// How arrivals follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Evenly spaced.
    Fixed,
    /// As from many users who know nothing of each other: exponentially distributed gaps. Bursts
    /// happen, and wait for each other even at a low rate.
    Poisson,
}

/// Intended times of arrival, in nanoseconds since the load began; ascending, without end.
#[derive(Debug, Clone)]
pub struct Arrivals {
    pattern: Pattern,
    gap_ns: f64,
    /// The next one.
    next_ns: f64,
    state: u64,
}

impl Arrivals {
    /// `rate` arrivals per second, above 0. The same seed gives the same arrivals.
    #[must_use]
    pub fn new(rate: f64, pattern: Pattern, seed: u64) -> Self {
        let gap_ns = 1e9 / rate.max(f64::MIN_POSITIVE);
        let mut new = Self { pattern, gap_ns, next_ns: 0.0, state: seed };
        // Fixed: clients that begin together must not arrive together.
        new.next_ns = match pattern {
            Pattern::Fixed => new.share() * gap_ns,
            Pattern::Poisson => new.gap(),
        };
        new
    }

    /// When the next one arrives.
    #[must_use]
    #[inline]
    pub fn peek(&self) -> u64 {
        // Saturates at the end of time.
        self.next_ns as u64
    }

    /// Goes on to the one after it; returns what [`peek`](Self::peek) said.
    #[inline]
    pub fn advance(&mut self) -> u64 {
        let now = self.peek();
        self.next_ns += self.gap();
        now
    }

    #[inline]
    fn gap(&mut self) -> f64 {
        match self.pattern {
            Pattern::Fixed => self.gap_ns,
            // The share is below 1, so the logarithm is finite.
            Pattern::Poisson => -(1.0 - self.share()).ln() * self.gap_ns,
        }
    }

    /// A number from 0 to below 1: splitmix64 (Steele, Lea and Flood, 2014), its upper 53 bits.
    #[inline]
    fn share(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(pattern: Pattern, seed: u64) -> Vec<f64> {
        let mut arrivals = Arrivals::new(10_000.0, pattern, seed);
        let times: Vec<u64> = (0..20_001).map(|_| arrivals.advance()).collect();
        times.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect()
    }

    #[test]
    fn fixed_arrivals_are_evenly_spaced() {
        assert!(gaps(Pattern::Fixed, 1).iter().all(|gap| (gap - 100_000.0).abs() <= 1.0));
    }

    #[test]
    fn poisson_arrivals_have_their_mean_and_its_spread() {
        let gaps = gaps(Pattern::Poisson, 7);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let square = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.97..1.03).contains(&(mean / 1e5)), "{mean}");
        // The standard deviation of an exponential distribution is its mean.
        assert!((0.95..1.05).contains(&(square.sqrt() / 1e5)), "{square}");
    }

    #[test]
    fn a_seed_repeats_its_arrivals() {
        assert_eq!(gaps(Pattern::Poisson, 3), gaps(Pattern::Poisson, 3));
        assert_ne!(gaps(Pattern::Poisson, 3), gaps(Pattern::Poisson, 4));
    }
}
