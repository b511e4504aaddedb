//! One `Shared` queue.

use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use doorbell_queues::SharedQueue;

use super::locked::Watching;
use super::{CAPACITY, Producer};
use crate::in_thread::{self, Nvme, read_from};

struct Sharing {
    queue: Arc<SharedQueue<Nvme, ()>>,
    /// The first producer runs the device.
    device: Option<Watching>,
    caller: u32,
    lba: u64,
}

pub(super) fn producers(count: usize) -> Result<Vec<impl Producer>> {
    let (parts, device) = in_thread::parts(CAPACITY)?;
    let queue = Arc::new(SharedQueue::new(parts)?);
    let mut device = Some(Watching::new(device));
    let one = |caller| Sharing { queue: Arc::clone(&queue), device: device.take(), caller, lba: 0 };
    Ok((0..count as u32).map(one).collect::<Vec<_>>())
}

impl Producer for Sharing {
    #[inline]
    fn submit(&mut self) -> Result<()> {
        self.lba += 8;
        let (caller, lba) = (self.caller, self.lba);
        let posted = self.queue.post((), |_, ()| read_from(caller, lba));
        posted.map(drop).map_err(|rejected| anyhow!("{}", rejected.reason))
    }

    #[inline]
    fn flush(&mut self) {
        self.queue.flush();
    }

    fn recycle(&mut self) -> Result<()> {
        let Some(device) = &mut self.device else { return Ok(()) };
        // A producer that was late may have left its entries to another one's ring: all rest now, so
        // one more flush covers everything.
        self.queue.flush();
        device.run();
        let mut failed = 0;
        self.queue.reap(usize::MAX, |done| failed += u32::from(done.outcome != 0))?;
        let left = self.queue.in_flight();
        ensure!(failed == 0 && left == 0, "{failed} commands failed, {left} did not complete");
        Ok(())
    }

    fn turns(&self) -> Option<u64> {
        self.device.as_ref().map(Watching::turns)
    }
}
