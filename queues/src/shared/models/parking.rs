use core::cell::Cell;
use core::sync::atomic::Ordering;
use std::task::{Wake, Waker};

use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use crate::fate::{EndReason, Fate};
use crate::loom_models::LoomWord;
use crate::mem::Word;
use crate::protocol::Tag;
use crate::shared::cell::{Command, Settled, SlotTable, WakerSet};
use crate::wait::{arm_word, must_signal};

/// A buffer that counts how often it came back.
struct Buffer(Arc<AtomicU32>);

impl Drop for Buffer {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A task, which knows whether it was woken.
#[derive(Default)]
struct Task(AtomicU32);

impl Wake for Task {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(1, Ordering::Relaxed);
    }
}

impl Task {
    fn new() -> (std::sync::Arc<Self>, Waker) {
        let task = std::sync::Arc::new(Self(AtomicU32::new(0)));
        (task.clone(), Waker::from(task))
    }

    /// Everyone who might wake it has done all that they do.
    fn must_be_woken(&self) {
        assert_eq!(self.0.load(Ordering::Relaxed), 1, "a wake-up is lost");
    }
}

type Table = SlotTable<u32, Buffer, Cell<u32>>;
type CommandOf<'t> = Command<'t, u32, Buffer, Cell<u32>>;

/// A table with one slot in a leaked box, so that commands of it can go to threads; freed at the end.
struct World {
    table: &'static Table,
    back: Arc<AtomicU32>,
}

impl World {
    fn new() -> Self {
        let table = Box::leak(Box::new(Table::new(1, Cell::new(0))));
        Self { table, back: Arc::new(AtomicU32::new(0)) }
    }

    fn command(&self) -> CommandOf<'static> {
        let slot = self.table.reserve().expect("it is free");
        slot.commit(Buffer(self.back.clone()))
    }

    fn back(&self) -> u32 {
        self.back.load(Ordering::Relaxed)
    }
}

/// As the queue's `look`: settles the completion and runs what that leaves.
fn complete(table: &'static Table, tag: Tag) {
    let Some(mut turn) = table.reaper().take_or_ask() else { return };
    let mut left = Vec::new();
    loop {
        if turn.get() == 0 {
            turn.set(1);
            match table.complete(&turn, tag, 7).expect("it is in flight") {
                Settled::Orphan(orphan, waker) => left.push((Some(orphan), waker)),
                Settled::Wake(waker) => left.push((None, Some(waker))),
                Settled::Kept | Settled::Direct => {}
            }
        }
        match turn.finish() {
            Some(again) => turn = again,
            None => break,
        }
    }
    for (orphan, waker) in left {
        match (orphan, waker) {
            (Some(orphan), _) => drop(orphan.take()),
            (None, Some(waker)) => waker.wake(),
            (None, None) => {}
        }
    }
}

fn finish(command: &mut CommandOf<'_>, world: &World) {
    let (outcome, buffer) = command.take_done().expect("it has completed");
    assert_eq!((outcome, world.back()), (7, 0));
    drop(buffer);
    assert_eq!(world.back(), 1, "handed back once");
    assert!(command.take_done().is_none());
    assert_eq!(world.table.free().count(), 1);
}

/// Leaves a waker; false if the command has completed.
fn park(command: &mut CommandOf<'_>, waker: &Waker) -> bool {
    loop {
        match command.set_waker(waker) {
            WakerSet::Set => return true,
            WakerSet::Done => return false,
            // It is polled again; loom must know that another thread has to move.
            WakerSet::Again => thread::yield_now(),
        }
    }
}

/// A future parks while its completion comes.
fn park_once(parked: fn(WakerSet) -> bool) {
    loom::model(move || {
        let world = World::new();
        let mut command = world.command();
        let (table, tag) = (world.table, command.tag());
        let reaper = thread::spawn(move || complete(table, tag));
        let (task, waker) = Task::new();
        let set = command.set_waker(&waker);
        reaper.join().unwrap();
        if parked(set) {
            task.must_be_woken();
        }
        finish(&mut command, &world);
    });
}

