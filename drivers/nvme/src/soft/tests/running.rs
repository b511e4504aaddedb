//! The controller on its own thread, reached over the bus: sleeping, waking, resets.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use doorbell::bus::Bus;
use doorbell::bus::soft::SoftBus;
use doorbell::deadline::Deadline;
use doorbell::dma::{HugePages, Memfd, Prefault, map_fd};
use doorbell::queues::{Word, Word32};
use doorbell::soft::HarnessOptions;

use super::*;
use crate::spec::Cap;

/// A host on the other side of a bus; it has one I/O queue pair at fixed places.
struct Host {
    bus: SoftBus,
    mem: SharedMem,
    bar: SharedMem,
    cap: Cap,
    cid: u16,
    /// Not zero while the controller's thread sleeps.
    asleep: Word32,
}

const LIMIT: Duration = Duration::from_secs(20);
const ENTRIES: u32 = 16;
const ADMIN: (u64, u64) = (BASE, BASE + 0x1000);
const IO: (u64, u64) = (BASE + 0x2000, BASE + 0x3000);
const DATA: u64 = BASE + 0x4000;

impl Host {
    fn start(options: &[(&str, &str)]) -> Self {
        let options: Vec<_> =
            options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let device = crate::soft::build(&options).unwrap();
        // Nobody kicks here: the thread naps. It falls asleep soon, so that tests meet it asleep.
        let spin = Duration::from_micros(20);
        let harness = HarnessOptions { unkicked: true, spin, ..HarnessOptions::default() };
        let bus = SoftBus::start(device, harness).unwrap();
        let memfd = Memfd::create("host", 1 << 20, HugePages::No).unwrap();
        let mem = memfd.map(Prefault::No).unwrap();
        let access = Access::ReadWrite;
        bus.dma().map(PartitionId(0), BASE, &memfd, 0, 1 << 20, access).unwrap();
        let region = bus.regions()[0].clone();
        let doorbells = region.mappable[0].clone();
        let bar = bus.map(0, doorbells.start, doorbells.end - doorbells.start).unwrap();
        let cap = Cap(bus.read(0, 0, Width::B8).unwrap());
        let words = bus.signals(0).unwrap().words.unwrap();
        let page = map_fd(words.memory.as_fd(), 0, words.len as usize, Prefault::No).unwrap();
        let asleep = page.word32(words.asleep as usize).unwrap();
        Self { bus, mem, bar, cap, cid: 0, asleep }
    }

    fn read32(&self, at: u64) -> u32 {
        self.bus.read(0, at, Width::B4).unwrap() as u32
    }

    fn write(&self, at: u64, width: Width, value: u64) {
        self.bus.write(0, at, width, value).unwrap();
    }

