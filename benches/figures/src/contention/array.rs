//! crossbeam's `ArrayQueue` between the producers and the one thread that submits.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow, bail, ensure};
use crossbeam_queue::ArrayQueue;
use doorbell_queues::Queue;

use super::locked::Watching;
use super::{CAPACITY, PATIENCE, Producer};
use crate::in_thread::{self, Entry, Nvme, read_from};

struct Feeding {
    array: Arc<ArrayQueue<Entry>>,
    /// The first producer is the submitter as well: two cores have no third.
    submitter: Option<Submitter>,
    caller: u32,
    lba: u64,
}

struct Submitter {
    queue: Queue<Nvme, ()>,
    device: Watching,
    /// Commands placed in this round.
    placed: usize,
}

pub(super) fn producers(count: usize) -> Result<Vec<impl Producer>> {
    let (parts, device) = in_thread::parts(CAPACITY)?;
    let (queue, device) = (Queue::new(parts)?, Watching::new(device));
    let mut submitter = Some(Submitter { queue, device, placed: 0 });
    let array = Arc::new(ArrayQueue::new(CAPACITY.into()));
    let one =
        |caller| Feeding { array: Arc::clone(&array), submitter: submitter.take(), caller, lba: 0 };
    Ok((0..count as u32).map(one).collect::<Vec<_>>())
}

impl Submitter {
    /// Moves what there is from the array to the device.
    fn feed(&mut self, array: &ArrayQueue<Entry>) -> Result<()> {
        while let Some(entry) = array.pop() {
            let posted = self.queue.post((), |_, ()| entry);
            posted.map_err(|rejected| anyhow!("{}", rejected.reason))?;
            self.placed += 1;
        }
        self.queue.flush();
        Ok(())
    }
}

impl Producer for Feeding {
    #[inline]
    fn submit(&mut self) -> Result<()> {
        self.lba += 8;
        let pushed = self.array.push(read_from(self.caller, self.lba));
        pushed.map_err(|_| anyhow!("the array of {CAPACITY} entries is full"))
    }

    #[inline]
    fn flush(&mut self) {
        if let Some(submitter) = &mut self.submitter {
            // What fails here is missed in `finish`.
            let _ = submitter.feed(&self.array);
        }
    }

    fn finish(&mut self, expected: usize) -> Result<()> {
        let Some(submitter) = &mut self.submitter else { return Ok(()) };
        let (mut looks, mut since) = (0_u32, None);
        while submitter.placed < expected {
            submitter.feed(&self.array)?;
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(1 << 10) {
                std::thread::yield_now();
                if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    bail!("{} of {expected} commands came to the submitter", submitter.placed);
                }
            }
        }
        submitter.placed = 0;
        Ok(())
    }

    fn recycle(&mut self) -> Result<()> {
        let Some(Submitter { queue, device, .. }) = &mut self.submitter else { return Ok(()) };
        device.run();
        let mut failed = 0;
        queue.reap(usize::MAX, |done| failed += u32::from(done.outcome != 0))?;
        ensure!(failed == 0 && queue.in_flight() == 0, "{failed} commands failed");
        Ok(())
    }

    fn turns(&self) -> Option<u64> {
        self.submitter.as_ref().map(|submitter| submitter.device.turns())
    }
}
