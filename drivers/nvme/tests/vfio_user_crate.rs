//! The software controller over vfio-user, driven by a client that others wrote: the crate `vfio_user`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test program: helpers may fail as tests do"
)]

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use doorbell::dma::{HugePages, Memfd, Prefault, map_fd};
use doorbell::soft::HarnessOptions;
use doorbell::vfio_user::server::{Server, ServerOptions};
use doorbell_nvme::soft::SoftNvme;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::AsFd;

/// Eventfds for triggers (`VFIO_IRQ_SET_DATA_EVENTFD`, `VFIO_IRQ_SET_ACTION_TRIGGER`).
const EVENTFD_TRIGGER: u32 = 1 << 2 | 1 << 5;

#[test]
fn it_finds_and_drives_the_controller() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvme.sock");
    let device = SoftNvme::builder().ram(1 << 20).queues(2).build().unwrap();
    let harness = HarnessOptions { name: "soft:nvme".into(), ..HarnessOptions::default() };
    let options = ServerOptions::at(&path);
    let mut server = Server::bind(Box::new(device), harness, &options).unwrap();
    let stopper = server.stopper();
    let server = std::thread::spawn(move || server.run());
    for _ in 0..2 {
        drive(&path);
    }
    stopper.stop();
    server.join().unwrap().unwrap();
}

fn drive(path: &std::path::Path) {
    let mut client = vfio_user::Client::new(path).unwrap();
    // `Client::resettable` of this version says the opposite of the device's flag: it is not asked.
    let bar = client.region(0).unwrap();
    let sizes: Vec<u64> = (0..9).map(|index| client.region(index).map_or(0, |r| r.size)).collect();
    assert_eq!(sizes, [0x4000, 0, 0x2000, 0, 0, 0, 0, 4096, 0]);
    assert_eq!((bar.sparse_areas.len(), bar.sparse_areas[0].offset), (1, 0x1000));
    let fd = bar.file_offset.as_ref().unwrap().file().as_fd();
    let doorbells = map_fd(fd, 0x1000, 4096, Prefault::No).unwrap();

    let irqs = client.get_irq_info(2).unwrap();
    assert_eq!(irqs.count, 3);
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    client.set_irqs(2, EVENTFD_TRIGGER, 0, 1, &[event.as_raw_fd()]).unwrap();

    let memory = Memfd::create("guest", 1 << 20, HugePages::No).unwrap();
    client.dma_map(0, 0x10_0000, 1 << 20, memory.as_fd().as_raw_fd()).unwrap();
    let memory = memory.map(Prefault::No).unwrap();

    let mut id = [0; 4];
    client.region_read(7, 0, &mut id).unwrap();
    assert_eq!(id, [0x01, 0xdb, 0x01, 0x00]);
    client.region_write(7, 4, &[6, 0]).unwrap();
    client.reset().unwrap();
    client.region_write(0, 0x24, &0x001f_001f_u32.to_le_bytes()).unwrap();
    client.region_write(0, 0x28, &0x10_1000_u64.to_le_bytes()).unwrap();
    client.region_write(0, 0x30, &0x10_2000_u64.to_le_bytes()).unwrap();
    client.region_write(0, 0x14, &0x0046_0001_u32.to_le_bytes()).unwrap();
    let (mut status, until) = ([0; 4], Instant::now() + Duration::from_secs(30));
    while status[0] & 1 == 0 {
        assert!(Instant::now() < until, "the controller does not become ready");
        client.region_read(0, 0x1c, &mut status).unwrap();
    }
    // Identify Controller, and the doorbell by the mapped page.
    memory.write(0x1000, &[6_u8, 0, 9, 0]).unwrap();
    memory.write(0x1000 + 24, &0x10_4000_u64).unwrap();
    memory.write(0x1000 + 40, &1_u32).unwrap();
    doorbells.store_u32(0, 1, std::sync::atomic::Ordering::Release).unwrap();
    let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&limit)).unwrap(), 1);
    let cqe: [u16; 8] = memory.read(0x2000).unwrap();
    assert_eq!((cqe[6], cqe[7]), (9, 1), "its identifier; success and the phase");
    assert_eq!(memory.read::<u16>(0x4000).unwrap(), 0xdb01);
    client.dma_unmap(0x10_0000, 1 << 20).unwrap();
    client.shutdown().unwrap();
}
