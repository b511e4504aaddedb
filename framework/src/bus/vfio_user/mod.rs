//! The bus `vfio-user`: a device behind a device server, another process.
//!
//! Registers and config space are reached by messages. What the server lets us map of a region is
//! handed to clients, so their data path sends no message; where doorbells cannot be mapped a relay
//! passes them on (`relay`). DMA memory is shared by its descriptor.
//!
//! **What it isolates.** Nothing that the server does not: it maps the memory of every client, and a
//! slice is a descriptor of the server's whole file, which its receiver can map beyond the slice:
//! [`Tier::Cooperative`]. There is no IOMMU; the server is trusted with the memory that is mapped for
//! it, and it alone keeps one client's commands from another's memory.
//!
//! **What is not trusted.** Every number that the server says is checked, every request has a
//! deadline, and a server that breaks the protocol is a device that is gone. A server that makes the
//! file of a mapped area smaller later takes doorbells away: whoever uses them next, a client or this
//! process, survives the SIGBUS ([`crate::dma::guard`]), and the queue or the device has failed.
//! [`Mapping::Sealed`] excludes that.
//!
//! **A server that ends** is a device that was removed: pending requests fail, [`Bus::events`] says
//! [`DeviceEvent::Removed`], and everything after that is [`BusError::Gone`]. Open the bus anew when
//! the server is back.
//!
//! What it does not do: INTx (MSI-X and MSI only), ioeventfds and ioregionfds, migration, device
//! regions beyond the BARs and config space.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use doorbell_queues::SharedMem;

use self::config::Config;
use self::connect::Agreed;
use self::error::LinkError;
use self::interrupts::Interrupts;
use self::link::Link;
use self::regions::ServerRegion;
use self::relay::Relay;
use self::space::ServerSpace;
use super::proof::{Quiesced, Revoked};
use super::{Bus, BusError, DeviceEvent, Identity, Region, Signals, Slice, Width};
use crate::deadline::Deadline;
use crate::dma::{DmaError, DmaSpace, Watch, map_revocable};
use crate::tier::Tier;
use crate::vfio_user::Request;
use crate::vfio_user::message::DeviceInfo;

mod access;
mod config;
mod connect;
pub mod error;
mod interrupts;
mod io;
mod link;
pub mod options;
mod pending;
mod regions;
mod relay;
#[allow(unsafe_code, reason = "io_uring entries: the one site lists its obligations")]
mod ring;
mod served;
mod space;
mod table;

pub use connect::CONNECTING;
pub use options::{Mapping, Options};

/// A device behind a vfio-user server. Dropping it closes the connection.
#[derive(Debug)]
pub struct VfioUserBus {
    // The relay ends before the connection that it uses.
    relay: Relay,
    link: Arc<Link>,
    identity: Identity,
    regions: Vec<Region>,
    server: Vec<ServerRegion>,
    interrupts: Interrupts,
    space: Arc<ServerSpace>,
    agreed: Agreed,
    /// The mappings of this process: a flag is set if the server takes the memory away.
    mapped: Mutex<Vec<Weak<AtomicBool>>>,
}

impl VfioUserBus {
    /// Opens the device behind a socket: `PATH[,KEY=VALUE...]` ([`Options::parse`]).
    ///
    /// # Errors
    /// As [`VfioUserBus::open`]; [`BusError::Open`] for an option that cannot be.
    pub fn open_spec(spec: &Path) -> Result<Self, BusError> {
        let options = Options::parse(spec).map_err(|problem| BusError::Open {
            device: format!("vfio-user:{}", spec.display()).into(),
            step: "reading its options",
            problem,
        })?;
        Self::open(&options)
    }

    /// Connects, agrees on a version, and takes the device in: regions, interrupts, DMA enabled. The
    /// device is not reset; that is its driver's part.
    ///
    /// # Errors
    /// [`BusError::Open`] names the step and what was wrong; [`CONNECTING`] is the step if no server
    /// is there.
    pub fn open(options: &Options) -> Result<Self, BusError> {
        let name: Arc<str> = format!("vfio-user:{}", options.path.display()).into();
        let deadline = Deadline::after(options.timeout);
        let socket = connect::connect(&name, &options.path, deadline)?;
        Self::over(name, socket, options)
    }

    /// As [`VfioUserBus::open`], over a socket that is connected.
    ///
    /// # Errors
    /// As [`VfioUserBus::open`].
    pub fn over(name: Arc<str>, socket: OwnedFd, options: &Options) -> Result<Self, BusError> {
        let device = Arc::clone(&name);
        let os = |what| {
            let device = Arc::clone(&device);
            move |source| BusError::Os { device, what, source }
        };
        let link = Link::start(name, socket, options.timeout);
        let link = Arc::new(link.map_err(os("starting the connection's thread"))?);
        let agreed = connect::agree(&link)?;
        let server = regions::find(&link, agreed.info.regions, options.mapping)?;
        let max_fds = agreed.capabilities.max_msg_fds();
        let interrupts = Interrupts::find(&link, agreed.info.irqs, max_fds)
            .map_err(|error| error.opening(&device, "asking for its interrupts"))?;
        let identity = Config::new(&link, &server).identity()?;
        let relay = Relay::new(Arc::clone(&link), agreed.capabilities.write_multiple());
        let relay = relay.map_err(os("preparing the doorbell relay"))?;
        let space = ServerSpace::new(Arc::clone(&link), &agreed.capabilities);
        let regions = server.iter().filter_map(public).collect();
        let space = Arc::new(space);
        let mapped = Mutex::default();
        let bus =
            Self { relay, link, identity, regions, server, interrupts, space, agreed, mapped };
        bus.enable()?;
        tracing::info!(%device, about = %bus.about(), "a device server is connected");
        Ok(bus)
    }

