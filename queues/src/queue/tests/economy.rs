//! What the hot path does not do: doorbells that need not be rung, wakers that nobody needs.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use crate::testing::{Count, Entry, TestQueue, parts, rig};
use crate::{Doorbell, EntryStores, Kick, Queue, SharedMem, Wake, Word};

/// A device that always sleeps, so that each store to its doorbell is followed by a kick.
#[derive(Default)]
struct Stores(AtomicUsize);

impl Kick for Stores {
    fn kick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Stores {
    /// A doorbell whose stores are counted, and its register.
    fn doorbell(self: &Arc<Self>) -> (Doorbell, crate::Word32) {
        let bar = SharedMem::zeroed(8);
        let asleep = bar.word32(4).unwrap();
        asleep.store(1, Ordering::Relaxed);
        let register = bar.word32(0).unwrap();
        (Doorbell::new(register.clone(), Some(Wake::new(asleep, self.clone()))), register)
    }

    /// How many since the last time this was asked.
    fn taken(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

#[test]
fn a_batch_rings_each_doorbell_once_at_most() {
    for stores in [EntryStores::Plain, EntryStores::NonTemporal] {
        let (mut parts, mut device) = parts(8, 16, 7);
        let (tails, heads) = (Arc::new(Stores::default()), Arc::new(Stores::default()));
        let (tail, register) = tails.doorbell();
        (parts.submission_doorbell, parts.entry_stores) = (tail, stores);
        device.listen_at(register);
        let (head, register) = heads.doorbell();
        parts.completion_doorbell = head;
        device.acknowledged_at(register);
        let queue = TestQueue::<u64>::new(parts).unwrap();
        let mut told = 0;
        for batch in 0..100_u64 {
            for n in 0..5 {
                let value = batch * 5 + n;
                queue.post(value, |_, value| Entry::filled(*value)).unwrap();
            }
            assert_eq!((tails.taken(), heads.taken()), (0, 0), "nothing before the flush");
            queue.flush();
            queue.flush();
            assert_eq!(tails.taken(), 1, "one tail for five entries");
            let head = heads.taken();
            assert!(head <= 1, "one head for all that were reaped");
            told += head;
            assert_eq!(device.run(), 5);
            let mut seen = Vec::new();
            assert_eq!(queue.reap(64, |done| seen.push((done.outcome.result, done.buffer))), Ok(5));
            assert!(seen.iter().copied().eq((0..5).map(|n| (batch * 5 + n, batch * 5 + n))));
            assert_eq!((tails.taken(), heads.taken()), (0, 0), "reaping rings nothing");
        }
        // The ring has room for 16 completions: every second or third batch must say that it is free.
        assert!((20..=50).contains(&told), "the head was told {told} times");
    }
}

#[test]
fn only_a_future_that_has_parked_is_woken() {
    let mut rig = rig::<u32>(8, 8, 4);
    let submit = |queue: &Queue<_, u32>, n: u32| -> u32 {
        queue.post(n, |_, _| Entry::filled(0)).map(|_| n).unwrap()
    };
    let [mut parked, mut late] =
        [1, 2].map(|n| rig.queue.submit(n, |_, _| Entry::filled(0)).unwrap());
    submit(&rig.queue, 3);
    let (woken, waker) = Count::new();
    assert!(Pin::new(&mut parked).poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(rig.device.run(), 3);
    // The task that runs needs no waking for what it finds itself; whoever parked is woken, once.
    let (other, other_waker) = Count::new();
    let handles = Arc::strong_count(&other);
    let mut cx = Context::from_waker(&other_waker);
    assert!(matches!(pin!(&mut late).poll(&mut cx), Poll::Ready(Ok((_, 2)))));
    assert_eq!((woken.taken(), other.taken()), (1, 0));
    assert_eq!(Arc::strong_count(&other), handles, "its waker was not even cloned");
    assert_eq!(rig.queue.reap(8, |done| assert_eq!(done.buffer, 3)), Ok(1));
    let ready = Pin::new(&mut parked).poll(&mut Context::from_waker(&waker));
    assert!(matches!(ready, Poll::Ready(Ok((_, 1)))));
    assert_eq!((woken.taken(), other.taken()), (0, 0));
}
