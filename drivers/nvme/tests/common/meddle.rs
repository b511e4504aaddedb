//! The software controller with something in between: for faults that it does not inject itself.

use doorbell::bus::{Identity, Region, Width};
use doorbell::soft::{Idle, Progress, SoftCx, SoftDevice};

/// What is in between.
pub(crate) trait Meddle: Send + 'static {
    /// Before each poll; false leaves the controller without it.
    fn poll(&mut self) -> bool;

    /// Before each register write.
    fn write(&mut self, offset: u64, value: u64) {
        let _ = (offset, value);
    }

    /// What is in between a virtual function.
    fn function(&self, index: u16) -> Box<dyn Meddle> {
        let _ = index;
        Box::new(Nothing)
    }
}

/// Nothing in between.
struct Nothing;

impl Meddle for Nothing {
    fn poll(&mut self) -> bool {
        true
    }
}

impl Meddle for Box<dyn Meddle> {
    fn poll(&mut self) -> bool {
        (**self).poll()
    }

    fn write(&mut self, offset: u64, value: u64) {
        (**self).write(offset, value);
    }

    fn function(&self, index: u16) -> Box<dyn Meddle> {
        (**self).function(index)
    }
}

pub(crate) struct Meddled<M> {
    device: Box<dyn SoftDevice>,
    meddle: M,
}

impl<M: Meddle> Meddled<M> {
    /// The controller that `options` describe.
    pub(crate) fn build(
        options: &[(String, String)],
        meddle: M,
    ) -> Result<Box<dyn SoftDevice>, String> {
        let device = doorbell_nvme::soft::build(options)?;
        Ok(Box::new(Self { device, meddle }))
    }
}

impl<M: Meddle> SoftDevice for Meddled<M> {
    fn identity(&self) -> Identity {
        self.device.identity()
    }

    fn regions(&self) -> Vec<Region> {
        self.device.regions()
    }

    fn vectors(&self) -> u16 {
        self.device.vectors()
    }

    fn read(&mut self, cx: &mut SoftCx, region: u8, offset: u64, width: Width) -> u64 {
        self.device.read(cx, region, offset, width)
    }

    fn write(&mut self, cx: &mut SoftCx, region: u8, offset: u64, width: Width, value: u64) {
        self.meddle.write(offset, value);
        self.device.write(cx, region, offset, width, value);
    }

    fn poll(&mut self, cx: &mut SoftCx) -> Progress {
        if self.meddle.poll() { self.device.poll(cx) } else { Progress::Idle }
    }

    fn idle(&self) -> Idle<'_> {
        self.device.idle()
    }

    fn virtual_functions(&self) -> u16 {
        self.device.virtual_functions()
    }

    fn open_virtual_function(&mut self, index: u16) -> Option<Box<dyn SoftDevice>> {
        let device = self.device.open_virtual_function(index)?;
        Some(Box::new(Meddled { device, meddle: self.meddle.function(index) }))
    }

    fn reset(&mut self, cx: &mut SoftCx) {
        self.device.reset(cx);
    }
}
