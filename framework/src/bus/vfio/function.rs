//! [`Function`]: an open device, its config space, its reset, and how it is left.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::bus::{BusError, Width};
use crate::deadline::Deadline;
use crate::pci::{BadConfig, ConfigSpace, layout};

use super::uapi::types::{Irq, flag};
use super::uapi::{self};

/// How long to wait before a reset that somebody else's kept from happening is tried again.
const AGAIN: Duration = Duration::from_millis(5);

/// How long the reset of a device that is given back may be tried.
const LAST_RESET: Duration = Duration::from_secs(2);

/// A region of the device in its file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// An open device. Dropping it leaves the device as it was found: no interrupts, no bus mastering,
/// reset where the kernel can, the command register as before.
#[derive(Debug)]
pub(super) struct Function {
    name: Arc<str>,
    fd: OwnedFd,
    config: Place,
    resets: bool,
    /// The command register as it was found, without bus mastering; `None` until it is changed.
    found: Option<u16>,
    quiet: AtomicBool,
}

impl Function {
    /// Takes the descriptor of a device whose DMA goes through an IOMMU.
    ///
    /// # Errors
    /// [`BusError::Open`] if it is no PCI function, or has no config space.
    pub(super) fn new(name: Arc<str>, fd: OwnedFd) -> Result<Self, BusError> {
        let step = "looking at the device";
        let problem = |problem: String| BusError::Open { device: Arc::clone(&name), step, problem };
        let os = |what: &str, error: std::io::Error| problem(format!("{what}: {error}"));
        let info = uapi::device_info(fd.as_fd()).map_err(|e| os("VFIO_DEVICE_GET_INFO", e))?;
        if info.flags & flag::DEVICE_PCI == 0 {
            return Err(problem("the kernel says that it is no PCI function".into()));
        }
        let config = uapi::region_info(fd.as_fd(), flag::PCI_CONFIG_REGION)
            .map_err(|e| os("the region of config space", e))?
            .0;
        let config = Place { offset: config.offset, size: config.size };
        let resets = info.flags & flag::DEVICE_RESET != 0;
        Ok(Self { name, fd, config, resets, found: None, quiet: AtomicBool::new(false) })
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// True if the kernel can reset the function.
    pub(super) fn resets(&self) -> bool {
        self.resets
    }

    fn os(&self, what: &'static str, source: std::io::Error) -> BusError {
        const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();
        let device = Arc::clone(&self.name);
        if source.raw_os_error() == Some(ENODEV) {
            return BusError::Gone { device, how: "the kernel says ENODEV" };
        }
        BusError::Os { device, what, source }
    }

    /// Reads bytes of the device's file.
    pub(super) fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), BusError> {
        let what = "reading a register (pread)";
        let read = rustix::io::pread(&self.fd, &mut *into, at);
        match read.map_err(|errno| self.os(what, errno.into()))? {
            all if all == into.len() => Ok(()),
            some => Err(self.os(what, short(some, into.len()))),
        }
    }

    /// Writes bytes of the device's file.
    pub(super) fn write_at(&self, at: u64, from: &[u8]) -> Result<(), BusError> {
        let what = "writing a register (pwrite)";
        let written = rustix::io::pwrite(&self.fd, from, at);
        match written.map_err(|errno| self.os(what, errno.into()))? {
            all if all == from.len() => Ok(()),
            some => Err(self.os(what, short(some, from.len()))),
        }
    }

    fn config_at(&self, offset: u16, width: Width) -> Result<u64, BusError> {
        let (len, at) = (width.bytes(), u64::from(offset));
        if len > 4 || !at.is_multiple_of(len) || at + len > self.config.size {
            let problem = format!(
                "no {len}-byte access there; it has {} bytes, and accesses are aligned and at \
                 most 4 bytes wide",
                self.config.size
            );
            return Err(BusError::Config { device: Arc::clone(&self.name), offset, problem });
        }
        // The kernel gave the region's offset; a sum that wraps is no place.
        let sum = self.config.offset.checked_add(at);
        sum.ok_or_else(|| self.bad(BadConfig { offset, problem: "no such place".into() }))
    }

    /// One read of config space.
    pub(super) fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        let at = self.config_at(offset, width)?;
        let mut bytes = [0; 4];
        self.read_at(at, &mut bytes[..width.bytes() as usize])?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// One write of config space.
    pub(super) fn config_write(
        &self,
        offset: u16,
        width: Width,
        value: u32,
    ) -> Result<(), BusError> {
        let at = self.config_at(offset, width)?;
        self.write_at(at, &value.to_le_bytes()[..width.bytes() as usize])
    }

    /// The whole of config space.
    pub(super) fn config(&self) -> Result<ConfigSpace, BusError> {
        let len = self.config.size.min(layout::EXTENDED_CONFIG_SIZE as u64) as u16;
        let mut bytes = Vec::with_capacity(len.into());
        for offset in (0..len - len % 4).step_by(4) {
            bytes.extend(self.config_read(offset, Width::B4)?.to_le_bytes());
        }
        ConfigSpace::new(bytes).map_err(|error| self.bad(error))
    }

