//! The pool and the partitions, by properties.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::iova::MSI_HOLE;
use super::map::{HUGE_PAGE, PAGE};
use super::*;
use crate::bus::proof::Unmapped;

const IOVA: u64 = 0x10_0000_0000;

fn pool(bytes: usize) -> Dma {
    let dma = Dma::new();
    let memfd = Memfd::create("test", bytes, HugePages::No).unwrap();
    dma.add_arena(Arena::new(&memfd, IOVA).unwrap());
    dma
}

#[test]
fn a_buffer_changes_hands_without_a_copy() {
    let dma = pool(1 << 20);
    let mut buffer = dma.alloc(5_000).unwrap();
    assert_eq!(buffer.len(), 5_000);
    assert_eq!(buffer.as_ptr() as usize % PAGE, 0);
    buffer.fill(7);
    let shared = buffer.into_shared();
    assert!(shared.iova() >= IOVA && shared.iova().is_multiple_of(PAGE as u64));
    shared.mem().write(4_992, &0x0908_u64).unwrap();
    let buffer = shared.into_box().unwrap();
    assert_eq!((buffer[0], buffer[4_992], buffer[4_993]), (7, 8, 9));
}

#[test]
fn memory_with_another_view_does_not_become_a_slice() {
    let dma = pool(1 << 20);
    let shared = dma.alloc_shared(4096).unwrap();
    let word = shared.mem().word32(0).unwrap();
    let shared = shared.into_box().unwrap_err();
    let copy = shared.mem();
    drop(word);
    let shared = shared.into_box().unwrap_err();
    drop(copy);
    assert!(shared.into_box().is_ok());
}

#[test]
fn memory_with_another_handle_does_not_become_a_slice() {
    let dma = pool(PAGE);
    let shared = dma.alloc_shared(PAGE).unwrap();
    let (other, keep) = (shared.share(), shared.keep());
    assert_eq!(other.iova(), shared.iova());
    let shared = shared.into_box().unwrap_err();
    drop(other);
    let shared = shared.into_box().unwrap_err();
    drop(shared);
    assert!(dma.alloc(PAGE).is_err(), "it is kept");
    drop(keep);
    assert!(dma.alloc(PAGE).is_ok());
}

#[test]
fn a_view_keeps_the_buffer_from_being_given_out_again() {
    let dma = pool(PAGE);
    let shared = dma.alloc_shared(PAGE).unwrap();
    let view = shared.mem();
    drop(shared);
    assert!(matches!(dma.alloc(1), Err(DmaError::Exhausted { arenas: 1, total: 4096, .. })));
    drop(view);
    assert!(dma.alloc(1).is_ok());
}

#[test]
fn buffers_outlive_their_pool() {
    let dma = pool(1 << 20);
    let mut buffer = dma.alloc(100).unwrap();
    let value = dma.alloc_value([1_u64, 2, 3]).unwrap();
    drop(dma);
    buffer[99] = 1;
    assert_eq!(*value, [1, 2, 3]);
    assert_eq!(value.into_shared().read().unwrap(), [1, 2, 3]);
}

#[test]
fn shared_memory_is_zeroed_although_it_was_used() {
    let dma = pool(PAGE);
    dma.alloc(PAGE).unwrap().fill(0xff);
    let shared = dma.alloc_shared(PAGE).unwrap();
    assert!((0..PAGE / 8).all(|i| shared.mem().read::<u64>(i * 8).unwrap() == 0));
}

