//! A device that writes anything anywhere in the completion ring: no panic, no endless loop, no
//! buffer twice, and an error that stays.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::testing::{Completion, Entry, rig};
use crate::{QueueError, RejectReason};

#[derive(Debug, Clone, Copy)]
enum Op {
    Post,
    Submit,
    Reap,
    Poll(usize),
    Drop(usize),
    Scribble(usize, u16, u16, u16),
}

fn op() -> impl Strategy<Value = Op> {
    // Values near what is right get further than random ones.
    let near = || prop_oneof![4 => 0..12_u16, 1 => any::<u16>()];
    prop_oneof![
        Just(Op::Post),
        Just(Op::Submit),
        Just(Op::Reap),
        any::<usize>().prop_map(Op::Poll),
        any::<usize>().prop_map(Op::Drop),
        (0..5_usize, near(), near(), any::<u16>())
            .prop_map(|(i, t, h, s)| Op::Scribble(i, t, h, s)),
    ]
}

struct Once(Rc<RefCell<Vec<usize>>>, usize);

impl Drop for Once {
    fn drop(&mut self) {
        assert!(!self.0.borrow().contains(&self.1), "buffer {} came back twice", self.1);
        self.0.borrow_mut().push(self.1);
    }
}

proptest! {
    #[test]
    fn nothing_a_device_writes_does_harm(ops in vec(op(), 1..200)) {
        let mut rig = rig(6, 5, 4);
        let log = Rc::<RefCell<Vec<usize>>>::default();
        let mut futures = Vec::new();
        let mut first: Option<QueueError> = None;
        for (id, op) in ops.into_iter().enumerate() {
            let buffer = Once(log.clone(), id);
            match op {
                Op::Post | Op::Submit if first.is_some() => {
                    let rejected = rig.queue.post(buffer, |_, _| Entry::filled(0)).unwrap_err();
                    prop_assert_eq!(Some(rejected.reason), first.clone().map(RejectReason::Ended));
                }
                Op::Post => drop(rig.queue.post(buffer, |_, _| Entry::filled(0))),
                Op::Submit => futures.extend(rig.queue.submit(buffer, |_, _| Entry::filled(0))),
                Op::Reap => match rig.queue.reap(usize::MAX, drop) {
                    Ok(reaped) => prop_assert!(reaped <= 4, "no more than were in flight"),
                    Err(error) => prop_assert_eq!(&error, first.get_or_insert(error.clone())),
                },
                Op::Poll(pick) if !futures.is_empty() => {
                    let at = pick % futures.len();
                    let mut cx = Context::from_waker(Waker::noop());
                    match Pin::new(&mut futures[at]).poll(&mut cx) {
                        Poll::Pending => prop_assert!(first.is_none(), "an ended queue is told"),
                        Poll::Ready(Ok(_)) => drop(futures.swap_remove(at)),
                        Poll::Ready(Err(lost)) => {
                            prop_assert!(lost.buffer.is_none());
                            prop_assert_eq!(&lost.error, first.get_or_insert(lost.error.clone()));
                            drop(futures.swap_remove(at));
                        }
                    }
                }
                Op::Drop(pick) if !futures.is_empty() => {
                    drop(futures.swap_remove(pick % futures.len()));
                }
                Op::Poll(_) | Op::Drop(_) => {}
                Op::Scribble(index, tag, head, status) => {
                    let completion = Completion { result: 0, head, queue: 0, tag, status };
                    rig.device.scribble(index, completion);
                }
            }
            first = first.or(rig.queue.ended());
            prop_assert!(rig.queue.in_flight() <= 4);
        }
    }
}
