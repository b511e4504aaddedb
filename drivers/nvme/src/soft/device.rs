//! The controller as a [`SoftDevice`].

use std::time::{Duration, Instant};

use doorbell::Deadline;
use doorbell::bus::{Identity, Region, Width};
use doorbell::soft::{Idle, Progress, SoftCx, SoftDevice};

use super::{CLASS, DEVICE, SoftNvme, VENDOR};
use crate::spec::regs::offset;

/// How soon a sleeping controller looks again at a completion queue that was full. A host that makes
/// room need not ring for it.
const FULL_QUEUE: Duration = Duration::from_micros(500);

/// How soon operations are handed to the kernel again that it did not take.
const UNSUBMITTED: Duration = Duration::from_millis(1);

/// How long file operations under way may take before a device that is to be stopped goes on without
/// them.
const FLUSH: Duration = Duration::from_secs(30);

/// The least size of BAR0 in bytes.
const SMALLEST_BAR: u64 = 16 << 10;

impl SoftNvme {
    /// Bytes of BAR0 from the first doorbell to the end of the last page with one.
    fn doorbell_bytes(&self) -> u64 {
        let end = self.regs.cap.cq_doorbell(self.config.queues) + 4;
        (end - offset::DOORBELLS).next_multiple_of(4096)
    }
}

impl SoftDevice for SoftNvme {
    fn identity(&self) -> Identity {
        let name = "soft:nvme".into();
        Identity { name, vendor: VENDOR, device: DEVICE, class: CLASS, numa_node: self.config.numa }
    }

    fn regions(&self) -> Vec<Region> {
        let end = offset::DOORBELLS + self.doorbell_bytes();
        let doorbells = offset::DOORBELLS..end;
        // A power of two (PCI local bus 3.0, 6.2.5.1), and not below 16 KiB (PCIe 3.1.1: MLBAR).
        let size = end.next_power_of_two().max(SMALLEST_BAR);
        vec![Region { index: 0, size, mappable: vec![doorbells] }]
    }

    fn exclusive_pages(&self, region: u8) -> bool {
        // A doorbell stride of 4 << 10 bytes (CAP.DSTRD, base 3.1.3.1) gives each a page of its own.
        region == 0 && self.regs.cap.dstrd() >= 10
    }

    fn vectors(&self) -> u16 {
        self.vector_count()
    }

    fn read(&mut self, cx: &mut SoftCx, region: u8, offset: u64, width: Width) -> u64 {
        if region != 0 {
            return 0;
        }
        self.steadily(cx, |controller, _| controller.regs.read(offset, width))
    }

    fn write(&mut self, cx: &mut SoftCx, region: u8, offset: u64, width: Width, value: u64) {
        self.steadily(cx, |controller, cx| {
            if region == 0 && !controller.regs.gone && !controller.regs.offline {
                let request = controller.regs.write(offset, width, value);
                controller.request(cx, request);
            }
        });
    }

    #[inline]
    fn poll(&mut self, cx: &mut SoftCx) -> Progress {
        if self.steadily(cx, Self::serve) { Progress::Busy } else { Progress::Idle }
    }

    fn doze(&mut self, cx: &mut SoftCx) {
        self.steadily(cx, Self::announce_sleep);
    }

    fn idle(&self) -> Idle<'_> {
        let working = self.jobs.ring().filter(|ring| ring.inflight() > 0);
        let full = self.queues.starved.then_some(FULL_QUEUE);
        let deferred = working.filter(|ring| ring.is_deferred()).map(|_| UNSUBMITTED);
        let until = full.or(deferred).map(|nap| Instant::now() + nap);
        Idle { fds: working.map(|ring| ring.fd()).into_iter().collect(), until }
    }

    fn has_pin(&self) -> bool {
        true
    }

    fn pin(&mut self, cx: &mut SoftCx) -> bool {
        self.asserts_pin(cx)
    }

    fn repeats_dma(&self) -> bool {
        true
    }

    fn flush(&mut self, cx: &mut SoftCx) -> std::io::Result<()> {
        let deadline = Deadline::after(FLUSH);
        while !self.jobs.idle() && !deadline.expired() {
            if !self.jobs.poll(cx, &mut self.namespaces) {
                std::thread::sleep(UNSUBMITTED);
            }
            self.jobs.submit();
        }
        self.namespaces.sync()
    }

    fn reset(&mut self, cx: &mut SoftCx) {
        self.steadily(cx, |controller, cx| {
            controller.secondaries_offline(true);
            controller.power_on_reset(cx);
        });
    }

    fn virtual_functions(&self) -> u16 {
        self.config.vfs
    }

    fn open_virtual_function(&mut self, index: u16) -> Option<Box<dyn SoftDevice>> {
        match self.secondary(index) {
            Ok(controller) => controller.map(|one| Box::new(one) as Box<dyn SoftDevice>),
            Err(error) => {
                tracing::error!(index, %error, "a secondary controller cannot be made");
                None
            }
        }
    }
}
