//! Devices that break the protocol: an error that names device, queue and id, and a queue that
//! ends.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::testing::{Count, Device, Entry, Rig, name, rig};
use crate::{EndReason, QueueError, RejectReason, Tag, Violation};

/// A queue of four slots with one command in flight, and its tag.
fn one_in_flight() -> (Rig<Rc<()>>, Rc<()>, Tag) {
    let mut rig = rig(8, 8, 4);
    let buffer = Rc::new(());
    let tag = rig.queue.post(buffer.clone(), |_, _| Entry::filled(0)).unwrap();
    rig.queue.flush();
    rig.device.fetch();
    (rig, buffer, tag)
}

/// What the queue makes of it, after checking that it has ended for good.
fn breaks(misbehave: impl FnOnce(&mut Device, Tag)) -> (Violation, String) {
    let (mut rig, buffer, tag) = one_in_flight();
    misbehave(&mut rig.device, tag);
    let mut error = Ok(0);
    // The order of the phases is looked at now and then only.
    for _ in 0..300 {
        error = rig.queue.reap(9, |_| {});
        if error != Ok(0) {
            break;
        }
    }
    let Err(QueueError::Violation { queue, violation }) = error.clone() else {
        panic!("no violation: {error:?}")
    };
    assert_eq!(queue, name());
    assert_eq!(rig.fate.ended(), Some(EndReason::Violation));
    assert!(!rig.fate.quiesced(), "a device that misbehaves may go on writing");
    assert_eq!(rig.queue.ended().map(Err), Some(error.clone()));
    let rejected = rig.queue.post(Rc::new(()), |_, _| Entry::filled(0)).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::Ended(error.clone().unwrap_err()));
    // Nothing it writes from now on is believed: not even the command's true completion.
    if rig.device.room() > 0 {
        rig.device.post(tag, rig.device.head(), 0);
    }
    assert_eq!(rig.queue.reap(9, |_| panic!("believed")), error);
    assert_eq!(Rc::strong_count(&buffer), 2);
    (violation, error.unwrap_err().to_string())
}

#[test]
fn a_tag_whose_slot_does_not_exist() {
    let mut rig = rig(8, 8, 3);
    rig.queue.post((), |_, _| Entry::filled(0)).unwrap();
    rig.queue.flush();
    rig.device.fetch();
    rig.device.post(Tag(3), 1, 0);
    let violation = Violation::UnknownTag(Tag(3));
    assert_eq!(rig.queue.reap(9, drop), Err(QueueError::Violation { queue: name(), violation }));
}

#[test]
fn a_tag_that_is_not_in_flight() {
    let (violation, text) = breaks(|device, _| device.post(Tag(2), 1, 0));
    assert_eq!(violation, Violation::UnknownTag(Tag(2)));
    assert_eq!(
        text,
        "device soft:test, queue 3: the device completed command 0x0002, which is not in flight"
    );
}

#[test]
fn a_tag_of_another_generation() {
    let (violation, text) = breaks(|device, tag| device.post(Tag(tag.0 + 4), 1, 0));
    assert_eq!(violation, Violation::StaleTag(Tag(4)));
    assert!(text.contains("queue 3") && text.contains("0x0004"), "{text}");
}

#[test]
fn a_completion_that_comes_twice() {
    let mut rig = rig(8, 8, 4);
    for reused in [false, true] {
        let tag = rig.queue.post((), |_, _| Entry::filled(0)).unwrap();
        rig.queue.flush();
        rig.device.run();
        assert_eq!(rig.queue.reap(1, drop), Ok(1));
        if !reused {
            continue;
        }
        let next = rig.queue.post((), |_, _| Entry::filled(0)).unwrap();
        assert_ne!(tag, next);
        rig.device.post(tag, rig.device.head(), 0);
        let violation = Violation::StaleTag(tag);
        assert_eq!(
            rig.queue.reap(1, drop),
            Err(QueueError::Violation { queue: name(), violation })
        );
    }
}

#[test]
fn a_second_completion_before_the_future_looked() {
    let mut rig = rig(8, 8, 4);
    let future = rig.queue.submit("buffer", |_, _| Entry::filled(6)).unwrap();
    rig.queue.flush();
    rig.device.run();
    rig.device.post(future.tag(), rig.device.head(), 66);
    let violation = Violation::StaleTag(future.tag());
    assert_eq!(rig.queue.poll(9), Err(QueueError::Violation { queue: name(), violation }));
    let (outcome, buffer) = pollster::block_on(future).unwrap();
    assert_eq!((outcome.result, buffer), (6, "buffer"), "the first one counts");
}

#[test]
fn an_impossible_head() {
    for (head, why) in [(2, "past the tail"), (8, "outside of the ring"), (u16::MAX, "far outside")]
    {
        let (violation, text) = breaks(|device, tag| device.post(tag, head, 0));
        let expected = Violation::ImpossibleHead { reported: head, last: 0, tail: 1 };
        assert_eq!(violation, expected, "{why}");
        assert!(text.contains("queue 3") && text.contains(&format!("head {head}")), "{text}");
    }
}