    fn wait(&self, what: impl Fn(&Self) -> bool) {
        let until = Instant::now() + LIMIT;
        while !what(self) {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
    }

    fn queue(sq: u64, cq: u64, qid: u16) -> Pair {
        Pair { qid, sq, cq, entries: ENTRIES, tail: 0, head: 0, phase: true }
    }

    /// Enables the controller and creates the I/O queue pair.
    fn bring_up(&mut self) -> (Pair, Pair) {
        self.mem.fill(0, 0x4000, 0).unwrap();
        let mut admin = Self::queue(ADMIN.0, ADMIN.1, 0);
        let size = (ENTRIES - 1) as u16;
        self.write(offset::AQA, Width::B4, Aqa(0).with_asqs(size).with_acqs(size).0.into());
        self.write(offset::ASQ, Width::B8, ADMIN.0);
        self.write(offset::ACQ, Width::B8, ADMIN.1);
        self.write(offset::CC, Width::B4, CC.0.into());
        self.wait(|host| Csts(host.read32(offset::CSTS)).rdy());
        let io = Self::queue(IO.0, IO.1, 1);
        for sqe in [create_cq(&io), create_sq(&io, 1)] {
            assert_eq!(self.run(&mut admin, sqe).status(), Status::SUCCESS);
        }
        (admin, io)
    }

    fn submit(&mut self, pair: &mut Pair, sqe: Sqe) -> u16 {
        self.cid += 1;
        let at = (pair.sq - BASE) as usize + pair.tail as usize * 64;
        self.mem.write(at, &Sqe { cid: self.cid, ..sqe }).unwrap();
        pair.tail = (pair.tail + 1) % pair.entries;
        let doorbell = (self.cap.sq_doorbell(pair.qid) - offset::DOORBELLS) as usize;
        self.bar.store_u32(doorbell, pair.tail, Ordering::Release).unwrap();
        self.cid
    }

    fn pop(&self, pair: &mut Pair) -> Option<Cqe> {
        let at = (pair.cq - BASE) as usize + pair.head as usize * 16;
        let word = self.mem.load_u32(at + Cqe::PHASE_WORD, Ordering::Acquire).unwrap();
        if Cqe::word_phase(word) != pair.phase {
            return None;
        }
        pair.head = (pair.head + 1) % pair.entries;
        pair.phase ^= pair.head == 0;
        let doorbell = (self.cap.cq_doorbell(pair.qid) - offset::DOORBELLS) as usize;
        self.bar.store_u32(doorbell, pair.head, Ordering::Release).unwrap();
        Some(self.mem.read(at).unwrap())
    }

    fn run(&mut self, pair: &mut Pair, sqe: Sqe) -> Cqe {
        let cid = self.submit(pair, sqe);
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(cqe) = self.pop(pair) {
                assert_eq!((cqe.cid, cqe.sqid), (cid, pair.qid));
                return cqe;
            }
            assert!(Instant::now() < until, "{sqe:?}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn io_through_a_thread_that_sleeps_in_between() {
    let mut host = Host::start(&[("ram", "1M"), ("dstrd", "0")]);
    let (_, mut io) = host.bring_up();
    for round in 0..50u64 {
        if round % 10 == 0 {
            host.wait(|host| host.asleep.load(Ordering::Relaxed) != 0);
        }
        let data = pattern(round + 1, 4096);
        host.mem.copy_in((DATA - BASE) as usize, &data).unwrap();
        let lba = round * 8;
        assert_eq!(host.run(&mut io, rw(IoOpcode::WRITE, lba, 8, DATA)).status(), Status::SUCCESS);
        let read = rw(IoOpcode::READ, lba, 8, DATA + 4096);
        assert_eq!(host.run(&mut io, read).status(), Status::SUCCESS);
        let mut back = vec![0; 4096];
        host.mem.copy_out((DATA - BASE) as usize + 4096, &mut back).unwrap();
        assert!(back == data);
    }
}

#[test]
fn a_file_behind_a_thread_that_sleeps_until_the_kernel_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let data = pattern(4, 1 << 20);
    std::fs::write(&path, &data).unwrap();
    let path = path.to_string_lossy().into_owned();
    let mut host = Host::start(&[("image", &path)]);
    let (_, mut io) = host.bring_up();
    for page in 0..256u64 {
        let read = rw(IoOpcode::READ, page * 8, 8, DATA);
        assert_eq!(host.run(&mut io, read).status(), Status::SUCCESS);
        let mut back = vec![0; 4096];
        host.mem.copy_out((DATA - BASE) as usize, &mut back).unwrap();
        assert!(back == data[page as usize * 4096..][..4096]);
        if page % 16 == 0 {
            let flush = Sqe::io(IoOpcode::FLUSH, 1);
            assert_eq!(host.run(&mut io, flush).status(), Status::SUCCESS);
        }
    }
}

#[test]
fn resets_in_the_middle_of_io() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let path = path.to_string_lossy().into_owned();
    let mut host = Host::start(&[("image", &path), ("ram", "1M")]);
    for round in 0..20u64 {
        let (_, mut io) = host.bring_up();
        let data = pattern(round + 1, 4096);
        host.mem.copy_in((DATA - BASE) as usize, &data).unwrap();
        for page in 0..12 {
            host.submit(&mut io, rw(IoOpcode::WRITE, page * 8, 8, DATA));
        }
        if round % 2 == 0 {
            host.write(offset::CC, Width::B4, CC.with_en(false).0.into());
            host.wait(|host| !Csts(host.read32(offset::CSTS)).rdy());
        } else {
            host.bus.reset(Deadline::after(LIMIT)).unwrap();
        }
        // Not one completion, and not one byte, comes after a reset.
        let before = host.mem.load_u32((IO.1 - BASE) as usize + 12, Ordering::Acquire).unwrap();
        host.mem.fill((IO.1 - BASE) as usize, 0x1000, 0xee).unwrap();
        // Register reads are answered by the controller's thread, between two polls of its own.
        for _ in 0..100 {
            let _ = host.read32(offset::CSTS);
        }
        let mut after = vec![0; 0x1000];
        host.mem.copy_out((IO.1 - BASE) as usize, &mut after).unwrap();
        assert!(after.iter().all(|byte| *byte == 0xee), "{before:#x}");
    }
    let (_, mut io) = host.bring_up();
    assert_eq!(host.run(&mut io, Sqe::io(IoOpcode::FLUSH, 1)).status(), Status::SUCCESS);
}
