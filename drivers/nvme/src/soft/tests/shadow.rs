//! Shadow doorbells, from the side of a host that keeps them by the letter of base 5.8 and annex B.5.

use super::*;
use crate::spec::identify::{IdentifyController, oacs};
use crate::spec::regs::Cap;

/// A host's part: where its pages are, and how often it wrote a register.
#[derive(Debug, Clone, Copy)]
struct Host {
    shadow: u64,
    event: u64,
    cap: Cap,
    written: u32,
    rung: u32,
}

fn builder() -> Builder {
    SoftNvme::builder().ram(1 << 20).dbbuf(true).queues(4)
}

fn config(shadow: u64, event: u64) -> Sqe {
    Sqe { prp1: shadow, prp2: event, ..Sqe::admin(AdminOpcode::DOORBELL_BUFFER_CONFIG) }
}

impl Host {
    fn new(bench: &mut Bench) -> Self {
        let (shadow, event) = (bench.alloc(4096), bench.alloc(4096));
        Self { shadow, event, cap: bench.dev.regs.cap, written: 0, rung: 0 }
    }

    fn configure(&self, bench: &mut Bench) {
        let cqe = bench.admin(config(self.shadow, self.event));
        assert_eq!(cqe.status(), Status::SUCCESS);
    }

    /// Moves a doorbell of `size` values, and writes its register if the move leaves EventIdx behind.
    fn move_to(&mut self, bench: &mut Bench, register: u64, value: u32, size: u32) {
        let at = register - offset::DOORBELLS;
        let old: u32 = bench.get_as(self.shadow + at);
        bench.put(self.shadow + at, &value.to_le_bytes());
        let event: u32 = bench.get_as(self.event + at);
        let steps = (value + size - old) % size;
        self.rung += 1;
        if (0..steps).any(|step| (old + step) % size == event) {
            self.written += 1;
            bench.ring_raw(register, value);
        }
    }

    fn submit(&mut self, bench: &mut Bench, pair: &mut Pair, sqe: Sqe) -> u16 {
        let cid = bench.push(pair, sqe);
        self.move_to(bench, self.cap.sq_doorbell(pair.qid), pair.tail, pair.entries);
        cid
    }

    fn pop(&mut self, bench: &mut Bench, pair: &mut Pair) -> Option<Cqe> {
        let cqe: Cqe = bench.get_as(pair.cq + u64::from(pair.head) * 16);
        if cqe.phase() != pair.phase {
            return None;
        }
        pair.head = (pair.head + 1) % pair.entries;
        pair.phase ^= pair.head == 0;
        self.move_to(bench, self.cap.cq_doorbell(pair.qid), pair.head, pair.entries);
        Some(cqe)
    }

    /// A flush from beginning to end, by a controller that polls.
    fn flush(&mut self, bench: &mut Bench, pair: &mut Pair) {
        let cid = self.submit(bench, pair, Sqe::io(IoOpcode::FLUSH, 1));
        bench.settle();
        let cqe = self.pop(bench, pair).expect("a completion");
        assert_eq!((cqe.cid, cqe.status()), (cid, Status::SUCCESS));
    }

    fn word(&self, bench: &mut Bench, page: u64, register: u64) -> u32 {
        bench.get_as(page + register - offset::DOORBELLS)
    }
}

/// A controller with shadow doorbells, and a queue pair of 16 made after the command.
fn shadowed() -> (Bench, Host, Pair) {
    let mut bench = Bench::new(builder());
    let host = Host::new(&mut bench);
    host.configure(&mut bench);
    let pair = bench.create_pair(1, 16);
    (bench, host, pair)
}

#[test]
fn it_is_offered_only_if_asked_for() {
    let offered = |builder| {
        let mut bench = Bench::new(builder);
        let page = bench.alloc(4096);
        let identify = Sqe { prp1: page, cdw10: 1, ..Sqe::admin(AdminOpcode::IDENTIFY) };
        assert_eq!(bench.admin(identify).status(), Status::SUCCESS);
        let id: IdentifyController = bench.get_as(page);
        id.oacs & oacs::DOORBELL_BUFFER != 0
    };
    assert!(offered(builder()));
    assert!(!offered(builder().dbbuf(false)));
}

