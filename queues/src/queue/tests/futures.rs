//! The life of an [`InFlight`](crate::InFlight): every state in which it is polled, dropped,
//! leaked.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::testing::{Asked, Count, Entry, Line, Rig, TestProtocol, TestQueue, name, parts, rig};
use crate::wait::{Parked, WaitError};
use crate::{EndReason, InFlight, Lost, Queue, QueueError, SpinBudget, SpinOnly};

type Flight<'q, B> = InFlight<'q, TestProtocol, B>;

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

fn submit<B>(queue: &TestQueue<B>, buffer: B, value: u64) -> Flight<'_, B> {
    queue.submit(buffer, |_, _| Entry::filled(value)).unwrap()
}

fn ready<B: std::fmt::Debug>(
    poll: Poll<Result<(crate::testing::Outcome, B), Lost<B>>>,
) -> (u64, B) {
    match poll {
        Poll::Ready(Ok((outcome, buffer))) => (outcome.result, buffer),
        other => panic!("not ready: {other:?}"),
    }
}

#[test]
fn a_future_flushes_parks_and_is_woken() {
    let mut rig = rig(4, 4, 3);
    let (count, waker) = Count::new();
    let mut future = submit(&rig.queue, "buffer", 11);
    assert!(poll(&mut future, &waker).is_pending());
    let parked = |since| Asked::Poll(Parked { tag: Some(future.tag()), since });
    assert_eq!(rig.line.asked(), [Asked::Arm, parked(None)], "armed before it asked");
    assert!(poll(&mut future, &waker).is_pending());
    let parked = |since| Asked::Poll(Parked { tag: Some(future.tag()), since });
    assert_eq!(rig.line.asked(), [Asked::Arm, parked(Some(7))], "it keeps when it parked first");
    rig.device.run();
    assert_eq!(count.taken(), 0);
    rig.line.fire();
    assert_eq!(count.taken(), 2, "once for each time it registered");
    assert_eq!(ready(poll(&mut future, &waker)), (11, "buffer"));
    assert_eq!(count.taken(), 0, "its own completion wakes no task that runs already");
    assert!(rig.line.asked().is_empty(), "what is there already needs no interrupt");
    assert_eq!(rig.queue.in_flight(), 0);
}

#[test]
fn a_completion_between_the_last_look_and_arming_is_not_lost() {
    let Rig { queue, mut device, line, .. } = rig(4, 4, 3);
    let mut future = queue.submit(1, |_, _| Entry::filled(5)).unwrap();
    queue.flush();
    device.fetch();
    let device = Arc::new(Mutex::new(device));
    let late = device.clone();
    line.on_arm(move || {
        let mut device = late.lock().unwrap();
        if !device.held.is_empty() {
            device.complete(0);
        }
    });
    assert_eq!(ready(poll(&mut future, Waker::noop())), (5, 1));
    assert_eq!(line.asked(), [Asked::Arm], "seen by the look after arming");
}

#[test]
fn whoever_looks_reaps_for_everyone() {
    let mut rig = rig(8, 8, 4);
    let (count, waker) = Count::new();
    let (other, other_waker) = Count::new();
    let mut a = submit(&rig.queue, "a", 1);
    let mut b = submit(&rig.queue, "b", 2);
    assert!(poll(&mut a, &waker).is_pending());
    assert!(poll(&mut b, &other_waker).is_pending());
    rig.device.fetch();
    rig.device.complete(1);
    assert!(poll(&mut a, &waker).is_pending());
    assert_eq!((count.taken(), other.taken()), (1, 1), "b is woken; a asks to be polled again");
    assert_eq!(ready(poll(&mut b, &other_waker)), (2, "b"));
    rig.line.asked();
    rig.device.complete(0);
    assert_eq!(ready(poll(&mut a, &waker)), (1, "a"));
}

