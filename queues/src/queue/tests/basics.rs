//! The way of a command; geometry; both doorbells; the end of a queue.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::testing::{Entry, TestProtocol, TestQueue, name, parts, rig};
use crate::{BadGeometry, EndReason, Queue, QueueError, RejectReason};

/// A buffer that counts its drops.
struct Counted(Rc<RefCell<Vec<u32>>>, u32);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.borrow_mut().push(self.1);
    }
}

#[test]
fn a_posted_command_comes_back_with_its_buffer() {
    let mut rig = rig(4, 4, 3);
    let tag = rig.queue.post("buffer", |slot, _| Entry::filled(u64::from(slot) + 40)).unwrap();
    assert_eq!(rig.device.fetch(), 0, "not told before the flush");
    rig.queue.flush();
    assert_eq!(rig.device.fetch(), 1);
    assert_eq!((rig.device.held[0].tag, rig.device.held[0].words), (tag.0, [40; 7]));
    rig.device.complete(0);
    let mut seen = Vec::new();
    assert_eq!(rig.queue.reap(8, |done| seen.push(done)), Ok(1));
    assert_eq!((seen[0].tag, seen[0].outcome.result, seen[0].buffer), (tag, 40, "buffer"));
    assert_eq!((rig.queue.in_flight(), rig.queue.capacity()), (0, 3));
}

#[test]
fn a_full_queue_gives_the_buffer_back() {
    let mut rig = rig(4, 4, 2);
    for i in 0..2 {
        rig.queue.post(i, |_, _| Entry::filled(0)).unwrap();
    }
    let rejected = rig.queue.post(9, |_, _| Entry::filled(0)).unwrap_err();
    assert_eq!((rejected.reason, rejected.buffer), (RejectReason::Full(name()), 9));
    rig.queue.flush();
    rig.device.run();
    assert_eq!(rig.queue.reap(1, drop), Ok(1), "no more than the budget");
    rig.queue.post(10, |_, _| Entry::filled(0)).unwrap();
    assert_eq!(rig.queue.reap(0, drop), Ok(0));
    assert_eq!(rig.queue.reap(8, drop), Ok(1));
}

#[test]
fn a_buffer_may_be_changed_by_the_builder() {
    let mut rig = rig(2, 2, 1);
    let build = |_, buffer: &mut i32| {
        *buffer += 1;
        Entry::filled(5)
    };
    let tag = rig.queue.post(1, build).unwrap();
    rig.queue.flush();
    rig.device.run();
    rig.queue.reap(1, |done| assert_eq!((done.tag, done.buffer), (tag, 2))).unwrap();
}

#[test]
fn completions_of_posts_that_a_future_reaped_wait_for_the_next_reap() {
    let mut rig = rig(8, 8, 4);
    let a = rig.queue.post("a", |_, _| Entry::filled(1)).unwrap();
    let b = rig.queue.post("b", |_, _| Entry::filled(2)).unwrap();
    let future = rig.queue.submit("c", |_, _| Entry::filled(3)).unwrap();
    rig.queue.flush();
    rig.device.fetch();
    rig.device.complete(1);
    rig.device.complete(1);
    rig.device.complete(0);
    assert_eq!(pollster::block_on(future).unwrap().1, "c");
    assert_eq!(rig.queue.in_flight(), 2, "they keep their slots");
    assert_eq!(rig.queue.poll(9), Ok(0));
    rig.fate.end(EndReason::Revoked, false);
    let mut seen = Vec::new();
    assert_eq!(rig.queue.reap(1, |done| seen.push((done.tag, done.buffer))), Ok(1));
    assert_eq!(rig.queue.reap(9, |done| seen.push((done.tag, done.buffer))), Ok(1));
    assert_eq!(seen, [(b, "b"), (a, "a")]);
    let ended = QueueError::Ended { queue: name(), reason: EndReason::Revoked };
    assert_eq!(rig.queue.reap(9, drop), Err(ended));
}

