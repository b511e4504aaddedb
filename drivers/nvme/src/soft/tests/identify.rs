//! Identify.

use super::*;
use crate::soft::namespace::FORMATS;
use crate::spec::identify::text;
use crate::spec::identify_ns::{IdentifyNamespaceIndependent, nidt};
use crate::spec::{Cns, IdentifyController, IdentifyNamespace};

fn bench() -> Bench {
    Bench::new(SoftNvme::builder().ram(1 << 20).null(1 << 30).ram(512 * 9).serial("S1"))
}

fn identify(cns: Cns, nsid: u32, prp1: u64) -> Sqe {
    Sqe { nsid, prp1, cdw10: cns.0.into(), ..Sqe::admin(AdminOpcode::IDENTIFY) }
}

impl Bench {
    fn identify<T: Pod>(&mut self, cns: Cns, nsid: u32) -> T {
        let at = self.alloc(4096);
        assert_eq!(self.admin(identify(cns, nsid, at)).status(), Status::SUCCESS);
        self.get_as(at)
    }
}

#[test]
fn the_controller_describes_itself() {
    let mut bench = bench();
    let id: IdentifyController = bench.identify(Cns::CONTROLLER, 0);
    assert_eq!((id.ver, id.cntrltype, id.nn, id.mdts), (0x2_0000, 1, 3, 5));
    assert_eq!((id.sqes, id.cqes, id.sgls, id.fuses), (0x66, 0x44, 0, 0));
    assert_eq!(text(&id.sn), "S1");
    assert_eq!(text(&id.mn), crate::soft::MODEL);
    assert!(text(&id.subnqn).starts_with("nqn.2014-08.org.nvmexpress:uuid:"));
    assert_eq!(text(&id.subnqn).len(), 32 + 36);
    // No file, no volatile write cache; Flush of all namespaces is supported all the same.
    assert_eq!(id.vwc, 0b110);
}

#[test]
fn namespaces_describe_themselves() {
    let mut bench = bench();
    let id: IdentifyNamespace = bench.identify(Cns::NAMESPACE, 1);
    assert_eq!((id.nsze, id.ncap, id.nuse), (2048, 2048, 2048));
    assert_eq!((id.nlbaf, id.format_index(), id.format().lbads), (1, 0, FORMATS[0]));
    let id: IdentifyNamespace = bench.identify(Cns::NAMESPACE, 2);
    assert_eq!(id.nsze, 1 << 21);
    // Nine blocks of 512 bytes are no whole number of blocks of 4096 bytes.
    let id: IdentifyNamespace = bench.identify(Cns::NAMESPACE, 3);
    assert_eq!((id.nsze, id.nlbaf, id.lbaf[1].lbads), (9, 0, 0));
    let same: IdentifyNamespace = bench.identify(Cns::ALLOCATED_NAMESPACE, 3);
    assert_eq!(same, id);
    let id: IdentifyNamespaceIndependent = bench.identify(Cns::NAMESPACE_INDEPENDENT, 1);
    assert_eq!(id.nstat, 1);
    let specific: [u8; 4096] = bench.identify(Cns::NAMESPACE_CSI, 1);
    assert_eq!(specific, [0; 4096]);
}

#[test]
fn blocks_of_4096_bytes_and_write_protection_show() {
    let builder = SoftNvme::builder().ram(1 << 20).lba(4096).readonly(true);
    let mut bench = Bench::new(builder);
    let id: IdentifyNamespace = bench.identify(Cns::NAMESPACE, 1);
    assert_eq!((id.nsze, id.format().lbads, id.nsattr), (256, 12, 1));
}

#[test]
fn lists_of_namespaces() {
    let mut bench = bench();
    for cns in [Cns::ACTIVE_NAMESPACES, Cns::ALLOCATED_NAMESPACES, Cns::ACTIVE_NAMESPACES_CSI] {
        let list: [u32; 1024] = bench.identify(cns, 0);
        assert_eq!(list[..4], [1, 2, 3, 0]);
        let list: [u32; 1024] = bench.identify(cns, 1);
        assert_eq!(list[..3], [2, 3, 0]);
        let list: [u32; 1024] = bench.identify(cns, 0xffff_fffd);
        assert_eq!(list[0], 0);
        for nsid in [0xffff_fffe, 0xffff_ffff] {
            bench.admin_refuses(identify(cns, nsid, BASE), Status::INVALID_NAMESPACE.dnr());
        }
    }
}