#[test]
fn errors_name_the_numbers_and_arenas_add_up() {
    let dma = Dma::new();
    assert!(matches!(dma.alloc(1), Err(DmaError::Exhausted { wanted: 1, arenas: 0, total: 0 })));
    assert!(matches!(dma.alloc(0), Err(DmaError::BadLength { len: 0, .. })));
    assert!(matches!(dma.alloc(usize::MAX), Err(DmaError::BadLength { .. })));
    let first = pool(2 * PAGE);
    let memfd = Memfd::create("test", 4 * PAGE, HugePages::No).unwrap();
    assert!(Arena::new(&memfd, 1).is_err());
    assert!(Arena::new(&memfd, u64::MAX - 4095).is_err());
    first.add_arena(Arena::new(&memfd, IOVA + (1 << 30)).unwrap());
    let large = first.alloc_shared(4 * PAGE).unwrap();
    assert_eq!(large.iova(), IOVA + (1 << 30));
    let stats = first.stats();
    assert_eq!((stats.arenas, stats.total, stats.in_use), (2, 6 * PAGE, 4 * PAGE));
    drop(large);
    assert_eq!((first.stats().in_use, first.stats().buffers), (0, 0));
}

#[test]
fn a_pool_is_used_by_many_threads() {
    let dma = pool(1 << 20);
    std::thread::scope(|scope| {
        for mark in 1..=4_u8 {
            let dma = dma.clone();
            scope.spawn(move || {
                for round in 0..500 {
                    let mut buffer = dma.alloc(1 + round * 13 % 9_000).unwrap();
                    buffer.fill(mark);
                    let buffer = buffer.into_shared().into_box().unwrap();
                    assert!(buffer.iter().all(|byte| *byte == mark), "two owners of one buffer");
                }
            });
        }
    });
    assert_eq!(dma.stats().in_use, 0);
}

