//! What the kernel tells of a device unasked: errors of the fabric, and that somebody wants it back.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;

use crate::bus::{BusError, DeviceEvent};

use super::function::Function;
use super::irq::eventfd;
use super::uapi;
use super::uapi::types::Irq;

/// What is said of [`Irq::Error`].
const FAILED: &str = "the PCIe fabric reports an uncorrectable error (VFIO error interrupt)";

/// The eventfds of a device's own events, and an epoll over them.
#[derive(Debug)]
pub(super) struct Events {
    epoll: OwnedFd,
    error: OwnedFd,
    request: OwnedFd,
}

impl Events {
    /// Asks the kernel for what it tells of this device: not all devices have both.
    pub(super) fn subscribe(function: &Function) -> Result<Self, BusError> {
        let device = || Arc::clone(function.name());
        let os = |what| move |source| BusError::Os { device: device(), what, source };
        let flags = epoll::CreateFlags::CLOEXEC;
        let epoll = epoll::create(flags).map_err(|e| os("making an epoll")(e.into()))?;
        let make = |irq: Irq| {
            let eventfd = eventfd().map_err(os("making an eventfd"))?;
            let (data, readable) = (epoll::EventData::new_u64(irq as u64), epoll::EventFlags::IN);
            epoll::add(&epoll, &eventfd, data, readable)
                .map_err(|e| os("watching an eventfd")(e.into()))?;
            let has = uapi::irq_info(function.as_fd(), irq).is_ok_and(|info| info.count > 0);
            if has {
                let trigger = [Some(eventfd.as_fd())];
                uapi::set_triggers(function.as_fd(), irq, 0, &trigger)
                    .map_err(os("asking for the device's events (VFIO_DEVICE_SET_IRQS)"))?;
            }
            Ok(eventfd)
        };
        let (error, request) = (make(Irq::Error)?, make(Irq::Request)?);
        Ok(Self { epoll, error, request })
    }

    /// What happened since the last call.
    pub(super) fn take(&self) -> Vec<DeviceEvent> {
        let mut count = [0; 8];
        let mut happened = |fd: &OwnedFd| rustix::io::read(fd, &mut count).is_ok();
        let failed = happened(&self.error).then_some(DeviceEvent::Failed { how: FAILED });
        let wanted_back = happened(&self.request).then_some(DeviceEvent::Removed);
        failed.into_iter().chain(wanted_back).collect()
    }

    /// Readable while there is something to take.
    pub(super) fn fd(&self) -> std::io::Result<OwnedFd> {
        self.epoll.try_clone()
    }
}
