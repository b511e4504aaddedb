//! Interrupts: an eventfd for each vector, set by DEVICE_SET_IRQS.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::config::Messages;
use super::error::LinkError;
use super::io::MAX_FDS;
use super::link::{Link, new_eventfd};
use crate::vfio_user::message::{IrqAction, IrqData, IrqInfo, SetIrqs};
use crate::vfio_user::{Command, Reply, Request, pci};

/// The most vectors that are set up, each with a descriptor here and one in the server. A device
/// that has more still works: its queues share these.
const MAX_VECTORS: u32 = 256;

/// The vectors of a device.
#[derive(Debug)]
pub(super) struct Interrupts {
    messages: Option<Messages>,
    events: Mutex<Vec<OwnedFd>>,
    /// Descriptors of one message.
    piece: usize,
}

impl Interrupts {
    /// Finds out what the device has: MSI-X, or else MSI. INTx is not used.
    pub(super) fn find(link: &Link, irqs: u32, max_msg_fds: u64) -> Result<Self, LinkError> {
        let piece = usize::try_from(max_msg_fds).unwrap_or(MAX_FDS).min(MAX_FDS);
        for (messages, index) in [(Messages::MsiX, pci::MSIX_IRQ), (Messages::Msi, pci::MSI_IRQ)] {
            let count = if index < irqs && piece > 0 { count(link, index)? } else { 0 };
            if count > 0 {
                let events = (0..count.min(MAX_VECTORS)).map(|_| new_eventfd());
                let events = events
                    .collect::<Result<_, _>>()
                    .map_err(|error| LinkError::Socket(std::sync::Arc::new(error.into())))?;
                return Ok(Self { messages: Some(messages), events: Mutex::new(events), piece });
            }
        }
        Ok(Self { messages: None, events: Mutex::default(), piece })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn messages(&self) -> Option<Messages> {
        self.messages
    }

    /// How many vectors there are.
    pub(super) fn count(&self) -> u16 {
        // At most `MAX_VECTORS`.
        self.lock().len() as u16
    }

    /// A duplicate of a vector's eventfd.
    pub(super) fn event(&self, vector: u16) -> Option<std::io::Result<OwnedFd>> {
        self.lock().get(usize::from(vector)).map(OwnedFd::try_clone)
    }

    /// Tells the server all of them, in pieces that it can take.
    pub(super) fn set_all(&self, link: &Link) -> Result<(), LinkError> {
        let events = self.lock();
        for (piece, number) in events.chunks(self.piece.max(1)).zip(0u32..) {
            // At most `MAX_VECTORS`.
            let start = number * self.piece as u32;
            self.set(link, start, piece)?;
        }
        Ok(())
    }

    /// Gives a vector a new eventfd.
    pub(super) fn renew(&self, link: &Link, vector: u16) -> Result<(), LinkError> {
        let mut events = self.lock();
        let Some(event) = events.get_mut(usize::from(vector)) else { return Ok(()) };
        let new = new_eventfd();
        let new = new.map_err(|error| LinkError::Socket(std::sync::Arc::new(error.into())))?;
        self.set(link, vector.into(), std::slice::from_ref(&new))?;
        *event = new;
        Ok(())
    }

    fn set(&self, link: &Link, start: u32, events: &[OwnedFd]) -> Result<(), LinkError> {
        let index = match self.messages {
            Some(Messages::MsiX) => pci::MSIX_IRQ,
            Some(Messages::Msi) => pci::MSI_IRQ,
            None => return Ok(()),
        };
        let fds = events.iter().map(OwnedFd::try_clone).collect::<Result<Vec<_>, _>>();
        let fds = fds.map_err(|error| LinkError::Socket(std::sync::Arc::new(error.into())))?;
        let set = SetIrqs {
            index,
            start,
            count: events.len() as u32,
            action: IrqAction::Trigger,
            data: IrqData::Eventfd,
        };
        link.done(&Request::DeviceSetIrqs(set), fds)
    }
}

/// How many interrupts an index has that can be signalled by eventfds.
fn count(link: &Link, index: u32) -> Result<u32, LinkError> {
    let ask = IrqInfo { argsz: IrqInfo::ARGSZ, index, ..IrqInfo::default() };
    let info = link.ask_for(&Request::DeviceGetIrqInfo(ask), |reply| match reply {
        Reply::DeviceGetIrqInfo(info) => Some(info),
        _ => None,
    })?;
    if info.index != index {
        let problem = format!("it is about index {}, asked for was {index}", info.index);
        return Err(LinkError::answer(Command::DeviceGetIrqInfo, problem));
    }
    Ok(if info.flags & IrqInfo::EVENTFD == 0 { 0 } else { info.count })
}
