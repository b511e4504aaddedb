//! Random programs on a shared queue and on a `Single` one, which is the sequential model: on one thread
//! the two must do the same, step by step. (`Single` itself is checked against a model in words.)

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use proptest::collection::vec;
use proptest::prelude::*;

use super::basics::{SharedRig, shared};
use crate::testing::{Device, Entry, Outcome, Rig, TestProtocol, rig};
use crate::{EndReason, InFlight, Lost, Queue, QueueError, SharedInFlight, SharedQueue, Tag};

#[derive(Debug, Clone, Copy)]
enum Op {
    Post,
    Submit,
    Flush,
    Fetch,
    Complete(usize),
    Reap(usize),
    Poll(usize),
    Drop(usize),
    /// The device completes a command that it does not have: of a slot that is not there, or a command
    /// that it has completed already.
    Unknown,
    Twice,
    WrongPhase(usize),
    End(bool),
}

fn honest() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Post),
        4 => Just(Op::Submit),
        2 => Just(Op::Flush),
        4 => Just(Op::Fetch),
        8 => any::<usize>().prop_map(Op::Complete),
        3 => (0..6_usize).prop_map(Op::Reap),
        4 => any::<usize>().prop_map(Op::Poll),
        2 => any::<usize>().prop_map(Op::Drop),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        60 => honest(),
        1 => Just(Op::Unknown),
        1 => Just(Op::Twice),
        1 => any::<usize>().prop_map(Op::WrongPhase),
        1 => any::<bool>().prop_map(Op::End),
    ]
}

/// What a step shows. Tags are left out: the two modes take free slots in different orders.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Accepted(bool),
    Fetched(Vec<u64>),
    Reaped(Result<usize, String>, Vec<(u64, u64)>),
    Pending,
    Ready(u64, u64),
    Lost(String, Option<u64>),
}

type Log = Rc<RefCell<Vec<u64>>>;

/// A buffer that says when it is dropped.
struct Buffer(Log, u64);

impl Drop for Buffer {
    fn drop(&mut self) {
        self.0.borrow_mut().push(self.1);
    }
}

/// An error in words. Tags are left out, and which of its lies a device was caught at: a shared queue
/// also counts completions.
fn words(error: &QueueError) -> String {
    match error {
        QueueError::Violation { .. } => "the device broke the protocol".to_owned(),
        other => other.to_string(),
    }
}

/// What the two modes have in common. A macro, since the futures borrow.
macro_rules! world {
    ($world:ident, $queue:ident, $future:ident) => {
        struct $world<'q> {
            queue: &'q $queue<TestProtocol, Buffer>,
            futures: Vec<$future<'q, TestProtocol, Buffer>>,
            device: Device,
            dropped: Log,
            next: u64,
            last: Option<Entry>,
        }

        impl $world<'_> {
            fn submit(&mut self, direct: bool) -> Seen {
                let id = self.next;
                self.next += 1;
                let buffer = Buffer(self.dropped.clone(), id);
                let build = |_: u16, _: &mut Buffer| Entry::filled(id);
                let future = if direct {
                    self.queue.post(buffer, build).map(|_| None)
                } else {
                    self.queue.submit(buffer, build).map(Some)
                };
                let accepted = future.is_ok();
                self.futures.extend(future.ok().flatten());
                Seen::Accepted(accepted)
            }

            fn reap(&mut self, budget: usize) -> Seen {
                let mut called = Vec::new();
                let reaped = self
                    .queue
                    .reap(budget, |done| called.push((done.buffer.1, done.outcome.result)));
                Seen::Reaped(reaped.map_err(|error| words(&error)), called)
            }

            fn poll(&mut self, pick: usize) -> Seen {
                if self.futures.is_empty() {
                    return Seen::Nothing;
                }
                // A poll of a command that is done flushes nothing more in one mode.
                self.queue.flush();
                let at = pick % self.futures.len();
                let polled =
                    Pin::new(&mut self.futures[at]).poll(&mut Context::from_waker(Waker::noop()));
                let result = match polled {
                    Poll::Pending => return Seen::Pending,
                    Poll::Ready(result) => result,
                };
                drop(self.futures.swap_remove(at));
                match result {
                    Ok((Outcome { result, .. }, buffer)) => Seen::Ready(result, buffer.1),
                    Err(Lost { error, buffer }) => {
                        Seen::Lost(words(&error), buffer.map(|buffer| buffer.1))
                    }
                }
            }

            fn lie(&mut self, op: Op) {
                let held = self.device.held.len();
                match op {
                    // As long as it has room, or the harness would object.
                    _ if self.device.room() == 0 => {}
                    Op::Unknown => {
                        self.device.post(Tag(u16::MAX), self.device.head(), 0);
                    }
                    Op::Twice => {
                        if let Some(entry) = self.last {
                            self.device.post(Tag(entry.tag), self.device.head(), 0);
                        }
                    }
                    Op::WrongPhase(pick) if held > 0 => {
                        let entry = self.device.held.remove(pick % held);
                        self.device.post_wrong_phase(Tag(entry.tag));
                    }
                    _ => {}
                }
            }

            fn run(&mut self, op: Op) -> Seen {
                match op {
                    Op::Post => self.submit(true),
                    Op::Submit => self.submit(false),
                    Op::Flush => {
                        self.queue.flush();
                        Seen::Nothing
                    }
                    Op::Fetch => {
                        let before = self.device.held.len();
                        self.device.fetch();
                        let new = self.device.held[before..].iter();
                        Seen::Fetched(new.map(|entry| entry.words[0]).collect())
                    }
                    Op::Complete(pick) => {
                        let held = self.device.held.len();
                        if held > 0 && self.device.room() > 0 {
                            self.last = Some(self.device.complete(pick % held));
                        }
                        Seen::Nothing
                    }
                    Op::Reap(budget) => self.reap(budget),
                    Op::Poll(pick) => self.poll(pick),
                    Op::Drop(pick) => {
                        if !self.futures.is_empty() {
                            drop(self.futures.swap_remove(pick % self.futures.len()));
                        }
                        Seen::Nothing
                    }
                    Op::End(quiesced) => {
                        self.queue.end(EndReason::Revoked, quiesced);
                        Seen::Nothing
                    }
                    lie => {
                        self.lie(lie);
                        Seen::Nothing
                    }
                }
            }
        }
    };
}