#[test]
fn the_task_that_polled_last_is_woken() {
    let mut rig = rig(8, 8, 4);
    let (first, first_waker) = Count::new();
    let (second, second_waker) = Count::new();
    let mut future = submit(&rig.queue, (), 1);
    assert!(poll(&mut future, &first_waker).is_pending());
    assert!(poll(&mut future, &second_waker).is_pending());
    rig.device.run();
    assert_eq!(rig.queue.poll(1), Ok(1));
    assert_eq!((first.taken(), second.taken()), (0, 1));
    assert_eq!(ready(poll(&mut future, &second_waker)), (1, ()));
}

#[test]
fn dropping_in_every_state() {
    let mut rig = rig(8, 8, 4);
    let buffer = Rc::new(());
    let counts = |buffer: &Rc<()>, rig: &Rig<_>| (Rc::strong_count(buffer), rig.queue.in_flight());

    drop(submit(&rig.queue, buffer.clone(), 0));
    assert_eq!(counts(&buffer, &rig), (2, 1), "not polled: it belongs to the device now");
    rig.device.run();
    assert_eq!(rig.queue.poll(1), Ok(1));
    assert_eq!(counts(&buffer, &rig), (1, 0));

    let mut parked = submit(&rig.queue, buffer.clone(), 0);
    let (count, waker) = Count::new();
    assert!(poll(&mut parked, &waker).is_pending());
    drop(parked);
    rig.device.run();
    assert_eq!(counts(&buffer, &rig), (2, 1), "parked");
    assert_eq!(rig.queue.poll(1), Ok(1));
    assert_eq!((counts(&buffer, &rig), count.taken()), ((1, 0), 0), "nobody to wake");

    let done = submit(&rig.queue, buffer.clone(), 0);
    rig.queue.flush();
    rig.device.run();
    assert_eq!(rig.queue.poll(1), Ok(1));
    assert_eq!(counts(&buffer, &rig), (2, 1), "completed, not looked at");
    drop(done);
    assert_eq!(counts(&buffer, &rig), (1, 0));

    std::mem::forget(submit(&rig.queue, buffer.clone(), 0));
    rig.queue.flush();
    rig.device.run();
    assert_eq!(rig.queue.poll(1), Ok(1));
    assert_eq!(counts(&buffer, &rig), (2, 1), "leaked: slot and buffer stay with the queue");
}

#[test]
fn an_end_that_is_not_quiesced_keeps_the_buffer() {
    let mut rig = rig(8, 8, 4);
    let buffer = Rc::new(());
    let mut future = submit(&rig.queue, buffer.clone(), 0);
    assert!(poll(&mut future, Waker::noop()).is_pending());
    rig.fate.end(EndReason::TimedOut, false);
    let Poll::Ready(Err(lost)) = poll(&mut future, Waker::noop()) else { panic!("lost") };
    assert_eq!(lost.error, QueueError::Ended { queue: name(), reason: EndReason::TimedOut });
    assert!(lost.buffer.is_none());
    assert_eq!(Rc::strong_count(&buffer), 2, "the device may still write to it");
    drop(future);
    // The device was slow, not dead: the buffer is free as soon as it says so.
    rig.device.run();
    assert_eq!(rig.queue.poll(1), Ok(1));
    assert_eq!(Rc::strong_count(&buffer), 1);
}

#[test]
fn an_end_that_is_quiesced_gives_the_buffer_back() {
    let mut rig = rig(8, 8, 4);
    let mut future = submit(&rig.queue, "mine", 0);
    let other = submit(&rig.queue, "dropped", 0);
    let tag = future.tag();
    rig.queue.flush();
    rig.device.fetch();
    rig.fate.end(EndReason::DeviceReset, true);
    drop(other);
    let Poll::Ready(Err(lost)) = poll(&mut future, Waker::noop()) else { panic!("lost") };
    assert_eq!(lost.buffer, Some("mine"));
    // A device that completes after it was said to be done is no further news.
    rig.device.post(tag, rig.device.head(), 0);
    assert_eq!(rig.queue.poll(1), Ok(1));
    // But one that does so again and again could hold a thread.
    rig.device.post(tag, rig.device.head(), 0);
    assert!(matches!(rig.queue.poll(1), Err(QueueError::Violation { .. })));
    drop(future);
    let kept = rig.queue.give_up();
    assert!(kept.is_empty());
}

