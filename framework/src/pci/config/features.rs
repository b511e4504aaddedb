//! What capabilities say: interrupts, resets, power, virtual functions.

use super::{BadConfig, ConfigSpace, bad, layout};

/// Where a table of MSI-X lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixPart {
    /// BAR number.
    pub bar: u8,
    /// Offset in the BAR.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// The MSI-X capability (PCI Express base specification 5.0, 7.7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msix {
    /// Vectors, 1 to 2048.
    pub vectors: u16,
    /// The table: 16 bytes a vector.
    pub table: MsixPart,
    /// The pending bits: a bit a vector, in whole 8 bytes.
    pub pending: MsixPart,
}

/// The SR-IOV extended capability of a physical function (PCI Express base specification 5.0, 9.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sriov {
    /// Offset of its header.
    pub offset: u16,
    /// The most virtual functions that there can be.
    pub total: u16,
    /// Routing id of the first virtual function less that of the physical one.
    pub first_offset: u16,
    /// Routing ids between two virtual functions.
    pub stride: u16,
    /// Device id of the virtual functions.
    pub device: u16,
}

impl ConfigSpace {
    fn find(&self, id: u8) -> Result<Option<u16>, BadConfig> {
        let all = self.capabilities()?;
        Ok(all.iter().find(|found| found.id == u16::from(id)).map(|found| found.offset))
    }

    /// MSI-X, if the function has it.
    ///
    /// # Errors
    /// [`BadConfig`] if its tables lie in a BAR that cannot be.
    pub fn msix(&self) -> Result<Option<Msix>, BadConfig> {
        let Some(offset) = self.find(layout::CAP_MSIX)? else { return Ok(None) };
        let vectors = (self.u16(offset + 2)? & 0x7ff) + 1;
        let part = |at: u16, len: u64| {
            let word = self.u32(at)?;
            let bar = (word & 7) as u8;
            if bar > 5 {
                return Err(bad(at, format!("a table of MSI-X in BAR{bar}, which does not exist")));
            }
            Ok(MsixPart { bar, offset: u64::from(word & !7), len })
        };
        let count = u64::from(vectors);
        let table = part(offset + 4, count * 16)?;
        let pending = part(offset + 8, count.div_ceil(64) * 8)?;
        Ok(Some(Msix { vectors, table, pending }))
    }

    /// How many vectors MSI has; `None` without it.
    ///
    /// # Errors
    /// [`BadConfig`].
    pub fn msi_vectors(&self) -> Result<Option<u16>, BadConfig> {
        let Some(offset) = self.find(layout::CAP_MSI)? else { return Ok(None) };
        // Multiple Message Capable is a power of two; 6 and 7 are reserved.
        let power = (self.u16(offset + 2)? >> 1) & 7;
        Ok(Some(1 << power.min(5)))
    }

    /// True if the function says that it can be reset alone (Function Level Reset).
    ///
    /// # Errors
    /// [`BadConfig`].
    pub fn function_level_reset(&self) -> Result<bool, BadConfig> {
        let Some(offset) = self.find(layout::CAP_EXPRESS)? else { return Ok(false) };
        // Device Capabilities, bit 28 (7.5.3.3).
        Ok(self.u32(offset + 4)? & 1 << 28 != 0)
    }

    /// The power state, D0 to D3hot as 0 to 3; 0 for a function without power management.
    ///
    /// # Errors
    /// [`BadConfig`].
    pub fn power_state(&self) -> Result<u8, BadConfig> {
        let Some(offset) = self.find(layout::CAP_POWER_MANAGEMENT)? else { return Ok(0) };
        Ok((self.u16(offset + 4)? & 3) as u8)
    }

    /// SR-IOV, if the function can make virtual functions.
    ///
    /// # Errors
    /// [`BadConfig`].
    pub fn sriov(&self) -> Result<Option<Sriov>, BadConfig> {
        let all = self.extended_capabilities()?;
        let Some(found) = all.iter().find(|found| found.id == layout::EXT_CAP_SRIOV) else {
            return Ok(None);
        };
        let offset = found.offset;
        Ok(Some(Sriov {
            offset,
            total: self.u16(offset + 0x0e)?,
            first_offset: self.u16(offset + 0x14)?,
            stride: self.u16(offset + 0x16)?,
            device: self.u16(offset + 0x1a)?,
        }))
    }
}
