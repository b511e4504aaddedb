//! Admin commands (base 5).

mod abort;
mod features;
mod format;
mod identify;
mod log;
mod queues;
mod virtualization;

use doorbell::soft::SoftCx;

use super::SoftNvme;
use super::command::{Failure, Origin, Outcome, Reply, byte};
use crate::spec::{AdminOpcode, Sqe, Status};

pub(crate) use identify::WARNING_TEMPERATURE;
pub(crate) use queues::Deletion;

/// Admin commands that a controller of this model can have.
const SUPPORTED: [AdminOpcode; 13] = [
    AdminOpcode::DELETE_IO_SQ,
    AdminOpcode::CREATE_IO_SQ,
    AdminOpcode::GET_LOG_PAGE,
    AdminOpcode::DELETE_IO_CQ,
    AdminOpcode::CREATE_IO_CQ,
    AdminOpcode::IDENTIFY,
    AdminOpcode::ABORT,
    AdminOpcode::SET_FEATURES,
    AdminOpcode::GET_FEATURES,
    AdminOpcode::ASYNC_EVENT_REQUEST,
    AdminOpcode::VIRTUALIZATION_MANAGEMENT,
    AdminOpcode::DOORBELL_BUFFER_CONFIG,
    AdminOpcode::FORMAT_NVM,
];

/// Fields that are the same in all commands (base 3.3.3.1): neither fused operations nor SGLs here.
pub(crate) fn check_flags(sqe: &Sqe) -> Result<(), Failure> {
    if sqe.flags == 0 {
        return Ok(());
    }
    if sqe.fuse() != 0 {
        return Err(Failure::invalid(byte::FLAGS, 0));
    }
    if sqe.psdt() != 0 {
        return Err(Failure::invalid(byte::FLAGS, 6));
    }
    // The bits between are reserved: ignored (base 1.3).
    Ok(())
}

impl SoftNvme {
    /// The admin commands that this controller has. What concerns all users of the namespaces is the
    /// primary controller's.
    pub(crate) fn supported(&self) -> impl Iterator<Item = AdminOpcode> {
        let (secondary, virtualized) = (self.link.is_some(), !self.secondaries.is_empty());
        let dbbuf = self.config.dbbuf;
        SUPPORTED.into_iter().filter(move |opcode| match *opcode {
            AdminOpcode::FORMAT_NVM => !secondary,
            AdminOpcode::VIRTUALIZATION_MANAGEMENT => virtualized,
            AdminOpcode::DOORBELL_BUFFER_CONFIG => dbbuf,
            _ => true,
        })
    }

    /// Executes an admin command. Kept out of line, away from the I/O path.
    #[cold]
    #[inline(never)]
    pub(crate) fn admin(&mut self, cx: &mut SoftCx, sqe: &Sqe) -> Reply {
        let opcode = AdminOpcode(sqe.opcode);
        if !self.supported().any(|supported| supported == opcode) {
            return Err(Failure::field(Status::INVALID_OPCODE, byte::OPCODE, 0));
        }
        check_flags(sqe)?;
        let origin = Origin::of(0, sqe);
        match opcode {
            AdminOpcode::CREATE_IO_CQ => self.create_cq(cx, sqe),
            AdminOpcode::CREATE_IO_SQ => self.create_sq(cx, sqe),
            AdminOpcode::DELETE_IO_CQ => self.delete_cq(sqe),
            AdminOpcode::DELETE_IO_SQ => self.delete_sq(cx, sqe),
            AdminOpcode::IDENTIFY => self.identify(cx, sqe),
            AdminOpcode::GET_LOG_PAGE => self.get_log_page(cx, sqe),
            AdminOpcode::ABORT => self.abort(cx, sqe),
            AdminOpcode::SET_FEATURES => self.set_features(sqe),
            AdminOpcode::GET_FEATURES => self.get_features(sqe),
            AdminOpcode::ASYNC_EVENT_REQUEST => {
                self.events.request(origin)?;
                Ok(Outcome::Parked)
            }
            AdminOpcode::DOORBELL_BUFFER_CONFIG => self.doorbell_buffer_config(cx, sqe),
            AdminOpcode::FORMAT_NVM => self.format(origin, sqe),
            AdminOpcode::VIRTUALIZATION_MANAGEMENT => self.manage_virtualization(sqe),
            _ => Err(Failure::field(Status::INVALID_OPCODE, byte::OPCODE, 0)),
        }
    }

    /// Sends `bytes` as the data of an admin command, and zeroes up to `len`.
    fn answer(&mut self, cx: &mut SoftCx, sqe: &Sqe, bytes: &[u8], len: u64) -> Reply {
        self.segments.resolve(cx, self.regs.page_size(), sqe, len)?;
        let (bytes, _) = bytes.split_at(bytes.len().min(len as usize));
        self.segments.write_bytes(cx, bytes)?;
        let sent = bytes.len() as u64;
        for part in self.segments.parts(sent, len - sent) {
            cx.fill(part.iova, part.len as usize, 0)?;
        }
        Ok(Outcome::Done(0))
    }
}
