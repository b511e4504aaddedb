//! Random programs against a sequential model: rings of all small sizes, completions in any order.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::testing::{Entry, Rig, TestProtocol, rig};
use crate::{EndReason, InFlight};

#[derive(Debug, Clone, Copy)]
enum Op {
    Post,
    Submit,
    Flush,
    Fetch,
    /// The device completes one of the commands it holds.
    Complete(usize),
    Reap(usize),
    Poll(usize),
    Drop(usize),
}

fn op() -> impl Strategy<Value = Op> {
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

/// Which buffers came back, and which the device may be writing to.
#[derive(Default)]
struct Ledger {
    back: Vec<u64>,
    /// In the order of submission: true once the device has completed it.
    posted: BTreeMap<u64, bool>,
}

struct Buffer(Rc<RefCell<Ledger>>, u64);

impl Drop for Buffer {
    fn drop(&mut self) {
        let ledger = &mut *self.0.borrow_mut();
        assert!(ledger.posted[&self.1], "buffer {} came back while in flight", self.1);
        assert!(!ledger.back.contains(&self.1), "buffer {} came back twice", self.1);
        ledger.back.push(self.1);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Callback,
    Future,
    Nobody,
}

/// What a queue should do, in the simplest words.
#[derive(Default)]
struct Model {
    /// Commands whose slot is in use, and who gets their completion.
    used: BTreeMap<u64, Who>,
    /// Submitted and not fetched; told to the device up to `told`.
    submitted: VecDeque<u64>,
    told: usize,
    /// Completed by the device, not reaped.
    posted: VecDeque<u64>,
    /// Reaped, kept for the next callback.
    deferred: VecDeque<u64>,
    /// Reaped, kept for its future.
    done: Vec<u64>,
}

impl Model {
    fn flush(&mut self) {
        self.told = self.submitted.len();
    }

    /// Reaps up to `budget`; what a callback gets.
    fn reap(&mut self, mut budget: usize, callback: bool) -> (usize, Vec<u64>) {
        let (mut reaped, mut called) = (0, Vec::new());
        while callback && budget > 0 && !self.deferred.is_empty() {
            called.extend(self.deferred.pop_front());
            (budget, reaped) = (budget - 1, reaped + 1);
        }
        while let Some(id) = (budget > 0).then(|| self.posted.pop_front()).flatten() {
            (budget, reaped) = (budget - 1, reaped + 1);
            match self.used[&id] {
                Who::Callback if callback => called.push(id),
                Who::Callback => self.deferred.push_back(id),
                Who::Future => self.done.push(id),
                Who::Nobody => drop(self.used.remove(&id)),
            }
        }
        for id in &called {
            self.used.remove(id);
        }
        (reaped, called)
    }

    fn take(&mut self, id: u64) -> bool {
        let Some(at) = self.done.iter().position(|done| *done == id) else { return false };
        self.done.remove(at);
        self.used.remove(&id);
        true
    }
}

struct World<'q> {
    queue: &'q crate::testing::TestQueue<Buffer>,
    device: &'q mut crate::testing::Device,
    ledger: Rc<RefCell<Ledger>>,
    model: Model,
    futures: Vec<(u64, InFlight<'q, TestProtocol, Buffer>)>,
    next: u64,
}

impl World<'_> {
    fn submit(&mut self, direct: bool) {
        let id = self.next;
        let room = self.model.used.len() < self.queue.capacity();
        self.ledger.borrow_mut().posted.insert(id, true);
        let buffer = Buffer(self.ledger.clone(), id);
        let build = |slot: u16, _: &mut Buffer| {
            assert!(usize::from(slot) < self.queue.capacity());
            Entry::filled(id)
        };
        let accepted = if direct {
            self.queue.post(buffer, build).map(|_| None)
        } else {
            self.queue.submit(buffer, build).map(Some)
        };
        assert_eq!(accepted.is_ok(), room, "the capacity is honoured, and no more than that");
        let future = match accepted {
            Ok(future) => future,
            Err(rejected) => {
                assert_eq!(rejected.buffer.1, id);
                drop(rejected);
                self.ledger.borrow_mut().back.retain(|back| *back != id);
                return;
            }
        };
        self.ledger.borrow_mut().posted.insert(id, false);
        self.model.used.insert(id, if direct { Who::Callback } else { Who::Future });
        self.model.submitted.push_back(id);
        self.futures.extend(future.map(|future| (id, future)));
        self.next += 1;
    }

    fn reap(&mut self, budget: usize) {
        let (reaped, called) = self.model.reap(budget, true);
        let mut seen = Vec::new();
        let result = self.queue.reap(budget, |done| {
            assert_eq!(done.outcome.result, done.buffer.1, "the outcome of its own command");
            seen.push(done.buffer.1);
        });
        assert_eq!((result, seen), (Ok(reaped), called));
    }

    fn poll(&mut self, pick: usize) {
        if self.futures.is_empty() {
            return;
        }
        let at = pick % self.futures.len();
        let (id, mut future) = self.futures.swap_remove(at);
        self.model.flush();
        if !self.model.done.contains(&id) {
            self.model.reap(usize::MAX, false);
        }
        let polled = Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled.is_ready(), self.model.take(id));
        match polled {
            Poll::Ready(Ok((outcome, buffer))) => assert_eq!((outcome.result, buffer.1), (id, id)),
            Poll::Ready(Err(lost)) => panic!("{lost:?}"),
            Poll::Pending => self.futures.push((id, future)),
        }
    }

    fn drop_one(&mut self, pick: usize) {
        if self.futures.is_empty() {
            return;
        }
        let (id, future) = self.futures.swap_remove(pick % self.futures.len());
        drop(future);
        self.model.flush();
        if !self.model.take(id) {
            self.model.used.insert(id, Who::Nobody);
        }
    }

    fn fetch(&mut self) {
        let before = self.device.held.len();
        let fetched = self.device.fetch();
        assert_eq!(fetched, self.model.told, "the device sees exactly what it was told of");
        let ids = self.device.held[before..].iter().map(|entry| {
            assert_eq!(entry.words, [entry.words[0]; 7], "whole");
            entry.words[0]
        });
        assert!(ids.eq(self.model.submitted.drain(..fetched)), "in order");
        self.model.told = 0;
    }

    fn complete(&mut self, pick: usize) {
        if self.device.held.is_empty() {
            return;
        }
        // The device asserts that there is room in the ring.
        let id = self.device.complete(pick % self.device.held.len()).words[0];
        self.ledger.borrow_mut().posted.insert(id, true);
        self.model.posted.push_back(id);
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Post => self.submit(true),
            Op::Submit => self.submit(false),
            Op::Flush => {
                self.queue.flush();
                self.model.flush();
            }
            Op::Fetch => self.fetch(),
            Op::Complete(pick) => self.complete(pick),
            Op::Reap(budget) => self.reap(budget),
            Op::Poll(pick) => self.poll(pick),
            Op::Drop(pick) => self.drop_one(pick),
        }
        assert_eq!(self.queue.in_flight(), self.model.used.len());
        let back = self.ledger.borrow().back.len() as u64;
        assert_eq!(back + self.model.used.len() as u64, self.next, "none lost, none early");
    }

    /// Lets everything finish: every buffer has then come back.
    fn finish(&mut self) {
        while !self.futures.is_empty() {
            self.drop_one(0);
        }
        self.run(Op::Flush);
        self.run(Op::Fetch);
        while !self.device.held.is_empty() {
            self.run(Op::Complete(0));
        }
        self.run(Op::Reap(usize::MAX));
        assert_eq!(
            (self.queue.in_flight(), self.ledger.borrow().back.len() as u64),
            (0, self.next)
        );
    }
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
    fn a_queue_does_as_the_model((submission, completion, slots) in sizes(), ops in vec(op(), 1..400)) {
        let Rig { queue, mut device, .. } = rig(submission, completion, slots);
        let mut world = World {
            queue: &queue,
            device: &mut device,
            ledger: Rc::default(),
            model: Model::default(),
            futures: Vec::new(),
            next: 0,
        };
        ops.into_iter().for_each(|op| world.run(op));
        world.finish();
    }

    /// A queue that is dropped at any point gives back what the device is done with; if the device
    /// is done with everything, all of it.
    #[test]
    fn a_queue_may_be_dropped_at_any_point(ops in vec(op(), 1..60), quiesced: bool, give_up: bool) {
        let Rig { queue, mut device, fate, .. } = rig(6, 5, 4);
        let ledger = Rc::<RefCell<Ledger>>::default();
        let (next, leaked) = {
            let mut world = World {
                queue: &queue,
                device: &mut device,
                ledger: ledger.clone(),
                model: Model::default(),
                futures: Vec::new(),
                next: 0,
            };
            ops.into_iter().for_each(|op| world.run(op));
            let World { futures, next, model, .. } = world;
            // As if the tasks that held them were never run again.
            std::mem::forget(futures);
            let kept = model.done.len() + model.deferred.len();
            (next, (model.used.len() - kept) as u64)
        };
        if quiesced {
            fate.end(EndReason::DeviceReset, true);
            ledger.borrow_mut().posted.values_mut().for_each(|posted| *posted = true);
        }
        if give_up {
            let buffers = queue.give_up();
            ledger.borrow_mut().posted.values_mut().for_each(|posted| *posted = true);
            drop(buffers);
        } else {
            drop(queue);
        }
        let expected = if quiesced || give_up { next } else { next - leaked };
        prop_assert_eq!(ledger.borrow().back.len() as u64, expected);
    }
}
