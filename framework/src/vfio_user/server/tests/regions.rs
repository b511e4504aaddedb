//! What the device says of itself, config space, registers, resets.

use rustix::io::Errno;

use super::*;
use crate::soft::testing::{DOORBELL, RESETS};
use crate::vfio_user::message::{
    DeviceInfo, RegionCapability, RegionInfo, RegionInfoReply, SmallWrite, SparseArea, WriteMulti,
};

fn region(client: &mut Client, index: u32, argsz: u32) -> Result<Frame, u32> {
    let asked = RegionInfo { argsz, index, ..RegionInfo::default() };
    client.ask(&Request::DeviceGetRegionInfo(asked), vec![])
}

#[test]
fn the_device_says_what_it_has() {
    let served = Served::new();
    let mut client = served.client();
    let asked = DeviceInfo { argsz: 16, ..DeviceInfo::default() };
    let frame = client.ask(&Request::DeviceGetInfo(asked), vec![]).unwrap();
    let info = DeviceInfo::decode(&frame.payload).unwrap();
    assert_eq!(info, DeviceInfo { argsz: 16, flags: 3, regions: 9, irqs: 5 });
    let asked = DeviceInfo { argsz: 15, ..DeviceInfo::default() };
    assert!(client.ask(&Request::DeviceGetInfo(asked), vec![]).is_err());
    for (index, size) in [(0, 0x4000), (1, 0), (2, 0x2000), (3, 0), (6, 0), (7, 4096), (8, 0)] {
        let frame = region(&mut client, index, 256).unwrap();
        let reply = RegionInfoReply::decode(&frame.payload).unwrap();
        assert_eq!((reply.info.index, reply.info.size), (index, size), "region {index}");
        assert_eq!(frame.fds.len(), usize::from(index == 0), "region {index}");
        let access = RegionInfo::READ | RegionInfo::WRITE;
        assert_eq!(reply.info.flags & access, if size > 0 { access } else { 0 });
    }
    for index in [9, 100, u32::MAX] {
        assert_eq!(region(&mut client, index, 256).unwrap_err(), errno(Errno::INVAL));
    }
    assert_eq!(region(&mut client, 0, 31).unwrap_err(), errno(Errno::INVAL));
}

#[test]
fn an_answer_is_never_longer_than_the_client_takes() {
    let served = Served::new();
    let mut client = served.client();
    for argsz in [32, 33, 63] {
        let frame = region(&mut client, 0, argsz).unwrap();
        assert_eq!((frame.payload.len(), frame.fds.len()), (32, 1), "with {argsz}");
        let info = RegionInfo::decode(&frame.payload).unwrap();
        assert_eq!((info.argsz, info.cap_offset, info.flags), (64, 32, 0xf));
    }
    let frame = region(&mut client, 0, 64).unwrap();
    assert_eq!((frame.payload.len(), frame.fds.len()), (64, 1));
    let reply = RegionInfoReply::decode(&frame.payload).unwrap();
    let area = SparseArea { offset: 0x1000, size: 0x3000 };
    assert_eq!(reply.capabilities, [RegionCapability::SparseMmap(vec![area])]);
}

