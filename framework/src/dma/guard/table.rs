//! The guarded mappings of this process, as a signal handler can read them: no lock, no allocation,
//! no wait.
//!
//! Each entry is a sequence lock. A reader that meets an entry while it changes skips it, and is right
//! to: whoever faults in a guarded mapping holds that mapping, so the entry of *its* mapping was
//! complete before and stays as it is until the fault is over. So one look at each entry is enough.
//!
//! What it does not do: it gives no memory back. There are never more entries than there were guarded
//! mappings at one time, rounded up to [`ENTRIES`].

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Watch;

/// Entries of one chunk.
const ENTRIES: usize = 64;

/// One guarded mapping.
///
/// # Invariants
/// * `sequence` is odd while the other fields change, and grows with every change. Only the holder of
///   [`Table::writer`] changes anything.
/// * `start == 0` means that the entry is free. Otherwise `start .. end` is a live mapping and `watch`
///   points at what is to be told of it; both stay valid until the entry is freed.
struct Entry {
    sequence: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    watch: AtomicPtr<Watch>,
}

impl Entry {
    const fn free() -> Self {
        Self {
            sequence: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            watch: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// For the holder of the writer's lock.
    fn set(&self, start: usize, end: usize, watch: *mut Watch) {
        let before = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(before.wrapping_add(1), Ordering::Relaxed);
        // Release: whoever reads one of the fields below as new also finds the sequence odd, or newer,
        // after its acquire fence.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.watch.store(watch, Ordering::Relaxed);
        self.sequence.store(before.wrapping_add(2), Ordering::Release);
    }

    /// The entry as it was at one moment; `None` if it is free or just changing.
    fn get(&self) -> Option<Found> {
        let before = self.sequence.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let watch = self.watch.load(Ordering::Relaxed);
        // Acquire: pairs with the release fence of `set`.
        fence(Ordering::Acquire);
        let same = self.sequence.load(Ordering::Relaxed) == before;
        (same && before.is_multiple_of(2) && start != 0).then_some(Found { start, end, watch })
    }
}

struct Chunk {
    entries: [Entry; ENTRIES],
    next: AtomicPtr<Chunk>,
}

impl Chunk {
    const fn new() -> Self {
        Self { entries: [const { Entry::free() }; ENTRIES], next: AtomicPtr::new(ptr::null_mut()) }
    }

    fn next(&self) -> Option<&'static Chunk> {
        // Acquire: pairs with the release in `Table::insert`.
        let next = self.next.load(Ordering::Acquire);
        // SAFETY: null, or a chunk that was leaked and is only ever shared.
        unsafe { next.as_ref() }
    }
}

/// A guarded mapping, as [`Table::find`] saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) watch: *const Watch,
}

/// The place of a mapping in the table.
#[derive(Clone, Copy)]
pub(super) struct Place(&'static Entry);

/// All guarded mappings.
pub(super) struct Table {
    first: Chunk,
    writer: Mutex<()>,
}

impl Table {
    pub(super) const fn new() -> Self {
        Self { first: Chunk::new(), writer: Mutex::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // Nothing that holds the lock panics.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunks(&'static self) -> impl Iterator<Item = &'static Chunk> {
        std::iter::successors(Some(&self.first), |chunk| chunk.next())
    }

    /// Enters a mapping. `watch` must stay valid until [`Table::remove`]; nothing here follows it.
    pub(super) fn insert(&'static self, start: usize, end: usize, watch: *const Watch) -> Place {
        let _writer = self.lock();
        let entries = || self.chunks().flat_map(|chunk| &chunk.entries);
        let free = entries().find(|entry| entry.start.load(Ordering::Relaxed) == 0);
        let entry = free.unwrap_or_else(|| {
            let chunk: &'static Chunk = Box::leak(Box::new(Chunk::new()));
            let last = self.chunks().last().unwrap_or(&self.first);
            // Release: who follows the pointer sees the chunk as it was made.
            last.next.store(ptr::from_ref(chunk).cast_mut(), Ordering::Release);
            &chunk.entries[0]
        });
        entry.set(start, end, watch.cast_mut());
        Place(entry)
    }

    /// Takes a mapping out. From then on nobody finds it.
    pub(super) fn remove(&self, place: Place) {
        let _writer = self.lock();
        place.0.set(0, 0, ptr::null_mut());
    }

    /// The mapping that holds `address`. Called by the signal handler: it only loads.
    pub(super) fn find(&'static self, address: usize) -> Option<Found> {
        let entries = self.chunks().flat_map(|chunk| &chunk.entries);
        entries.filter_map(Entry::get).find(|found| (found.start..found.end).contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn watch(number: usize) -> *const Watch {
        // Never followed by the table.
        ptr::without_provenance(number * 16)
    }

    #[test]
    fn mappings_are_found_until_they_are_taken_out_and_places_are_used_again() {
        let table: &'static Table = Box::leak(Box::new(Table::new()));
        let many = 2 * ENTRIES + 1;
        let at = |i: usize| (i + 1) << 16;
        let mut places: Vec<_> =
            (0..many).map(|i| table.insert(at(i), at(i) + 4096, watch(i + 1))).collect();
        for i in 0..many {
            for (address, there) in
                [(at(i), true), (at(i) + 4095, true), (at(i) + 4096, false), (at(i) - 1, false)]
            {
                let found = table.find(address).map(|found| found.watch);
                assert_eq!(found, there.then_some(watch(i + 1)), "{address:#x}");
            }
        }
        assert_eq!(table.chunks().count(), 3);
        places.drain(..).for_each(|place| table.remove(place));
        assert!((0..many).all(|i| table.find(at(i)).is_none()));
        for i in 0..many {
            table.insert(at(i), at(i) + 1, watch(1));
        }
        assert_eq!(table.chunks().count(), 3, "no chunk is added while an entry is free");
    }

    #[test]
    fn whoever_changes_an_entry_is_never_half_seen_and_hides_no_other() {
        let table: &'static Table = Box::leak(Box::new(Table::new()));
        table.insert(0x1000, 0x2000, watch(1));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..200_000_usize {
                    // Two neighbours in turn in one entry: half of each would cover the gap.
                    let start = if round % 2 == 0 { 0x10_0000 } else { 0x30_0000 };
                    table.remove(table.insert(start, start + 0x1000, watch(start)));
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                assert!(table.find(0x20_0000).is_none(), "between the two lies nothing");
                assert_eq!(table.find(0x1800).map(|found| found.watch), Some(watch(1)));
                for start in [0x10_0000, 0x30_0000] {
                    if let Some(found) = table.find(start) {
                        assert_eq!((found.start, found.watch), (start, watch(start)));
                    }
                }
            }
        });
    }
}