    pub(super) fn bad(&self, error: BadConfig) -> BusError {
        let BadConfig { offset, problem } = error;
        BusError::Config { device: Arc::clone(&self.name), offset, problem }
    }

    /// True if nobody answers any more: the vendor id reads all ones, or cannot be read.
    pub(super) fn gone(&self) -> bool {
        let vendor = self.config_read(layout::VENDOR_ID, Width::B2);
        vendor.map_or(true, |vendor| vendor == u32::from(u16::MAX))
    }

    fn command(&self) -> Result<u16, BusError> {
        self.config_read(layout::COMMAND, Width::B2).map(|command| command as u16)
    }

    fn set_command(&self, command: u16) -> Result<(), BusError> {
        self.config_write(layout::COMMAND, Width::B2, command.into())
    }

    /// Lets the function answer to its BARs, do DMA and send MSI. What was found is put back in the
    /// end.
    pub(super) fn enable(&mut self) -> Result<(), BusError> {
        let found = self.command()?;
        self.found.get_or_insert(found & !layout::COMMAND_BUS_MASTER);
        self.set_command(working(found))
    }

    /// Resets the function. It works as before afterwards, but for what the reset itself undid.
    ///
    /// # Errors
    /// [`BusError::TimedOut`] if others kept it from happening; [`BusError::Gone`] if nobody answers
    /// afterwards; [`BusError::Os`] if the kernel cannot.
    pub(super) fn reset(&self, deadline: Deadline) -> Result<(), BusError> {
        self.reset_only(deadline)?;
        if self.gone() {
            let how = "its vendor id reads all ones after a reset";
            return Err(BusError::Gone { device: Arc::clone(&self.name), how });
        }
        // The kernel puts config space back, but let nothing hang on that.
        self.set_command(working(self.command()?))
    }

    fn reset_only(&self, deadline: Deadline) -> Result<(), BusError> {
        if !self.resets {
            let why = "the kernel has no way to reset this function alone (no FLR, no slot or bus \
                       of its own)";
            return Err(self.os("resetting the function", std::io::Error::other(why)));
        }
        loop {
            match uapi::reset(self.fd.as_fd()) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let what = || "the function to be free for a reset (VFIO_DEVICE_RESET)".into();
                    deadline.check(what).map_err(|source| BusError::TimedOut {
                        device: Arc::clone(&self.name),
                        source,
                    })?;
                    std::thread::sleep(AGAIN.min(deadline.remaining()));
                }
                Err(_) if self.gone() => {
                    let how = "it cannot be reset, and its vendor id reads all ones";
                    return Err(BusError::Gone { device: Arc::clone(&self.name), how });
                }
                Err(error) => {
                    return Err(self.os("resetting the function (VFIO_DEVICE_RESET)", error));
                }
            }
        }
    }

    /// Switches bus mastering off: the function sends no request from here on (PCI Express base
    /// specification 5.0, 7.5.1.1.3). Reading the register back waits for the writes that it had sent
    /// before.
    ///
    /// # Errors
    /// [`BusError::Gone`] if nobody answers; [`BusError::Os`] if the bit does not change.
    pub(super) fn silence(&self) -> Result<(), BusError> {
        let gone = || BusError::Gone {
            device: Arc::clone(&self.name),
            how: "its vendor id reads all ones",
        };
        if self.gone() {
            return Err(gone());
        }
        self.set_command(self.command()? & !layout::COMMAND_BUS_MASTER)?;
        match self.command()? {
            u16::MAX => Err(gone()),
            command if command & layout::COMMAND_BUS_MASTER == 0 => Ok(()),
            _ => {
                let why = std::io::Error::other("the bit stays set");
                Err(self.os("switching bus mastering off", why))
            }
        }
    }

    /// Leaves the device as it was found. Once; later calls do nothing.
    pub(super) fn leave(&self) {
        if self.quiet.swap(true, Ordering::AcqRel) {
            return;
        }
        let device = &self.name;
        for irq in [Irq::Msix, Irq::Msi, Irq::Error, Irq::Request] {
            // One that is not enabled is refused.
            let _ = uapi::disable_irq(self.fd.as_fd(), irq);
        }
        let Some(found) = self.found else { return };
        if let Err(error) = self.set_command(found) {
            tracing::warn!(%device, %error, "bus mastering cannot be switched off");
        }
        if self.resets
            && let Err(error) = self.reset_only(Deadline::after(LAST_RESET))
        {
            tracing::warn!(%device, %error, "the function is not reset in the end");
        }
        if let Err(error) = self.set_command(found) {
            tracing::warn!(%device, %error, "the command register is not as it was found");
        }
    }
}

/// The command register of a function in use.
fn working(command: u16) -> u16 {
    command
        | layout::COMMAND_MEMORY
        | layout::COMMAND_BUS_MASTER
        // Nobody would take an INTx.
        | layout::COMMAND_INTX_DISABLE
}

fn short(some: usize, all: usize) -> std::io::Error {
    std::io::Error::other(format!("the kernel took {some} of {all} bytes"))
}

impl AsFd for Function {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.leave();
    }
}
