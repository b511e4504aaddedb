use core::cell::Cell;
use core::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use crate::shared::cell::{Delegated, Turn, WriteOnce};

/// Two threads each leave some work and see to it that it is done.
struct Work {
    left: [AtomicU32; 2],
    done: Delegated<Cell<u32>>,
}

type Take = for<'a> fn(&'a Delegated<Cell<u32>>) -> Option<Turn<'a, Cell<u32>>>;

impl Work {
    fn leave(&self, who: usize, take: Take) {
        self.left[who].store(1, Ordering::Relaxed);
        let Some(mut turn) = take(&self.done) else { return };
        loop {
            turn.set(self.left.iter().map(|left| left.load(Ordering::Relaxed)).sum());
            match turn.finish() {
                None => return,
                Some(again) => turn = again,
            }
        }
    }
}

fn two_leave_work(take: Take) {
    loom::model(move || {
        let left = [AtomicU32::new(0), AtomicU32::new(0)];
        let work = Arc::new(Work { left, done: Delegated::new(Cell::new(0)) });
        let other = {
            let work = work.clone();
            thread::spawn(move || work.leave(1, take))
        };
        work.leave(0, take);
        other.join().unwrap();
        let turn = work.done.try_take().expect("nobody has it any more");
        assert_eq!(turn.get(), 2, "all work is done");
        assert!(turn.finish().is_none());
    });
}

#[test]
fn what_is_asked_for_is_done() {
    two_leave_work(Delegated::take_or_ask);
}

#[test]
#[should_panic(expected = "all work is done")]
fn without_asking_some_is_left() {
    two_leave_work(Delegated::try_take);
}

/// Two ask the holder, one after the other's request lies there: what both did is seen.
#[test]
fn a_second_request_shows_its_work_too() {
    super::bounded(3, || {
        let left = [AtomicU32::new(0), AtomicU32::new(0)];
        let work = Arc::new(Work { left, done: Delegated::new(Cell::new(0)) });
        let threads = [0, 1].map(|who| {
            let work = work.clone();
            thread::spawn(move || work.leave(who, Delegated::take_or_ask))
        });
        let mut turn = work.done.take_or_ask();
        while let Some(held) = turn {
            held.set(work.left.iter().map(|left| left.load(Ordering::Relaxed)).sum());
            turn = held.finish();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let turn = work.done.try_take().expect("nobody has it any more");
        assert_eq!(turn.get(), 2, "all work is done");
        assert!(turn.finish().is_none());
    });
}

#[test]
fn the_first_value_written_stays() {
    loom::model(|| {
        let once = Arc::new(WriteOnce::new());
        let threads = [1, 2].map(|value| {
            let once = once.clone();
            thread::spawn(move || once.set(value))
        });
        let early = once.get();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let late = once.get();
        assert!(matches!(late, Some(1 | 2)));
        assert!(early.is_none() || early == late);
    });
}
