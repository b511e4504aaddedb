//! Conformance tests of the controller, from the host's side, in the host's thread.

mod admin;
mod doorbells;
mod features;
mod file;
mod format;
mod fuzz;
mod host;
mod identify;
mod inject;
mod io;
mod logs;
mod prp;
mod queues;
mod registers;
mod running;
mod shadow;

use std::time::{Duration, Instant};

use bytemuck::Pod;
use doorbell::bus::Width;
use doorbell::bus::proof::PartitionId;
use doorbell::dma::Access;
use doorbell::queues::SharedMem;
use doorbell::soft::{SoftCx, SoftDevice};

use super::{Builder, SoftNvme};
use crate::spec::command::{CreateCq11, CreateQueue10, CreateSq11};
use crate::spec::regs::offset;
use crate::spec::{AdminOpcode, Aqa, Cc, Cqe, Csts, IoOpcode, Sqe, Status};

/// Where host memory begins for the device.
const BASE: u64 = 0x10_0000_0000;
/// Bytes of host memory.
const MEMORY: usize = 16 << 20;
/// An address where nothing is mapped.
const UNMAPPED: u64 = 0x77_0000_0000;

/// A queue pair as a host keeps it.
#[derive(Debug, Clone)]
struct Pair {
    qid: u16,
    sq: u64,
    cq: u64,
    entries: u32,
    tail: u32,
    head: u32,
    phase: bool,
}

/// A host and a controller.
struct Bench {
    dev: SoftNvme,
    cx: SoftCx,
    mem: SharedMem,
    next: u64,
    cid: u16,
    admin: Pair,
}

/// CC for a host that follows the specification.
const CC: Cc = Cc(0x0046_0001);

impl Bench {
    /// A controller that was not touched yet.
    fn cold(builder: Builder) -> Self {
        let dev = builder.build().unwrap();
        let size = dev.regions()[0].size as usize;
        let bars = [Some(SharedMem::zeroed(size)), None, None, None, None, None];
        let mut cx = SoftCx::detached(bars, dev.vectors());
        let mem = SharedMem::zeroed(MEMORY);
        cx.iommu_mut().map(PartitionId(0), BASE, mem.clone(), Access::ReadWrite).unwrap();
        let admin = Pair { qid: 0, sq: 0, cq: 0, entries: 0, tail: 0, head: 0, phase: true };
        let mut bench = Self { dev, cx, mem, next: BASE, cid: 0, admin };
        bench.admin = bench.pair(0, 32);
        bench
    }

    /// A controller that runs.
    fn new(builder: Builder) -> Self {
        let mut bench = Self::cold(builder);
        bench.enable(CC);
        assert!(bench.csts().rdy());
        bench
    }

    /// A controller that runs with one namespace of 1 MiB of memory, and an I/O queue pair.
    fn with_io() -> (Self, Pair) {
        let mut bench = Self::new(SoftNvme::builder().ram(1 << 20));
        let pair = bench.create_pair(1, 16);
        (bench, pair)
    }

    fn read32(&mut self, at: u64) -> u32 {
        self.dev.read(&mut self.cx, 0, at, Width::B4) as u32
    }

    fn write32(&mut self, at: u64, value: u32) {
        self.dev.write(&mut self.cx, 0, at, Width::B4, value.into());
    }

    fn write64(&mut self, at: u64, value: u64) {
        self.dev.write(&mut self.cx, 0, at, Width::B8, value);
    }

    fn csts(&mut self) -> Csts {
        Csts(self.read32(offset::CSTS))
    }

    /// Programs the admin queues and writes CC.
    fn enable(&mut self, cc: Cc) {
        let size = self.admin.entries - 1;
        self.write32(offset::AQA, Aqa(0).with_asqs(size as u16).with_acqs(size as u16).0);
        self.write64(offset::ASQ, self.admin.sq);
        self.write64(offset::ACQ, self.admin.cq);
        self.write32(offset::CC, cc.0);
        self.settle();
    }