#[test]
fn a_completion_beats_the_end_of_the_queue() {
    let mut rig = rig(8, 8, 4);
    let mut future = submit(&rig.queue, "mine", 3);
    rig.queue.flush();
    rig.device.run();
    rig.fate.end(EndReason::Revoked, true);
    assert_eq!(ready(poll(&mut future, Waker::noop())), (3, "mine"));
}

#[test]
fn a_completion_before_a_violation_is_delivered() {
    let mut rig = rig(8, 8, 4);
    let mut future = submit(&rig.queue, "mine", 3);
    let mut other = submit(&rig.queue, "other", 4);
    rig.queue.flush();
    rig.device.run();
    rig.device.post(crate::Tag(2), rig.device.head(), 0);
    assert_eq!(ready(poll(&mut future, Waker::noop())), (3, "mine"));
    assert_eq!(ready(poll(&mut other, Waker::noop())), (4, "other"));
    assert!(matches!(rig.queue.poll(1), Err(QueueError::Violation { .. })));
}

#[test]
fn an_interrupt_that_fails_loses_the_future_and_not_the_buffer() {
    let mut rig = rig(8, 8, 4);
    let buffer = Rc::new(());
    let mut future = submit(&rig.queue, buffer.clone(), 0);
    rig.line.break_it(WaitError::Broken(9));
    let Poll::Ready(Err(lost)) = poll(&mut future, Waker::noop()) else { panic!("lost") };
    let text = lost.error.to_string();
    assert_eq!(
        text,
        "device soft:test, queue 3, command 0x0000: waiting for its completion: the interrupt failed (errno 9)"
    );
    assert!(lost.buffer.is_none());
    rig.device.run();
    assert_eq!(rig.queue.poll(1), Ok(1));
    assert_eq!((Rc::strong_count(&buffer), rig.queue.in_flight()), (1, 0));
}

#[test]
fn an_interrupt_that_always_fires_does_not_hold_the_thread() {
    let rig = rig(8, 8, 4);
    let mut future = submit(&rig.queue, (), 0);
    let line: Line = rig.line.clone();
    rig.line.on_poll(move || line.fire());
    let (count, waker) = Count::new();
    assert!(poll(&mut future, &waker).is_pending());
    assert_eq!(count.taken(), 1, "it asks to be polled again");
}

#[test]
#[should_panic(expected = "not polled again")]
fn a_future_that_was_ready_must_not_be_polled() {
    let mut rig = rig(8, 8, 4);
    let mut future = submit(&rig.queue, (), 0);
    rig.queue.flush();
    rig.device.run();
    assert!(poll(&mut future, Waker::noop()).is_ready());
    let _ = poll(&mut future, Waker::noop());
}

#[test]
fn futures_run_on_a_bare_block_on_without_an_interrupt() {
    let (mut parts, mut device) = parts(8, 8, 4);
    parts.interrupt = Box::new(SpinOnly);
    parts.spin = SpinBudget::default();
    let queue = Queue::<TestProtocol, u64>::new(parts).unwrap();
    for i in 0..100 {
        let a = queue.submit(i, |_, _| Entry::filled(i)).unwrap();
        let b = queue.submit(i + 1, |_, _| Entry::filled(i)).unwrap();
        queue.flush();
        device.fetch();
        device.complete(1);
        device.complete(0);
        pollster::block_on(async {
            assert_eq!(a.await.unwrap().1, i);
            assert_eq!(b.await.unwrap().1, i + 1);
        });
    }
}
