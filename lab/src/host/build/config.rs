//! Whether a configuration has what was asked for.

/// Without these a kernel is of no use to the lab.
const NEEDED: [&str; 14] = [
    "CONFIG_IOMMUFD",
    "CONFIG_VFIO_DEVICE_CDEV",
    "CONFIG_VFIO_GROUP",
    "CONFIG_VFIO_IOMMU_TYPE1",
    "CONFIG_VFIO_PCI",
    "CONFIG_INTEL_IOMMU",
    "CONFIG_IRQ_REMAP",
    "CONFIG_IO_URING",
    "CONFIG_BLK_DEV_NVME",
    "CONFIG_VIRTIO_PCI",
    "CONFIG_NET_9P_VIRTIO",
    "CONFIG_9P_FS",
    "CONFIG_SERIAL_8250_CONSOLE",
    "CONFIG_DEVTMPFS_MOUNT",
];

/// The options of a fragment that the configuration does not have as it wants them, and those of them without which
/// nothing works.
pub(super) fn not_taken<'f>(fragment: &'f str, config: &str) -> (Vec<&'f str>, Vec<&'f str>) {
    let has = |wanted: &str| config.lines().any(|line| line == wanted);
    let taken = |wanted: &str| match wanted.strip_suffix("=n") {
        // An option that is off, or that this kernel does not have.
        Some(option) => !config.lines().any(|line| line.starts_with(&format!("{option}="))),
        None => has(wanted),
    };
    let options = fragment.lines().map(str::trim).filter(|line| line.starts_with("CONFIG_"));
    let without: Vec<_> = options.filter(|wanted| !taken(wanted)).collect();
    let needed =
        |wanted: &&&str| NEEDED.iter().any(|option| wanted.split('=').next() == Some(option));
    let fatal = without.iter().filter(needed).copied().collect();
    (without, fatal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_take_is_named_and_what_is_needed_is_fatal() {
        let fragment =
            "# text\nCONFIG_VFIO=y\nCONFIG_IOMMUFD=y\nCONFIG_SWAP=n\nCONFIG_VT=n\nCONFIG_OLD=y\n";
        let all = "CONFIG_VFIO=y\nCONFIG_IOMMUFD=y\n# CONFIG_SWAP is not set\n";
        assert_eq!(not_taken(fragment, all), (vec!["CONFIG_OLD=y"], vec![]));
        let few = "CONFIG_VFIO=m\nCONFIG_VT=y\n";
        let (without, fatal) = not_taken(fragment, few);
        assert_eq!(without, ["CONFIG_VFIO=y", "CONFIG_IOMMUFD=y", "CONFIG_VT=n", "CONFIG_OLD=y"]);
        assert_eq!(fatal, ["CONFIG_IOMMUFD=y"]);
    }

    #[test]
    fn the_projects_own_fragment_asks_for_all_that_is_needed() {
        let fragment = include_str!("../../../kernel.config-fragment");
        for option in NEEDED {
            assert!(fragment.lines().any(|line| line == format!("{option}=y")), "{option}");
        }
    }
}