#[test]
fn a_head_that_goes_back() {
    let mut rig = rig(8, 8, 4);
    for _ in 0..2 {
        rig.queue.post((), |_, _| Entry::filled(0)).unwrap();
    }
    rig.queue.flush();
    rig.device.fetch();
    let tags = [Tag(rig.device.held[0].tag), Tag(rig.device.held[1].tag)];
    rig.device.post(tags[0], 2, 0);
    assert_eq!(rig.queue.reap(9, drop), Ok(1));
    rig.device.post(tags[1], 1, 0);
    let violation = Violation::ImpossibleHead { reported: 1, last: 2, tail: 2 };
    assert_eq!(rig.queue.reap(9, drop), Err(QueueError::Violation { queue: name(), violation }));
}

#[test]
fn a_completion_with_the_wrong_phase_before_a_right_one() {
    let (violation, _) = breaks(|device, tag| {
        device.post_wrong_phase(tag);
        device.post(tag, 1, 0);
    });
    assert_eq!(violation, Violation::PhaseOutOfOrder { head: 0 });
}

#[test]
fn a_completion_one_entry_too_far() {
    let (violation, text) = breaks(Device::post_out_of_order);
    assert_eq!(violation, Violation::PhaseOutOfOrder { head: 0 });
    assert!(text.contains("entry 0"), "{text}");
}

#[test]
fn a_phase_that_flips_early_makes_old_entries_stale() {
    let mut rig = rig(4, 4, 2);
    for _ in 0..2 {
        rig.queue.post((), |_, _| Entry::filled(0)).unwrap();
        rig.queue.flush();
        rig.device.run();
        assert_eq!(rig.queue.reap(1, drop), Ok(1));
    }
    // The ring's zeroed part, now with the phase that is awaited there.
    let zeroed = crate::testing::Completion { result: 0, head: 2, queue: 0, tag: 0, status: 1 };
    rig.device.scribble(2, zeroed);
    assert!(matches!(rig.queue.reap(1, drop), Err(QueueError::Violation { .. })));
}

#[test]
fn a_future_that_parks_looks_at_the_order_at_once() {
    let mut rig = rig(8, 8, 4);
    let future = rig.queue.submit((), |_, _| Entry::filled(0)).unwrap();
    rig.device.post_out_of_order(future.tag());
    let lost = pollster::block_on(future).unwrap_err();
    let violation = Violation::PhaseOutOfOrder { head: 0 };
    assert_eq!(lost.error, QueueError::Violation { queue: name(), violation });
    assert!(lost.buffer.is_none());
}

#[test]
fn a_violation_wakes_every_parked_task() {
    let mut rig = rig(8, 8, 2);
    let (first, second) = (
        rig.queue.submit(1, |_, _| Entry::filled(0)),
        rig.queue.submit(2, |_, _| Entry::filled(0)),
    );
    let (mut first, mut second) = (pin!(first.unwrap()), pin!(second.unwrap()));
    let mut third = pin!(rig.queue.slot_free());
    let (count, waker) = Count::new();
    let cx = &mut Context::from_waker(&waker);
    assert!(first.as_mut().poll(cx).is_pending());
    assert!(second.as_mut().poll(cx).is_pending());
    assert!(third.as_mut().poll(cx).is_pending());
    rig.device.post(Tag(77), 0, 0);
    assert!(rig.queue.poll(1).is_err());
    assert_eq!(count.taken(), 3);
    assert!(matches!(first.as_mut().poll(cx), Poll::Ready(Err(_))));
    assert!(matches!(second.as_mut().poll(cx), Poll::Ready(Err(_))));
    assert!(matches!(third.as_mut().poll(cx), Poll::Ready(Err(QueueError::Violation { .. }))));
}

#[test]
fn a_completion_when_nothing_is_in_flight() {
    let mut rig = rig::<()>(8, 8, 4);
    rig.device.post(Tag(0), 0, 0);
    let violation = Violation::UnknownTag(Tag(0));
    assert_eq!(rig.queue.reap(1, drop), Err(QueueError::Violation { queue: name(), violation }));
}

#[test]
fn a_tag_that_is_reserved_and_not_submitted() {
    let Rig { queue, device, .. } = rig(8, 8, 4);
    let device = std::cell::RefCell::new(device);
    queue
        .post((), |_, ()| {
            device.borrow_mut().post(Tag(0), 0, 0);
            let violation = Violation::UnknownTag(Tag(0));
            assert_eq!(
                queue.reap(1, drop),
                Err(QueueError::Violation { queue: name(), violation })
            );
            Entry::filled(0)
        })
        .unwrap();
}
