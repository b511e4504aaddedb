//! Config space, byte for byte.

use super::*;
use crate::bus::Region;

fn identity() -> Identity {
    Identity { name: "t".into(), vendor: 0xdb01, device: 1, class: 0x01_08_02, numa_node: None }
}

fn region(index: u8, size: u64) -> Region {
    Region { index, size, mappable: vec![] }
}

fn nvme() -> (Layout, SyntheticConfig) {
    let layout = Layout::new(&[region(0, 0x4000)], 33).unwrap();
    let config = SyntheticConfig::new(&identity(), &layout, true);
    (layout, config)
}

fn read32(config: &SyntheticConfig, at: u64) -> u32 {
    u32::from_le_bytes(config.read(at, 4).unwrap().try_into().unwrap())
}

#[test]
fn power_on_values() {
    let (_, config) = nvme();
    let dwords = |from: u64, to: u64| -> Vec<u32> {
        (from..to).step_by(4).map(|at| read32(&config, at)).collect()
    };
    assert_eq!(
        dwords(0, 0x40),
        [
            0x0001_db01,
            0x0010_0000,
            0x0108_0200,
            0, // ids, status, class
            4,
            0,
            4,
            0,
            0,
            0, // BAR0 and BAR2, 64 bits
            0,
            0x0001_db01,
            0,
            0x40,
            0,
            0x0000_0100, // subsystem, capabilities, INTA#
        ]
    );
    assert_eq!(dwords(0x40, 0x48), [0x0003_4801, 0x0000_0008]);
    assert_eq!(
        dwords(0x48, 0x84),
        [0x0002_8410, 0x1000_8000, 0x0000_2810, 0x11, 0x0011_0000, 0, 0, 0, 0, 0x10, 0, 2, 1, 0, 0,]
    );
    assert_eq!(dwords(0x84, 0x90), [0x0020_0011, 0x0000_0002, 0x0000_1002]);
    assert!(config.read(0x90, 4096 - 0x90).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn bars_tell_their_size() {
    let (_, mut config) = nvme();
    for (at, low, high) in [(0x10, 0xffff_c004, u32::MAX), (0x18, 0xffff_e004, u32::MAX)] {
        config.write(at, &[0xff; 8]).unwrap();
        assert_eq!((read32(&config, at), read32(&config, at + 4)), (low, high));
        config.write(at, &0x12_3456_789a_bcde_u64.to_le_bytes()).unwrap();
        assert_eq!(read32(&config, at) & 0x1fff, 4);
        assert_eq!(read32(&config, at + 4), 0x12_3456);
    }
    config.write(0x20, &[0xff; 8]).unwrap();
    config.write(0x30, &[0xff; 4]).unwrap();
    let (bars, rom) = (read32(&config, 0x20) | read32(&config, 0x24), read32(&config, 0x30));
    assert_eq!((bars, rom), (0, 0), "BARs that are not there");
}

#[test]
fn only_writable_bits_change() {
    let (_, mut config) = nvme();
    let before = config.read(0, 4096).unwrap().to_vec();
    // All but the byte that starts a reset.
    config.write(0, &[0xff; 0x51]).unwrap();
    config.write(0x52, &[0xff; 4096 - 0x52]).unwrap();
    let after = config.read(0, 4096).unwrap();
    let changed: Vec<(usize, u8)> =
        (0..4096).map(|at| (at, after[at] ^ before[at])).filter(|(_, bits)| *bits != 0).collect();
    let expected: &[(usize, u8)] = &[
        (0x04, 0x46),
        (0x05, 0x05),
        (0x0c, 0xff),
        (0x11, 0xc0),
        (0x12, 0xff),
        (0x13, 0xff),
        (0x14, 0xff),
        (0x15, 0xff),
        (0x16, 0xff),
        (0x17, 0xff),
        (0x19, 0xe0),
        (0x1a, 0xff),
        (0x1b, 0xff),
        (0x1c, 0xff),
        (0x1d, 0xff),
        (0x1e, 0xff),
        (0x1f, 0xff),
        (0x3c, 0xff),
        (0x44, 0x03),
        (0x50, 0xef),
        (0x58, 0xcb),
        (0x59, 0x01),
        (0x70, 0x10),
        (0x78, 0x0e),
        (0x87, 0xc0),
    ];
    assert_eq!(changed, expected);
    config.write(0, &[0; 0x51]).unwrap();
    assert_eq!(config.read(0, 4).unwrap(), &before[..4]);
}

#[test]
fn the_command_register_says_what_the_function_may() {
    let (_, mut config) = nvme();
    assert!(!config.decodes_memory() && !config.masters_bus() && config.may_assert_pin());
    config.write(4, &[6]).unwrap();
    assert!(config.decodes_memory() && config.masters_bus());
    config.write(5, &[4]).unwrap();
    assert!(!config.may_assert_pin());
    config.write(4, &[6, 0]).unwrap();
    config.write(0x87, &[0x80]).unwrap();
    assert!(config.msix_enabled() && !config.may_assert_pin());
    config.set_interrupt_status(true);
    assert_eq!(config.read(6, 1).unwrap(), [0x18]);
    config.set_interrupt_status(false);
    assert_eq!(config.read(6, 1).unwrap(), [0x10]);
}

#[test]
fn power_states() {
    let (_, mut config) = nvme();
    config.write(4, &[6]).unwrap();
    for state in [1, 2] {
        config.write(0x44, &[state, 0]).unwrap();
        assert_eq!(config.read(0x44, 1).unwrap(), [8], "D{state} is not offered");
    }
    config.write(0x44, &[3, 0]).unwrap();
    assert!(!config.is_on() && !config.masters_bus() && !config.decodes_memory());
    config.write(0x44, &[1]).unwrap();
    assert!(!config.is_on());
    config.write(0x44, &[0]).unwrap();
    assert!(config.masters_bus(), "no soft reset");
}

#[test]
fn a_function_level_reset_is_reported_once_and_forgets_everything() {
    let (_, mut config) = nvme();
    config.write(4, &[6]).unwrap();
    config.write(0x10, &[0xff; 8]).unwrap();
    assert_eq!(config.write(0x50, &[0, 0x78]), Some(ConfigEvent::None));
    assert_eq!(config.write(0x50, &[0, 0x80]), Some(ConfigEvent::FunctionReset));
    assert!(!config.masters_bus());
    assert_eq!((read32(&config, 0x10), read32(&config, 0x50)), (4, 0x2810));
    assert_eq!(config.write(0x51, &[0x80]), Some(ConfigEvent::FunctionReset));
    assert_eq!(config.write(0x4c, &[0xff; 8]), Some(ConfigEvent::FunctionReset));
    assert_eq!(config.write(0x50, &[0xff]), Some(ConfigEvent::None));
    assert_eq!(config.write(0x52, &[0xff]), Some(ConfigEvent::None));
}

#[test]
fn accesses_outside_are_refused_whole() {
    let (_, mut config) = nvme();
    for (offset, len) in [(4096, 1), (4093, 4), (u64::MAX, 1), (u64::MAX, 2), (0, 4097)] {
        assert!(config.read(offset, len).is_none(), "{offset}+{len}");
        assert!(config.write(offset, &vec![0xff; len]).is_none(), "{offset}+{len}");
    }
    assert!(config.read(4096, 0).is_some());
    assert!(config.read(0x3d, 3).is_some());
}

#[test]
fn a_device_without_vectors_or_pin_says_so() {
    let layout = Layout::new(&[region(0, 1 << 20)], 0).unwrap();
    assert!(layout.msix().is_none());
    let config = SyntheticConfig::new(&identity(), &layout, false);
    assert_eq!(config.read(0x49, 1).unwrap(), [0], "the last capability");
    assert_eq!(config.read(0x3d, 1).unwrap(), [0]);
    assert_eq!(read32(&config, 0x84), 0);
}

#[test]
fn tables_have_pages_of_their_own() {
    let (layout, _) = nvme();
    let wide = |index, size| BarLayout { index, size, wide: true };
    assert_eq!(layout.bars(), [wide(0, 0x4000), wide(2, 0x2000)]);
    let msix = MsixLayout { bar: 2, table: 0, pba: 4096, vectors: 33 };
    assert_eq!(layout.msix(), Some(&msix));
    assert_eq!((msix.table_len(), msix.pba_len()), (528, 8));

    let all: Vec<Region> = (0..6).map(|index| region(index, 100)).collect();
    let layout = Layout::new(&all, 2048).unwrap();
    let msix = layout.msix().unwrap();
    assert_eq!((msix.bar, msix.table, msix.pba), (5, 4096, 4096 + 32768));
    assert_eq!(layout.bar(5).unwrap().size, 65536);
    assert!(layout.bars().iter().all(|bar| bar.wide == (bar.index == 7)));

    let large = [region(0, 1 << 33), region(2, 1 << 33), region(4, 1 << 33)];
    let layout = Layout::new(&large, 1).unwrap();
    let msix = layout.msix().unwrap();
    assert_eq!((msix.bar, msix.table), (4, 1 << 33), "{layout:?}");
    assert!(layout.bars().iter().all(|bar| bar.wide));
}

#[test]
fn what_cannot_be_laid_out_is_refused() {
    for (regions, vectors) in [
        (vec![region(6, 4096)], 0),
        (vec![region(0, 4096), region(0, 4096)], 0),
        (vec![region(0, 0)], 0),
        (vec![region(0, u64::MAX)], 0),
        (vec![region(0, 1 << 48)], 0),
        (vec![region(5, 1 << 32)], 0),
        (vec![region(0, 1 << 32), region(1, 1)], 0),
        (vec![], 2049),
    ] {
        assert!(Layout::new(&regions, vectors).is_err(), "{regions:?} {vectors}");
    }
}

#[test]
fn the_msix_table_reads_back_what_can_be_written() {
    let (layout, _) = nvme();
    let mut table = MsixTable::new(layout.msix().unwrap());
    let read = |table: &MsixTable, at: u64, len: usize| {
        let mut bytes = vec![0xaa; len];
        table.read(at, &mut bytes);
        bytes
    };
    assert!(table.holds(2, 0) && table.holds(2, 8000) && !table.holds(0, 0));
    let masked = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(read(&table, 32 * 16, 16), masked);
    table.write(16, &[0xff; 16]);
    let mut expected = [0xff; 16];
    (expected[0], expected[12]) = (0xfc, 1);
    expected[13..].fill(0);
    assert_eq!(read(&table, 16, 16), expected);
    assert_eq!(read(&table, 0, 16), masked);
    table.write(16 + 12, &[0; 4]);
    assert_eq!(read(&table, 28, 4), [0; 4]);
    table.write(33 * 16 - 4, &[0; 5000]);
    assert_eq!(read(&table, 4096, 8), [0; 8], "nothing is pending");
    table.write(u64::MAX, &[1, 2]);
    table.reset();
    assert_eq!(read(&table, 16, 16), masked);
}
