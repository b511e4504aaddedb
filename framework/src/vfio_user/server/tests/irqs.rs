//! Interrupts.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::dma::{RECORD, copy};
use super::*;
use crate::dma::{Prefault, map_fd};
use crate::soft::testing::{DOORBELL, VECTORS, readable};
use crate::vfio_user::message::{IrqAction, IrqData, IrqInfo, SetIrqs};

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn set(client: &mut Client, irqs: SetIrqs<'_>, fds: &[&OwnedFd]) -> Result<(), u32> {
    let fds = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
    client.ask(&Request::DeviceSetIrqs(irqs), fds).map(drop)
}

fn irqs(index: u32, start: u32, count: u32, data: IrqData<'_>) -> SetIrqs<'_> {
    SetIrqs { index, start, count, action: IrqAction::Trigger, data }
}

fn count(fd: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    match rustix::io::read(fd, &mut bytes) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => 0,
    }
}

#[test]
fn each_index_says_what_it_has() {
    let served = Served::new();
    let mut client = served.client();
    for (index, flags, count) in
        [(0, 0, 0), (1, 0, 0), (2, 9, u32::from(VECTORS)), (3, 9, 1), (4, 0, 0)]
    {
        let asked = IrqInfo { argsz: 16, index, ..IrqInfo::default() };
        let frame = client.ask(&Request::DeviceGetIrqInfo(asked), vec![]).unwrap();
        let info = IrqInfo::decode(&frame.payload).unwrap();
        assert_eq!(info, IrqInfo { argsz: 16, flags, index, count });
    }
    let asked = IrqInfo { argsz: 16, index: 5, ..IrqInfo::default() };
    let refused = client.ask(&Request::DeviceGetIrqInfo(asked), vec![]).unwrap_err();
    assert_eq!(refused, errno(Errno::INVAL));
}

#[test]
fn vectors_are_signalled_until_they_are_taken_away() {
    let served = Served::new();
    let mut client = served.client();
    client.enable();
    let fd = memfd(1 << 16);
    let memory = map_fd(fd.as_fd(), 0, 1 << 16, Prefault::No).unwrap();
    client.map(0, 1 << 16, Some(fd)).unwrap();
    let record = (0x1000, &memory, 0x1000);
    let events = [event(), event(), event()];
    let [first, second, third] = &events;
    set(&mut client, irqs(2, 0, 3, IrqData::Eventfd), &[first, second, third]).unwrap();
    copy(&mut client, (0, 0x2000, 16), record, 1);
    wait(second, PollFlags::IN);
    assert_eq!(events.each_ref().map(count), [0, 1, 0]);
    // Looped back by the client itself.
    set(&mut client, irqs(2, 0, 3, IrqData::Bool(&[1, 0, 1])), &[]).unwrap();
    assert_eq!(events.each_ref().map(count), [1, 0, 1]);
    set(&mut client, irqs(2, 2, 1, IrqData::None), &[]).unwrap();
    assert_eq!(events.each_ref().map(count), [0, 0, 1]);
    // One without a descriptor is taken away, then all.
    set(&mut client, irqs(2, 1, 1, IrqData::Eventfd), &[]).unwrap();
    copy(&mut client, (0, 0x2000, 16), record, 2);
    client.read64(RECORD);
    assert!(!readable(second, Duration::ZERO));
    set(&mut client, irqs(2, 1, 1, IrqData::Eventfd), &[second]).unwrap();
    copy(&mut client, (0, 0x2000, 16), record, 3);
    wait(second, PollFlags::IN);
    set(&mut client, irqs(2, 0, 0, IrqData::None), &[]).unwrap();
    set(&mut client, irqs(2, 0, 3, IrqData::Bool(&[1, 1, 1])), &[]).unwrap();
    assert_eq!(events.each_ref().map(count), [0, 1, 0], "only the one from before");
}

#[test]
fn what_an_index_cannot_do_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    let event = event();
    let one = [&event];
    let invalid = errno(Errno::INVAL);
    for (asked, fds) in [
        (irqs(2, 0, 4, IrqData::Eventfd), &one[..]),
        (irqs(2, 3, 1, IrqData::Eventfd), &one),
        (irqs(2, 0, 2, IrqData::Eventfd), &one),
        (irqs(2, 0, 0, IrqData::Eventfd), &one),
        (irqs(2, 0, 1, IrqData::None), &one),
        (irqs(2, u32::MAX, 0, IrqData::None), &[]),
        (irqs(0, 0, 1, IrqData::Eventfd), &one),
        (irqs(1, 0, 1, IrqData::Eventfd), &one),
        (irqs(4, 0, 1, IrqData::Eventfd), &one),
        (irqs(5, 0, 0, IrqData::None), &[]),
    ] {
        assert_eq!(set(&mut client, asked, fds).unwrap_err(), invalid, "{asked:?}");
    }
    for action in [IrqAction::Mask, IrqAction::Unmask] {
        let asked = SetIrqs { action, ..irqs(2, 0, 1, IrqData::None) };
        assert_eq!(set(&mut client, asked, &[]).unwrap_err(), invalid);
    }
    for index in 0..5 {
        set(&mut client, irqs(index, 0, 0, IrqData::None), &[]).unwrap();
    }
}

#[test]
fn an_eventfd_that_is_full_and_would_block_blocks_nobody() {
    let served = Served::new();
    let mut client = served.client();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    set(&mut client, irqs(2, 0, 1, IrqData::Eventfd), &[&event]).unwrap();
    for _ in 0..3 {
        set(&mut client, irqs(2, 0, 1, IrqData::None), &[]).unwrap();
    }
    assert_eq!(count(&event), u64::MAX - 1);
    set(&mut client, irqs(2, 0, 1, IrqData::None), &[]).unwrap();
    assert_eq!(count(&event), 1);
}

#[test]
fn a_device_that_fails_says_so() {
    let served = Served::new();
    let mut client = served.client();
    let event = event();
    set(&mut client, irqs(3, 0, 1, IrqData::Eventfd), &[&event]).unwrap();
    // A write to this register makes the model panic.
    client.write64(crate::soft::testing::RESETS, 1);
    let _ = client.read(0, DOORBELL, 4);
    assert!(client.is_dismissed() && count(&event) == 1);
}
