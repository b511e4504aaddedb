//! A queue for each producer.

use anyhow::{Result, anyhow, ensure};
use doorbell_queues::Queue;

use super::{CAPACITY, Producer};
use crate::in_thread::{self, Device, Nvme, read_from};

struct Single {
    queue: Queue<Nvme, ()>,
    device: Device,
    lba: u64,
}

pub(super) fn producers(count: usize) -> Result<Vec<impl Producer>> {
    let one = |_| {
        let (parts, device) = in_thread::parts(CAPACITY)?;
        Ok(Single { queue: Queue::new(parts)?, device, lba: 0 })
    };
    (0..count).map(one).collect::<Result<Vec<_>>>()
}

impl Producer for Single {
    #[inline]
    fn submit(&mut self) -> Result<()> {
        self.lba += 8;
        let lba = self.lba;
        let posted = self.queue.post((), |_, ()| read_from(1, lba));
        posted.map(drop).map_err(|rejected| anyhow!("{}", rejected.reason))
    }

    #[inline]
    fn flush(&mut self) {
        self.queue.flush();
    }

    fn recycle(&mut self) -> Result<()> {
        self.device.run(|_| ());
        let mut failed = 0;
        self.queue.reap(usize::MAX, |done| failed += u32::from(done.outcome != 0))?;
        ensure!(failed == 0 && self.queue.in_flight() == 0, "{failed} commands failed");
        Ok(())
    }

    fn turns(&self) -> Option<u64> {
        None
    }
}
