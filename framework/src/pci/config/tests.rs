//! Config spaces that are right, and many that are not.

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
