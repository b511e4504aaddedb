use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::testing::{Asked, Count, Device, Entry, Line, TestProtocol, name, parts};
use crate::{Fate, RejectReason, SharedInFlight, SharedQueue, SharedSlotFree};

pub(super) struct SharedRig<B> {
    pub(super) queue: SharedQueue<TestProtocol, B>,
    pub(super) device: Device,
    pub(super) line: Line,
    pub(super) fate: Arc<Fate>,
}

/// As [`crate::testing::rig`].
pub(super) fn shared<B>(submission: u32, completion: u32, slots: u16) -> SharedRig<B> {
    let (mut parts, device) = parts(submission, completion, slots);
    let (line, fate) = (Line::default(), parts.fate.clone());
    parts.interrupt = Box::new(line.clone());
    SharedRig { queue: SharedQueue::new(parts).unwrap(), device, line, fate }
}

#[test]
fn it_and_its_futures_go_to_any_thread() {
    fn send_and_sync<T: Send + Sync>() {}
    fn send<T: Send>() {}
    send_and_sync::<SharedQueue<TestProtocol, Vec<u8>>>();
    // A buffer need not be `Sync`: no two threads see it at once.
    send_and_sync::<SharedQueue<TestProtocol, std::cell::Cell<u8>>>();
    send::<SharedInFlight<'_, TestProtocol, Vec<u8>>>();
    send::<SharedSlotFree<'_, TestProtocol, Vec<u8>>>();
}

