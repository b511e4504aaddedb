//! Models of everything that two threads touch, explored exhaustively by loom under the C11 memory
//! model. They run the crate's own code on loom's atomics:
//!
//! * [`wake`]: the Dekker protocols of `doorbell` (asleep, kick) and `wait` (arm, signal);
//! * [`shadow`]: shadow doorbells and EventIdx, alone and together with asleep and kick;
//! * [`lines`]: tasks of several threads that park on one interrupt line;
//! * [`wakes`]: what wakes a thread that polls for many queues, and its sleep;
//! * [`rings`]: publication of an entry by its doorbell, and of a completion by its phase;
//! * [`portals`]: publication of an entry in a portal, and the wake-up beside one;
//! * [`fate`]: the end of a queue, from two threads.
//!
//! For each protocol a model with one ordering left out must fail, so that the models are known to
//! bite.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p doorbell-queues --release --lib loom`.

use core::sync::atomic::Ordering;

use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Condvar, Mutex};

use crate::mem::Word;

mod fate;
mod lines;
mod portals;
mod rings;
mod shadow;
mod wake;
mod wakes;

/// A shared word. `Arc` so that threads can have it.
#[derive(Clone)]
pub(crate) struct LoomWord(Arc<AtomicU32>);

impl LoomWord {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU32::new(0)))
    }
}

impl Word for LoomWord {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }
    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }
    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.0.swap(value, order)
    }
}

/// An eventfd: signals add up, a wait takes them all. If a signal is lost, the wait never ends, and
/// loom reports the deadlock.
#[derive(Clone)]
struct Event(Arc<(Mutex<u32>, Condvar)>);

impl Event {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(0), Condvar::new())))
    }

    fn signal(&self) {
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_one();
    }

    fn wait(&self) {
        let mut count = self.0.0.lock().unwrap();
        while *count == 0 {
            count = self.0.1.wait(count).unwrap();
        }
        *count = 0;
    }
}
