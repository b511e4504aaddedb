//! Bounds, alignment, and copies of all lengths.

use bytemuck::{Pod, Zeroable};
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Sixteen([u8; 16]);

#[test]
fn what_is_outside_or_misaligned_is_refused() {
    let mem = SharedMem::zeroed(64);
    let error = OutOfBounds { offset: 60, len: 8, size: 64 };
    assert_eq!(mem.read::<u64>(60), Err(error));
    assert!(error.to_string().contains("0x3c"), "{error}");
    assert!(mem.copy_out(usize::MAX, &mut [0; 2]).is_err(), "no overflow");
    assert!(mem.copy_in(64, &[]).is_ok() && mem.copy_in(65, &[]).is_err());
    assert!(mem.word32(2).is_err() && mem.word32(64).is_err() && mem.word32(60).is_ok());
    assert!(mem.load_u32(62, Ordering::Relaxed).is_err());
    assert!(mem.store_u32(1, 0, Ordering::Relaxed).is_err());
    assert!(mem.cells::<Sixteen>(0, 5).is_err() && mem.cells::<Sixteen>(0, 4).is_ok());
    assert!(mem.cells::<Sixteen>(4, 1).is_err(), "not a multiple of 8");
    assert!(mem.cells::<Sixteen>(0, usize::MAX).is_err());
    assert!(mem.slice(4, 8).is_err(), "not a multiple of 8");
    assert!(mem.fill(0, 65, 1).is_err());
    assert!(mem.copy_from(0, &mem, 32, 33).is_err());
    assert!(mem.copy_from(33, &mem, 0, 32).is_err());
    assert_eq!((mem.len(), mem.is_empty(), SharedMem::zeroed(0).is_empty()), (64, false, true));
}

#[test]
fn registers_are_accessed_in_their_width() {
    let mem = SharedMem::zeroed(16);
    mem.store_register(8, 8, 0x1122_3344_5566_7788).unwrap();
    for (offset, width, value) in
        [(8, 1, 0x88), (9, 1, 0x77), (10, 2, 0x5566), (12, 4, 0x1122_3344)]
    {
        assert_eq!(mem.load_register(offset, width), Ok(value));
    }
    mem.store_register(10, 2, 0xffff_0000).unwrap();
    assert_eq!(mem.load_register(8, 8), Ok(0x1122_3344_0000_7788));
    for (offset, width) in [(9, 2), (4, 8), (14, 4), (16, 1), (0, 3), (0, 0), (0, 16)] {
        assert!(mem.load_register(offset, width).is_err(), "{offset} {width}");
        assert!(mem.store_register(offset, width, 0).is_err(), "{offset} {width}");
    }
}

#[test]
fn a_slice_is_a_window_that_keeps_the_memory() {
    let mem = SharedMem::zeroed(4096);
    let slice = mem.slice(64, 32).unwrap();
    mem.write(72, &0x1122_3344_u32).unwrap();
    drop(mem);
    assert_eq!(slice.read::<u32>(8), Ok(0x1122_3344));
    assert!(slice.read::<u64>(32).is_err());
    let word = slice.word32(8).unwrap();
    drop(slice);
    assert_eq!(word.swap(5, Ordering::AcqRel), 0x1122_3344);
    assert_eq!(word.load(Ordering::Relaxed), 5);
    assert_eq!(format!("{word:?}"), "Word32(5)");
}

#[test]
fn a_published_cell_is_whole() {
    let cells = SharedMem::zeroed(64).cells::<Sixteen>(16, 3).unwrap();
    let value = Sixteen(std::array::from_fn(|i| i as u8 + 1));
    for last in [0, 4, 8, 12, 15] {
        cells.write(1, &Sixteen([0; 16]));
        cells.publish(1, &value, last);
        assert_eq!(cells.read(1), value);
    }
    assert_eq!(
        (cells.read(0).0, cells.read(2).0),
        ([0; 16], [0; 16]),
        "its neighbours are not touched"
    );
    let word = |offset| cells.load_u32(1, offset, Ordering::Acquire).to_ne_bytes();
    assert_eq!([word(0), word(4), word(8), word(12)].concat(), value.0);
}

#[test]
#[should_panic(expected = "inside the ring")]
fn an_index_outside_of_the_cells_is_a_defect() {
    let _ = SharedMem::zeroed(64).cells::<Sixteen>(0, 4).unwrap().read(4);
}

proptest! {
    #[test]
    fn copies_are_exact(offset in 0..300_usize, other in 0..300_usize, bytes: Vec<u8>, fill: u8) {
        let (a, b) = (SharedMem::zeroed(1024), SharedMem::zeroed(1024));
        let len = bytes.len();
        a.fill(0, 1024, fill).unwrap();
        a.copy_in(offset, &bytes).unwrap();
        b.copy_from(other, &a, offset, len).unwrap();
        let mut out = vec![0; 1024];
        a.copy_out(0, &mut out).unwrap();
        prop_assert_eq!(&out[offset..offset + len], &bytes);
        prop_assert!(out[..offset].iter().chain(&out[offset + len..]).all(|byte| *byte == fill));
        b.copy_out(0, &mut out).unwrap();
        prop_assert_eq!(&out[other..other + len], &bytes);
        let mut part = vec![0; len];
        b.copy_out(other, &mut part).unwrap();
        prop_assert_eq!(part, bytes);
    }

    #[test]
    fn values_are_exact(offset in 0..48_usize, value: [u8; 16]) {
        let mem = SharedMem::zeroed(64);
        mem.write(offset, &Sixteen(value)).unwrap();
        prop_assert_eq!(mem.read::<Sixteen>(offset), Ok(Sixteen(value)));
    }
}