#[test]
fn pages_that_cannot_be_are_refused_and_nothing_changes() {
    let mut bench = Bench::new(builder());
    let host = Host::new(&mut bench);
    let (good, event) = (host.shadow, host.event);
    for (sqe, status) in [
        (config(good + 8, event), Status::INVALID_FIELD.dnr()),
        (config(good, event + 2048), Status::INVALID_FIELD.dnr()),
        (config(UNMAPPED, event), Status::DATA_TRANSFER_ERROR),
        (config(good, UNMAPPED), Status::DATA_TRANSFER_ERROR),
        (config(BASE + MEMORY as u64 - 4096, BASE + MEMORY as u64), Status::DATA_TRANSFER_ERROR),
    ] {
        bench.admin_refuses(sqe, status);
    }
    assert!(bench.dev.shadow.is_none());
    let mut pair = bench.create_pair(1, 16);
    bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
}

#[test]
fn a_controller_that_polls_needs_no_register_write() {
    let (mut bench, mut host, mut pair) = shadowed();
    for _ in 0..500 {
        host.flush(&mut bench, &mut pair);
    }
    assert_eq!((host.rung, host.written), (1000, 0));
    // Neither a batch that fills the ring does.
    for _ in 0..20 {
        (0..15).for_each(|_| {
            host.submit(&mut bench, &mut pair, Sqe::io(IoOpcode::FLUSH, 1));
        });
        bench.settle();
        (0..15).for_each(|_| assert!(host.pop(&mut bench, &mut pair).is_some()));
    }
    assert!(host.written <= 20, "{} of {} rings", host.written, host.rung);
    // The admin queue has its registers, and its words are nobody's.
    assert_eq!(host.word(&mut bench, host.event, host.cap.sq_doorbell(0)), 0);
    assert_eq!(host.word(&mut bench, host.event, host.cap.cq_doorbell(0)), 0);
}

#[test]
fn before_it_sleeps_it_asks_for_one_register_write() {
    let (mut bench, mut host, mut pair) = shadowed();
    let tail = host.cap.sq_doorbell(1);
    for round in 0..100u32 {
        bench.dev.doze(&mut bench.cx);
        assert_eq!(host.word(&mut bench, host.event, tail), pair.tail, "round {round}");
        assert!(!bench.dev.serve(&mut bench.cx), "nothing to do");
        let before = host.written;
        host.submit(&mut bench, &mut pair, Sqe::io(IoOpcode::FLUSH, 1));
        assert_eq!(host.written, before + 1, "it must be woken");
        host.submit(&mut bench, &mut pair, Sqe::io(IoOpcode::FLUSH, 1));
        assert_eq!(host.written, before + 1, "and is awake");
        bench.settle();
        (0..2).for_each(|_| assert!(host.pop(&mut bench, &mut pair).is_some()));
    }
}

#[test]
fn a_full_completion_queue_goes_on_by_its_shadow_head() {
    let (mut bench, mut host, _) = shadowed();
    // A completion queue smaller than its submission queue.
    let (mut pair, small) = (bench.pair(2, 16), 4);
    let cq = Pair { entries: small, ..pair.clone() };
    assert_eq!(bench.admin(create_cq(&cq)).status(), Status::SUCCESS);
    assert_eq!(bench.admin(create_sq(&pair, 2)).status(), Status::SUCCESS);
    let (mut head, mut phase, mut seen) = (0, true, 0);
    for _ in 0..40 {
        (0..5).for_each(|_| {
            host.submit(&mut bench, &mut pair, Sqe::io(IoOpcode::FLUSH, 1));
        });
        for _ in 0..5 {
            bench.settle();
            let cqe: Cqe = bench.get_as(pair.cq + u64::from(head) * 16);
            assert_eq!(cqe.phase(), phase, "completion {seen}");
            (head, seen) = ((head + 1) % small, seen + 1);
            phase ^= head == 0;
            host.move_to(&mut bench, host.cap.cq_doorbell(2), head, small);
        }
    }
    assert_eq!(seen, 200);
}

#[test]
fn queues_that_exist_go_on_with_a_page_that_was_only_cleared() {
    let mut bench = Bench::new(builder());
    let mut pair = bench.create_pair(1, 16);
    (0..21).for_each(|_| bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1)));
    let mut host = Host::new(&mut bench);
    // The last ring before the command is not lost either.
    let cid = bench.push(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    bench.ring(&pair);
    host.configure(&mut bench);
    bench.settle();
    assert_eq!(host.pop(&mut bench, &mut pair).unwrap().cid, cid);
    for _ in 0..100 {
        host.flush(&mut bench, &mut pair);
    }
    assert_eq!(host.written, 0);
}

