//! Tags, generations and states of slots.

use super::*;

type Table = SlotTable<u8, u32>;

fn taken(table: &Table) -> Tag {
    let reserved = table.reserve().unwrap();
    table.commit(&reserved, u32::from(reserved.tag.0), true);
    reserved.tag
}

#[test]
fn tags_stay_in_their_fields_and_never_mean_no_command() {
    for count in [1, 2, 3, 5, 64, 100, 4095, 4096] {
        let table = Table::new(count);
        let mask = count.next_power_of_two() - 1;
        // Every generation of the slot that is on top, twice around, then of all slots.
        let rounds = 2 * (usize::from(u16::MAX / (mask + 1)) + 2);
        let mut last = None;
        for _ in 0..rounds {
            let tag = taken(&table);
            assert_eq!(tag.0 & mask, 0, "the slot freed last is used first");
            assert_ne!(Some(tag), last);
            assert!(matches!(table.complete(tag, 0, false), Settled::Direct(_)));
            assert!(matches!(table.complete_other(tag, 0), Err(Violation::StaleTag(_))));
            last = Some(tag);
        }
        for _ in 0..rounds.min(64) {
            let mut tags: Vec<_> = (0..count).map(|_| taken(&table)).collect();
            assert!(table.reserve().is_none());
            assert!(tags.iter().all(|tag| tag.0 != u16::MAX && tag.0 & mask < count));
            tags.sort_unstable_by_key(|tag| tag.0 & mask);
            tags.dedup_by_key(|tag| tag.0 & mask);
            assert_eq!(tags.len(), usize::from(count));
            for tag in tags {
                assert!(matches!(table.complete(tag, 0, false), Settled::Direct(_)));
            }
            assert_eq!(table.in_use(), 0);
        }
    }
}

#[test]
fn the_tag_ffff_is_skipped() {
    let table = Table::new(1);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..u16::MAX {
        let tag = taken(&table);
        assert!(seen.insert(tag.0), "all others are used, once per lap");
        assert!(matches!(table.complete(tag, 0, false), Settled::Direct(_)));
    }
    assert!(!seen.contains(&u16::MAX));
    assert_eq!(taken(&table), Tag(0));
}

#[test]
fn a_cancelled_slot_changes_its_tag() {
    let table = Table::new(2);
    let reserved = table.reserve().unwrap();
    let tag = reserved.tag;
    table.cancel(&reserved);
    assert!(matches!(table.complete_other(tag, 0), Err(Violation::StaleTag(_))));
    assert_eq!(table.in_use(), 0);
    assert_ne!(taken(&table), tag);
}

#[test]
fn the_next_tag_of_a_free_slot_is_unknown() {
    let table = Table::new(2);
    assert!(matches!(table.complete_other(Tag(0), 0), Err(Violation::UnknownTag(Tag(0)))));
    let tag = table.reserve().unwrap().tag;
    assert!(matches!(table.complete_other(tag, 0), Err(Violation::UnknownTag(_))), "reserved");
}