#[test]
fn config_space_and_the_msix_table_are_read_and_written() {
    let served = Served::new();
    let mut client = served.client();
    assert_eq!(client.read(7, 0, 4).unwrap(), [0x34, 0x12, 0xe8, 0x11]);
    assert_eq!(client.read(7, 0, 4096).unwrap().len(), 4096);
    assert_eq!(client.read(7, 0x3d, 3).unwrap(), [0, 0, 0], "no pin, at any width");
    client.write(7, 0x10, &[0xff; 4]).unwrap();
    assert_eq!(client.read(7, 0x10, 4).unwrap(), [4, 0xc0, 0xff, 0xff]);
    assert_eq!(client.read(7, 0x88, 8).unwrap(), [2, 0, 0, 0, 2, 0x10, 0, 0]);
    assert_eq!(client.read(2, 12, 4).unwrap(), [1, 0, 0, 0], "masked after power-on");
    client.write(2, 0, &[0x10, 0x20, 0x30, 0xfe, 0, 0, 0, 0, 0x41, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(client.read(2, 0, 4).unwrap(), [0x10, 0x20, 0x30, 0xfe]);
    assert_eq!(client.read(2, 0x1000, 8).unwrap(), [0; 8], "the PBA");
    assert_eq!(client.read(2, 0x1ff0, 16).unwrap(), [0; 16]);
    for (region, offset, count) in [
        (7, 4096, 1),
        (7, 4090, 8),
        (0, 0x4000, 1),
        (0, u64::MAX, 1),
        (0, u64::MAX - 3, 8),
        (2, 0x1fff, 2),
        (1, 0, 4),
        (6, 0, 4),
        (9, 0, 4),
        (0, 0, 0),
        (0, 0, (1 << 20) + 1),
    ] {
        assert_eq!(client.read(region, offset, count).unwrap_err(), errno(Errno::INVAL));
        if (1..100).contains(&count) {
            let data = vec![0; count as usize];
            assert_eq!(client.write(region, offset, &data).unwrap_err(), errno(Errno::INVAL));
        }
    }
}

#[test]
fn registers_are_reached_at_every_width_and_in_order() {
    let served = Served::new();
    let mut client = served.client();
    client.write64(0, 0x1122_3344_5566_7788);
    assert_eq!(client.read(0, 0, 16).unwrap()[..8], 0x1122_3344_5566_7788_u64.to_le_bytes());
    client.write(0, DOORBELL + 0x100, &[1, 2, 3, 4, 5, 6, 7]).unwrap();
    assert_eq!(client.read(0, DOORBELL + 0xff, 9).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 0]);
    for value in 0..200 {
        client.write64(8, value);
        assert_eq!(client.read64(8), value, "a read comes after the write before it");
    }
}

#[test]
fn the_mapped_page_and_messages_reach_the_same_bytes() {
    let served = Served::new();
    let mut client = served.client();
    let fd = region(&mut client, 0, 64).unwrap().fds.remove(0);
    let page = crate::dma::map_fd(fd.as_fd(), 0x2000, 4096, crate::dma::Prefault::No).unwrap();
    page.write(0, &0x0102_0304_u32).unwrap();
    assert_eq!(client.read(0, 0x2000, 4).unwrap(), [4, 3, 2, 1]);
    client.write(0, 0x2004, &[9, 8, 7, 6]).unwrap();
    client.read64(0);
    assert_eq!(page.read::<[u8; 4]>(4).unwrap(), [9, 8, 7, 6]);
}

#[test]
fn both_resets_really_reset() {
    let served = Served::new();
    let mut client = served.client();
    let before = client.read64(RESETS);
    client.write(0, 0x2000, &[1; 8]).unwrap();
    client.write64(8, 77);
    client.enable();
    client.ask(&Request::DeviceReset, vec![]).unwrap();
    assert_eq!(client.read64(RESETS), before + 1);
    assert_eq!((client.read64(8), client.read(0, 0x2000, 8).unwrap()), (0, vec![0; 8]));
    assert_eq!(client.read(7, 4, 1).unwrap(), [6], "config space stays, as VFIO has it");
    client.write64(8, 78);
    client.write(7, 0x50, &[0x10, 0xa8]).unwrap();
    assert_eq!(client.read64(RESETS), before + 2);
    assert_eq!(client.read64(8), 0);
    assert_eq!(client.read(7, 4, 1).unwrap(), [0], "as after power-on");
}

#[test]
fn in_d3hot_only_config_space_answers() {
    let served = Served::new();
    let mut client = served.client();
    client.write64(8, 5);
    client.write(7, 0x44, &[3]).unwrap();
    assert_eq!(client.read64(8), u64::MAX);
    client.write64(8, 6);
    client.write(7, 0x44, &[0]).unwrap();
    assert_eq!(client.read64(8), 5);
}

#[test]
fn what_wants_no_answer_gets_none() {
    let served = Served::new();
    let mut client = served.client();
    let write = |offset, data| Request::RegionWrite(RegionData { offset, region: 0, data });
    client.send(write(8, &[42, 0, 0, 0, 0, 0, 0, 0]).message(1, true), vec![]);
    client.send(write(0x99999, &[1]).message(2, true), vec![]);
    assert_eq!(client.read64(8), 42, "the next answer is that of the read");
    let small = |offset, value: u64| SmallWrite::new(0, offset, &value.to_le_bytes()).unwrap();
    let writes = WriteMulti { writes: vec![small(0, 1), small(8, 2), small(16, 3)] };
    let frame = client.ask(&Request::RegionWriteMulti(writes), vec![]).unwrap();
    assert_eq!(frame.payload, 3_u64.to_ne_bytes());
    assert_eq!((client.read64(0), client.read64(8), client.read64(16)), (1, 2, 3));
}
