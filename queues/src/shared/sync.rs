//! The atomics of this mode: the machine's, or loom's in a model.

use core::ops::Deref;

#[cfg(not(loom))]
pub(super) use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize};
#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize};

pub(super) use core::sync::atomic::Ordering;

/// A value on cache lines of its own: two, because x86 fetches them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

impl<T> Deref for Padded<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}
