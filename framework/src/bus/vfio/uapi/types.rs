//! The kernel's structures, flags and numbers (`linux/vfio.h`, `linux/iommufd.h`), as far as they
//! are used here. Tests compare them with the generated bindings.

use bytemuck::{Pod, Zeroable};

/// `struct vfio_group_status`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct GroupStatus {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
}

/// `struct vfio_device_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct DeviceInfo {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) num_regions: u32,
    pub(crate) num_irqs: u32,
    pub(crate) cap_offset: u32,
    pub(crate) pad: u32,
}

/// `struct vfio_region_info`, without the capabilities behind it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct RegionInfo {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) index: u32,
    pub(crate) cap_offset: u32,
    pub(crate) size: u64,
    pub(crate) offset: u64,
}

/// `struct vfio_irq_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct IrqInfo {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) index: u32,
    pub(crate) count: u32,
}

/// `struct vfio_irq_set`, without the data behind it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct IrqSet {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) index: u32,
    pub(crate) start: u32,
    pub(crate) count: u32,
}

/// `struct vfio_device_feature`, without the data behind it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct FeatureHeader {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
}

/// `struct vfio_device_bind_iommufd` as Linux 6.6 knows it; later kernels have more behind it and
/// take this size too.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct BindIommufd {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) iommufd: i32,
    pub(crate) out_devid: u32,
}

/// `struct vfio_device_attach_iommufd_pt` as Linux 6.6 knows it; later kernels have a PASID behind
/// it and take this size too.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct AttachIommufd {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) pt_id: u32,
}

/// `struct vfio_device_feature` with a `struct vfio_device_feature_dma_buf` of one range behind it (Linux
/// 6.19).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct DmaBufExport {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) region_index: u32,
    pub(crate) open_flags: u32,
    pub(crate) dma_buf_flags: u32,
    pub(crate) nr_ranges: u32,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The data of the memory attribute's feature, as it was proposed.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct DmaBufMemoryAttribute {
    pub(crate) dmabuf_fd: i32,
    pub(crate) memattr: u32,
}

/// `struct vfio_iommu_type1_info`, without the capabilities behind it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Type1Info {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) iova_pgsizes: u64,
    pub(crate) cap_offset: u32,
    pub(crate) pad: u32,
}

/// `struct vfio_iommu_type1_dma_map`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct DmaMap {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) vaddr: u64,
    pub(crate) iova: u64,
    pub(crate) size: u64,
}

/// `struct vfio_iommu_type1_dma_unmap`, without the bitmap that may follow.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct DmaUnmap {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) iova: u64,
    pub(crate) size: u64,
}

/// `struct iommu_ioas_alloc`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct IoasAlloc {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) out_ioas_id: u32,
}

/// `struct iommu_iova_range`: both ends belong to it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct IovaRange {
    pub(crate) start: u64,
    pub(crate) last: u64,
}

/// `struct iommu_ioas_iova_ranges`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct IoasIovaRanges {
    pub(crate) size: u32,
    pub(crate) ioas_id: u32,
    pub(crate) num_iovas: u32,
    pub(crate) reserved: u32,
    pub(crate) allowed_iovas: u64,
    pub(crate) out_iova_alignment: u64,
}

/// `struct iommu_ioas_map`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct IoasMap {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) ioas_id: u32,
    pub(crate) reserved: u32,
    pub(crate) user_va: u64,
    pub(crate) length: u64,
    pub(crate) iova: u64,
}

/// `struct iommu_ioas_map_file`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct IoasMapFile {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) ioas_id: u32,
    pub(crate) fd: i32,
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) iova: u64,
}

/// `struct iommu_ioas_unmap`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct IoasUnmap {
    pub(crate) size: u32,
    pub(crate) ioas_id: u32,
    pub(crate) iova: u64,
    pub(crate) length: u64,
}

/// Numbers and flags.
pub(crate) mod flag {
    pub(crate) const API_VERSION: i32 = 0;
    pub(crate) const TYPE1V2_IOMMU: usize = 3;
    /// `VFIO_UNMAP_ALL`: a container can unmap everything in one call (5.12).
    pub(crate) const UNMAP_ALL_EXTENSION: usize = 9;

    pub(crate) const GROUP_VIABLE: u32 = 1 << 0;
    pub(crate) const GROUP_CONTAINER_SET: u32 = 1 << 1;

    pub(crate) const DEVICE_RESET: u32 = 1 << 0;
    pub(crate) const DEVICE_PCI: u32 = 1 << 1;

    pub(crate) const REGION_READ: u32 = 1 << 0;
    pub(crate) const REGION_WRITE: u32 = 1 << 1;
    pub(crate) const REGION_MMAP: u32 = 1 << 2;
    pub(crate) const REGION_CAPS: u32 = 1 << 3;
    pub(crate) const REGION_CAP_SPARSE_MMAP: u16 = 1;

    pub(crate) const PCI_CONFIG_REGION: u32 = 7;

    pub(crate) const IRQ_EVENTFD: u32 = 1 << 0;
    pub(crate) const IRQ_NORESIZE: u32 = 1 << 3;
    pub(crate) const IRQ_SET_DATA_NONE: u32 = 1 << 0;
    pub(crate) const IRQ_SET_DATA_EVENTFD: u32 = 1 << 2;
    pub(crate) const IRQ_SET_ACTION_TRIGGER: u32 = 1 << 5;

    pub(crate) const FEATURE_GET: u32 = 1 << 16;
    pub(crate) const FEATURE_SET: u32 = 1 << 17;
    pub(crate) const FEATURE_PROBE: u32 = 1 << 18;
    /// `VFIO_DEVICE_FEATURE_DMA_BUF`.
    pub(crate) const FEATURE_DMA_BUF: u16 = 11;
    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT`: the one feature with an address that the kernel
    /// writes to.
    pub(crate) const FEATURE_LOGGING_REPORT: u16 = 8;

    pub(crate) const IOMMU_INFO_CAPS: u32 = 1 << 1;
    pub(crate) const IOMMU_CAP_IOVA_RANGE: u16 = 1;
    pub(crate) const IOMMU_CAP_DMA_AVAIL: u16 = 3;

    pub(crate) const DMA_MAP_READ: u32 = 1 << 0;
    pub(crate) const DMA_MAP_WRITE: u32 = 1 << 1;
    pub(crate) const DMA_UNMAP_ALL: u32 = 1 << 1;

    pub(crate) const IOAS_MAP_FIXED: u32 = 1 << 0;
    pub(crate) const IOAS_MAP_WRITEABLE: u32 = 1 << 1;
    pub(crate) const IOAS_MAP_READABLE: u32 = 1 << 2;
}

/// The interrupts of a PCI device (`VFIO_PCI_*_IRQ_INDEX`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Irq {
    Msi = 1,
    Msix = 2,
    Error = 3,
    Request = 4,
}
