//! The client's memory by its descriptors.

use rustix::io::Errno;

use super::*;
use crate::dma::{Prefault, map_fd};
use crate::soft::testing::{DOORBELL, Record, eventually};
use crate::vfio_user::message::DmaUnmap;
use doorbell_queues::SharedMem;

pub(super) const RECORD: u64 = 0x18;

/// Has the engine copy, and waits for its record, which lies at `record` of `memory`.
pub(super) fn copy(
    client: &mut Client,
    (from, to, len): (u64, u64, u64),
    (record_at, memory, record): (u64, &SharedMem, usize),
    sequence: u32,
) -> Record {
    for (register, value) in [(0, from), (8, to), (16, len), (RECORD, record_at)] {
        client.write64(register, value);
    }
    client.write(0, DOORBELL, &sequence.to_le_bytes()).unwrap();
    let word = || memory.load_u32(record + 12, std::sync::atomic::Ordering::Acquire).unwrap();
    eventually("the record", || word() == sequence);
    memory.read(record).unwrap()
}

#[test]
fn data_goes_through_maps_of_many_small_pieces() {
    let served = Served::new();
    let mut client = served.client();
    client.enable();
    let fd = memfd(64 << 12);
    let memory = map_fd(fd.as_fd(), 0, 64 << 12, Prefault::No).unwrap();
    // Page n of the file at an address where its neighbour is another one.
    let address = |page: u64| (page * 37 % 64) << 12;
    for page in 0..64 {
        let flags = DmaMap::READABLE | DmaMap::WRITEABLE;
        let (offset, address) = (page << 12, address(page));
        let map = DmaMap { argsz: 32, flags, offset, address, size: 4096 };
        client.ask(&Request::DmaMap(map), vec![fd.try_clone().unwrap()]).unwrap();
    }
    // Where the n-th page of the device's view lies in the file.
    let at = |n: usize| (0..64).find(|page| address(*page) == (n as u64) << 12).unwrap() << 12;
    for (n, byte) in (0..20).zip(1u8..) {
        memory.fill(at(n) as usize, 4096, byte).unwrap();
    }
    let record = (40 << 12, &memory, at(40) as usize);
    let done = copy(&mut client, (100, 20 << 12, 20 * 4096 - 100), record, 1);
    assert_eq!((done.copied, done.faulted), (20 * 4096 - 100, 0));
    for n in 0..19 {
        let first = memory.read::<u8>(at(20 + n) as usize).unwrap();
        let last = memory.read::<u8>(at(20 + n) as usize + 4095).unwrap();
        assert_eq!((first, last), (n as u8 + 1, n as u8 + 2), "page {n}");
    }
    // What is unmapped is out of reach, and its neighbours are not.
    let unmap = DmaUnmap { argsz: 24, flags: 0, address: 5 << 12, size: 4096 };
    let frame = client.ask(&Request::DmaUnmap(unmap), vec![]).unwrap();
    assert_eq!(DmaUnmap::decode(&frame.payload).unwrap(), unmap);
    let done = copy(&mut client, (4 << 12, 20 << 12, 3 * 4096), record, 2);
    assert_eq!(done.faulted, 1);
    let done = copy(&mut client, (6 << 12, 20 << 12, 3 * 4096), record, 3);
    assert_eq!(done.faulted, 0);
}

#[test]
fn without_bus_mastering_nothing_is_reached() {
    let served = Served::new();
    let mut client = served.client();
    let fd = memfd(1 << 16);
    let memory = map_fd(fd.as_fd(), 0, 1 << 16, Prefault::No).unwrap();
    client.map(0, 1 << 16, Some(fd)).unwrap();
    client.write64(RECORD, 0x1000);
    client.write(0, DOORBELL, &1_u32.to_le_bytes()).unwrap();
    client.read64(0);
    client.read64(0);
    assert_eq!(memory.read::<u64>(0x1008).unwrap(), 0);
    client.enable();
    let done = copy(&mut client, (0, 0x2000, 16), (0x1000, &memory, 0x1000), 2);
    assert_eq!((done.copied, done.faulted), (16, 0));
}

#[test]
fn an_unmap_takes_every_map_in_its_range() {
    let served = Served::new();
    let mut client = served.client();
    let fd = memfd(64 << 12);
    let memory = map_fd(fd.as_fd(), 0, 64 << 12, Prefault::No).unwrap();
    let map = |page: u64, file_page: u64| {
        let (address, offset) = (page << 12, file_page << 12);
        let map = DmaMap { argsz: 32, flags: 3, offset, address, size: 4096 };
        (Request::DmaMap(map), vec![fd.try_clone().unwrap()])
    };
    for page in 0..20 {
        let (request, fds) = map(page, page);
        client.ask(&request, fds).unwrap();
    }
    let (request, fds) = map(40, 40);
    client.ask(&request, fds).unwrap();
    // A guest that moves its device to another domain: everything below, however it was mapped.
    let unmap = DmaUnmap { argsz: 24, flags: 0, address: 0, size: 40 << 12 };
    let frame = client.ask(&Request::DmaUnmap(unmap), vec![]).unwrap();
    assert_eq!(DmaUnmap::decode(&frame.payload).unwrap(), unmap);
    assert_eq!(client.ask(&Request::DmaUnmap(unmap), vec![]).unwrap_err(), errno(Errno::NOENT));
    // The same addresses are other memory now.
    for page in 0..20 {
        let (request, fds) = map(page, 20 + page);
        client.ask(&request, fds).unwrap();
    }
    client.enable();
    memory.fill(20 << 12, 4096, 7).unwrap();
    memory.fill(0, 4096, 9).unwrap();
    let record = (40 << 12, &memory, 40 << 12);
    let done = copy(&mut client, (0, 1 << 12, 4096), record, 1);
    assert_eq!((done.copied, done.faulted), (4096, 0));
    assert_eq!(memory.read::<u8>(21 << 12).unwrap(), 7, "not what was mapped there before");
}

