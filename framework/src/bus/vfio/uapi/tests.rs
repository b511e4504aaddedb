//! Structures against the generated bindings, and chains that lie.

use std::mem::{offset_of, size_of};

use iommufd_bindings::iommufd as iommu;
use vfio_bindings::bindings::vfio;

use super::types::{
    AttachIommufd, BindIommufd, DeviceInfo, DmaMap, DmaUnmap, FeatureHeader, GroupStatus,
    IoasAlloc, IoasIovaRanges, IoasMap, IoasMapFile, IoasUnmap, IovaRange, Irq, IrqInfo, IrqSet,
    RegionInfo, Type1Info, flag,
};
use super::{chain, variable};

#[test]
fn structures_have_the_kernels_sizes() {
    let pairs = [
        (size_of::<GroupStatus>(), size_of::<vfio::vfio_group_status>()),
        (size_of::<DeviceInfo>(), size_of::<vfio::vfio_device_info>()),
        (size_of::<RegionInfo>(), size_of::<vfio::vfio_region_info>()),
        (size_of::<IrqInfo>(), size_of::<vfio::vfio_irq_info>()),
        (size_of::<IrqSet>(), size_of::<vfio::vfio_irq_set>()),
        (size_of::<FeatureHeader>(), size_of::<vfio::vfio_device_feature>()),
        (size_of::<Type1Info>(), size_of::<vfio::vfio_iommu_type1_info>()),
        (size_of::<DmaMap>(), size_of::<vfio::vfio_iommu_type1_dma_map>()),
        (size_of::<DmaUnmap>(), size_of::<vfio::vfio_iommu_type1_dma_unmap>()),
        (size_of::<IoasAlloc>(), size_of::<iommu::iommu_ioas_alloc>()),
        (size_of::<IovaRange>(), size_of::<iommu::iommu_iova_range>()),
        (size_of::<IoasIovaRanges>(), size_of::<iommu::iommu_ioas_iova_ranges>()),
        (size_of::<IoasMap>(), size_of::<iommu::iommu_ioas_map>()),
        (size_of::<IoasMapFile>(), size_of::<iommu::iommu_ioas_map_file>()),
        (size_of::<IoasUnmap>(), size_of::<iommu::iommu_ioas_unmap>()),
    ];
    for (i, (ours, kernels)) in pairs.into_iter().enumerate() {
        assert_eq!(ours, kernels, "structure {i}");
    }
    // Not in the bindings yet: a header of 8 bytes, four words, and a range of two 64-bit words.
    assert_eq!(size_of::<super::types::DmaBufExport>(), 40);
    assert_eq!(size_of::<super::types::DmaBufMemoryAttribute>(), 8);
    // These grew, by a token and by a PASID; the sizes without them go on being taken.
    type Bind = vfio::vfio_device_bind_iommufd;
    assert_eq!(size_of::<BindIommufd>(), offset_of!(Bind, out_devid) + 4);
    type Attach = vfio::vfio_device_attach_iommufd_pt;
    assert_eq!(size_of::<AttachIommufd>(), offset_of!(Attach, pt_id) + 4);
}

#[test]
fn numbers_are_the_kernels() {
    use flag::*;
    let pairs = [
        (u64::from(GROUP_VIABLE), u64::from(vfio::VFIO_GROUP_FLAGS_VIABLE)),
        (u64::from(GROUP_CONTAINER_SET), u64::from(vfio::VFIO_GROUP_FLAGS_CONTAINER_SET)),
        (u64::from(DEVICE_RESET), u64::from(vfio::VFIO_DEVICE_FLAGS_RESET)),
        (u64::from(DEVICE_PCI), u64::from(vfio::VFIO_DEVICE_FLAGS_PCI)),
        (u64::from(REGION_READ), u64::from(vfio::VFIO_REGION_INFO_FLAG_READ)),
        (u64::from(REGION_WRITE), u64::from(vfio::VFIO_REGION_INFO_FLAG_WRITE)),
        (u64::from(REGION_MMAP), u64::from(vfio::VFIO_REGION_INFO_FLAG_MMAP)),
        (u64::from(REGION_CAPS), u64::from(vfio::VFIO_REGION_INFO_FLAG_CAPS)),
        (REGION_CAP_SPARSE_MMAP.into(), vfio::VFIO_REGION_INFO_CAP_SPARSE_MMAP.into()),
        (PCI_CONFIG_REGION.into(), vfio::VFIO_PCI_CONFIG_REGION_INDEX.into()),
        (u64::from(IRQ_EVENTFD), u64::from(vfio::VFIO_IRQ_INFO_EVENTFD)),
        (u64::from(IRQ_NORESIZE), u64::from(vfio::VFIO_IRQ_INFO_NORESIZE)),
        (u64::from(IRQ_SET_DATA_NONE), u64::from(vfio::VFIO_IRQ_SET_DATA_NONE)),
        (u64::from(IRQ_SET_DATA_EVENTFD), u64::from(vfio::VFIO_IRQ_SET_DATA_EVENTFD)),
        (u64::from(IRQ_SET_ACTION_TRIGGER), u64::from(vfio::VFIO_IRQ_SET_ACTION_TRIGGER)),
        (u64::from(FEATURE_GET), u64::from(vfio::VFIO_DEVICE_FEATURE_GET)),
        (u64::from(FEATURE_PROBE), u64::from(vfio::VFIO_DEVICE_FEATURE_PROBE)),
        (FEATURE_LOGGING_REPORT.into(), vfio::VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT.into()),
        (u64::from(IOMMU_INFO_CAPS), u64::from(vfio::VFIO_IOMMU_INFO_CAPS)),
        (IOMMU_CAP_IOVA_RANGE.into(), vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE.into()),
        (IOMMU_CAP_DMA_AVAIL.into(), vfio::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL.into()),
        (u64::from(DMA_MAP_READ), u64::from(vfio::VFIO_DMA_MAP_FLAG_READ)),
        (u64::from(DMA_MAP_WRITE), u64::from(vfio::VFIO_DMA_MAP_FLAG_WRITE)),
        (u64::from(DMA_UNMAP_ALL), u64::from(vfio::VFIO_DMA_UNMAP_FLAG_ALL)),
        (TYPE1V2_IOMMU as u64, vfio::VFIO_TYPE1v2_IOMMU.into()),
        (UNMAP_ALL_EXTENSION as u64, vfio::VFIO_UNMAP_ALL.into()),
        (API_VERSION as u64, vfio::VFIO_API_VERSION.into()),
        (u64::from(IOAS_MAP_FIXED), iommu::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA.into()),
        (
            u64::from(IOAS_MAP_WRITEABLE),
            iommu::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE.into(),
        ),
        (
            u64::from(IOAS_MAP_READABLE),
            iommu::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE.into(),
        ),
        (Irq::Msi as u64, vfio::VFIO_PCI_MSI_IRQ_INDEX.into()),
        (Irq::Msix as u64, vfio::VFIO_PCI_MSIX_IRQ_INDEX.into()),
        (Irq::Error as u64, vfio::VFIO_PCI_ERR_IRQ_INDEX.into()),
        (Irq::Request as u64, vfio::VFIO_PCI_REQ_IRQ_INDEX.into()),
    ];
    for (i, (ours, kernels)) in pairs.into_iter().enumerate() {
        assert_eq!(ours, kernels, "number {i}");
    }
}