#[test]
fn a_future_that_parks_is_woken_or_sees_its_completion() {
    park_once(|set| set == WakerSet::Set);
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn a_future_that_parks_without_a_second_look_sleeps_forever() {
    park_once(|_set| true);
}

/// It parks a second time, with another waker, while its completion comes.
#[test]
fn a_future_that_moved_to_another_task_is_woken_there() {
    loom::model(|| {
        let world = World::new();
        let mut command = world.command();
        let (table, tag) = (world.table, command.tag());
        let (_, first) = Task::new();
        assert_eq!(command.set_waker(&first), WakerSet::Set);
        let reaper = thread::spawn(move || complete(table, tag));
        let (task, second) = Task::new();
        let set = park(&mut command, &second);
        reaper.join().unwrap();
        if set {
            task.must_be_woken();
        }
        finish(&mut command, &world);
    });
}

/// It is dropped, parked or not, while its completion comes.
fn drop_races(parked: bool) {
    loom::model(move || {
        let world = World::new();
        let mut command = world.command();
        let (table, tag) = (world.table, command.tag());
        if parked {
            let (_, waker) = Task::new();
            assert_eq!(command.set_waker(&waker), WakerSet::Set);
        }
        let reaper = thread::spawn(move || complete(table, tag));
        let (buffer, waker) = command.abandon(false);
        drop((buffer, waker));
        reaper.join().unwrap();
        assert_eq!(world.back(), 1, "handed back once, by one of the two");
        assert_eq!(world.table.free().count(), 1);
        assert!(world.table.reserve().is_some_and(|next| next.tag() != tag), "another generation");
    });
}

#[test]
fn a_future_dropped_at_its_completion_gives_its_buffer_back_once() {
    drop_races(false);
    drop_races(true);
}

/// The queue ends, and is quiesced, while a completion still comes.
#[test]
fn a_lost_command_gives_its_buffer_back_once() {
    loom::model(|| {
        let world = World::new();
        let mut command = world.command();
        let (table, tag) = (world.table, command.tag());
        let reaper = thread::spawn(move || complete(table, tag));
        let (buffer, _) = command.abandon(true);
        assert!(buffer.is_some(), "lost or done, it is the future's");
        drop(buffer);
        reaper.join().unwrap();
        assert_eq!(world.back(), 1);
    });
}

/// A future parks while the queue ends.
fn park_at_the_end(look_again: bool) {
    loom::model(move || {
        let world = World::new();
        let mut command = world.command();
        let table = world.table;
        let fate = Arc::new(Fate::new());
        let ender = {
            let fate = fate.clone();
            thread::spawn(move || {
                fate.end(EndReason::Revoked, false);
                let turn = table.reaper().take_or_ask().expect("nobody else takes it");
                let waker = table.take_waker(&turn, 0);
                assert!(turn.finish().is_none());
                waker.into_iter().for_each(Waker::wake);
            })
        };
        let (task, waker) = Task::new();
        let sleeps = park(&mut command, &waker) && (!look_again || fate.is_alive());
        ender.join().unwrap();
        if sleeps {
            task.must_be_woken();
        }
        assert!(command.abandon(false).0.is_none());
        complete(table, command.tag());
        assert_eq!(world.back(), 1);
    });
}

#[test]
fn a_future_that_parks_at_the_end_is_woken_or_sees_it() {
    park_at_the_end(true);
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn a_future_that_does_not_look_for_the_end_sleeps_forever() {
    park_at_the_end(false);
}

/// What one thread does that looks at the ring for all.
type Look = fn(&'static Table, &LoomWord, Tag);

fn look(table: &'static Table, ring: &LoomWord, tag: Tag, ask: bool) {
    let reaper = table.reaper();
    let Some(mut turn) = (if ask { reaper.take_or_ask() } else { reaper.try_take() }) else {
        return;
    };
    let mut woken = None;
    loop {
        if turn.get() == 0 && ring.load(Ordering::Acquire) == 1 {
            turn.set(1);
            if let Settled::Wake(waker) = table.complete(&turn, tag, 7).expect("it is in flight") {
                woken = Some(waker);
            }
        }
        match turn.finish() {
            Some(again) => turn = again,
            None => break,
        }
    }
    woken.into_iter().for_each(Waker::wake);
}

/// The device completes while a future parks and another thread looks at the ring.
fn park_beside_a_reaper(last_look: Look) {
    super::bounded(3, move || {
        let world = World::new();
        let mut command = world.command();
        let (table, tag) = (world.table, command.tag());
        let (ring, armed) = (LoomWord::new(), LoomWord::new());
        let (task, waker) = Task::new();
        let device = {
            let (ring, armed, task) = (ring.clone(), armed.clone(), task.clone());
            thread::spawn(move || {
                ring.store(1, Ordering::Release);
                if must_signal(&armed) {
                    task.wake();
                }
            })
        };
        let other = {
            let ring = ring.clone();
            thread::spawn(move || look(table, &ring, tag, false))
        };
        arm_word(&armed);
        last_look(table, &ring, tag);
        let sleeps = park(&mut command, &waker);
        device.join().unwrap();
        other.join().unwrap();
        if sleeps {
            // By the interrupt or by the other thread.
            task.must_be_woken();
            look(table, &ring, tag, true);
        }
        finish(&mut command, &world);
    });
}

#[test]
fn a_future_that_parks_beside_a_reaper_is_woken() {
    park_beside_a_reaper(|table, ring, tag| look(table, ring, tag, true));
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn a_reaper_that_is_not_asked_to_look_again_loses_it() {
    park_beside_a_reaper(|table, ring, tag| look(table, ring, tag, false));
}
