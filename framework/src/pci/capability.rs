//! [`ConfigSpace`]: what a function's config space says, read once and believed in nothing.
//!
//! A list of capabilities is walked with a bound, so that one that runs in a circle ends; offsets
//! that lie outside, or that are not aligned, end it with an error.

use super::layout;

/// Config space that is not there, is cut short, or says what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("config space at {offset:#x}: {problem}")]
pub struct BadConfig {
    /// Offset in config space.
    pub offset: u16,
    /// What is wrong.
    pub problem: String,
}

fn bad(offset: u16, problem: impl Into<String>) -> BadConfig {
    BadConfig { offset, problem: problem.into() }
}

/// Bytes of the header of a function (type 0).
const HEADER: usize = 0x40;

/// Least distance of two capabilities, in bytes.
const STEP: usize = 4;

/// A capability: its id and where its header lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// Its id: 8 bits in the list of capabilities, 16 in that of extended ones.
    pub id: u16,
    /// Offset of its header.
    pub offset: u16,
}

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

/// A copy of a function's config space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
}

impl ConfigSpace {
    /// Takes what was read, at least a header.
    ///
    /// # Errors
    /// [`BadConfig`] if it is shorter, or if nobody answers there (the vendor id is all ones).
    pub fn new(mut bytes: Vec<u8>) -> Result<Self, BadConfig> {
        bytes.truncate(layout::EXTENDED_CONFIG_SIZE);
        if bytes.len() < HEADER {
            let problem =
                format!("it ends after {} bytes, within the header of {HEADER}", bytes.len());
            return Err(bad(bytes.len() as u16, problem));
        }
        let space = Self { bytes };
        if space.u16(layout::VENDOR_ID)? == u16::MAX {
            return Err(bad(layout::VENDOR_ID, "the vendor id reads all ones: nobody is there"));
        }
        Ok(space)
    }