    /// Polls until nothing is due and no file operation is under way.
    fn settle(&mut self) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let busy = self.dev.serve(&mut self.cx);
            let waits = self.dev.jobs.ring().is_some_and(|ring| ring.inflight() > 0);
            if !busy && !waits {
                return;
            }
            assert!(Instant::now() < until, "the controller does not settle");
        }
    }

    /// Host memory of whole pages, zeroed.
    fn alloc(&mut self, len: usize) -> u64 {
        let at = self.next;
        self.next += len.next_multiple_of(4096) as u64;
        assert!(self.next <= BASE + MEMORY as u64, "host memory is used up");
        at
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.mem.copy_in((at - BASE) as usize, bytes).unwrap();
    }

    fn get(&mut self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.copy_out((at - BASE) as usize, &mut bytes).unwrap();
        bytes
    }

    fn get_as<T: Pod>(&mut self, at: u64) -> T {
        self.mem.read((at - BASE) as usize).unwrap()
    }

    fn pair(&mut self, qid: u16, entries: u32) -> Pair {
        let sq = self.alloc(entries as usize * 64);
        let cq = self.alloc(entries as usize * 16);
        Pair { qid, sq, cq, entries, tail: 0, head: 0, phase: true }
    }

    /// Creates an I/O queue pair of the same identifiers.
    fn create_pair(&mut self, qid: u16, entries: u32) -> Pair {
        let pair = self.pair(qid, entries);
        assert_eq!(self.admin(create_cq(&pair)).status(), Status::SUCCESS);
        assert_eq!(self.admin(create_sq(&pair, qid)).status(), Status::SUCCESS);
        pair
    }

    /// Puts an entry in the queue, without ringing.
    fn push(&mut self, pair: &mut Pair, mut sqe: Sqe) -> u16 {
        self.cid = self.cid.wrapping_add(1);
        sqe.cid = self.cid;
        self.put(pair.sq + u64::from(pair.tail) * 64, bytemuck::bytes_of(&sqe));
        pair.tail = (pair.tail + 1) % pair.entries;
        self.cid
    }

    fn bar(&self) -> SharedMem {
        self.cx.doorbells(0).unwrap().clone()
    }

    fn ring_raw(&mut self, at: u64, value: u32) {
        self.bar().store_u32(at as usize, value, std::sync::atomic::Ordering::Release).unwrap();
    }

    fn ring(&mut self, pair: &Pair) {
        self.ring_raw(self.dev.regs.cap.sq_doorbell(pair.qid), pair.tail);
    }

    /// The next completion, if there is one; its entry is given back at once.
    fn pop(&mut self, pair: &mut Pair) -> Option<Cqe> {
        let cqe: Cqe = self.get_as(pair.cq + u64::from(pair.head) * 16);
        if cqe.phase() != pair.phase {
            return None;
        }
        pair.head = (pair.head + 1) % pair.entries;
        pair.phase ^= pair.head == 0;
        self.ring_raw(self.dev.regs.cap.cq_doorbell(pair.qid), pair.head);
        Some(cqe)
    }

    /// One command from beginning to end.
    fn run(&mut self, pair: &mut Pair, sqe: Sqe) -> Cqe {
        let cid = self.push(pair, sqe);
        self.ring(pair);
        self.settle();
        let cqe = self.pop(pair).expect("a completion");
        assert_eq!((cqe.cid, cqe.sqid), (cid, pair.qid));
        assert_eq!(u32::from(cqe.sqhd), pair.tail);
        cqe
    }

    fn admin(&mut self, sqe: Sqe) -> Cqe {
        let mut admin = self.admin.clone();
        let cqe = self.run(&mut admin, sqe);
        self.admin = admin;
        cqe
    }

    /// Submits without waiting for a completion.
    fn submit(&mut self, pair: &mut Pair, sqe: Sqe) -> u16 {
        let cid = self.push(pair, sqe);
        self.ring(pair);
        self.settle();
        cid
    }

    fn submit_admin(&mut self, sqe: Sqe) -> u16 {
        let mut admin = self.admin.clone();
        let cid = self.submit(&mut admin, sqe);
        self.admin = admin;
        cid
    }

    fn pop_admin(&mut self) -> Option<Cqe> {
        let mut admin = self.admin.clone();
        let cqe = self.pop(&mut admin);
        self.admin = admin;
        cqe
    }

    /// Asserts that a command fails with exactly this status, and that the error log has it.
    #[track_caller]
    fn refuses(&mut self, pair: &mut Pair, sqe: Sqe, status: Status) {
        let errors = self.dev.errors.count;
        let cqe = self.run(pair, sqe);
        assert_eq!(cqe.status(), status.more(), "{sqe:x?}");
        assert_eq!(self.dev.errors.count, errors + 1);
        assert_eq!(self.dev.errors.page()[0].status_phase >> 1, status.more().0);
    }

    #[track_caller]
    fn admin_refuses(&mut self, sqe: Sqe, status: Status) {
        let mut admin = self.admin.clone();
        self.refuses(&mut admin, sqe, status);
        self.admin = admin;
    }

    #[track_caller]
    fn succeeds(&mut self, pair: &mut Pair, sqe: Sqe) {
        assert_eq!(self.run(pair, sqe).status(), Status::SUCCESS, "{sqe:x?}");
    }
}

fn create_cq(pair: &Pair) -> Sqe {
    Sqe {
        prp1: pair.cq,
        cdw10: CreateQueue10(0).with_qid(pair.qid).with_qsize((pair.entries - 1) as u16).0,
        cdw11: CreateCq11(0).with_pc(true).with_ien(true).with_iv(pair.qid).0,
        ..Sqe::admin(AdminOpcode::CREATE_IO_CQ)
    }
}

fn create_sq(pair: &Pair, cqid: u16) -> Sqe {
    Sqe {
        prp1: pair.sq,
        cdw10: CreateQueue10(0).with_qid(pair.qid).with_qsize((pair.entries - 1) as u16).0,
        cdw11: CreateSq11(0).with_pc(true).with_cqid(cqid).0,
        ..Sqe::admin(AdminOpcode::CREATE_IO_SQ)
    }
}

fn delete(opcode: AdminOpcode, qid: u16) -> Sqe {
    Sqe { cdw10: qid.into(), ..Sqe::admin(opcode) }
}

/// A command on `blocks` blocks from `lba`, with data at `prp1`.
fn rw(opcode: IoOpcode, lba: u64, blocks: u32, prp1: u64) -> Sqe {
    Sqe { prp1, cdw12: blocks - 1, ..Sqe::io(opcode, 1) }.with_cdw10_11(lba)
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| step()).collect()
}
