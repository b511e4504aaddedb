//! Sleeping, waking and interrupting: nothing is lost, nothing comes unasked.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::SPIN;
use crate::bus::{Bus, Identity, Region, SoftBus, Width};
use crate::soft::testing::{
    CopyEngine, DOORBELL, RESETS, Rig, VECTORS, eventually, options, readable,
};
use crate::soft::{HarnessOptions, Idle, Progress, SoftCx, SoftDevice};

/// The device falls asleep after every command, the host after every ring: neither misses the other.
#[test]
fn no_wake_up_is_lost() {
    let rig = Rig::new(Duration::ZERO);
    rig.set_up(0, 0, 0).unwrap();
    let doorbell = rig.doorbell();
    for sequence in 1..=3_000 {
        doorbell.ring(sequence);
        rig.sleep_until(sequence);
    }
}

/// The host rings while the device is falling asleep: at every delay after a completion, a few
/// nanoseconds apart, so that each step of falling asleep is met.
#[test]
fn a_ring_while_falling_asleep_is_not_lost() {
    let rig = Rig::new(Duration::ZERO);
    rig.set_up(0, 0, 0).unwrap();
    let doorbell = rig.doorbell();
    for sequence in 1..=60_000 {
        (0..sequence % 2_000).for_each(|step| {
            std::hint::black_box(step);
        });
        doorbell.ring(sequence);
        eventually("a completion", || rig.record().sequence == sequence);
    }
}

/// As above, while another thread sends requests, so that both reasons to wake meet.
#[test]
fn requests_and_doorbells_wake_the_same_sleeper() {
    let rig = Rig::new(Duration::ZERO);
    rig.set_up(0, 0, 0).unwrap();
    let (doorbell, bar) = (rig.doorbell(), rig.device.bar(0).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| (0..500).for_each(|_| assert_eq!(bar.read64(RESETS).unwrap(), 0)));
        for sequence in 1..=500 {
            doorbell.ring(sequence);
            rig.sleep_until(sequence);
        }
    });
}

#[test]
fn a_peer_that_cannot_kick_is_noticed() {
    let options = HarnessOptions { spin: Duration::ZERO, unkicked: true, ..options() };
    let rig = Rig::of(CopyEngine::default(), options);
    rig.set_up(0, 0, 0).unwrap();
    for sequence in 1..=20 {
        // Asleep, so that the next ring is one that only a nap's end notices.
        let _ = rig.ring_only(sequence);
        eventually("a nap to end", || rig.record().sequence == sequence);
    }
}

#[test]
fn interrupts_come_only_when_armed_and_once() {
    let rig = Rig::new(SPIN);
    rig.set_up(0, 0, 0).unwrap();
    rig.run(1);
    // A register access is answered after the poll that completed, so nothing is still to come.
    rig.device.bar(0).unwrap().read64(0).unwrap();
    assert!(!readable(&rig.signals.interrupt, Duration::ZERO), "nobody asked for it");
    doorbell_queues::wait::arm_word(rig.signals.armed.as_ref().unwrap());
    rig.run(2);
    assert!(readable(&rig.signals.interrupt, Duration::from_secs(20)));
    rig.run(3);
    rig.device.bar(0).unwrap().read64(0).unwrap();
    let mut count = [0; 8];
    rustix::io::read(&rig.signals.interrupt, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1, "asking once gives one signal");
}

#[test]
fn an_interrupt_without_an_arm_word_always_comes_until_it_is_taken_away() {
    let rig = Rig::new(SPIN);
    rig.set_up(0, 0, 0).unwrap();
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let control = rig.bus.control();
    control.install_interrupt(1, Some(fd.try_clone().unwrap())).unwrap();
    rig.run(1);
    assert!(readable(&fd, Duration::from_secs(20)));
    rustix::io::read(&fd, &mut [0; 8]).unwrap();
    control.install_interrupt(1, None).unwrap();
    rig.run(2);
    rig.device.bar(0).unwrap().read64(0).unwrap();
    assert!(!readable(&fd, Duration::ZERO));
    assert!(control.install_interrupt(VECTORS, None).is_err());
}

#[test]
fn retired_signals_reach_nobody() {
    let rig = Rig::new(Duration::ZERO);
    rig.set_up(0, 0, 0).unwrap();
    rig.bus.retire_signals(1);
    doorbell_queues::wait::arm_word(rig.signals.armed.as_ref().unwrap());
    rig.device.bar(0).unwrap().write32(DOORBELL, 1).unwrap();
    eventually("the completion", || rig.record().sequence == 1);
    rig.device.bar(0).unwrap().read64(0).unwrap();
    assert!(!readable(&rig.signals.interrupt, Duration::ZERO), "the former holder is signalled");
    let memory = || {
        let words = rig.bus.signals(1).unwrap().words.unwrap();
        rustix::fs::fstat(words.memory.as_fd()).unwrap().st_ino
    };
    assert_eq!(memory(), memory(), "the new ones are kept");
}

/// A model that works only when its own descriptor or its own clock says so.
struct Backend {
    work: OwnedFd,
    /// In milliseconds from the last poll.
    tick: Option<u64>,
    polls: Arc<AtomicU64>,
}

impl SoftDevice for Backend {
    fn identity(&self) -> Identity {
        CopyEngine::default().identity()
    }
    fn regions(&self) -> Vec<Region> {
        vec![]
    }
    fn vectors(&self) -> u16 {
        0
    }
    fn read(&mut self, _: &mut SoftCx, _: u8, _: u64, _: Width) -> u64 {
        0
    }
    fn write(&mut self, _: &mut SoftCx, _: u8, _: u64, _: Width, _: u64) {}
    fn poll(&mut self, _: &mut SoftCx) -> Progress {
        self.polls.fetch_add(1, Ordering::Relaxed);
        match rustix::io::read(&self.work, &mut [0; 8]) {
            Ok(_) => Progress::Busy,
            Err(_) => Progress::Idle,
        }
    }
    fn idle(&self) -> Idle<'_> {
        let at = |tick| std::time::Instant::now() + Duration::from_millis(tick);
        Idle { fds: vec![self.work.as_fd()], until: self.tick.map(at) }
    }
    fn reset(&mut self, _: &mut SoftCx) {}
}

fn backend(tick: Option<u64>) -> (SoftBus, OwnedFd, Arc<AtomicU64>) {
    let work = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let polls = Arc::new(AtomicU64::new(0));
    let model = Backend { work: work.try_clone().unwrap(), tick, polls: Arc::clone(&polls) };
    let options = HarnessOptions { spin: Duration::ZERO, ..options() };
    (SoftBus::start(Box::new(model), options).unwrap(), work, polls)
}

#[test]
fn a_models_own_descriptor_wakes_it() {
    let (bus, work, _polls) = backend(None);
    for _ in 0..200 {
        rustix::io::write(&work, &1_u64.to_ne_bytes()).unwrap();
        eventually("the model to take its work", || !readable(&work, Duration::ZERO));
    }
    drop(bus);
}

#[test]
fn a_models_own_clock_wakes_it() {
    let (bus, _work, polls) = backend(Some(1));
    for more in 1..=5 {
        let before = polls.load(Ordering::Relaxed);
        eventually("the clock", || polls.load(Ordering::Relaxed) > before + more * 100);
    }
    drop(bus);
}