#[test]
fn geometry_is_checked() {
    let bad = |submission, completion, slots| {
        let (parts, _) = parts(submission, completion, slots);
        Queue::<TestProtocol, ()>::new(parts).unwrap_err()
    };
    assert!(matches!(bad(1, 8, 1), BadGeometry::Entries { entries: 1, .. }));
    assert!(matches!(bad(8, 65_537, 1), BadGeometry::Entries { entries: 65_537, .. }));
    assert!(matches!(bad(8, 4, 4), BadGeometry::Slots { slots: 4, .. }));
    assert!(matches!(bad(4, 8, 4), BadGeometry::Slots { slots: 4, .. }));
    assert!(matches!(bad(8, 8, 0), BadGeometry::Slots { slots: 0, .. }));
    assert!(matches!(bad(65_536, 65_536, 4097), BadGeometry::Slots { slots: 4097, .. }));
    let (mut short, _) = parts(8, 8, 4);
    short.completion_entries = 9;
    let error = Queue::<TestProtocol, ()>::new(short).unwrap_err();
    assert!(matches!(error, BadGeometry::Memory { .. }));
    assert!(error.to_string().contains("soft:test, queue 3"), "{error}");
}

#[test]
fn the_largest_rings_wrap() {
    let mut rig = rig(65_536, 65_536, 4096);
    let mut done = 0_u64;
    for i in 0..140_000_u64 {
        rig.queue.post(i, |_, i| Entry::filled(*i)).unwrap();
        rig.queue.flush();
        if i % 4096 == 4095 {
            rig.device.run();
            rig.queue
                .reap(usize::MAX, |completed| {
                    assert_eq!((completed.buffer, completed.outcome.result), (done, done));
                    done += 1;
                })
                .unwrap();
        }
    }
    assert_eq!(done, 139_264);
}

#[test]
fn the_head_doorbell_is_only_rung_when_the_ring_could_overflow() {
    let mut rig = rig(64, 64, 16);
    let mut rung = 0;
    let mut last = rig.device.told_head();
    for _ in 0..160 {
        for i in 0..4 {
            rig.queue.post(i, |_, _| Entry::filled(0)).unwrap();
        }
        rig.queue.flush();
        rung += usize::from(last != rig.device.told_head());
        last = rig.device.told_head();
        rig.device.run();
        assert_eq!(rig.queue.reap(4, drop), Ok(4));
    }
    assert_eq!(rung, 160 * 4 / 60, "once in 60 completions: 64 less the batch");
}

#[test]
fn a_builder_that_panics_gives_its_slot_back() {
    let rig = rig::<u32>(4, 4, 1);
    let panicked = catch_unwind(AssertUnwindSafe(|| rig.queue.post(1, |_, _| panic!("builder"))));
    assert!(panicked.is_err());
    assert_eq!(rig.queue.in_flight(), 0);
    rig.queue.post(2, |_, _| Entry::filled(0)).unwrap();
}

#[test]
fn an_ended_queue_takes_nothing_and_rings_nothing() {
    let mut rig = rig(4, 4, 2);
    rig.queue.post(1, |_, _| Entry::filled(0)).unwrap();
    rig.fate.end(EndReason::Revoked, false);
    let ended = QueueError::Ended { queue: name(), reason: EndReason::Revoked };
    let rejected = rig.queue.post(2, |_, _| Entry::filled(0)).unwrap_err();
    assert_eq!((rejected.reason, rejected.buffer), (RejectReason::Ended(ended.clone()), 2));
    rig.queue.flush();
    assert_eq!(rig.device.fetch(), 0);
    assert_eq!(rig.queue.reap(1, drop), Err(ended.clone()));
    assert_eq!(rig.queue.ended(), Some(ended));
}

