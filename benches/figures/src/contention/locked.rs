//! One queue behind a mutex.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, anyhow, ensure};
use doorbell_queues::Queue;

use super::{CAPACITY, Producer};
use crate::in_thread::{self, Device, Nvme, read_from};

/// The device of many producers: it tells how often its ring changes from one to another.
pub(super) struct Watching {
    device: Device,
    last: Option<u32>,
    turns: u64,
}

impl Watching {
    pub(super) fn new(device: Device) -> Self {
        Self { device, last: None, turns: 0 }
    }

    /// Completes everything that the doorbell covers.
    pub(super) fn run(&mut self) {
        let Self { device, last, turns } = self;
        device.run(|entry| {
            let caller = entry.caller();
            *turns += u64::from(last.is_some_and(|last| last != caller));
            *last = Some(caller);
        });
    }

    pub(super) fn turns(&self) -> u64 {
        self.turns
    }
}

struct Locked {
    queue: Arc<Mutex<Queue<Nvme, ()>>>,
    /// The first producer runs the device.
    device: Option<Watching>,
    caller: u32,
    lba: u64,
}

pub(super) fn producers(count: usize) -> Result<Vec<impl Producer>> {
    let (parts, device) = in_thread::parts(CAPACITY)?;
    let queue = Arc::new(Mutex::new(Queue::new(parts)?));
    let mut device = Some(Watching::new(device));
    let one = |caller| Locked { queue: Arc::clone(&queue), device: device.take(), caller, lba: 0 };
    Ok((0..count as u32).map(one).collect::<Vec<_>>())
}

impl Locked {
    #[inline]
    fn queue(&self) -> MutexGuard<'_, Queue<Nvme, ()>> {
        // Nobody panics with the lock held, and if so the run has failed anyway.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Producer for Locked {
    #[inline]
    fn submit(&mut self) -> Result<()> {
        self.lba += 8;
        let (caller, lba) = (self.caller, self.lba);
        let posted = self.queue().post((), |_, ()| read_from(caller, lba));
        posted.map(drop).map_err(|rejected| anyhow!("{}", rejected.reason))
    }

    #[inline]
    fn flush(&mut self) {
        self.queue().flush();
    }

    fn recycle(&mut self) -> Result<()> {
        let Some(device) = &mut self.device else { return Ok(()) };
        device.run();
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failed = 0;
        queue.reap(usize::MAX, |done| failed += u32::from(done.outcome != 0))?;
        ensure!(failed == 0 && queue.in_flight() == 0, "{failed} commands failed");
        Ok(())
    }

    fn turns(&self) -> Option<u64> {
        self.device.as_ref().map(Watching::turns)
    }
}
