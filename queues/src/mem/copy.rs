//! Copies from and to memory that others may write meanwhile.
//!
//! A data race on plain loads and stores is undefined behaviour in Rust, while a torn copy by
//! atomics or in assembly is merely a torn copy.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Up to this many bytes, aligned values are copied as words: starting `rep movsb` takes longer.
const WORDS_UP_TO: usize = 128;

#[inline]
fn small(at: NonNull<u8>, len: usize) -> bool {
    len <= WORDS_UP_TO && len.is_multiple_of(8) && (at.as_ptr() as usize).is_multiple_of(8)
}

/// Copies shared memory into `to`.
///
/// # Safety
/// `from` must be readable for `to.len()` bytes, and only accessed by means that tolerate races.
#[inline]
pub(super) unsafe fn copy_out(from: NonNull<u8>, to: &mut [u8]) {
    if small(from, to.len()) {
        for (i, word) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // SAFETY: aligned (just checked) and inside the range, for `to` has that many words.
            let at = unsafe { AtomicU64::from_ptr(from.cast::<u64>().add(i).as_ptr()) };
            *word = at.load(Ordering::Relaxed).to_ne_bytes();
        }
        return;
    }
    // SAFETY: `from` is readable (caller); `to` is exclusive memory.
    unsafe { copy_bytes(from.as_ptr(), to.as_mut_ptr(), to.len()) }
}

/// Copies `from` into shared memory.
///
/// # Safety
/// `to` must be writable for `from.len()` bytes, and only accessed by means that tolerate races.
#[inline]
pub(super) unsafe fn copy_in(from: &[u8], to: NonNull<u8>) {
    if small(to, from.len()) {
        for (i, word) in from.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: aligned (just checked) and inside the range, for `from` has that many words.
            let at = unsafe { AtomicU64::from_ptr(to.cast::<u64>().add(i).as_ptr()) };
            at.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        return;
    }
    // SAFETY: `to` is writable (caller); `from` is memory of the caller.
    unsafe { copy_bytes(from.as_ptr(), to.as_ptr(), from.len()) }
}

/// Copies bytes between ranges that others may write meanwhile.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(super) unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY:
    // * the ranges are valid for `len` bytes (caller);
    // * the direction flag is clear by the ABI; only rcx, rsi, rdi and memory are touched.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Portable form of the above: bytes as relaxed atomics.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
pub(super) unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: usize) {
    for i in 0..len {
        // SAFETY: `i < len`; the byte is only accessed atomically or is the caller's own.
        let byte = unsafe { AtomicU8::from_ptr(from.add(i).cast_mut()) }.load(Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { AtomicU8::from_ptr(to.add(i)) }.store(byte, Ordering::Relaxed);
    }
}

/// Fills bytes of a range that others may access meanwhile.
///
/// # Safety
/// `to` must be writable for `len` bytes.
pub(super) unsafe fn fill_bytes(to: *mut u8, byte: u8, len: usize) {
    let wide = u64::from_ne_bytes([byte; 8]);
    let mut i = 0;
    while i < len {
        // SAFETY: `i < len`.
        let at = unsafe { to.add(i) };
        if (at as usize).is_multiple_of(8) && len - i >= 8 {
            // SAFETY: aligned, and 8 bytes are left.
            unsafe { AtomicU64::from_ptr(at.cast()) }.store(wide, Ordering::Relaxed);
            i += 8;
        } else {
            // SAFETY: one byte is left.
            unsafe { AtomicU8::from_ptr(at) }.store(byte, Ordering::Relaxed);
            i += 1;
        }
    }
}