world!(Single, Queue, InFlight);
world!(Shared, SharedQueue, SharedInFlight);

fn sorted(log: &Log) -> Vec<u64> {
    let mut ids = log.borrow().clone();
    ids.sort_unstable();
    ids
}

/// Runs a program on both and compares each step; then ends both the same way.
fn compare(
    (submission, completion, slots): (u32, u32, u16),
    ops: Vec<Op>,
    forget: bool,
    give_up: bool,
) -> Result<(), TestCaseError> {
    let Rig { queue: single, device, .. } = rig(submission, completion, slots);
    let SharedRig { queue: shared, device: other, .. } = shared(submission, completion, slots);
    let logs = [Log::default(), Log::default()];
    {
        let mut a = Single {
            queue: &single,
            futures: Vec::new(),
            device,
            dropped: logs[0].clone(),
            next: 0,
            last: None,
        };
        let mut b = Shared {
            queue: &shared,
            futures: Vec::new(),
            device: other,
            dropped: logs[1].clone(),
            next: 0,
            last: None,
        };
        let mut lost = false;
        for op in ops {
            prop_assert_eq!(a.run(op), b.run(op), "{:?}", op);
            // In one step a shared queue settles everything before it calls anyone.
            prop_assert_eq!(sorted(&a.dropped), sorted(&b.dropped), "{:?}", op);
            // A slot whose command was lost stays in use in a shared queue.
            lost |= a.queue.ended().is_some();
            prop_assert!(lost || a.queue.in_flight() == b.queue.in_flight(), "{:?}", op);
            prop_assert_eq!(
                a.queue.ended().map(|error| words(&error)),
                b.queue.ended().map(|error| words(&error))
            );
        }
        if forget {
            std::mem::forget((a.futures, b.futures));
        }
    }
    let backs = if give_up {
        let (a, b) = (single.give_up(), shared.give_up());
        [a.len(), b.len()]
    } else {
        drop((single, shared));
        [0, 0]
    };
    prop_assert_eq!(backs[0], backs[1]);
    let back = logs.each_ref().map(sorted);
    prop_assert!(back[0].windows(2).all(|two| two[0] != two[1]), "each comes back once");
    prop_assert_eq!(&back[0], &back[1]);
    Ok(())
}

/// Ring sizes and slots that fit each other, and often only just.
fn sizes() -> impl Strategy<Value = (u32, u32, u16)> {
    (2..12_u32, 2..12_u32).prop_flat_map(|(submission, completion)| {
        let most = (submission.min(completion) - 1) as u16;
        (Just(submission), Just(completion), prop_oneof![Just(most), 1..=most])
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn on_one_thread_it_does_as_a_single_queue(
        sizes in sizes(), ops in vec(honest(), 1..400), forget: bool, give_up: bool,
    ) {
        compare(sizes, ops, forget, give_up)?;
    }

    #[test]
    fn also_with_a_device_that_lies_and_ends(
        (submission, _, slots) in sizes(), ops in vec(any_op(), 1..200), forget: bool, give_up: bool,
    ) {
        // A completion ring that the lies never fill: the modes acknowledge at different times.
        compare((submission, 256, slots), ops, forget, give_up)?;
    }
}
