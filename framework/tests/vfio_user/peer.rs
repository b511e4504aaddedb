//! The server of the crate `vfio_user`, which others use, behind our bus.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use doorbell::bus::proof::PartitionId;
use doorbell::bus::vfio_user::VfioUserBus;
use doorbell::bus::{Bus, PartitionQuiesced, Width};
use doorbell::deadline::Deadline;
use doorbell::dma::{Access, HugePages, Memfd, Prefault};
use vfio_bindings::bindings::vfio::{vfio_region_info, vfio_region_sparse_mmap_area};
use vfio_user::{
    DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion, SparseArea,
};

use crate::server::{AREA, BAR_SIZE, Model};

/// What the server was told.
#[derive(Default)]
struct Told {
    maps: Vec<(u64, u64, u64, Option<File>)>,
    unmaps: Vec<(u64, u64)>,
    irqs: Vec<(u32, Vec<File>)>,
    resets: usize,
}

struct Backend {
    config: Vec<u8>,
    bar: Vec<u8>,
    told: Arc<Mutex<Told>>,
}

impl Backend {
    fn part(&mut self, region: u32, offset: u64, len: usize) -> std::io::Result<&mut [u8]> {
        let space = if region == 7 { &mut self.config } else { &mut self.bar };
        let at = offset as usize;
        space.get_mut(at..at + len).ok_or_else(|| std::io::ErrorKind::InvalidInput.into())
    }
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> std::io::Result<()> {
        data.copy_from_slice(self.part(region, offset, data.len())?);
        Ok(())
    }
    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.part(region, offset, data.len())?.copy_from_slice(data);
        Ok(())
    }
    fn dma_map(
        &mut self,
        _flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> std::io::Result<()> {
        self.told.lock().unwrap().maps.push((offset, address, size, fd));
        Ok(())
    }
    fn dma_unmap(&mut self, _: DmaUnmapFlags, address: u64, size: u64) -> std::io::Result<()> {
        self.told.lock().unwrap().unmaps.push((address, size));
        Ok(())
    }
    fn reset(&mut self) -> std::io::Result<()> {
        self.told.lock().unwrap().resets += 1;
        Ok(())
    }
    fn set_irqs(
        &mut self,
        index: u32,
        _flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> std::io::Result<()> {
        assert_eq!((index, fds.len()), (2, count as usize));
        self.told.lock().unwrap().irqs.push((start, fds));
        Ok(())
    }
}

fn regions(bar: &OwnedFd) -> Vec<ServerRegion> {
    let region = |index: u32| {
        let (flags, size) = match index {
            0 => (7, BAR_SIZE),
            7 => (3, 256),
            _ => (0, 0),
        };
        let info = vfio_region_info { argsz: 32, flags, index, size, ..Default::default() };
        let area = vfio_region_sparse_mmap_area { offset: AREA.start, size: AREA.end - AREA.start };
        let is_bar = index == 0;
        ServerRegion {
            region_info: info,
            sparse_areas: is_bar.then_some(SparseArea { area }).into_iter().collect(),
            mmap_fd: is_bar.then(|| bar.as_raw_fd()),
        }
    };
    (0..9).map(region).collect()
}

#[test]
fn the_server_of_another_project_is_driven() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let memory = Memfd::create("bar", BAR_SIZE as usize, HugePages::No).unwrap();
    let bar = memory.as_fd().try_clone_to_owned().unwrap();
    let irq = |index| IrqInfo { index, flags: 1, count: if index == 2 { 3 } else { 0 } };
    let server = Server::new(&path, true, (0..5).map(irq).collect(), regions(&bar)).unwrap();
    let told = Arc::new(Mutex::new(Told::default()));
    let mut backend = Backend {
        config: Model::default().config,
        bar: vec![0; BAR_SIZE as usize],
        told: Arc::clone(&told),
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(move || server.run(&mut backend).unwrap());
        let bus = VfioUserBus::open_spec(&path).unwrap();
        assert_eq!((bus.identity().vendor, bus.vectors()), (0x1234, 3));
        assert_eq!(bus.regions()[0].mappable, [AREA]);
        bus.write(0, 0x10, Width::B4, 0xfeed).unwrap();
        assert_eq!(bus.read(0, 0x10, Width::B4).unwrap(), 0xfeed);
        assert!(bus.read(0, BAR_SIZE, Width::B4).is_err());
        bus.map(0, 0x1000, 8).unwrap().write(0, &77_u32).unwrap();
        assert_eq!(memory.map(Prefault::No).unwrap().read::<u32>(0x1000).unwrap(), 77);

        let arena = Memfd::create("arena", 0x4000, HugePages::No).unwrap();
        let id = PartitionId(1);
        let mapping = bus.dma().map(id, 0x1_0000, &arena, 0x1000, 0x2000, Access::ReadWrite);
        let proof = PartitionQuiesced::of(id, &std::collections::BTreeSet::new(), Vec::new());
        let unmapped = bus.dma().unmap(mapping.unwrap(), &proof.unwrap()).unwrap();
        assert_eq!(unmapped.into_range(), (0x1_0000, 0x2000));
        bus.reset(Deadline::after(std::time::Duration::from_secs(20))).unwrap();

        let told = told.lock().unwrap();
        let (offset, address, size, fd) = &told.maps[0];
        assert_eq!((*offset, *address, *size, fd.is_some()), (0x1000, 0x1_0000, 0x2000, true));
        assert_eq!((&told.unmaps[..], told.resets), (&[(0x1_0000, 0x2000)][..], 1));
        let raised = rustix::io::write(&told.irqs[0].1[0], &1u64.to_ne_bytes());
        assert_eq!(raised, Ok(8));
        let first = bus.signals(0).unwrap().interrupt;
        // The reset gave the same eventfds again.
        assert!(rustix::io::read(&first, &mut [0; 8]).is_ok());
        drop(bus);
        server.join().unwrap();
    });
}
