//! [`Bar`]: registers of a device, as its driver reads and writes them.

use std::fmt;
use std::sync::Arc;

use super::{Bus, BusError, Width};

/// One BAR's registers. Every access is a single access of its width and goes through the bus, so
/// it is slow: for bring-up and control, never for the data path.
#[derive(Clone)]
pub struct Bar {
    bus: Arc<dyn Bus>,
    index: u8,
    size: u64,
}

impl fmt::Debug for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = &self.bus.identity().name;
        write!(f, "Bar({device}, {}, {:#x} bytes)", self.index, self.size)
    }
}

impl Bar {
    pub(super) fn new(bus: Arc<dyn Bus>, index: u8, size: u64) -> Self {
        Self { bus, index, size }
    }

    /// BAR number.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The device's name.
    #[must_use]
    pub fn device(&self) -> Arc<str> {
        Arc::clone(&self.bus.identity().name)
    }

    /// One read of `width` at `offset`.
    ///
    /// # Errors
    /// [`BusError::OutOfRegion`], [`BusError::Gone`], [`BusError::TimedOut`].
    pub fn read(&self, offset: u64, width: Width) -> Result<u64, BusError> {
        self.bus.read(self.index, offset, width)
    }

    /// One write of `width` at `offset`.
    ///
    /// # Errors
    /// As [`Bar::read`].
    pub fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), BusError> {
        self.bus.write(self.index, offset, width, value)
    }

    /// One 32-bit read.
    ///
    /// # Errors
    /// As [`Bar::read`].
    pub fn read32(&self, offset: u64) -> Result<u32, BusError> {
        // The bus returns no more than the width.
        self.read(offset, Width::B4).map(|value| value as u32)
    }

    /// One 32-bit write.
    ///
    /// # Errors
    /// As [`Bar::read`].
    pub fn write32(&self, offset: u64, value: u32) -> Result<(), BusError> {
        self.write(offset, Width::B4, value.into())
    }

    /// One 64-bit read.
    ///
    /// # Errors
    /// As [`Bar::read`].
    pub fn read64(&self, offset: u64) -> Result<u64, BusError> {
        self.read(offset, Width::B8)
    }

    /// One 64-bit write.
    ///
    /// # Errors
    /// As [`Bar::read`].
    pub fn write64(&self, offset: u64, value: u64) -> Result<(), BusError> {
        self.write(offset, Width::B8, value)
    }
}
