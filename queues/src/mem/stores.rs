//! How bytes get to memory, and hints to the cache: what Rust's atomics do not say.

use core::ptr::NonNull;

/// How the entries of a submission ring are stored: a property of the bus, because it depends on who
/// reads them.
///
/// A non-temporal store goes past the caches to memory. Hardware across PCIe that reads an entry by
/// DMA then need not snoop it out of a core's cache; a device that is a thread of another core has it
/// come from memory instead of from the writer's cache, which is slower. Which it is on a given machine
/// has to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EntryStores {
    /// Ordinary stores.
    #[default]
    Plain,
    /// `movnti`, eight bytes each, and a store fence before the doorbell. On processors other than
    /// x86-64 these are ordinary stores.
    NonTemporal,
}

/// Stores a word past the caches. Ordered before later stores by [`store_fence`] only.
///
/// # Safety
/// `at` is aligned and valid for a write, and all accesses to it tolerate races.
#[inline]
pub(super) unsafe fn stream(at: NonNull<u64>, value: u64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY:
    // * SSE2 is part of x86-64;
    // * `at` is as the caller promises, and one aligned word is stored whole;
    // * `store_fence` comes before the store that publishes the word.
    unsafe {
        core::arch::x86_64::_mm_stream_si64(at.as_ptr().cast(), value as i64);
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: as the caller promises.
    unsafe {
        core::sync::atomic::AtomicU64::from_ptr(at.as_ptr())
            .store(value, core::sync::atomic::Ordering::Relaxed);
    }
}

/// Everything that [`EntryStores::NonTemporal`] stored is visible before any store that follows. (A
/// release store alone does not order non-temporal stores on x86: Intel SDM volume 1, 10.4.6.2.)
#[inline]
pub(crate) fn store_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64.
    unsafe {
        core::arch::x86_64::_mm_sfence();
    }
    // Elsewhere the entries were ordinary stores, which the doorbell's release store orders.
}