    /// Interrupts, memory and DMA on: at the beginning, and after a reset.
    fn enable(&self) -> Result<(), BusError> {
        let set = self.interrupts.set_all(&self.link);
        set.map_err(|error| error.on(&self.identity.name))?;
        Config::new(&self.link, &self.server).enable(self.interrupts.messages())
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.identity.name)
    }

    fn gone(&self, error: LinkError) -> BusError {
        error.on(&self.identity.name)
    }

    fn outside(&self, region: u8, offset: u64, len: u64) -> BusError {
        BusError::OutOfRegion { device: self.name(), region, offset, len }
    }

    fn dma_error(&self, source: DmaError) -> BusError {
        BusError::Dma { device: self.name(), source }
    }

    fn mapped(&self) -> MutexGuard<'_, Vec<Weak<AtomicBool>>> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps pages of the server's memory.
    fn map_pages(&self, fd: &OwnedFd, at: u64, len: usize) -> Result<SharedMem, BusError> {
        let lost = Arc::new(AtomicBool::new(false));
        let event = self.link.shared.event_fd().map_err(|source| {
            let what = "duplicating the event descriptor";
            BusError::Os { device: self.name(), what, source }
        })?;
        {
            let mut mapped = self.mapped();
            mapped.retain(|lost| lost.strong_count() > 0);
            mapped.push(Arc::downgrade(&lost));
        }
        let memory = map_revocable(fd.as_fd(), at, len, Watch { lost, event });
        memory.map_err(|error| self.dma_error(error))
    }

    /// A BAR that holds a range.
    fn bar(&self, region: u8, offset: u64, len: u64) -> Result<&ServerRegion, BusError> {
        let known = self.regions.iter().any(|known| known.index == region);
        let found = self.server.iter().find(|found| found.index == u32::from(region) && known);
        let inside = |size| offset.checked_add(len).is_some_and(|end| end <= size);
        match found {
            Some(found) if len > 0 && inside(found.size) => Ok(found),
            _ => Err(self.outside(region, offset, len)),
        }
    }

    fn check(&self, region: u8, offset: u64, width: Width) -> Result<(), BusError> {
        let len = width.bytes();
        self.bar(region, offset, len)?;
        if offset.is_multiple_of(len) { Ok(()) } else { Err(self.outside(region, offset, len)) }
    }
}

/// A BAR as users of the bus see it.
fn public(region: &ServerRegion) -> Option<Region> {
    let index = u8::try_from(region.index).ok().filter(|index| *index <= 5)?;
    Some(Region { index, size: region.size, mappable: region.mappable.clone() })
}

impl Bus for VfioUserBus {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn read(&self, region: u8, offset: u64, width: Width) -> Result<u64, BusError> {
        self.check(region, offset, width)?;
        let value = access::read(&self.link, region.into(), offset, width);
        value.map_err(|error| self.gone(error))
    }

