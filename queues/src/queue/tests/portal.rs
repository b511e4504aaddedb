//! A queue whose entries go through a portal.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use crate::mem::Cells;
use crate::testing::{Completion, Entry, Outcome, TestProtocol, parts};
use crate::{
    Doorbell, DoorbellKind, EntryStores, Kick, PortalIntake, Queue, QueueProtocol, RejectReason,
    SharedMem, Tag, Wake, Word, Word32,
};

/// The tests' protocol with the valid word in the last four bytes of an entry.
#[derive(Debug)]
enum Portal {}

impl QueueProtocol for Portal {
    type Entry = Entry;
    type Completion = Completion;
    type Outcome = Outcome;

    const DOORBELL: DoorbellKind = DoorbellKind::Portal { valid: 60 };
    const PHASE_WORD: usize = TestProtocol::PHASE_WORD;

    fn phase(word: u32) -> bool {
        TestProtocol::phase(word)
    }
    fn stamp(entry: &mut Entry, tag: Tag) {
        TestProtocol::stamp(entry, tag);
    }
    fn tag(completion: &Completion) -> Tag {
        TestProtocol::tag(completion)
    }
    fn submission_head(_: &Completion) -> Option<u16> {
        None
    }
    fn outcome(completion: &Completion) -> Outcome {
        TestProtocol::outcome(completion)
    }
}

#[derive(Default)]
struct Kicks(AtomicUsize);

impl Kick for Kicks {
    fn kick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Rig {
    queue: Queue<Portal, u64>,
    portal: PortalIntake<Portal>,
    cq: Cells<Completion>,
    posted: usize,
    /// Entries taken and not completed.
    held: Vec<Entry>,
    register: Word32,
    asleep: Word32,
    kicks: Arc<Kicks>,
}

/// A portal of five cells in a page that somebody has used before, and four slots.
fn rig(entry_stores: EntryStores) -> Rig {
    let (mut parts, _) = parts(8, 16, 4);
    let (page, bar) = (SharedMem::zeroed(4096), SharedMem::zeroed(16));
    page.fill(0, 4096, 1).unwrap();
    let portal = PortalIntake::new(&page, 128, 5).unwrap();
    let (register, asleep, kicks) =
        (bar.word32(0).unwrap(), bar.word32(8).unwrap(), Arc::<Kicks>::default());
    let wake = Wake::new(asleep.clone(), kicks.clone());
    parts.submission = page.slice(128, 5 * 64).unwrap();
    parts.submission_entries = 5;
    parts.entry_stores = entry_stores;
    parts.submission_doorbell = Doorbell::new(register.clone(), Some(wake));
    let cq = parts.completion.cells(0, 16).unwrap();
    let queue = Queue::new(parts).unwrap();
    Rig { queue, portal, cq, posted: 0, held: Vec::new(), register, asleep, kicks }
}

impl Rig {
    fn take(&mut self) -> usize {
        let before = self.held.len();
        self.held.extend(std::iter::from_fn(|| self.portal.take()));
        self.held.len() - before
    }

    fn complete(&mut self, index: usize) {
        let entry = self.held.remove(index);
        let status = u16::from((self.posted / 16).is_multiple_of(2));
        let completion =
            Completion { result: entry.words[0], head: 999, queue: 3, tag: entry.tag, status };
        self.cq.publish(self.posted % 16, &completion, Portal::PHASE_WORD);
        self.posted += 1;
    }
}

#[test]
fn an_entry_is_with_the_device_when_it_was_submitted() {
    for stores in [EntryStores::Plain, EntryStores::NonTemporal] {
        let mut rig = rig(stores);
        assert_eq!(rig.take(), 0, "what a former owner wrote is nobody's entry");
        for n in 0..50 {
            rig.queue.post(n, |_, n| Entry::filled(*n)).unwrap();
            assert_eq!(rig.take(), 1, "before any flush");
            assert_eq!(rig.held[0].words[..6], [n; 6]);
            rig.queue.flush();
            assert_eq!(rig.take(), 0, "once");
            rig.complete(0);
            let done = Cell::new(None);
            let reap =
                |d: crate::Completed<Portal, u64>| done.set(Some((d.outcome.result, d.buffer)));
            assert_eq!(rig.queue.reap(8, reap), Ok(1));
            assert_eq!(done.get(), Some((n, n)));
        }
        assert_eq!(rig.register.load(Ordering::Relaxed), 0, "there is no tail to ring");
        assert_eq!(rig.kicks.0.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_device_that_sleeps_is_kicked_once_per_flush() {
    let mut rig = rig(EntryStores::Plain);
    rig.asleep.store(1, Ordering::Relaxed);
    for n in 0..3 {
        rig.queue.post(n, |_, n| Entry::filled(*n)).unwrap();
    }
    assert_eq!(rig.kicks.0.load(Ordering::Relaxed), 0);
    rig.queue.flush();
    rig.queue.flush();
    assert_eq!(rig.kicks.0.load(Ordering::Relaxed), 1);
    assert_eq!(rig.take(), 3);
}

#[test]
fn futures_and_ends_are_those_of_any_queue() {
    let mut rig = rig(EntryStores::Plain);
    let future = rig.queue.submit(7, |_, n| Entry::filled(*n)).unwrap();
    drop(rig.queue.submit(8, |_, n| Entry::filled(*n)).unwrap());
    rig.portal.take().into_iter().chain(rig.portal.take()).for_each(|e| rig.held.push(e));
    let Rig { queue, cq, held, .. } = &rig;
    for (at, entry) in held.iter().rev().enumerate() {
        let completion =
            Completion { result: entry.words[0], head: 0, queue: 3, tag: entry.tag, status: 1 };
        cq.publish(at, &completion, Portal::PHASE_WORD);
    }
    let polled = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Ok((Outcome { result: 7, .. }, 7)))));
    assert_eq!(queue.in_flight(), 0, "the dropped one is free as well");
    queue.end(crate::EndReason::Revoked, true);
    let rejected = queue.post(9, |_, n| Entry::filled(*n)).unwrap_err();
    assert!(matches!(rejected.reason, RejectReason::Ended(_)));
    assert!(rig.portal.take().is_none(), "nothing is given to a device after the end");
}

proptest! {
    /// Whatever the order of completions, no cell is overwritten before its entry was taken.
    #[test]
    fn entries_arrive_in_order_whatever_completes_when(steps in prop::collection::vec(0..6_usize, 1..300)) {
        let mut rig = rig(EntryStores::Plain);
        let (mut given, mut taken) = (0, 0);
        for step in steps {
            match step {
                // Submits as long as there are slots: the device looks late.
                0..=2 => while rig.queue.post(given, |_, n| Entry::filled(*n)).is_ok() {
                    given += 1;
                },
                3 => {
                    let before = rig.held.len();
                    rig.take();
                    for entry in &rig.held[before..] {
                        prop_assert_eq!(entry.words[0], taken);
                        taken += 1;
                    }
                }
                which => if !rig.held.is_empty() {
                    rig.complete((which * 7) % rig.held.len());
                    let reaped = rig.queue.reap(8, |d| assert_eq!(d.outcome.result, d.buffer));
                    prop_assert_eq!(reaped, Ok(1));
                },
            }
            // What was submitted late must not be lost for want of a flush.
            rig.queue.flush();
        }
        rig.take();
        prop_assert_eq!(given as usize, rig.held.len() + rig.posted);
    }
}
