//! The floors: one atomic operation on one word for each command.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use crossbeam_utils::CachePadded;

use super::Producer;

type Shared = Arc<CachePadded<AtomicU64>>;

struct Adder {
    word: Shared,
    /// What the word held after this producer's last turn.
    last: Option<u64>,
    turns: u64,
}

struct Exchanger {
    word: Shared,
    failed: u64,
}

pub(super) fn adders(count: usize) -> Vec<impl Producer> {
    let word = Shared::default();
    (0..count).map(|_| Adder { word: Arc::clone(&word), last: None, turns: 0 }).collect::<Vec<_>>()
}

pub(super) fn exchangers(count: usize) -> Vec<impl Producer> {
    let word = Shared::default();
    (0..count).map(|_| Exchanger { word: Arc::clone(&word), failed: 0 }).collect::<Vec<_>>()
}

impl Producer for Adder {
    #[inline]
    fn submit(&mut self) -> Result<()> {
        // AcqRel, as a ring's reservation would need it.
        let was = self.word.fetch_add(1, Ordering::AcqRel);
        self.turns += u64::from(self.last.is_some_and(|last| last != was));
        self.last = Some(was + 1);
        Ok(())
    }

    fn flush(&mut self) {}

    fn recycle(&mut self) -> Result<()> {
        Ok(())
    }

    fn turns(&self) -> Option<u64> {
        Some(self.turns)
    }
}

impl Producer for Exchanger {
    #[inline]
    fn submit(&mut self) -> Result<()> {
        let mut was = self.word.load(Ordering::Relaxed);
        // Weak is the same on x86, and right in a loop elsewhere.
        while let Err(now) =
            self.word.compare_exchange_weak(was, was + 1, Ordering::AcqRel, Ordering::Relaxed)
        {
            self.failed += 1;
            was = now;
        }
        Ok(())
    }

    fn flush(&mut self) {}

    fn recycle(&mut self) -> Result<()> {
        Ok(())
    }

    fn turns(&self) -> Option<u64> {
        Some(self.failed)
    }
}
