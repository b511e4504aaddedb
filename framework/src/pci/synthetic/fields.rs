//! Config space as bytes, each with the bits of it that can be written.

use crate::pci::layout::EXTENDED_CONFIG_SIZE as SIZE;

/// Values and write masks, little-endian.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    value: Box<[u8]>,
    writable: Box<[u8]>,
}

impl Default for Fields {
    fn default() -> Self {
        Self { value: vec![0; SIZE].into(), writable: vec![0; SIZE].into() }
    }
}

/// The range of an access, if it is inside.
fn range(offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(len)?;
    (end <= SIZE).then_some(start..end)
}

impl Fields {
    pub(super) fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.value.get(range(offset, len)?)
    }

    /// Changes the bits that can be written.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Option<()> {
        let range = range(offset, data.len())?;
        let values = self.value.get_mut(range.clone())?;
        let masks = self.writable.get(range)?;
        for ((value, mask), new) in values.iter_mut().zip(masks).zip(data) {
            *value = *value & !mask | new & mask;
        }
        Some(())
    }

    pub(super) fn u16(&self, at: u16) -> u16 {
        let bytes = self.bytes(at.into(), 2).and_then(|bytes| bytes.try_into().ok());
        u16::from_le_bytes(bytes.unwrap_or_default())
    }

    fn put(into: &mut [u8], at: u16, bytes: &[u8]) {
        let range = range(at.into(), bytes.len());
        if let Some(place) = range.and_then(|range| into.get_mut(range)) {
            place.copy_from_slice(bytes);
        }
    }

    pub(super) fn set_u8(&mut self, at: u16, value: u8) {
        Self::put(&mut self.value, at, &[value]);
    }

    pub(super) fn set_u16(&mut self, at: u16, value: u16) {
        Self::put(&mut self.value, at, &value.to_le_bytes());
    }

    pub(super) fn set_u32(&mut self, at: u16, value: u32) {
        Self::put(&mut self.value, at, &value.to_le_bytes());
    }

    pub(super) fn writable_u8(&mut self, at: u16, mask: u8) {
        Self::put(&mut self.writable, at, &[mask]);
    }

    pub(super) fn writable_u16(&mut self, at: u16, mask: u16) {
        Self::put(&mut self.writable, at, &mask.to_le_bytes());
    }

    pub(super) fn writable_u32(&mut self, at: u16, mask: u32) {
        Self::put(&mut self.writable, at, &mask.to_le_bytes());
    }
}