    /// How many bytes there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it has a header at least")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    fn array<const N: usize>(&self, offset: u16) -> Result<[u8; N], BadConfig> {
        let at = usize::from(offset);
        let found = self.bytes.get(at..at + N).and_then(|bytes| bytes.first_chunk::<N>());
        found.copied().ok_or_else(|| {
            bad(offset, format!("{N} bytes are wanted there and it has {}", self.bytes.len()))
        })
    }

    /// A byte.
    ///
    /// # Errors
    /// [`BadConfig`] if it ends before.
    pub fn u8(&self, offset: u16) -> Result<u8, BadConfig> {
        self.array::<1>(offset).map(|[byte]| byte)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// [`BadConfig`] if it ends before.
    pub fn u16(&self, offset: u16) -> Result<u16, BadConfig> {
        self.array(offset).map(u16::from_le_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// [`BadConfig`] if it ends before.
    pub fn u32(&self, offset: u16) -> Result<u32, BadConfig> {
        self.array(offset).map(u32::from_le_bytes)
    }

    /// Vendor and device id.
    ///
    /// # Errors
    /// Never: the header is there.
    pub fn ids(&self) -> Result<(u16, u16), BadConfig> {
        Ok((self.u16(layout::VENDOR_ID)?, self.u16(layout::DEVICE_ID)?))
    }

    /// Class code: base class, sub-class and programming interface in the low 24 bits.
    ///
    /// # Errors
    /// Never: the header is there.
    pub fn class(&self) -> Result<u32, BadConfig> {
        Ok(self.u32(layout::REVISION_ID)? >> 8)
    }

    /// The list of capabilities, in its order.
    ///
    /// # Errors
    /// [`BadConfig`] if it leads into the header or out of config space, or runs in a circle.
    pub fn capabilities(&self) -> Result<Vec<Capability>, BadConfig> {
        let mut found = Vec::new();
        if self.u16(layout::STATUS)? & layout::STATUS_CAPABILITIES == 0 {
            return Ok(found);
        }
        let mut pointer = layout::CAPABILITIES_POINTER;
        let mut next = self.u8(pointer)?;
        while next & !3 != 0 {
            // The low two bits are reserved.
            let offset = u16::from(next & !3);
            if usize::from(offset) < HEADER {
                let problem = format!("it points to {offset:#x}, into the header");
                return Err(bad(pointer, problem));
            }
            if found.len() >= (layout::CONFIG_SIZE - HEADER) / STEP {
                return Err(bad(pointer, "the list of capabilities runs in a circle"));
            }
            let [id, after] = self.array(offset)?;
            if id == u8::MAX {
                return Err(bad(offset, "a capability reads all ones: nobody is there"));
            }
            found.push(Capability { id: u16::from(id), offset });
            pointer = offset + 1;
            next = after;
        }
        Ok(found)
    }

    /// The list of extended capabilities, in its order; none in a config space without that part.
    ///
    /// # Errors
    /// As [`ConfigSpace::capabilities`].
    pub fn extended_capabilities(&self) -> Result<Vec<Capability>, BadConfig> {
        let mut found = Vec::new();
        let mut offset = layout::EXTENDED_CAPABILITIES;
        if self.len() <= usize::from(offset) {
            return Ok(found);
        }
        loop {
            let header = self.u32(offset)?;
            // No capability at all is a header of zeroes; some root complexes read all ones.
            if header == 0 || header == u32::MAX {
                return Ok(found);
            }
            let most = (layout::EXTENDED_CONFIG_SIZE - layout::CONFIG_SIZE) / STEP;
            if found.len() >= most {
                return Err(bad(offset, "the list of extended capabilities runs in a circle"));
            }
            found.push(Capability { id: header as u16, offset });
            let next = (header >> 20) as u16 & !3;
            if next == 0 {
                return Ok(found);
            }
            if next < layout::EXTENDED_CAPABILITIES {
                let problem = format!("it points to {next:#x}, out of extended config space");
                return Err(bad(offset, problem));
            }
            offset = next;
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    /// A config space of `len` bytes with a list of capabilities: offset and bytes of each.
    fn space(len: usize, capabilities: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; len.max(HEADER)];
        bytes[..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0x00]);
        bytes[8..12].copy_from_slice(&[0x02, 0x02, 0x08, 0x01]);
        if let Some((first, _)) = capabilities.first() {
            bytes[6] = 1 << 4;
            bytes[0x34] = *first as u8;
        }
        for (offset, data) in capabilities {
            bytes[*offset..*offset + data.len()].copy_from_slice(data);
        }
        bytes.truncate(len);
        bytes
    }

    /// The header of an extended capability, version 1.
    fn extended(id: u32, next: u32) -> [u8; 4] {
        (id | 1 << 16 | next << 20).to_le_bytes()
    }

    #[test]
    fn a_controllers_capabilities_are_found() {
        let msix = [0x11, 0x80, 0x40, 0x80, 0x04, 0x20, 0, 0, 0x05, 0x30, 0, 0];
        let express = [0x10, 0x60, 2, 0, 0, 0, 0, 0x10];
        let power = [0x01, 0x00, 3, 0, 0x0b, 0, 0, 0];
        let mut bytes = space(4096, &[(0x40, &msix), (0x80, &express), (0x60, &power)]);
        bytes[0x100..0x104].copy_from_slice(&extended(1, 0x150));
        bytes[0x150..0x154].copy_from_slice(&extended(0x10, 0));
        bytes[0x15e] = 8;
        bytes[0x164] = 1;
        bytes[0x166] = 2;
        bytes[0x16a..0x16c].copy_from_slice(&[0x10, 0x00]);
        let space = ConfigSpace::new(bytes).unwrap();
        assert_eq!((space.ids().unwrap(), space.class().unwrap()), ((0x1b36, 0x0010), 0x01_0802));
        let table = MsixPart { bar: 4, offset: 0x2000, len: 65 * 16 };
        let pending = MsixPart { bar: 5, offset: 0x3000, len: 16 };
        assert_eq!(space.msix().unwrap(), Some(Msix { vectors: 65, table, pending }));
        assert!(space.function_level_reset().unwrap());
        assert_eq!(space.power_state().unwrap(), 3);
        assert_eq!(space.msi_vectors().unwrap(), None);
        let sriov = space.sriov().unwrap().unwrap();
        assert_eq!((sriov.offset, sriov.total, sriov.device), (0x150, 8, 0x10));
        assert_eq!((sriov.first_offset, sriov.stride), (1, 2));
    }

    #[test]
    fn msi_counts_in_powers_of_two() {
        for (control, vectors) in [(0x80, 1), (0x86, 8), (0x8e, 32)] {
            let bytes = space(256, &[(0x40, &[0x05, 0, control, 0])]);
            assert_eq!(ConfigSpace::new(bytes).unwrap().msi_vectors().unwrap(), Some(vectors));
        }
    }

    #[test]
    fn a_conventional_function_has_no_extended_part() {
        let plain = ConfigSpace::new(space(256, &[])).unwrap();
        assert_eq!(plain.capabilities().unwrap(), []);
        assert_eq!(plain.extended_capabilities().unwrap(), []);
        assert_eq!(plain.sriov().unwrap(), None);
        let nothing = ConfigSpace::new(space(4096, &[])).unwrap();
        assert_eq!(nothing.extended_capabilities().unwrap(), []);
    }

    #[test]
    fn circles_end() {
        let one: &[(usize, &[u8])] = &[(0x40, &[0x05, 0x40])];
        let two: &[(usize, &[u8])] = &[(0x40, &[0x05, 0x50]), (0x50, &[0x09, 0x40])];
        for capabilities in [one, two] {
            let bytes = space(256, capabilities);
            let error = ConfigSpace::new(bytes).unwrap().msix().unwrap_err();
            assert!(error.problem.contains("circle"), "{error}");
        }
        let mut bytes = space(4096, &[]);
        bytes[0x100..0x104].copy_from_slice(&extended(3, 0x100));
        let error = ConfigSpace::new(bytes).unwrap().sriov().unwrap_err();
        assert!(error.problem.contains("circle"), "{error}");
    }

    #[test]
    fn what_leads_nowhere_is_an_error() {
        let header = ConfigSpace::new(space(256, &[(0x08, &[])])).unwrap();
        assert!(header.capabilities().unwrap_err().problem.contains("into the header"));
        let cut = ConfigSpace::new(space(0x50, &[(0x40, &[0x05, 0x80])])).unwrap();
        let error = cut.capabilities().unwrap_err();
        assert_eq!(error.offset, 0x80, "{error}");
        let ones = ConfigSpace::new(space(256, &[(0x40, &[0xff, 0xff])])).unwrap();
        assert!(ones.capabilities().unwrap_err().problem.contains("all ones"));
        let mut bytes = space(4096, &[]);
        bytes[0x100..0x104].copy_from_slice(&extended(3, 0x40));
        let error = ConfigSpace::new(bytes).unwrap().extended_capabilities().unwrap_err();
        assert!(error.problem.contains("out of extended"), "{error}");
        let msix = [0x11, 0, 0, 0, 0x06, 0, 0, 0, 0, 0, 0, 0];
        let error = ConfigSpace::new(space(256, &[(0x40, &msix)])).unwrap().msix().unwrap_err();
        assert!(error.problem.contains("BAR6"), "{error}");
    }

    #[test]
    fn a_space_that_is_cut_or_empty_is_refused() {
        for len in [0, 1, 2, 63] {
            let error = ConfigSpace::new(space(len, &[])).unwrap_err();
            assert!(error.problem.contains("within the header"), "{error}");
        }
        let error = ConfigSpace::new(vec![0xff; 256]).unwrap_err();
        assert!(error.problem.contains("nobody is there"), "{error}");
        let error = ConfigSpace::new(space(256, &[])).unwrap().u32(254).unwrap_err();
        assert_eq!(error.offset, 254);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hang(mut bytes in proptest::collection::vec(0u8.., 0..4200)) {
            if let Some(first) = bytes.get_mut(6) {
                *first |= 1 << 4;
            }
            if let Ok(space) = ConfigSpace::new(bytes) {
                let _ = space.msix();
                let _ = space.msi_vectors();
                let _ = space.function_level_reset();
                let _ = space.power_state();
                let _ = space.sriov();
            }
        }
    }
}