#[test]
fn completions_that_came_before_the_end_are_still_delivered() {
    let mut rig = rig(4, 4, 2);
    rig.queue.post(1, |_, _| Entry::filled(8)).unwrap();
    rig.queue.flush();
    rig.device.run();
    rig.fate.end(EndReason::DeviceReset, true);
    assert_eq!(rig.queue.reap(9, |done| assert_eq!(done.outcome.result, 8)), Ok(1));
    assert!(rig.queue.reap(9, drop).is_err());
}

fn dropped_with(end: impl FnOnce(TestQueue<Counted>, &crate::Fate)) -> Vec<u32> {
    let log = Rc::new(RefCell::new(Vec::new()));
    let mut rig = rig(8, 8, 4);
    let buffer = |i| Counted(log.clone(), i);
    rig.queue.post(buffer(1), |_, _| Entry::filled(0)).unwrap();
    drop(rig.queue.submit(buffer(2), |_, _| Entry::filled(0)).unwrap());
    std::mem::forget(rig.queue.submit(buffer(3), |_, _| Entry::filled(0)).unwrap());
    std::mem::forget(rig.queue.submit(buffer(4), |_, _| Entry::filled(0)).unwrap());
    rig.queue.flush();
    rig.device.fetch();
    rig.device.complete(3);
    assert_eq!(rig.queue.poll(9), Ok(1));
    end(rig.queue, &rig.fate);
    let mut dropped = log.take();
    dropped.sort_unstable();
    dropped
}

#[test]
fn a_dropped_queue_keeps_what_the_device_may_write() {
    assert_eq!(dropped_with(|queue, _| drop(queue)), [4], "only the one that had completed");
    let ended = dropped_with(|queue, fate| {
        drop(queue);
        assert_eq!(fate.ended(), Some(EndReason::Released));
    });
    assert_eq!(ended, [4]);
}

#[test]
fn a_dropped_queue_that_is_quiesced_frees_everything() {
    let dropped = dropped_with(|queue, fate| {
        fate.end(EndReason::DeviceReset, true);
        drop(queue);
    });
    assert_eq!(dropped, [1, 2, 3, 4]);
}

#[test]
fn a_queue_given_up_hands_everything_over() {
    let dropped = dropped_with(|queue, fate| {
        let buffers = queue.give_up();
        assert_eq!(fate.ended(), Some(EndReason::Released));
        assert_eq!(buffers.len(), 4);
    });
    assert_eq!(dropped, [1, 2, 3, 4]);
}

struct CountKicks(Arc<AtomicUsize>);

impl crate::Kick for CountKicks {
    fn kick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_sleeping_device_is_kicked_once_per_flush_and_an_awake_one_never() {
    let (mut parts, mut device) = parts(8, 8, 4);
    let bar = crate::SharedMem::zeroed(8);
    let kicks = Arc::new(AtomicUsize::new(0));
    let wake = crate::Wake::new(bar.word32(4).unwrap(), Arc::new(CountKicks(kicks.clone())));
    parts.submission_doorbell = crate::Doorbell::new(bar.word32(0).unwrap(), Some(wake));
    device.listen_at(bar.word32(0).unwrap());
    let queue = Queue::<TestProtocol, u32>::new(parts).unwrap();
    let asleep = bar.word32(4).unwrap();
    let post = |i| queue.post(i, |_, _| Entry::filled(0)).unwrap();

    crate::doorbell::fall_asleep(&asleep);
    post(1);
    post(2);
    assert_eq!(kicks.load(Ordering::Relaxed), 0);
    queue.flush();
    queue.flush();
    assert_eq!((kicks.load(Ordering::Relaxed), device.fetch()), (1, 2));
    crate::doorbell::wake_up(&asleep);
    post(3);
    queue.flush();
    assert_eq!((kicks.load(Ordering::Relaxed), device.fetch()), (1, 1));
}

/// The type is `Send`, so that a queue can be handed to the thread that will use it. That it is not
/// `Sync` is shown by the documentation test on [`Queue`].
#[test]
fn a_queue_can_be_sent() {
    fn send<T: Send>() {}
    send::<Queue<TestProtocol, Vec<u8>>>();
}
