//! [`DmaBox`] as a buffer of tokio-uring: a file is read straight into DMA memory, and written from
//! it, without a copy between.
//!
//! ```no_run
//! # async fn example(dma: &doorbell::dma::Dma) -> Result<(), Box<dyn std::error::Error>> {
//! let file = tokio_uring::fs::File::open("data").await?;
//! let (read, buffer) = file.read_at(dma.alloc(4096)?, 0).await;
//! println!("{} bytes: {:02x?}", read?, &buffer[..16]);
//! # Ok(()) }
//! ```
//!
//! An operation owns its buffer until the kernel is done, even if its future is dropped; so no
//! command can name the buffer meanwhile, for commands own theirs as well.

use tokio_uring::buf::{IoBuf, IoBufMut};

use super::DmaBox;

// SAFETY:
// * the pointer is the mapping's, which the box keeps alive and which does not move with the box;
// * all bytes are initialised (the kernel zeroes them), so `bytes_init` may be the whole length.
unsafe impl IoBuf for DmaBox<[u8]> {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }

    fn bytes_total(&self) -> usize {
        self.len()
    }
}

// SAFETY:
// * as for `IoBuf`; the box is exclusive, so no reference or view of its bytes exists while the
//   runtime owns it and the kernel writes;
// * `set_init` has nothing to do: all bytes are initialised from the beginning.
unsafe impl IoBufMut for DmaBox<[u8]> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    unsafe fn set_init(&mut self, _pos: usize) {}
}
