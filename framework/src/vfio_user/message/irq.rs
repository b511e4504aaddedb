//! DEVICE_SET_IRQS.

use crate::vfio_user::ProtocolError;
use crate::vfio_user::fields::{Fields, Put};

const NAME: &str = "DEVICE_SET_IRQS";
/// Bytes before the data.
const FIXED: usize = 20;

const DATA_NONE: u32 = 1;
const DATA_BOOL: u32 = 1 << 1;
const DATA_EVENTFD: u32 = 1 << 2;
const ACTION_MASK: u32 = 1 << 3;
const ACTION_UNMASK: u32 = 1 << 4;
const ACTION_TRIGGER: u32 = 1 << 5;

/// On what the action is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqData<'a> {
    /// On each interrupt of the range. A count of 0 turns the whole index off.
    None,
    /// On each whose byte is not 0; one byte for each interrupt of the range.
    Bool(&'a [u8]),
    /// The descriptors that come with the message are signalled when the action happens. No
    /// descriptors: what was set is taken away.
    Eventfd,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqAction {
    /// Masked.
    Mask,
    /// Unmasked.
    Unmask,
    /// Triggered.
    Trigger,
}

/// Sets interrupts up, or acts on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetIrqs<'a> {
    /// Which index ([`crate::vfio_user::pci::MSIX_IRQ`] and the others).
    pub index: u32,
    /// First interrupt.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// What is done.
    pub action: IrqAction,
    /// On what.
    pub data: IrqData<'a>,
}

impl<'a> SetIrqs<'a> {
    /// Reads it. `argsz` is not looked at: the length of the message says the same.
    ///
    /// # Errors
    /// [`ProtocolError::Field`] if the flags are not one data type and one action, or the range
    /// wraps; [`ProtocolError::Count`] if the booleans are not as many as the interrupts.
    pub fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(NAME, payload);
        let (_argsz, flags) = (fields.u32()?, fields.u32()?);
        let (index, start, count) = (fields.u32()?, fields.u32()?, fields.u32()?);
        if start.checked_add(count).is_none() {
            return Err(fields.bad("start", start.into(), "with the count it wraps"));
        }
        let bad = |problem| fields.bad("flags", flags.into(), problem);
        let action = match flags & !(DATA_NONE | DATA_BOOL | DATA_EVENTFD) {
            ACTION_MASK => IrqAction::Mask,
            ACTION_UNMASK => IrqAction::Unmask,
            ACTION_TRIGGER => IrqAction::Trigger,
            _ => return Err(bad("exactly one action belongs there, and no other bits")),
        };
        let data = match flags & (DATA_NONE | DATA_BOOL | DATA_EVENTFD) {
            DATA_NONE => {
                fields.end()?;
                IrqData::None
            }
            DATA_BOOL => IrqData::Bool(fields.data(count.into())?),
            DATA_EVENTFD => {
                fields.end()?;
                IrqData::Eventfd
            }
            _ => return Err(bad("exactly one type of data belongs there")),
        };
        Ok(Self { index, start, count, action, data })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (data, bytes): (_, &[u8]) = match self.data {
            IrqData::None => (DATA_NONE, &[]),
            IrqData::Bool(bytes) => (DATA_BOOL, bytes),
            IrqData::Eventfd => (DATA_EVENTFD, &[]),
        };
        let action = match self.action {
            IrqAction::Mask => ACTION_MASK,
            IrqAction::Unmask => ACTION_UNMASK,
            IrqAction::Trigger => ACTION_TRIGGER,
        };
        let argsz = u32::try_from(FIXED + bytes.len()).unwrap_or(u32::MAX);
        out.put_u32(argsz).put_u32(data | action);
        out.put_u32(self.index).put_u32(self.start).put_u32(self.count).put(bytes);
    }
}
