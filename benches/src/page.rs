//! A page of the client's own, where data that was read arrives in the end.

use std::fmt;

/// 4 KiB, page-aligned: a copy between two pages runs at full speed, while one between addresses
/// that differ by a few bytes modulo 4096 takes twenty times as long on some processors.
#[repr(C, align(4096))]
pub struct Page([u8; 4096]);

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

impl Page {
    /// A page of zeroes.
    #[must_use]
    #[allow(clippy::new_ret_no_self, reason = "a page lies in memory of its own")]
    pub fn new() -> Box<Self> {
        Box::new(Self([0; 4096]))
    }

    /// Its bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, to write to.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// What a client does with data that has arrived: brings all of it to its own core.
    #[inline]
    pub fn take(&mut self, data: &[u8]) {
        for chunk in data.chunks(self.0.len()) {
            self.0[..chunk.len()].copy_from_slice(chunk);
            std::hint::black_box(&mut self.0);
        }
    }
}