    fn write(&self, region: u8, offset: u64, width: Width, value: u64) -> Result<(), BusError> {
        self.check(region, offset, width)?;
        let written = access::write(&self.link, region.into(), offset, width, value);
        written.map_err(|error| self.gone(error))
    }

    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        Config::new(&self.link, &self.server).read(offset, width)
    }

    fn config_write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError> {
        Config::new(&self.link, &self.server).write(offset, width, value)
    }

    /// Where the server lets nothing be mapped, a page of the relay: 32-bit stores to it are passed
    /// on, and what is read there is what was stored.
    fn map(&self, region: u8, offset: u64, len: u64) -> Result<SharedMem, BusError> {
        let bar = self.bar(region, offset, len)?;
        let part = |memory: &SharedMem, start: u64| {
            let part = memory.slice((offset - start) as usize, len as usize);
            part.map_err(|source| BusError::Bounds { device: self.name(), source })
        };
        if let (Some(pages), Some(fd)) = (bar.pages(offset, len), &bar.fd) {
            let length = usize::try_from(pages.end - pages.start);
            let length = length.map_err(|_| self.outside(region, offset, len))?;
            // It does not wrap: checked when the region was asked for.
            let at = bar.offset + pages.start;
            return part(&self.map_pages(fd, at, length)?, pages.start);
        }
        if !bar.writable {
            return Err(self.outside(region, offset, len));
        }
        let page = self.relay.page(region, offset, len);
        match page.map_err(|error| self.dma_error(error))? {
            Some((_, memory, start)) => part(&memory, start),
            None => Err(self.outside(region, offset, len)),
        }
    }

    fn export(&self, region: u8, offset: u64, len: u64, at_least: Tier) -> Result<Slice, BusError> {
        let bar = self.bar(region, offset, len)?;
        let best = Tier::Cooperative;
        if at_least > best {
            return Err(BusError::Tier { device: self.name(), wanted: at_least, best });
        }
        if let (Some(pages), Some(fd)) = (bar.pages(offset, len), &bar.fd) {
            let fd = fd.try_clone().map_err(|source| {
                let what = "duplicating a region's descriptor";
                BusError::Os { device: self.name(), what, source }
            })?;
            let (at, len) = (bar.offset + pages.start, pages.end - pages.start);
            let region_offset = pages.start;
            return Ok(Slice { fd, offset: at, len, tier: best, region, region_offset });
        }
        if !bar.writable {
            return Err(self.outside(region, offset, len));
        }
        let page = self.relay.page(region, offset, len);
        match page.map_err(|error| self.dma_error(error))? {
            Some((memfd, memory, region_offset)) => {
                let (fd, len) = (memfd.into_fd(), memory.len() as u64);
                Ok(Slice { fd, offset: 0, len, tier: best, region, region_offset })
            }
            None => Err(self.outside(region, offset, len)),
        }
    }

    fn revoke(&self, slice: Slice, proof: Quiesced) -> Result<Revoked, BusError> {
        // Its holder's mapping stays: tier `Cooperative` promises no more.
        drop(slice);
        Ok(proof.revoked())
    }

    fn vectors(&self) -> u16 {
        self.interrupts.count()
    }

    fn signals(&self, vector: u16) -> Result<Signals, BusError> {
        let interrupt = self.interrupts.event(vector).ok_or_else(|| BusError::Vector {
            device: self.name(),
            vector,
            vectors: self.vectors(),
        })?;
        let interrupt = interrupt.map_err(|source| {
            let what = "duplicating an interrupt's descriptor";
            BusError::Os { device: self.name(), what, source }
        })?;
        let words = self.relay.is_used().then(|| self.relay.words(vector)).transpose();
        Ok(Signals { interrupt, words: words.map_err(|error| self.dma_error(error))? })
    }

    fn retire_signals(&self, vector: u16) {
        self.relay.retire(vector);
        if let Err(error) = self.interrupts.renew(&self.link, vector) {
            tracing::warn!(device = %self.identity.name, vector, %error, "a vector keeps its eventfd");
        }
    }

    fn reset(&self, deadline: Deadline) -> Result<(), BusError> {
        if self.agreed.info.flags & DeviceInfo::RESET == 0 {
            let source = std::io::Error::from(std::io::ErrorKind::Unsupported);
            let what = "a reset, which the device server does not offer";
            return Err(BusError::Os { device: self.name(), what, source });
        }
        let sent = self.link.send(&Request::DeviceReset, Vec::new(), deadline);
        sent.and_then(link::Sent::wait).map_err(|error| self.gone(error))?;
        self.relay.clear();
        self.enable()
    }

    fn dma(&self) -> Arc<dyn DmaSpace> {
        Arc::clone(&self.space) as Arc<dyn DmaSpace>
    }

    fn events(&self) -> Vec<DeviceEvent> {
        // Acquire: pairs with the guard's release.
        let lost = |lost: &Weak<AtomicBool>| {
            lost.upgrade().is_some_and(|lost| lost.load(Ordering::Acquire))
        };
        if self.mapped().iter().any(lost) {
            self.link.shared.trouble("the device server took mapped doorbells away");
        }
        self.link.shared.take_events()
    }

    fn event_fd(&self) -> Result<Option<OwnedFd>, BusError> {
        let fd = self.link.shared.event_fd().map_err(|source| {
            let what = "duplicating the event descriptor";
            BusError::Os { device: self.name(), what, source }
        })?;
        Ok(Some(fd))
    }

    fn wanted_back(&self) -> bool {
        // A connection that is over stays so: its successor is another bus.
        true
    }

    fn kind(&self) -> &'static str {
        "vfio-user"
    }

    fn about(&self) -> String {
        let bars = self.server.iter().filter(|region| region.index <= 5).map(|region| {
            let mapped = match region.not_mapped {
                Some(why) => format!("not mapped: {why}"),
                None => match region.mappable.len() {
                    0 => "by messages".to_owned(),
                    areas => format!("{areas} area(s) mapped"),
                },
            };
            format!("BAR{} {:#x} bytes {mapped}", region.index, region.size)
        });
        let bars: Vec<_> = bars.collect();
        let twin = if self.agreed.capabilities.twin_socket() { ", twin socket" } else { "" };
        format!(
            "protocol 0.{}, {} vector(s), {}{twin}",
            self.agreed.minor,
            self.vectors(),
            bars.join(", ")
        )
    }
}
