//! From the lanes into the submission ring: by the holder of the ringer's baton.

use super::SharedQueue;
use super::bells::Staged;
use crate::mem::{CellArray, CellWords, store_fence};
use crate::protocol::QueueProtocol;

impl<P: QueueProtocol, B> Staged for SharedQueue<P, B> {
    // Who acquires a lane sees its entries whole. What the device has not fetched is not overwritten: see
    // the invariants of `Bells`; who staged an entry saw its slot given back, after the completion.
    #[inline]
    fn gather(&self, from: u64) -> u64 {
        let mut to = from;
        for lane in self.lanes.take(|slot| self.slots.link(slot)) {
            let oldest = to;
            to += lane.len() as u64;
            let mut index = self.bells.submissions().index(to);
            debug_assert!(
                to - oldest < self.bells.submissions().count(),
                "fewer slots than entries"
            );
            for slot in lane {
                // Newest first.
                index = index.checked_sub(1).unwrap_or(self.entries.count() - 1);
                let entry: P::Entry = self.staged.words(slot.into()).read();
                if self.non_temporal {
                    self.entries.words(index).stream(&entry);
                } else {
                    self.entries.words(index).write(&entry);
                }
            }
        }
        if self.non_temporal && to != from {
            store_fence();
        }
        to
    }
}
