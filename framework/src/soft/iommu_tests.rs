//! The soft IOMMU against a map of pages.

use std::collections::HashMap;

use doorbell_queues::SharedMem;
use proptest::prelude::*;

use super::iommu::{FAULT_LOG, SoftIommu};
use super::{Piece, SoftCx};
use crate::bus::proof::PartitionId;
use crate::dma::{Access, DmaError, Fault};

const PAGE: u64 = 4096;
const ME: PartitionId = PartitionId(3);

fn cx() -> SoftCx {
    SoftCx::detached([const { None }; 6], 1)
}

#[derive(Debug, Clone)]
enum Step {
    Map { page: u64, pages: usize, access: Access },
    Unmap { victim: prop::sample::Index },
    Touch { iova: u64, len: u64, access: Access },
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::ReadWrite)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u64..24, 1_usize..5, access()).prop_map(|(page, pages, access)| Step::Map {
            page,
            pages,
            access
        }),
        any::<prop::sample::Index>().prop_map(|victim| Step::Unmap { victim }),
        (0_u64..28 * PAGE, 1_u64..3 * PAGE, access()).prop_map(|(iova, len, access)| Step::Touch {
            iova,
            len,
            access
        }),
    ]
}

proptest! {
    /// Every access is allowed exactly if each page of it is mapped for it, whatever was mapped,
    /// unmapped and remembered before; and its pieces are those pages, in order.
    #[test]
    fn it_allows_exactly_what_is_mapped(steps in prop::collection::vec(step(), 1..200)) {
        let mut iommu = SoftIommu::default();
        let mut pages = HashMap::<u64, (usize, Access)>::new();
        let mut live = Vec::<(u64, usize)>::new();
        let mut faults = 0;
        for step in steps {
            match step {
                Step::Map { page, pages: count, access } => {
                    let free = (page..page + count as u64).all(|p| !pages.contains_key(&p));
                    let memory = SharedMem::zeroed(count * PAGE as usize);
                    let base = memory.as_ptr() as usize;
                    prop_assert_eq!(iommu.map(ME, page * PAGE, memory, access).is_ok(), free);
                    if free {
                        let at = |i: usize| (page + i as u64, (base + i * PAGE as usize, access));
                        pages.extend((0..count).map(at));
                        live.push((page, count));
                    }
                }
                Step::Unmap { victim } if !live.is_empty() => {
                    let (page, count) = live.swap_remove(victim.index(live.len()));
                    iommu.unmap(ME, page * PAGE, count as u64 * PAGE).unwrap();
                    (page..page + count as u64).for_each(|p| { pages.remove(&p); });
                }
                Step::Unmap { .. } => {}
                Step::Touch { iova, len, access } => {
                    let mut expected = Vec::new();
                    let allowed = (iova / PAGE..=(iova + len - 1) / PAGE).all(|page| {
                        let from = iova.max(page * PAGE);
                        let to = (iova + len).min((page + 1) * PAGE);
                        pages.get(&page).is_some_and(|(base, mapped)| {
                            let at = base + (from - page * PAGE) as usize;
                            expected.extend(at..at + (to - from) as usize);
                            mapped.allows(access)
                        })
                    });
                    let mut seen = Vec::new();
                    let pieces = iommu.pieces(iova, len, access, |piece: Piece<'_>| {
                        let at = piece.memory.as_ptr() as usize + piece.offset;
                        seen.extend(at..at + piece.len);
                    });
                    if allowed {
                        prop_assert!(pieces.is_ok());
                        prop_assert_eq!(seen, expected);
                    } else {
                        faults += 1;
                        prop_assert_eq!(pieces, Err(Fault { iova, len, access }));
                        prop_assert!(seen.is_empty());
                    }
                    prop_assert_eq!(iommu.fault_count(), faults);
                }
            }
            prop_assert_eq!(iommu.mappings(), live.len());
        }
    }
}

#[test]
fn faults_are_kept_up_to_a_limit_and_counted_without_one() {
    let mut cx = cx();
    for i in 0..FAULT_LOG as u64 + 10 {
        assert!(cx.read::<u64>(i * 8).is_err());
    }
    let faults = cx.iommu_mut().take_faults();
    assert_eq!(faults.len(), FAULT_LOG);
    assert_eq!(faults[0].iova, 80, "the oldest went first");
    assert_eq!(cx.iommu().fault_count(), FAULT_LOG as u64 + 10);
    assert!(cx.iommu_mut().take_faults().is_empty());
}

#[test]
fn only_the_owner_unmaps_and_only_the_whole() {
    let mut iommu = SoftIommu::default();
    iommu.map(ME, PAGE, SharedMem::zeroed(2 * PAGE as usize), Access::ReadWrite).unwrap();
    for (partition, iova, len) in
        [(PartitionId(4), PAGE, 2 * PAGE), (ME, PAGE, PAGE), (ME, 2 * PAGE, PAGE), (ME, 0, PAGE)]
    {
        let refused = iommu.unmap(partition, iova, len);
        assert!(matches!(refused, Err(DmaError::BadRange { .. })), "{refused:?}");
    }
    assert!(iommu.unmap(ME, PAGE, 2 * PAGE).is_ok());
    assert!(iommu.translate(PAGE, 8, Access::Read).is_err());
}

