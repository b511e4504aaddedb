//! The kernel's limits on DMA memory, in words.

use std::os::fd::BorrowedFd;

use super::uapi::{chain, container};

/// What `vfio_iommu_type1.dma_entry_limit` is if nobody changed it.
const ENTRIES: u32 = 65535;

/// Where the kernel says how many mappings a container takes.
const ENTRY_LIMIT: &str = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";

/// How many mappings a container still takes, where the kernel says so.
pub(super) fn mappings_left(container: BorrowedFd<'_>) -> Option<u32> {
    let (info, structure) = container::info(container).ok()?;
    chain::mappings_left(&structure, info.cap_offset)
}

/// The most mappings of a container.
fn most_mappings() -> u32 {
    let text = std::fs::read_to_string(ENTRY_LIMIT).ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(ENTRIES)
}

/// Why a mapping more was refused (`ENOSPC`).
pub(super) fn mappings(container: BorrowedFd<'_>) -> String {
    let left = mappings_left(container).map_or(String::new(), |left| format!(" ({left} left)"));
    format!(
        "the container takes {} mappings and they are used up{left}; use fewer and larger arenas, \
         or raise the module parameter vfio_iommu_type1.dma_entry_limit",
        most_mappings()
    )
}

/// Why memory could not be pinned (`ENOMEM`).
pub(super) fn memlock(len: u64) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    explain_memlock(len, limit, &status)
}

fn explain_memlock(len: u64, limit: Option<u64>, status: &str) -> String {
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    match limit {
        None => "the kernel is out of memory; locked memory is not limited (RLIMIT_MEMLOCK)".into(),
        Some(limit) => {
            let kib = limit / 1024;
            // iommufd counts a user's pages, and the container this process's.
            let used = field("VmLck:").unwrap_or(0).max(field("VmPin:").unwrap_or(0));
            let needed = used + len.div_ceil(1024);
            format!(
                "the limit on locked memory is {kib} KiB (RLIMIT_MEMLOCK), {used} KiB are in use \
                 and {needed} KiB are needed; raise it with `ulimit -l`, in limits.conf (memlock), \
                 or by LimitMEMLOCK= of the systemd unit"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_lockable_memory_is_explained_with_numbers() {
        let status = "Name:\tx\nVmLck:\t       0 kB\nVmPin:\t    2048 kB\n";
        let text = explain_memlock(4 << 20, Some(3 << 20), status);
        for part in ["3072 KiB", "2048 KiB", "6144 KiB", "RLIMIT_MEMLOCK", "LimitMEMLOCK="] {
            assert!(text.contains(part), "{text}");
        }
        assert!(explain_memlock(1, None, "").contains("not limited"));
        assert!(explain_memlock(1024, Some(0), "VmLck: x\n").contains("1 KiB are needed"));
    }
}
