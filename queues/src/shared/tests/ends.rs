//! How a queue ends, and who learns of it.

use std::future::Future;
use std::task::{Context, Poll};

use super::basics::shared;
use crate::testing::{Count, Entry, name};
use crate::{EndReason, QueueError, RejectReason, Tag, Violation};

#[test]
fn an_end_wakes_every_task() {
    let rig = shared(64, 64, 20);
    let (count, waker) = Count::new();
    let mut cx = Context::from_waker(&waker);
    let mut futures: Vec<_> =
        (0..20).map(|i| Box::pin(rig.queue.submit(i, |_, i| Entry::filled(*i)).unwrap())).collect();
    let mut waits: Vec<_> = (0..20).map(|_| Box::pin(rig.queue.slot_free())).collect();
    assert!(futures.iter_mut().all(|future| future.as_mut().poll(&mut cx).is_pending()));
    assert!(waits.iter_mut().all(|wait| wait.as_mut().poll(&mut cx).is_pending()));
    rig.queue.end(EndReason::DeviceReset, true);
    assert_eq!(count.taken(), 40);
    let ended = QueueError::Ended { queue: name(), reason: EndReason::DeviceReset };
    for (i, future) in futures.iter_mut().enumerate() {
        let Poll::Ready(Err(lost)) = future.as_mut().poll(&mut cx) else { panic!("not lost") };
        assert_eq!((lost.error, lost.buffer), (ended.clone(), Some(i as u64)));
    }
    for wait in &mut waits {
        assert_eq!(wait.as_mut().poll(&mut cx), Poll::Ready(Err(ended.clone())));
    }
    let rejected = rig.queue.post(1, |_, _| Entry::filled(0)).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::Ended(ended));
}

#[test]
fn a_violation_ends_the_queue_for_everyone_and_keeps_the_buffers() {
    let mut rig = shared(64, 64, 20);
    let (count, waker) = Count::new();
    let mut cx = Context::from_waker(&waker);
    let mut futures: Vec<_> =
        (0..12).map(|i| Box::pin(rig.queue.submit(i, |_, i| Entry::filled(*i)).unwrap())).collect();
    let mut wait = Box::pin(rig.queue.slot_free());
    assert_eq!(wait.as_mut().poll(&mut cx), Poll::Ready(Ok(())), "a slot is free");
    assert!(futures.iter_mut().all(|future| future.as_mut().poll(&mut cx).is_pending()));
    rig.device.fetch();
    let first = rig.device.complete(0);
    let head = rig.device.head();
    rig.device.post(Tag(first.tag), head, 0);
    let violation = Violation::StaleTag(Tag(first.tag));
    let error = QueueError::Violation { queue: name(), violation };
    assert_eq!(rig.queue.poll(usize::MAX), Err(error.clone()));
    assert_eq!(count.taken(), 12);
    assert_eq!(rig.queue.ended(), Some(error.clone()));
    let Poll::Ready(Ok((_, 0))) = futures.remove(0).as_mut().poll(&mut cx) else {
        panic!("what was completed before is settled")
    };
    for future in &mut futures {
        let Poll::Ready(Err(lost)) = future.as_mut().poll(&mut cx) else { panic!("not lost") };
        assert_eq!((lost.error, lost.buffer), (error.clone(), None));
    }
}

/// More completions than commands: whatever the tags, they are not taken.
#[test]
fn a_completion_of_an_entry_that_was_not_rung_is_a_violation() {
    let mut rig = shared(8, 8, 4);
    let tag = rig.queue.post(1, |_, _| Entry::filled(0)).unwrap();
    rig.device.post(tag, 0, 0);
    let violation = Violation::UnknownTag(tag);
    let error = QueueError::Violation { queue: name(), violation };
    assert_eq!(rig.queue.reap(1, drop), Err(error));
    assert_eq!(rig.queue.give_up(), [1]);
    assert_eq!(rig.fate.ended(), Some(EndReason::Violation));
}

#[test]
fn a_head_goes_forward_and_not_past_the_tail() {
    // Two passes over a ring of five, then one more command with a head that is a lie.
    for lie in 0..6 {
        let mut rig = shared(5, 9, 3);
        for n in 0..10 {
            rig.queue.post(n, |_, _| Entry::filled(0)).unwrap();
            rig.queue.flush();
            rig.device.run();
            assert_eq!(rig.queue.reap(1, drop), Ok(1));
        }
        let tag = rig.queue.post(10, |_, _| Entry::filled(0)).unwrap();
        rig.queue.post(11, |_, _| Entry::filled(0)).unwrap();
        rig.queue.flush();
        rig.device.post(tag, lie, 0);
        let result = rig.queue.reap(1, drop);
        // From where it was, 0, to the tail that was told, 2.
        if lie <= 2 {
            assert_eq!(result, Ok(1), "{lie}");
        } else {
            let violation = Violation::ImpossibleHead { reported: lie, last: 0, tail: 2 };
            assert_eq!(result, Err(QueueError::Violation { queue: name(), violation }), "{lie}");
        }
    }
}

/// The fate is ended from another thread, as a framework does, and the interrupt fires for it.
#[test]
fn an_end_from_outside_is_seen_at_the_next_poll() {
    let rig = shared(8, 8, 4);
    let (count, waker) = Count::new();
    let mut cx = Context::from_waker(&waker);
    let mut future = Box::pin(rig.queue.submit(3, |_, i| Entry::filled(*i)).unwrap());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    rig.fate.end(EndReason::Revoked, false);
    rig.line.fire();
    assert_eq!(count.taken(), 1);
    let Poll::Ready(Err(lost)) = future.as_mut().poll(&mut cx) else { panic!("not lost") };
    assert_eq!(lost.buffer, None, "the device may still write to it");
}