#[test]
fn values_and_bulk_data_cross_mappings() {
    let mut cx = cx();
    let parts: Vec<_> = (0..3).map(|_| SharedMem::zeroed(PAGE as usize)).collect();
    for (i, part) in parts.iter().enumerate() {
        let iova = i as u64 * PAGE;
        cx.iommu_mut().map(ME, iova, part.clone(), Access::ReadWrite).unwrap();
    }
    cx.write(PAGE - 3, &0x1122_3344_5566_7788_u64).unwrap();
    assert_eq!(cx.read::<u64>(PAGE - 3).unwrap(), 0x1122_3344_5566_7788);
    let own = SharedMem::zeroed(3 * PAGE as usize);
    let data: Vec<u8> = (0..own.len()).map(|i| (i % 251) as u8).collect();
    own.copy_in(0, &data).unwrap();
    cx.write_from(100, &own, 50, 2 * PAGE as usize).unwrap();
    let mut seen = vec![0; 2 * PAGE as usize];
    cx.read_bytes(100, &mut seen).unwrap();
    assert_eq!(seen, data[50..][..seen.len()]);
    let back = SharedMem::zeroed(3 * PAGE as usize);
    cx.read_into(100, &back, 8, 2 * PAGE as usize).unwrap();
    let mut seen = vec![0; 2 * PAGE as usize];
    back.copy_out(8, &mut seen).unwrap();
    assert_eq!(seen, data[50..][..seen.len()]);
    cx.fill(PAGE - 10, 20, 0xee).unwrap();
    assert_eq!(cx.read::<[u8; 22]>(PAGE - 11).unwrap()[1..21], [0xee; 20]);
    assert!(cx.fill(2 * PAGE + 1, PAGE as usize, 0).is_err());
    assert_eq!(cx.iommu().fault_count(), 1);
}

#[test]
fn an_access_at_the_end_of_the_address_space_wraps_nowhere() {
    let mut cx = cx();
    let last = u64::MAX - (2 * PAGE - 1);
    let memory = SharedMem::zeroed(PAGE as usize);
    cx.iommu_mut().map(ME, last, memory, Access::ReadWrite).unwrap();
    assert!(
        cx.iommu_mut().map(ME, u64::MAX - 4095, SharedMem::zeroed(8192), Access::Read).is_err()
    );
    assert!(cx.read::<u64>(last + PAGE - 8).is_ok());
    for iova in [last + PAGE - 7, u64::MAX, u64::MAX - 7] {
        assert!(cx.read::<u64>(iova).is_err(), "{iova:#x}");
    }
    assert!(cx.read_bytes(last, &mut vec![0; 3 * PAGE as usize]).is_err());
}

#[test]
fn entries_are_stored_whole_or_not_at_all() {
    let mut cx = cx();
    let memory = SharedMem::zeroed(2 * PAGE as usize);
    cx.iommu_mut().map(ME, 0, memory.clone(), Access::ReadWrite).unwrap();
    let entry = [1_u32, 2, 3, 4];
    cx.store_entry(32, &entry, 12).unwrap();
    assert_eq!(memory.read::<[u32; 4]>(32).unwrap(), entry);
    cx.store_entry(48, &entry, 0).unwrap();
    assert_eq!(memory.read::<[u32; 4]>(48).unwrap(), entry);
    for (iova, last) in [(36, 12), (64, 16), (2 * PAGE - 8, 12), (4 * PAGE, 12)] {
        assert!(cx.store_entry(iova, &entry, last).is_err(), "{iova:#x}, {last}");
    }
    assert!(cx.store_entry(64, &[1_u32; 3], 8).is_err(), "not whole words");
    assert!((64..2 * PAGE as usize).step_by(8).all(|at| memory.read::<u64>(at).unwrap() == 0));
}

#[test]
fn memory_that_may_only_be_read_is_not_written() {
    let mut cx = cx();
    let memory = SharedMem::zeroed(PAGE as usize);
    cx.iommu_mut().map(ME, 0, memory.clone(), Access::Read).unwrap();
    assert!(cx.read::<u64>(0).is_ok());
    assert!(cx.write(0, &1_u64).is_err());
    assert!(cx.store_entry(0, &[1_u32; 4], 12).is_err());
    assert!(cx.fill(0, 8, 1).is_err());
    assert_eq!(memory.read::<u64>(0).unwrap(), 0);
    cx.iommu_mut().map(ME, PAGE, memory.clone(), Access::Write).unwrap();
    assert!(cx.write(PAGE, &1_u64).is_ok());
    assert!(cx.read::<u64>(PAGE).is_err());
    cx.interrupt(0);
    cx.interrupt(9);
}