/// Linux (drivers/nvme/host/pci.c) keeps shadows from the creation of a queue on and sends the command
/// after it, never writes those of the admin queue, and compares in 16 bits.
#[test]
fn a_host_that_keeps_its_shadows_before_the_command() {
    let mut bench = Bench::new(builder());
    let host = Host::new(&mut bench);
    let mut pair = bench.create_pair(1, 5);
    let (tail, head) = (host.cap.sq_doorbell(1), host.cap.cq_doorbell(1));
    let (mut written, mut rung) = (0, 0);
    let mut ring = |bench: &mut Bench, register: u64, value: u32| {
        let at = register - offset::DOORBELLS;
        let old: u32 = bench.get_as(host.shadow + at);
        bench.put(host.shadow + at, &value.to_le_bytes());
        let event: u32 = bench.get_as(host.event + at);
        let (event, new, old) = (event as u16, value as u16, old as u16);
        rung += 1;
        if new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old) {
            written += 1;
            bench.ring_raw(register, value);
        }
    };
    for round in 0..2000u32 {
        if round == 1 {
            host.configure(&mut bench);
        }
        // It dozes now and then.
        if round % 7 == 0 {
            bench.dev.doze(&mut bench.cx);
        }
        let cid = bench.push(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
        ring(&mut bench, tail, pair.tail);
        bench.settle();
        let cqe: Cqe = bench.get_as(pair.cq + u64::from(pair.head) * 16);
        assert_eq!((cqe.phase(), cqe.cid), (pair.phase, cid), "round {round}");
        pair.head = (pair.head + 1) % pair.entries;
        pair.phase ^= pair.head == 0;
        ring(&mut bench, head, pair.head);
    }
    assert!(written <= 2 + 2000 / 7 + 1, "{written} of {rung}");
}

#[test]
fn a_reset_ends_it_and_the_command_brings_it_back() {
    let (mut bench, mut host, mut pair) = shadowed();
    host.flush(&mut bench, &mut pair);
    for round in 0..3 {
        bench.write32(offset::CC, CC.with_en(false).0);
        bench.settle();
        bench.mem.fill((bench.admin.cq - BASE) as usize, 4096, 0).unwrap();
        (bench.admin.tail, bench.admin.head, bench.admin.phase) = (0, 0, true);
        bench.enable(CC);
        // With registers alone, whatever the old pages hold.
        let mut plain = bench.create_pair(1, 16);
        bench.put(host.shadow, &pattern(round + 1, 4096));
        bench.succeeds(&mut plain, Sqe::io(IoOpcode::FLUSH, 1));
        for opcode in [AdminOpcode::DELETE_IO_SQ, AdminOpcode::DELETE_IO_CQ] {
            assert_eq!(bench.admin(delete(opcode, 1)).status(), Status::SUCCESS);
        }
        host = Host::new(&mut bench);
        host.configure(&mut bench);
        let mut pair = bench.create_pair(1, 16);
        (0..40).for_each(|_| host.flush(&mut bench, &mut pair));
        assert_eq!(host.written, 0);
    }
}

#[test]
fn a_second_command_moves_the_doorbells() {
    let (mut bench, mut host, mut pair) = shadowed();
    (0..5).for_each(|_| host.flush(&mut bench, &mut pair));
    let old = host;
    host = Host::new(&mut bench);
    host.configure(&mut bench);
    // What is written to the old page reaches nobody.
    bench.put(old.shadow, &pattern(3, 4096));
    bench.put(old.event, &pattern(4, 4096));
    (0..40).for_each(|_| host.flush(&mut bench, &mut pair));
    assert_eq!(bench.get(old.event, 4096), pattern(4, 4096));
}

#[test]
fn values_that_cannot_be_are_reported_as_a_registers_are() {
    for value in [16, 99, 0xffff, 0x1_0001, u32::MAX] {
        let (mut bench, mut host, mut pair) = shadowed();
        bench.submit_admin(Sqe::admin(AdminOpcode::ASYNC_EVENT_REQUEST));
        let at = host.cap.sq_doorbell(1) - offset::DOORBELLS;
        bench.put(host.shadow + at, &value.to_le_bytes());
        bench.settle();
        bench.dev.doze(&mut bench.cx);
        let event = crate::spec::AsyncEvent(bench.pop_admin().unwrap().dw0);
        assert_eq!(event.info(), crate::spec::event::error::INVALID_DOORBELL_VALUE);
        assert!(host.pop(&mut bench, &mut pair).is_none());
        // It goes on when the doorbell makes sense again.
        bench.put(host.shadow + at, &0u32.to_le_bytes());
        bench.settle();
        host.flush(&mut bench, &mut pair);
    }
}