/// A structure of 24 bytes with headers behind it: id, next, data.
fn structure(capabilities: &[(u16, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    for (id, next, data) in capabilities {
        bytes.extend(id.to_ne_bytes());
        bytes.extend(1u16.to_ne_bytes());
        bytes.extend(next.to_ne_bytes());
        bytes.extend_from_slice(data);
    }
    bytes
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[test]
fn ranges_are_found_behind_other_capabilities() {
    let mut body = words(&[2, 0, 0xfedf_ffff, 0xfef0_0000, u64::MAX]);
    body[4..8].fill(0xaa);
    let bytes = structure(&[(3, 36, &7u32.to_ne_bytes()), (1, 0, &body)]);
    let found = chain::iova_ranges(&bytes, 24).unwrap();
    assert_eq!(
        chain::half_open(&found),
        [0..0xfee0_0000, 0xfef0_0000..u64::MAX],
        "the last address of all is left out"
    );
    assert_eq!(chain::mappings_left(&bytes, 24), Some(7));
    let areas = chain::sparse_areas(&structure(&[(1, 0, &words(&[1, 0x1000, 0x1000]))]), 24);
    assert_eq!(areas, Some(vec![0x1000..0x2000]));
}

#[test]
fn chains_that_lie_end() {
    let body = words(&[u64::from(u32::MAX), 0, 0xfff]);
    // More ranges than there is room for: those that are there.
    assert_eq!(chain::iova_ranges(&structure(&[(1, 0, &body)]), 24).unwrap().len(), 1);
    for (bytes, first) in [
        (structure(&[(2, 24, &[])]), 24),
        (structure(&[(2, 32, &[]), (2, 24, &[])]), 24),
        (structure(&[(2, 1000, &[])]), 24),
        (structure(&[(2, u32::MAX, &[])]), 24),
        (structure(&[]), 24),
        (structure(&[]), 20),
        (structure(&[(1, 0, &[])]), 0),
        (Vec::new(), 24),
    ] {
        assert_eq!(chain::iova_ranges(&bytes, first).map(|ranges| ranges.len()), None);
        assert_eq!(chain::mappings_left(&bytes, first), None);
    }
    let wrapping = structure(&[(1, 0, &words(&[1, u64::MAX, 2]))]);
    assert_eq!(chain::sparse_areas(&wrapping, 24), Some(Vec::new()));
    let backwards = [IovaRange { start: 5, last: 3 }, IovaRange { start: 1, last: 1 }];
    assert_eq!(chain::half_open(&backwards), std::iter::once(1..2).collect::<Vec<_>>());
}

#[test]
fn a_descriptor_of_another_kind_is_an_error() {
    use std::os::fd::AsFd;
    let null = std::fs::File::open("/dev/null").unwrap();
    let head = RegionInfo::default();
    assert!(variable(null.as_fd(), super::call::DEVICE_GET_REGION_INFO, &head).is_err());
    assert!(super::device_info(null.as_fd()).is_err());
    assert!(super::iommufd::ranges(null.as_fd(), 1).is_err());
    let refused = super::feature(null.as_fd(), flag::FEATURE_LOGGING_REPORT, 0, &mut []);
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::Unsupported);
}