proptest! {
    /// Whatever is allocated and freed: no two buffers overlap, all lie in the arena, and at the end
    /// the arena is one free range again.
    #[test]
    fn buffers_never_overlap(steps in prop::collection::vec((1_usize..40_000, any::<prop::sample::Index>()), 1..120)) {
        let bytes = 256 * 1024;
        let dma = pool(bytes);
        let mut live = Vec::<DmaShared>::new();
        for (len, victim) in steps {
            match dma.alloc_shared(len) {
                Ok(buffer) => {
                    let (start, end) = (buffer.iova(), buffer.iova() + len as u64);
                    prop_assert!(start.is_multiple_of(PAGE as u64));
                    prop_assert!(start >= IOVA && end <= IOVA + bytes as u64);
                    for other in &live {
                        let (a, b) = (other.iova(), other.iova() + other.len() as u64);
                        prop_assert!(end <= a || b <= start);
                    }
                    live.push(buffer);
                }
                Err(DmaError::Exhausted { .. }) => {
                    prop_assert!(!live.is_empty());
                    live.swap_remove(victim.index(live.len()));
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
        live.clear();
        prop_assert!(dma.alloc(bytes).is_ok());
    }

    /// Partitions: 2 MiB aligned, above 4 GiB, inside the IOMMU's ranges, clear of the MSI window,
    /// never overlapping, also when released and given out again; quarantined ranges never again.
    #[test]
    fn partitions_keep_their_rules(
        split in (4_u64 << 30)..(6_u64 << 30),
        steps in prop::collection::vec((1_u64..(64 << 20), 0_u8..4, any::<prop::sample::Index>()), 1..80),
    ) {
        let ranges = [0..MSI_HOLE.start + 5, MSI_HOLE.end + 7..split, split + 4096..(6 << 30)];
        let mut allocator = IovaAllocator::new(&ranges, 64);
        let all = allocator.available();
        let (mut live, mut lost, mut ids) = (Vec::<Partition>::new(), Vec::new(), 0);
        for (len, action, victim) in steps {
            if action < 2 || live.is_empty() {
                let Ok(partition) = allocator.partition(len) else { continue };
                let range = partition.range();
                prop_assert!(range.start.is_multiple_of(HUGE_PAGE as u64));
                prop_assert!(range.end - range.start >= len && range.start >= 4 << 30);
                prop_assert!(ranges.iter().any(|r| r.start <= range.start && range.end <= r.end));
                let taken = live.iter().map(Partition::range).chain(lost.iter().cloned());
                for other in taken {
                    prop_assert!(range.end <= other.start || other.end <= range.start);
                }
                prop_assert!(partition.id().0 >= ids, "an id was used again");
                ids = partition.id().0 + 1;
                live.push(partition);
            } else {
                let partition = live.swap_remove(victim.index(live.len()));
                if action == 2 {
                    allocator.release(partition).unwrap();
                } else {
                    lost.push(partition.range());
                    allocator.quarantine(partition);
                }
            }
        }
        let held: u64 = live.iter().map(Partition::range).chain(lost).map(|r| r.end - r.start).sum();
        prop_assert_eq!(allocator.available() + held, all);
    }

    /// Inside a partition: aligned, no overlap, and free again only by proof.
    #[test]
    fn arenas_in_a_partition_never_overlap(steps in prop::collection::vec((1_u64..(5 << 20), any::<bool>(), any::<prop::sample::Index>()), 1..80)) {
        let mut allocator = IovaAllocator::new(std::slice::from_ref(&(0..1 << 40)), 64);
        let mut partition = allocator.partition(32 << 20).unwrap();
        let mut live = BTreeMap::<u64, u64>::new();
        for (len, free, victim) in steps {
            if free && !live.is_empty() {
                let iova = *live.keys().nth(victim.index(live.len())).unwrap();
                let len = live.remove(&iova).unwrap();
                partition.release(Unmapped::new(iova, len)).unwrap();
                prop_assert!(partition.release(Unmapped::new(iova, len)).is_err(), "twice");
            } else if let Ok(iova) = partition.alloc(len) {
                let size = len.next_multiple_of(PAGE as u64);
                let align = if size >= HUGE_PAGE as u64 { HUGE_PAGE } else { PAGE };
                prop_assert!(iova.is_multiple_of(align as u64) && partition.contains(iova, size));
                for (start, len) in &live {
                    prop_assert!(iova + size <= *start || start + len <= iova);
                }
                live.insert(iova, size);
            }
        }
        prop_assert_eq!(partition.in_use(), live.values().sum::<u64>());
        if !live.is_empty() {
            partition = allocator.release(partition).unwrap_err();
        }
        for (iova, len) in live {
            partition.release(Unmapped::new(iova, len)).unwrap();
        }
        prop_assert!(allocator.release(partition).is_ok());
    }
}

#[test]
fn proofs_for_other_ranges_are_refused() {
    let mut allocator = IovaAllocator::new(std::slice::from_ref(&(0..1 << 40)), 64);
    let mut partition = allocator.partition(4 << 20).unwrap();
    let iova = partition.alloc(8192).unwrap();
    for (at, len) in
        [(iova - 4096, 8192), (iova, 12_288), (0, 4096), (u64::MAX, 4096), (iova, u64::MAX)]
    {
        assert!(partition.release(Unmapped::new(at, len)).is_err(), "{at:#x}+{len:#x}");
    }
    assert_eq!(partition.in_use(), 8192);
    assert!(partition.alloc(0).is_err());
    assert!(partition.alloc(u64::MAX).is_err());
    assert!(allocator.partition(u64::MAX).is_err());
    assert!(
        IovaAllocator::new(std::slice::from_ref(&(0..4 << 30)), 64).partition(1).is_err(),
        "nothing below 4 GiB"
    );
}

#[test]
fn a_device_of_few_address_bits_gets_low_partitions() {
    let mut allocator = IovaAllocator::new(std::slice::from_ref(&(0..1 << 48)), 28);
    assert_eq!(allocator.available(), (256 << 20) - (2 << 20));
    let partition = allocator.partition(64 << 20).unwrap();
    assert_eq!(partition.range(), 2 << 20..66 << 20);
    assert!(allocator.partition(256 << 20).is_err());
    let low = IovaAllocator::new(std::slice::from_ref(&(0..1 << 48)), 20);
    assert_eq!(low.available(), 0, "below 2 MiB nothing is given out");
}
