//! What newer kernels add, and what is done without it.
//!
//! The table of the book's page on kernel support is made from this list, and a test compares them.

use std::fmt;

/// Something that a kernel may or may not have. Each is found out by trying it when a device is
/// opened, never by looking at the kernel's version: distributions leave parts out and bring others
/// back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// A container with an IOMMU of `type1v2`, through a group.
    Container,
    /// The container says which IOVA ranges it can map.
    ContainerRanges,
    /// The container says how many more mappings it takes.
    ContainerMappingsLeft,
    /// A container can drop all mappings in one call.
    ContainerUnmapAll,
    /// MSI-X vectors are allocated one by one, when they are first used.
    DynamicMsix,
    /// The device's own file, `/dev/vfio/devices/vfioN`, under an iommufd.
    Cdev,
    /// `IOMMU_IOAS_MAP_FILE`: an arena is mapped by its descriptor.
    MapFile,
    /// Parts of a BAR as a dma-buf (`VFIO_DEVICE_FEATURE_DMA_BUF`).
    DmaBuf,
    /// Another device's DMA reaches such a dma-buf, mapped into its I/O address space.
    PeerToPeer,
    /// Such a dma-buf can be mapped by a process, and revoked for good.
    DmaBufMmap,
}

impl Feature {
    /// All of them, oldest first.
    pub const ALL: [Self; 10] = [
        Self::Container,
        Self::ContainerRanges,
        Self::ContainerMappingsLeft,
        Self::ContainerUnmapAll,
        Self::DynamicMsix,
        Self::Cdev,
        Self::MapFile,
        Self::DmaBuf,
        Self::PeerToPeer,
        Self::DmaBufMmap,
    ];

    /// Its name, as `status` and the book use it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::ContainerRanges => "IOVA ranges",
            Self::ContainerMappingsLeft => "mappings left",
            Self::ContainerUnmapAll => "unmap all",
            Self::DynamicMsix => "dynamic MSI-X",
            Self::Cdev => "cdev",
            Self::MapFile => "map by file",
            Self::DmaBuf => "dma-buf slices",
            Self::PeerToPeer => "peer to peer",
            Self::DmaBufMmap => "revocable slices",
        }
    }

    /// The first Linux release that has it; `None`: no release has it yet.
    #[must_use]
    pub fn since(self) -> Option<&'static str> {
        match self {
            Self::Container => Some("3.16"),
            Self::ContainerRanges => Some("5.4"),
            Self::ContainerMappingsLeft => Some("5.10"),
            Self::ContainerUnmapAll => Some("5.12"),
            Self::DynamicMsix => Some("6.5"),
            Self::Cdev => Some("6.6"),
            Self::MapFile => Some("6.13"),
            Self::DmaBuf | Self::PeerToPeer => Some("6.19"),
            Self::DmaBufMmap => None,
        }
    }

    /// The kernel's build option behind it.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::Container
            | Self::ContainerRanges
            | Self::ContainerMappingsLeft
            | Self::ContainerUnmapAll => "CONFIG_VFIO_CONTAINER, CONFIG_VFIO_IOMMU_TYPE1",
            Self::DynamicMsix => "CONFIG_VFIO_PCI",
            Self::Cdev => "CONFIG_IOMMUFD, CONFIG_VFIO_DEVICE_CDEV",
            Self::MapFile => "CONFIG_IOMMUFD",
            Self::DmaBuf | Self::DmaBufMmap => "CONFIG_VFIO_PCI_DMABUF",
            Self::PeerToPeer => "CONFIG_VFIO_PCI_DMABUF, CONFIG_IOMMUFD",
        }
    }

    /// What it gives.
    #[must_use]
    pub fn gives(self) -> &'static str {
        match self {
            Self::Container => "the bus container",
            Self::ContainerRanges => "partitions only where the IOMMU can translate",
            Self::ContainerMappingsLeft => "the limit on mappings, in status and in errors",
            Self::ContainerUnmapAll => "the end of a device in one call",
            Self::DynamicMsix => "interrupt vectors are taken from the system only when used",
            Self::Cdev => "the bus cdev: an address space of its own, no group file",
            Self::MapFile => "no mapping of a client's memory in the broker",
            Self::DmaBuf => "parts of a BAR as a descriptor of their own",
            Self::PeerToPeer => "one device's DMA into another's BAR, on cdev",
            Self::DmaBufMmap => "tier paged: a client holds its part of a BAR only, until revoked",
        }
    }

    /// What is done where it is missing.
    #[must_use]
    pub fn otherwise(self) -> &'static str {
        match self {
            Self::Container => "the bus cdev, or the device cannot be opened",
            Self::ContainerRanges => "48 bits without the x86 MSI window are assumed",
            Self::ContainerMappingsLeft => "the kernel's default of 65535 is assumed",
            Self::ContainerUnmapAll => "mappings are dropped one by one",
            Self::DynamicMsix => "all vectors are allocated at once",
            Self::Cdev => "the bus container",
            Self::MapFile => "arenas are mapped into the broker, and from there for the device",
            Self::DmaBuf => "tier cooperative: the device's descriptor",
            Self::PeerToPeer => "peer-to-peer DMA is refused",
            Self::DmaBufMmap => "tier cooperative at best; more is refused",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as the book has it.
    fn table() -> String {
        let head = "| feature | since Linux | build options | what it gives | without it |\n\
                    |---|---|---|---|---|\n";
        let row = |feature: Feature| {
            let since = feature.since().unwrap_or("none yet");
            let options = feature.option().replace(", ", "`, `");
            let (gives, otherwise) = (feature.gives(), feature.otherwise());
            format!("| {feature} | {since} | `{options}` | {gives} | {otherwise} |\n")
        };
        head.to_owned() + &Feature::ALL.map(row).concat()
    }

    #[test]
    fn the_books_table_is_this_list() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../book/src/reference/kernel-support.md");
        let page = std::fs::read_to_string(page).unwrap();
        let table = table();
        assert!(page.contains(&table), "kernel-support.md must have this table:\n\n{table}");
    }
}
