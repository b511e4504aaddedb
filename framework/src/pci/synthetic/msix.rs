//! The MSI-X table and PBA as memory that a host reads and writes.

use super::layout::{ENTRY, MsixLayout};

/// Offset of the vector control word in an entry; its bit 0 masks the vector.
const VECTOR_CONTROL: usize = 12;

/// The table of a device whose interrupts are eventfds: it keeps what the host writes, and nothing
/// is sent to the addresses in it. No interrupt is ever held back, so the PBA reads zero.
#[derive(Debug, Clone)]
pub struct MsixTable {
    layout: MsixLayout,
    bytes: Vec<u8>,
}

impl MsixTable {
    /// A table as after power-on: every vector is masked (PCIe base 5.0, 7.7.2.5).
    #[must_use]
    pub fn new(layout: &MsixLayout) -> Self {
        // At most 2048 entries.
        let mut table = Self { layout: *layout, bytes: vec![0; layout.table_len() as usize] };
        table.reset();
        table
    }

    /// As after power-on.
    pub fn reset(&mut self) {
        self.bytes.fill(0);
        for entry in self.bytes.chunks_exact_mut(ENTRY as usize) {
            if let Some(control) = entry.get_mut(VECTOR_CONTROL) {
                *control = 1;
            }
        }
    }

    /// True if `offset` of BAR `bar` is behind the device's own registers: in the table, in the PBA,
    /// or in what fills their pages.
    #[must_use]
    pub fn holds(&self, bar: u8, offset: u64) -> bool {
        bar == self.layout.bar && offset >= self.layout.table
    }

    /// Reads bytes of the BAR; what is neither table nor PBA reads zero.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        for (at, byte) in (offset..=u64::MAX).zip(into) {
            *byte = self.place(at).and_then(|at| self.bytes.get(at)).copied().unwrap_or(0);
        }
    }

    /// Writes bytes of the BAR; what is not in the table does not change. Of a vector control word
    /// only the mask bit can be written.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..=u64::MAX).zip(data) {
            let Some(at) = self.place(at) else { continue };
            let writable = match at % ENTRY as usize {
                // The two low bits of a message address are zero.
                0 => 0xfc,
                VECTOR_CONTROL => 1,
                13.. => 0,
                _ => 0xff,
            };
            if let Some(place) = self.bytes.get_mut(at) {
                *place = byte & writable;
            }
        }
    }

    fn place(&self, at: u64) -> Option<usize> {
        usize::try_from(at.checked_sub(self.layout.table)?).ok()
    }
}