#[test]
fn all_slots_can_be_used_and_no_more() {
    for slots in [1, 2, 3, 7, 8, 9, 63, 64, 65, 200, 4096] {
        let rig = shared(8192, 8192, slots);
        let mut seen = vec![false; slots.into()];
        for n in 0..u64::from(slots) {
            let build = |slot: u16, _: &mut u64| {
                assert!(!std::mem::replace(&mut seen[usize::from(slot)], true), "one at a time");
                Entry::filled(n)
            };
            rig.queue.post(n, build).unwrap();
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(rig.queue.in_flight(), slots.into());
        let rejected = rig.queue.post(9, |_, _| Entry::filled(0)).unwrap_err();
        assert_eq!((rejected.reason, rejected.buffer), (RejectReason::Full(name()), 9));
    }
}

#[test]
fn the_largest_rings_wrap() {
    let mut rig = shared(65_536, 65_536, 4096);
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
fn a_builder_that_panics_gives_its_slot_back_and_takes_no_position() {
    let mut rig = shared::<u32>(4, 4, 1);
    let panicked = catch_unwind(AssertUnwindSafe(|| rig.queue.post(1, |_, _| panic!("builder"))));
    assert!(panicked.is_err());
    assert_eq!(rig.queue.in_flight(), 0);
    rig.queue.post(2, |_, _| Entry::filled(5)).unwrap();
    rig.queue.flush();
    assert_eq!(rig.device.fetch(), 1, "the next entry is the first that the device sees");
    assert_eq!(rig.device.held[0].words, [5; 7]);
}

#[test]
fn a_builder_may_use_the_queue() {
    let mut rig = shared(8, 8, 4);
    let outer = |_, _: &mut u32| {
        rig.queue.post(2, |_, _| Entry::filled(2)).unwrap();
        rig.queue.flush();
        Entry::filled(1)
    };
    rig.queue.post(1, outer).unwrap();
    assert_eq!(rig.device.fetch(), 1, "the inner one is not held up");
    rig.queue.flush();
    assert_eq!(rig.device.fetch(), 1);
    assert_eq!(rig.device.held.iter().map(|e| e.words[0]).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_callback_may_use_the_queue() {
    let mut rig = shared(8, 8, 2);
    for i in 0..2 {
        rig.queue.post(i, |_, i| Entry::filled(*i)).unwrap();
    }
    rig.queue.flush();
    rig.device.run();
    let mut inner = Vec::new();
    let reaped = rig.queue.reap(1, |done| {
        assert_eq!(done.buffer, 0);
        rig.queue.reap(8, |done| inner.push(done.buffer)).unwrap();
        rig.queue.post(7, |_, i| Entry::filled(*i)).unwrap();
    });
    assert_eq!((reaped, inner), (Ok(1), vec![1]));
}

#[test]
fn a_callback_that_panics_loses_only_its_own() {
    let mut rig = shared(8, 8, 4);
    for i in 0..3 {
        rig.queue.post(i, |_, i| Entry::filled(*i)).unwrap();
    }
    rig.queue.flush();
    rig.device.run();
    let panics = || rig.queue.reap(9, |done| assert_ne!(done.buffer, 0, "callback"));
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    let mut seen = Vec::new();
    assert_eq!(rig.queue.reap(9, |done| seen.push(done.buffer)), Ok(2));
    assert_eq!(seen, [1, 2]);
}

#[test]
fn the_head_doorbell_is_only_rung_when_the_ring_could_overflow() {
    let mut rig = shared(64, 64, 16);
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
fn only_who_parked_is_woken_and_once() {
    let mut rig = shared(64, 64, 32);
    // More than fit one batch of wakers.
    let futures: Vec<_> =
        (0..20).map(|i| rig.queue.submit(i, |_, i| Entry::filled(*i)).unwrap()).collect();
    let (count, waker) = Count::new();
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    for future in &mut futures[..15] {
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert!(rig.line.asked().contains(&Asked::Arm));
    rig.device.run();
    assert_eq!(rig.queue.poll(usize::MAX), Ok(20));
    assert_eq!(count.taken(), 15);
    for (i, future) in futures.iter_mut().enumerate() {
        let Poll::Ready(Ok((outcome, buffer))) =
            future.as_mut().poll(&mut Context::from_waker(&waker))
        else {
            panic!("not ready")
        };
        assert_eq!((outcome.result, buffer), (i as u64, i as u64));
    }
    assert_eq!((count.taken(), rig.queue.in_flight()), (0, 0));
}

#[test]
fn a_task_learns_of_its_own_completion_without_being_woken() {
    let mut rig = shared(8, 8, 4);
    let mut future = pin!(rig.queue.submit(1, |_, i| Entry::filled(*i)).unwrap());
    let (count, waker) = Count::new();
    let mut cx = Context::from_waker(&waker);
    assert!(future.as_mut().poll(&mut cx).is_pending());
    rig.device.run();
    assert!(future.as_mut().poll(&mut cx).is_ready());
    assert_eq!(count.taken(), 0);
}

#[test]
fn waiters_get_their_slots_in_the_order_in_which_they_came() {
    let mut rig = shared(16, 16, 2);
    let mut held: Vec<_> =
        (0..2).map(|i| rig.queue.submit(i, |_, i| Entry::filled(*i)).unwrap()).collect();
    let counts: Vec<_> = (0..12).map(|_| Count::new()).collect();
    let mut waits: Vec<_> = counts.iter().map(|_| Box::pin(rig.queue.slot_free())).collect();
    for ((_, waker), wait) in counts.iter().zip(&mut waits) {
        assert!(wait.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    // The first goes away; the second is served instead.
    drop(waits.remove(0));
    rig.device.run();
    assert_eq!(rig.queue.poll(9), Ok(2));
    assert_eq!(pollster::block_on(held.remove(0)).unwrap().1, 0);
    let woken = |counts: &[(Arc<Count>, _)]| -> Vec<_> {
        counts.iter().map(|(count, _)| count.taken()).collect()
    };
    assert_eq!(woken(&counts), [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // It goes away too, without having used it: the third is woken.
    drop(waits.remove(0));
    assert_eq!(woken(&counts), [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut cx = Context::from_waker(&counts[2].1);
    assert_eq!(waits[0].as_mut().poll(&mut cx), Poll::Ready(Ok(())));
    drop(held);
}