/// What the host finds in EventIdx is the controller's, and the controller does not read it back.
#[test]
fn an_event_that_the_host_overwrites_is_written_anew() {
    let (mut bench, mut host, mut pair) = shadowed();
    for seed in 1..50 {
        bench.put(host.event, &pattern(seed, 4096));
        // Registers may be written too often or not at all; the controller polls.
        host.flush(&mut bench, &mut pair);
        bench.dev.doze(&mut bench.cx);
        let event = host.word(&mut bench, host.event, host.cap.sq_doorbell(1));
        assert_eq!(event, pair.tail);
    }
}

#[test]
fn a_page_that_is_unmapped_kills_the_queues_and_nothing_else() {
    let unmap = |bench: &mut Bench| {
        bench.cx.iommu_mut().unmap(PartitionId(0), BASE, MEMORY as u64).unwrap();
        let (before, rest) = (bench.mem.slice(0, 4 << 20), bench.mem.slice(0, 4 << 20));
        let _ = rest;
        let access = Access::ReadWrite;
        bench.cx.iommu_mut().map(PartitionId(0), BASE, before.unwrap(), access).unwrap();
    };
    for asleep in [false, true] {
        let mut bench = Bench::new(builder());
        let low = bench.next;
        bench.next = BASE + (8 << 20);
        let mut host = Host::new(&mut bench);
        bench.next = low;
        host.configure(&mut bench);
        let mut pair = bench.create_pair(1, 16);
        let mut other = bench.create_pair(2, 16);
        host.flush(&mut bench, &mut pair);
        host.flush(&mut bench, &mut other);
        bench.submit_admin(Sqe::admin(AdminOpcode::ASYNC_EVENT_REQUEST));
        unmap(&mut bench);
        let faults = bench.cx.iommu().fault_count();
        if asleep {
            bench.dev.doze(&mut bench.cx);
        }
        for _ in 0..1000 {
            bench.dev.serve(&mut bench.cx);
        }
        // Once for each queue's tail, and for heads that a scrub looks at.
        let faults = bench.cx.iommu().fault_count() - faults;
        assert!((2..=4).contains(&faults), "{faults} faults");
        let event = crate::spec::AsyncEvent(bench.pop_admin().unwrap().dw0);
        assert_eq!(event, super::super::events::QUEUE_LOST);
        assert!(bench.csts().rdy() && !bench.csts().cfs());
        for qid in [1, 2] {
            for opcode in [AdminOpcode::DELETE_IO_SQ, AdminOpcode::DELETE_IO_CQ] {
                assert_eq!(bench.admin(delete(opcode, qid)).status(), Status::SUCCESS);
            }
        }
        // A queue whose words cannot be reached is not made.
        let pair = bench.pair(1, 16);
        bench.admin_refuses(create_cq(&pair), Status::DATA_TRANSFER_ERROR);
        assert!(!bench.dev.queues.has_cq(1));
        let next = Host::new(&mut bench);
        next.configure(&mut bench);
        let mut next_pair = bench.create_pair(1, 16);
        host = next;
        host.flush(&mut bench, &mut next_pair);
    }
}

#[test]
fn garbage_in_both_pages_for_long_is_bounded() {
    let (mut bench, mut host, _) = shadowed();
    for seed in 1..200 {
        bench.put(host.shadow, &pattern(seed, 4096));
        bench.put(host.event, &pattern(seed + 1000, 4096));
        (0..20).for_each(|_| {
            bench.dev.serve(&mut bench.cx);
        });
        bench.dev.doze(&mut bench.cx);
    }
    assert!(bench.csts().rdy() && !bench.csts().cfs());
    while bench.pop_admin().is_some() {}
    for opcode in [AdminOpcode::DELETE_IO_SQ, AdminOpcode::DELETE_IO_CQ] {
        assert_eq!(bench.admin(delete(opcode, 1)).status(), Status::SUCCESS);
    }
    bench.put(host.shadow, &[0; 4096]);
    let mut pair = bench.create_pair(1, 16);
    host.flush(&mut bench, &mut pair);
}
