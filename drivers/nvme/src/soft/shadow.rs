//! Shadow doorbells: Doorbell Buffer Config (base 5.8, annex B.5).
//!
//! The host names two pages. In the first it keeps a copy of each doorbell; in the second this
//! controller says by EventIdx which value it wants to be told of by a register write. Both are laid out
//! as the doorbell registers are from 1000h on. From then on the controller looks at the copies of all
//! I/O queues' doorbells, and at their registers no more: a register write only wakes it.
//!
//! **The admin queue keeps its registers**, and the words of queue 0 are neither read nor written. The
//! layout has a place for them, but the command itself comes through that queue, and hosts in the field
//! (Linux among them) write its register alone. A host that writes both loses nothing.
//!
//! While the controller polls it leaves each EventIdx behind the doorbell, so that nobody writes a
//! register; before its thread sleeps it moves each to what it saw and looks again
//! ([`doorbell_queues::doorbell::shadow`] shows that nothing is lost). Head doorbells are looked at when
//! a completion queue seems full, so their EventIdx always stays behind.
//!
//! The pages are the host's memory: every value is checked as a register's is, and every access goes
//! through the IOMMU. A submission queue whose words cannot be reached is dead until it is deleted, like
//! one whose ring cannot; a completion queue's head then counts as it was last seen. Memory that only
//! messages reach (a vfio-user client that shares none) is refused with Data Transfer Error: polling it
//! would be a message for each look. Hosts go on without shadow doorbells then.

use doorbell::dma::{Access, Fault};
use doorbell::queues::doorbell::shadow::{behind, is_due, last_look};
use doorbell::soft::SoftCx;

use super::SoftNvme;
use super::command::{Failure, Outcome, Reply, byte};
use crate::spec::Sqe;
use crate::spec::regs::{Cap, offset};

/// Bytes of the smallest memory page: each buffer is one page, and every doorbell has its place in it.
const LEAST_PAGE: u64 = 4096;

/// I/O queue pairs whose doorbells have places in a page at a doorbell stride (CAP.DSTRD). The condition
/// of base 5.8 counts one doorbell for each queue pair; this counts both.
pub(crate) fn most_queues(dstrd: u8) -> u16 {
    let pairs = LEAST_PAGE / (2 * (4 << dstrd));
    (pairs.saturating_sub(1)) as u16
}

/// The two pages, as addresses of the host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buffers {
    shadow: u64,
    event: u64,
}

impl Buffers {
    /// The words of the doorbell whose register is at `register`.
    fn words(self, register: u64) -> Words {
        let at = register - offset::DOORBELLS;
        Words { shadow: self.shadow + at, event_at: self.event + at, event: 0 }
    }

    /// Words for a new queue, whose doorbell is at 0.
    ///
    /// # Errors
    /// [`Fault`] if they cannot be reached.
    pub(crate) fn attach(self, cx: &mut SoftCx, at: u64, size: u32) -> Result<Words, Fault> {
        let mut words = self.words(at);
        words.load(cx)?;
        words.tell(cx, behind(0, size))?;
        Ok(words)
    }

    /// Words for a queue that was used with its registers so far, and had the value `known` last. A page
    /// that the host has only cleared gets that value: the host's next ring counts from it.
    fn adopt(self, cx: &mut SoftCx, at: u64, known: u32, size: u32) -> Result<Words, Fault> {
        let mut words = self.words(at);
        if words.load(cx)? == 0 && known != 0 {
            cx.store_u32(words.shadow, known)?;
        }
        words.tell(cx, behind(known, size))?;
        Ok(words)
    }
}

/// The two words of one doorbell.
#[derive(Debug)]
pub(crate) struct Words {
    shadow: u64,
    event_at: u64,
    /// EventIdx as it was last written.
    event: u32,
}

impl Words {
    /// The doorbell's value. What the host stored before it is visible.
    #[inline]
    pub(crate) fn load(&self, cx: &mut SoftCx) -> Result<u32, Fault> {
        cx.load_u32(self.shadow)
    }

    /// Writes EventIdx.
    pub(crate) fn tell(&mut self, cx: &mut SoftCx, event: u32) -> Result<(), Fault> {
        cx.store_u32(self.event_at, event)?;
        self.event = event;
        Ok(())
    }

    /// The doorbell is at `seen`: keeps EventIdx out of its way. If that fails the host writes a
    /// register too often, and the next look finds out.
    #[inline]
    pub(crate) fn keep_behind(&mut self, cx: &mut SoftCx, seen: u32, size: u32) {
        if is_due(self.event, seen, size) {
            let _ = self.tell(cx, behind(seen, size));
        }
    }
}

impl SoftNvme {
    /// Doorbell Buffer Config. A second one moves the doorbells to other pages.
    pub(super) fn doorbell_buffer_config(&mut self, cx: &mut SoftCx, sqe: &Sqe) -> Reply {
        let page = self.regs.page_size();
        for (address, field) in [(sqe.prp1, byte::PRP1), (sqe.prp2, byte::PRP2)] {
            if !address.is_multiple_of(page) {
                return Err(Failure::invalid(field, 0));
            }
            // Memory of this process, all of it.
            cx.pieces(address, page as usize, Access::ReadWrite, |_| ())?;
        }
        let buffers = Buffers { shadow: sqe.prp1, event: sqe.prp2 };
        self.adopt_queues(cx, buffers)?;
        self.shadow = Some(buffers);
        tracing::debug!("the host keeps shadow doorbells");
        Ok(Outcome::Done(0))
    }

    /// The I/O queues that exist go on with their shadow doorbells.
    fn adopt_queues(&mut self, cx: &mut SoftCx, buffers: Buffers) -> Result<(), Fault> {
        let cap: Cap = self.regs.cap;
        let mut failed = Ok(());
        self.queues.each_sq(|id, sq| {
            // What came by the old way until now.
            let _ = sq.look(cx);
            match buffers.adopt(cx, cap.sq_doorbell(id), sq.seen(), sq.size) {
                Ok(words) => sq.shadow = Some(words),
                Err(fault) => failed = Err(fault),
            }
        });
        self.queues.each_cq(|id, cq| {
            if id == 0 {
                return;
            }
            let _ = cq.look(cx);
            match buffers.adopt(cx, cap.cq_doorbell(id), cq.seen(), cq.size) {
                Ok(words) => cq.shadow = Some(words),
                Err(fault) => failed = Err(fault),
            }
        });
        failed
    }

    /// Before the thread sleeps: asks for a register write at each submission queue's next ring. A poll
    /// follows.
    pub(crate) fn announce_sleep(&mut self, cx: &mut SoftCx) {
        if self.shadow.is_none() {
            return;
        }
        let mut lost = Vec::new();
        self.queues.each_sq(|id, sq| {
            if let Err(fault) = sq.announce(cx) {
                lost.push((id, fault));
            }
        });
        for (id, fault) in lost {
            self.doorbell_lost(id, fault);
        }
        last_look();
    }
}
