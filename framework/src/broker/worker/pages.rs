//! Which pages of the device's BARs lie in whose hands.
//!
//! A doorbell is handed out with the whole page around it, so a slice of a client's own
//! ([`Tier::Paged`](crate::tier::Tier::Paged)) is one only while nobody else has a doorbell on its
//! pages: no other client, and not the driver, whose admin queue may have its doorbells there too. That
//! is kept here, for every bus alike; whether a slice can be taken back is the bus's part.
//!
//! What it does not do: it knows of doorbells only. That a page with doorbells holds nothing else which
//! a client must not reach is for the driver's author to know ([`crate::driver::QueueGrant`]).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::dma::map::PAGE;

/// Bytes of a BAR, whole pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageRange {
    pub(super) region: u8,
    pub(super) bytes: Range<u64>,
}

impl PageRange {
    /// The whole pages around `len` bytes from `offset`; `None` if they do not fit into 64 bits.
    pub(super) fn around(region: u8, offset: u64, len: u64) -> Option<Self> {
        let page = PAGE as u64;
        let end = offset.checked_add(len)?.checked_next_multiple_of(page)?;
        Some(Self { region, bytes: offset - offset % page..end })
    }

    fn pages(&self) -> impl Iterator<Item = (u8, u64)> + use<> {
        let region = self.region;
        self.bytes.clone().step_by(PAGE).map(move |offset| (region, offset))
    }
}

/// What a session has on one page.
#[derive(Debug, Default)]
struct Hold {
    slices: u32,
    /// How many of these are its alone.
    alone: u32,
}

/// Why pages cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    /// The driver has a queue of its own there.
    Driver { region: u8, page: u64 },
    /// Another client has a doorbell there.
    Shared { region: u8, page: u64 },
    /// Another client has the page alone.
    Alone { region: u8, page: u64 },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Driver { region, page }
        | Self::Shared { region, page }
        | Self::Alone { region, page }) = self;
        write!(f, "the doorbell lies in the page at {page:#x} of BAR{region}, ")?;
        f.write_str(match self {
            Self::Driver { .. } => {
                "as do doorbells of the driver's own queue, so this device gives at best cooperative"
            }
            Self::Shared { .. } => {
                "as do those of another client's queue, so it can be had as cooperative only"
            }
            Self::Alone { .. } => {
                "which another client has alone; claim again when it is gone (`doorbell status`)"
            }
        })
    }
}

/// The holders of all pages.
#[derive(Debug, Default)]
pub(super) struct Pages {
    held: BTreeMap<(u8, u64), BTreeMap<u64, Hold>>,
}

impl Pages {
    /// Gives pages to a session: alone, which nobody else may have now or later, or shared. `driver`
    /// are pages with doorbells of the driver's own queues, as BAR and offset.
    pub(super) fn take(
        &mut self,
        session: u64,
        range: &PageRange,
        alone: bool,
        driver: &[(u8, u64)],
    ) -> Result<(), Conflict> {
        for at @ (region, page) in range.pages() {
            if alone && driver.contains(&at) {
                return Err(Conflict::Driver { region, page });
            }
            let others = self.held.get(&at).into_iter().flatten().filter(|(n, _)| **n != session);
            for (_, hold) in others {
                if hold.alone > 0 {
                    return Err(Conflict::Alone { region, page });
                }
                if alone {
                    return Err(Conflict::Shared { region, page });
                }
            }
        }
        for at in range.pages() {
            let hold = self.held.entry(at).or_default().entry(session).or_default();
            hold.slices += 1;
            hold.alone += u32::from(alone);
        }
        Ok(())
    }

    /// Takes back what [`Pages::take`] gave, once the session's mapping reaches nobody or its queue is
    /// gone.
    pub(super) fn give_back(&mut self, session: u64, range: &PageRange, alone: bool) {
        for at in range.pages() {
            let Some(page) = self.held.get_mut(&at) else { continue };
            if let Some(hold) = page.get_mut(&session) {
                hold.slices = hold.slices.saturating_sub(1);
                hold.alone = hold.alone.saturating_sub(u32::from(alone));
                if hold.slices == 0 {
                    page.remove(&session);
                }
            }
            if page.is_empty() {
                self.held.remove(&at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, len: u64) -> PageRange {
        PageRange::around(0, offset, len).unwrap()
    }

    #[test]
    fn pages_are_those_that_the_doorbells_touch() {
        assert_eq!(range(0x1008, 8).bytes, 0x1000..0x2000);
        assert_eq!(range(0x1ffc, 8).bytes, 0x1000..0x3000);
        assert_eq!(PageRange::around(0, u64::MAX - 3, 4), None);
        assert_eq!(PageRange::around(0, u64::MAX - 4095, 8), None);
    }

    #[test]
    fn alone_means_alone_before_and_after() {
        let mut pages = Pages::default();
        let page = range(0x1008, 8);
        pages.take(1, &page, false, &[]).unwrap();
        let error = pages.take(2, &page, true, &[]).unwrap_err();
        assert_eq!(error, Conflict::Shared { region: 0, page: 0x1000 });
        pages.take(1, &page, true, &[]).unwrap();
        let error = pages.take(2, &page, false, &[]).unwrap_err();
        assert_eq!(error, Conflict::Alone { region: 0, page: 0x1000 });
        // The shared slice stays; with the other one the right to the page alone is gone.
        pages.give_back(1, &page, true);
        pages.take(2, &page, false, &[]).unwrap();
        pages.give_back(1, &page, false);
        pages.give_back(2, &page, false);
        assert!(pages.held.is_empty());
        pages.take(2, &page, true, &[]).unwrap();
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let mut pages = Pages::default();
        pages.take(1, &range(0x2000, 4), true, &[]).unwrap();
        assert!(pages.take(2, &range(0x1ffc, 8), true, &[]).is_err());
        pages.take(3, &range(0x1000, 4), true, &[]).unwrap();
    }

    #[test]
    fn a_page_with_the_drivers_own_doorbells_is_nobodys_alone() {
        let mut pages = Pages::default();
        let driver = [(0, 0x1000)];
        let error = pages.take(1, &range(0x1008, 8), true, &driver).unwrap_err();
        assert_eq!(error, Conflict::Driver { region: 0, page: 0x1000 });
        assert!(error.to_string().contains("cooperative"), "{error}");
        pages.take(1, &range(0x1008, 8), false, &driver).unwrap();
        pages.take(1, &range(0x2008, 8), true, &driver).unwrap();
    }
}