#[test]
fn what_cannot_be_mapped_is_refused_by_name() {
    let served = Served::new();
    let mut client = served.client();
    let fd = memfd(8 << 12);
    let map = |address, size, offset, flags, argsz| DmaMap { argsz, flags, offset, address, size };
    let (invalid, exists) = (errno(Errno::INVAL), errno(Errno::EXIST));
    client.map(0x10000, 0x4000, Some(fd.try_clone().unwrap())).unwrap();
    for (wanted, expected) in [
        (map(0x10000, 0x4000, 0, 3, 32), exists),
        (map(0xf000, 0x2000, 0, 3, 32), exists),
        (map(0x13000, 0x1000, 0, 3, 32), exists),
        (map(0x0, 0x1000, 0, 0, 32), invalid),
        (map(0x0, 0x1000, 0, 7, 32), invalid),
        (map(0x0, 0, 0, 3, 32), invalid),
        (map(0x800, 0x1000, 0, 3, 32), invalid),
        (map(0x0, 0x1800, 0, 3, 32), invalid),
        (map(0x0, 0x1000, 0x800, 3, 32), invalid),
        (map(u64::MAX - 4095, 0x1000, 0, 3, 32), invalid),
        (map(u64::MAX - 4095, 0x2000, 0, 3, 32), invalid),
        (map(0x0, 0x9000, 0, 3, 32), invalid),
        (map(0x0, 0x2000, 0x7000, 3, 32), invalid),
        (map(0x0, 0x1000, u64::MAX - 4095, 3, 32), invalid),
        (map(0x0, 0x1000, 0, 3, 31), invalid),
    ] {
        let fds = vec![fd.try_clone().unwrap()];
        let refused = client.ask(&Request::DmaMap(wanted), fds).unwrap_err();
        assert_eq!(refused, expected, "{wanted:?}");
    }
    let two = vec![fd.try_clone().unwrap(), fd.try_clone().unwrap()];
    let good = map(0x0, 0x1000, 0, 3, 32);
    assert_eq!(client.ask(&Request::DmaMap(good), two).unwrap_err(), invalid);
    let pipe = rustix::pipe::pipe().unwrap().0;
    assert_eq!(client.ask(&Request::DmaMap(good), vec![pipe]).unwrap_err(), invalid);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let reading = || std::fs::File::open(&path).unwrap().into();
    assert_eq!(
        client.ask(&Request::DmaMap(good), vec![reading()]).unwrap_err(),
        errno(Errno::ACCESS)
    );
    let read_only = map(0x0, 0x1000, 0, DmaMap::READABLE, 32);
    client.ask(&Request::DmaMap(read_only), vec![reading()]).unwrap();
    for (address, size, flags) in [
        (0x10000, 0x1000, 0),
        (0x11000, 0x3000, 0),
        (0x2000, 0x1000, 0),
        (0, 0x12000, 0),
        (0x12000, 0x10000, 0),
        (0x10000, 0, 0),
        (0x10000, 0x4000, 1),
        (0, 0, 2),
    ] {
        let unmap = DmaUnmap { argsz: 24, flags, address, size };
        let expected = if flags == 0 { errno(Errno::NOENT) } else { invalid };
        assert_eq!(client.ask(&Request::DmaUnmap(unmap), vec![]).unwrap_err(), expected);
    }
    client.map(0x20000, 0x8000, None).unwrap();
}

#[test]
fn memory_is_let_go_with_its_client() {
    let served = Served::new();
    let mut client = served.client();
    let fd = memfd(1 << 16);
    client.map(0, 1 << 16, Some(fd)).unwrap();
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("memfd:guest")).count()
    };
    // Other tests of this process may have memory of this name, too: nextest runs each in its own.
    assert!(mapped() > 0);
    drop(client);
    eventually("the memory to be unmapped", || mapped() == 0);
}

#[test]
fn a_file_that_shrinks_ends_its_client_and_nothing_else() {
    let served = Served::new();
    let mut client = served.client();
    client.enable();
    let fd = memfd(1 << 16);
    client.map(0, 1 << 16, Some(fd.try_clone().unwrap())).unwrap();
    rustix::fs::ftruncate(&fd, 0).unwrap();
    for (register, value) in [(0, 0), (8, 0x2000), (16, 64), (RECORD, 0x1000)] {
        client.write64(register, value);
    }
    client.write(0, DOORBELL, &1_u32.to_le_bytes()).unwrap();
    assert!(client.is_dismissed());
    served.end();
}
