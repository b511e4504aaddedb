//! Waiting for a slot.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use crate::testing::{Asked, Count, Entry, Rig, name, rig};
use crate::wait::{Parked, WaitError};
use crate::{EndReason, QueueError};

type Waiting<'q> = Pin<Box<dyn Future<Output = Result<(), QueueError>> + 'q>>;

fn poll(future: &mut Waiting<'_>, waker: &Waker) -> Poll<Result<(), QueueError>> {
    future.as_mut().poll(&mut Context::from_waker(waker))
}

/// A queue with its two slots in flight.
fn full() -> Rig<u32> {
    let rig = rig(4, 4, 2);
    for i in 0..2 {
        drop(rig.queue.submit(i, |_, _| Entry::filled(0)).unwrap());
    }
    rig
}

#[test]
fn a_free_slot_is_there_at_once() {
    let rig = rig::<()>(4, 4, 2);
    pollster::block_on(rig.queue.slot_free()).unwrap();
    assert!(rig.line.asked().is_empty());
}

#[test]
fn it_parks_like_a_command() {
    let rig = full();
    let mut waiting: Waiting<'_> = Box::pin(rig.queue.slot_free());
    assert!(poll(&mut waiting, Waker::noop()).is_pending());
    assert_eq!(rig.line.asked(), [Asked::Arm, Asked::Poll(Parked { tag: None, since: None })]);
    rig.fate.end(EndReason::BrokerGone, false);
    let ended = QueueError::Ended { queue: name(), reason: EndReason::BrokerGone };
    assert_eq!(poll(&mut waiting, Waker::noop()), Poll::Ready(Err(ended)));
}

#[test]
fn it_reaps_for_itself() {
    let mut rig = full();
    let mut waiting: Waiting<'_> = Box::pin(rig.queue.slot_free());
    assert!(poll(&mut waiting, Waker::noop()).is_pending());
    rig.device.run();
    assert_eq!(poll(&mut waiting, Waker::noop()), Poll::Ready(Ok(())));
}

#[test]
fn waiters_are_woken_one_per_slot_and_in_order() {
    let mut rig = full();
    let counts: Vec<_> = (0..3).map(|_| Count::new()).collect();
    let mut waiting: Vec<Waiting<'_>> =
        (0..3).map(|_| Box::pin(rig.queue.slot_free()) as _).collect();
    for (future, (_, waker)) in waiting.iter_mut().zip(&counts) {
        assert!(poll(future, waker).is_pending());
        assert!(poll(future, waker).is_pending(), "polled again, it keeps its place");
    }
    rig.device.fetch();
    rig.device.complete(0);
    rig.queue.poll(1).unwrap();
    let woken = || counts.iter().map(|(count, _)| count.taken()).collect::<Vec<_>>();
    assert_eq!(woken(), [1, 0, 0]);
    // Someone else is faster: it keeps its place at the front.
    let _tag = rig.queue.post(7, |_, _| Entry::filled(0)).unwrap();
    assert!(poll(&mut waiting[0], &counts[0].1).is_pending());
    rig.device.complete(0);
    rig.queue.poll(1).unwrap();
    assert_eq!(woken(), [1, 0, 0]);
    assert_eq!(poll(&mut waiting[0], &counts[0].1), Poll::Ready(Ok(())));
    rig.queue.post(8, |_, _| Entry::filled(0)).unwrap();
    assert!(poll(&mut waiting[1], &counts[1].1).is_pending());
}

#[test]
fn a_waiter_that_went_away_passes_its_turn_on() {
    let mut rig = full();
    let (count, waker) = Count::new();
    let mut gone: Waiting<'_> = Box::pin(rig.queue.slot_free());
    let mut never_woken: Waiting<'_> = Box::pin(rig.queue.slot_free());
    let mut waiting: Waiting<'_> = Box::pin(rig.queue.slot_free());
    assert!(poll(&mut gone, Waker::noop()).is_pending());
    assert!(poll(&mut never_woken, Waker::noop()).is_pending());
    assert!(poll(&mut waiting, &waker).is_pending());
    drop(never_woken);
    rig.device.fetch();
    rig.device.complete(0);
    rig.queue.poll(1).unwrap();
    assert_eq!(count.taken(), 0, "it is the turn of the one that came first");
    drop(gone);
    assert_eq!(count.taken(), 1, "which went away");
    assert_eq!(poll(&mut waiting, &waker), Poll::Ready(Ok(())));
}

#[test]
fn a_turn_that_was_not_used_is_passed_on() {
    let mut rig = full();
    let (count, waker) = Count::new();
    let mut first: Waiting<'_> = Box::pin(rig.queue.slot_free());
    let mut second: Waiting<'_> = Box::pin(rig.queue.slot_free());
    assert!(poll(&mut first, Waker::noop()).is_pending());
    assert!(poll(&mut second, &waker).is_pending());
    rig.device.fetch();
    rig.device.complete(0);
    assert_eq!(poll(&mut first, Waker::noop()), Poll::Ready(Ok(())));
    // The first does nothing with it.
    assert_eq!(count.taken(), 1);
    assert_eq!(poll(&mut second, &waker), Poll::Ready(Ok(())));
}

#[test]
fn every_way_to_free_a_slot_wakes_a_waiter() {
    let mut rig = rig(4, 4, 1);
    let (count, waker) = Count::new();
    let wait = |free: &mut dyn FnMut()| {
        let mut waiting: Waiting<'_> = Box::pin(rig.queue.slot_free());
        assert!(poll(&mut waiting, &waker).is_pending());
        free();
        assert!(count.taken() > 0);
        assert_eq!(poll(&mut waiting, &waker), Poll::Ready(Ok(())));
    };
    // Reaped for a callback.
    rig.queue.post(0, |_, _| Entry::filled(0)).unwrap();
    wait(&mut || {
        rig.device.run();
        rig.queue.reap(1, drop).unwrap();
    });
    // A future takes its result.
    let mut future = Some(rig.queue.submit(0, |_, _| Entry::filled(0)).unwrap());
    wait(&mut || {
        rig.device.run();
        pollster::block_on(future.take().unwrap()).unwrap();
    });
    // A future that has completed is dropped.
    let mut future = Some(rig.queue.submit(0, |_, _| Entry::filled(0)).unwrap());
    wait(&mut || {
        rig.device.run();
        rig.queue.poll(1).unwrap();
        drop(future.take());
    });
    // A completion was kept for a callback that comes later.
    rig.queue.post(0, |_, _| Entry::filled(0)).unwrap();
    wait(&mut || {
        rig.device.run();
        rig.queue.poll(1).unwrap();
        rig.queue.reap(1, drop).unwrap();
    });
}

#[test]
fn the_interrupt_may_fail() {
    let rig = full();
    rig.line.break_it(WaitError::Broken(5));
    let error = pollster::block_on(rig.queue.slot_free()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "device soft:test, queue 3: waiting for a free slot: the interrupt failed (errno 5)"
    );
}

#[test]
fn completions_for_others_do_not_hold_the_thread() {
    let mut rig = rig(4, 4, 1);
    let mut future = pin!(rig.queue.submit(1, |_, _| Entry::filled(0)).unwrap());
    let (count, waker) = Count::new();
    let mut waiting: Waiting<'_> = Box::pin(rig.queue.slot_free());
    assert!(poll(&mut waiting, &waker).is_pending());
    rig.device.run();
    assert!(poll(&mut waiting, &waker).is_pending(), "its slot is kept for its future");
    count.taken();
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    assert!(count.taken() > 0);
    assert_eq!(poll(&mut waiting, &waker), Poll::Ready(Ok(())));
}