#[test]
fn descriptors_are_unique_and_end() {
    let mut bench = bench();
    let first: [u8; 4096] = bench.identify(Cns::NAMESPACE_DESCRIPTORS, 1);
    let second: [u8; 4096] = bench.identify(Cns::NAMESPACE_DESCRIPTORS, 2);
    assert_ne!(first[4..20], second[4..20]);
    assert_eq!(first[..4], [nidt::NGUID, 16, 0, 0]);
    assert_eq!(first[20..24], [nidt::UUID, 16, 0, 0]);
    assert_eq!(first[40..46], [nidt::CSI, 1, 0, 0, 0, 0]);
    let id: IdentifyNamespace = bench.identify(Cns::NAMESPACE, 1);
    assert_eq!(id.nguid, first[4..20]);
}

#[test]
fn controllers_are_listed() {
    let mut bench = bench();
    let list: [u16; 2048] = bench.identify(Cns::CONTROLLERS, 0);
    assert_eq!(list[..3], [1, 1, 0]);
    let list: [u16; 2048] = bench.identify(Cns::ATTACHED_CONTROLLERS, 2);
    assert_eq!(list[..3], [1, 1, 0]);
    let at = bench.alloc(4096);
    let above = Sqe { cdw10: 2 << 16 | 0x13, prp1: at, ..Sqe::admin(AdminOpcode::IDENTIFY) };
    assert_eq!(bench.admin(above).status(), Status::SUCCESS);
    assert_eq!(bench.get_as::<u16>(at), 0);
}

#[test]
fn what_cannot_be_identified() {
    let mut bench = bench();
    let ns = Status::INVALID_NAMESPACE.dnr();
    for cns in [
        Cns::NAMESPACE,
        Cns::NAMESPACE_DESCRIPTORS,
        Cns::NAMESPACE_CSI,
        Cns::NAMESPACE_INDEPENDENT,
        Cns::ALLOCATED_NAMESPACE,
        Cns::ATTACHED_CONTROLLERS,
    ] {
        for nsid in [0, 4, 0xffff_fffe, 0xffff_ffff] {
            bench.admin_refuses(identify(cns, nsid, BASE), ns);
        }
    }
    for cns in [0x04, 0x09, 0x0f, 0x14, 0x15, 0x1c, 0x20, 0x80, 0xff] {
        bench.admin_refuses(identify(Cns(cns), 1, BASE), Status::INVALID_FIELD.dnr());
    }
    for cns in [Cns::NAMESPACE_CSI, Cns::CONTROLLER_CSI, Cns::ACTIVE_NAMESPACES_CSI] {
        let zoned = Sqe { cdw11: 2 << 24, ..identify(cns, 1, BASE) };
        bench.admin_refuses(zoned, Status::INVALID_FIELD.dnr());
    }
}

#[test]
fn the_data_may_begin_anywhere_in_a_page() {
    let mut bench = bench();
    let whole: [u8; 4096] = bench.identify(Cns::CONTROLLER, 0);
    let at = bench.alloc(3 * 4096);
    let split = Sqe { prp1: at + 0xa04, prp2: at + 0x2000, ..identify(Cns::CONTROLLER, 0, 0) };
    assert_eq!(bench.admin(split).status(), Status::SUCCESS);
    assert_eq!(bench.get(at + 0xa04, 0x5fc), whole[..0x5fc]);
    assert_eq!(bench.get(at + 0x2000, 4096 - 0x5fc), whole[0x5fc..]);
    assert_eq!(bench.get(at + 0x1000, 0x1000), vec![0; 0x1000]);
    for (prp1, prp2) in [(at + 2, at), (at + 0xa04, at + 0x2004)] {
        let bad = Sqe { prp1, prp2, ..identify(Cns::CONTROLLER, 0, 0) };
        bench.admin_refuses(bad, Status::INVALID_PRP_OFFSET.dnr());
    }
}
