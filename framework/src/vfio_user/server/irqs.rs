//! Interrupts: DEVICE_GET_IRQ_INFO and DEVICE_SET_IRQS.
//!
//! | index | |
//! |---|---|
//! | INTx | 1 if the device has a pin; level, masks itself when it fires |
//! | MSI-X | one for each vector; never masked here, as the client keeps the table's masks |
//! | errors | 1, signalled when the device's model fails |
//! | MSI, requests | none |

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::ANSWER;
use super::endpoint::Endpoint;
use crate::deadline::Deadline;
use crate::soft::signals::PeerEvent;
use crate::vfio_user::message::{IrqAction, IrqData, IrqInfo, SetIrqs};
use crate::vfio_user::pci;

/// What the device has of an index.
pub(super) fn info(endpoint: &Endpoint, index: u32) -> Option<IrqInfo> {
    let (flags, count) = match index {
        pci::INTX_IRQ if endpoint.pin => {
            (IrqInfo::EVENTFD | IrqInfo::MASKABLE | IrqInfo::AUTOMASKED, 1)
        }
        pci::MSIX_IRQ if endpoint.control().vectors() > 0 => {
            (IrqInfo::EVENTFD | IrqInfo::NORESIZE, endpoint.control().vectors().into())
        }
        pci::ERR_IRQ => (IrqInfo::EVENTFD | IrqInfo::NORESIZE, 1),
        0..pci::IRQS => (0, 0),
        _ => return None,
    };
    Some(IrqInfo { argsz: IrqInfo::ARGSZ, flags, index, count })
}

/// Does what a DEVICE_SET_IRQS asks for.
///
/// # Errors
/// EINVAL for what the index does not have or cannot do; ENOTSUP for eventfds that mask or unmask;
/// EIO if the device does not answer.
pub(super) fn set(
    endpoint: &mut Endpoint,
    irqs: &SetIrqs<'_>,
    fds: Vec<OwnedFd>,
) -> Result<(), Errno> {
    let info = info(endpoint, irqs.index).ok_or(Errno::INVAL)?;
    // A range that does not wrap: checked when the message was read.
    let inside = irqs.start + irqs.count <= info.count;
    let expected = if irqs.data == IrqData::Eventfd { irqs.count as usize } else { 0 };
    // No descriptors at all take away what was set.
    if !inside || fds.len() > expected || (!fds.is_empty() && fds.len() < expected) {
        return Err(Errno::INVAL);
    }
    if irqs.count == 0 && irqs.data != IrqData::None {
        return Err(Errno::INVAL);
    }
    let all_off = irqs.count == 0 && irqs.action == IrqAction::Trigger;
    match irqs.index {
        pci::INTX_IRQ => pin(endpoint, irqs, fds, all_off),
        pci::MSIX_IRQ => vectors(endpoint, irqs, fds, all_off),
        pci::ERR_IRQ => error(endpoint, irqs, fds, all_off),
        _ if all_off => Ok(()),
        _ => Err(Errno::INVAL),
    }
}

/// The error interrupt: the server's own, for a device that has failed asserts nothing any more.
fn error(
    endpoint: &mut Endpoint,
    irqs: &SetIrqs<'_>,
    fds: Vec<OwnedFd>,
    all_off: bool,
) -> Result<(), Errno> {
    if irqs.action != IrqAction::Trigger {
        return Err(Errno::INVAL);
    }
    if irqs.data == IrqData::Eventfd || all_off {
        endpoint.error = fds.into_iter().next().map(PeerEvent::new).transpose()?;
    } else if chosen(irqs).next().is_some() {
        endpoint.report_error();
    }
    Ok(())
}

/// For which interrupts of the range an action without descriptors is meant.
fn chosen<'a>(irqs: &SetIrqs<'a>) -> impl Iterator<Item = u32> + use<'a> {
    let data = irqs.data;
    (irqs.start..irqs.start + irqs.count).zip(0usize..).filter_map(move |(irq, at)| match data {
        IrqData::Bool(bytes) => bytes.get(at).is_some_and(|byte| *byte != 0).then_some(irq),
        IrqData::None | IrqData::Eventfd => Some(irq),
    })
}

fn vectors(
    endpoint: &Endpoint,
    irqs: &SetIrqs<'_>,
    fds: Vec<OwnedFd>,
    all_off: bool,
) -> Result<(), Errno> {
    if irqs.action != IrqAction::Trigger {
        return Err(Errno::INVAL);
    }
    let fire = irqs.data != IrqData::Eventfd && !all_off;
    let chosen: Vec<u32> = if all_off {
        (0..endpoint.control().vectors().into()).collect()
    } else {
        chosen(irqs).collect()
    };
    let mut events = Vec::with_capacity(fds.len());
    for fd in fds {
        events.push(PeerEvent::new(fd)?);
    }
    let mut events = events.into_iter();
    call(endpoint, move |cx| {
        for vector in chosen {
            let Some(signals) = cx.vectors.get_mut(vector as usize) else { continue };
            if fire {
                signals.raise();
            } else {
                signals.always = events.next();
            }
        }
    })
}

fn pin(
    endpoint: &Endpoint,
    irqs: &SetIrqs<'_>,
    fds: Vec<OwnedFd>,
    all_off: bool,
) -> Result<(), Errno> {
    let chosen = all_off || chosen(irqs).next().is_some();
    let action = irqs.action;
    if irqs.data == IrqData::Eventfd && action != IrqAction::Trigger {
        return Err(Errno::OPNOTSUPP);
    }
    let install = irqs.data == IrqData::Eventfd || all_off;
    let event = fds.into_iter().next().map(PeerEvent::new).transpose()?;
    call(endpoint, move |cx| match action {
        IrqAction::Trigger if install => {
            cx.pin.event = event;
            cx.pin.masked = false;
        }
        IrqAction::Trigger if chosen => cx.pin.fire(),
        IrqAction::Mask if chosen => cx.pin.masked = true,
        IrqAction::Unmask if chosen => cx.pin.masked = false,
        _ => {}
    })
}

/// Waits for the device's thread: an eventfd that was taken away is closed when this is answered.
fn call(
    endpoint: &Endpoint,
    work: impl FnOnce(&mut crate::soft::SoftCx) + Send + 'static,
) -> Result<(), Errno> {
    let control = endpoint.control();
    let done =
        control.call("setting interrupts up", Deadline::after(ANSWER), move |_, cx| work(cx));
    done.map_err(|error| {
        tracing::warn!(%error, "interrupts are not set up");
        Errno::IO
    })
}
