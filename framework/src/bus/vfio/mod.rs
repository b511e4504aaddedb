//! The buses `container` and `cdev`: PCI functions through the kernel's VFIO.
//!
//! | file | what |
//! |---|---|
//! | `open` | which of the two buses, and every reason why not |
//! | `container` | group and container of `type1v2`: what every kernel with VFIO has |
//! | `cdev` | the device's own file under an iommufd (Linux 6.6) |
//! | `space` | the address space: mappings, over either |
//! | `limits` | the kernel's limits on DMA memory, in words |
//! | `function` | the open device: config space, reset, and how it is left |
//! | `regions` | the BARs: registers, mappings; the pages of MSI-X are never mapped |
//! | `irq`, `events` | interrupts, and what the kernel tells unasked |
//! | `slices` | what of a BAR a client can have |
//! | `peer` | what of a BAR another device can have |
//! | `token` | what virtual functions are opened with |
//! | `features` | what newer kernels add |
//! | `uapi` | structures, numbers and ioctls; the only `unsafe` code |
//!
//! A device is opened in this order: its file, its IOMMU, bus mastering on, a reset, interrupts. It
//! is left in the opposite one, on every path: interrupts off, bus mastering off, a reset, mappings
//! gone, files closed.
//!
//! What it does not do: INTx; no-IOMMU mode, where nothing would keep a device from any memory; MMIO
//! through mappings that survive a device which the kernel takes away (see `slices`).

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use doorbell_queues::{EntryStores, SharedMem};

use super::registers::is_all_ones;
use super::{
    Bus, BusError, DeviceEvent, Identity, PeerSlice, Quiesced, Region, Revoked, Signals, Slice,
    Width,
};
use crate::deadline::Deadline;
use crate::dma::DmaSpace;
use crate::pci::sysfs::{self, Roots};
use crate::pci::{Address, layout};
use crate::tier::Tier;

mod cdev;
mod container;
mod events;
pub mod features;
mod function;
mod irq;
mod limits;
mod open;
mod peer;
#[cfg(test)]
mod real_tests;
mod regions;
mod slices;
#[cfg(test)]
mod slices_real_tests;
mod space;
mod token;
mod uapi;

pub use features::Feature;

use events::Events;
use function::Function;
use irq::Interrupts;
use regions::Bars;
use slices::{Numbers, Pages, Slices};
use space::VfioSpace;
use token::Token;

/// How long the first reset of a device may take.
const FIRST_RESET: Duration = Duration::from_secs(10);

/// A PCI function behind the kernel's VFIO, as a [`Bus`]. Dropping it leaves the device as it was
/// found.
#[derive(Debug)]
pub struct VfioBus {
    identity: Identity,
    kind: &'static str,
    about: String,
    features: BTreeSet<Feature>,
    slices: Slices,
    interrupts: Interrupts,
    events: Events,
    bars: Bars,
    function: Function,
    space: Arc<VfioSpace>,
    address: Address,
    wanted: open::Wanted,
    numbers: Numbers,
    stores: EntryStores,
    /// Of its virtual functions; set when the first is opened.
    token: OnceLock<Token>,
}

impl VfioBus {
    /// Opens the function at `address`. `options` may have `bus`, `container` or `cdev`; without it
    /// the bus is `cdev` where the kernel has that, else `container`. `dmabuf-revoke` and
    /// `dmabuf-memattr` are numbers of device features: those with which a kernel that has them revokes
    /// a dma-buf, and chooses how the CPU sees it. Without the first, slices cannot be revoked: no
    /// released kernel has these features, and the numbers under which they were proposed have changed,
    /// so none is assumed. `stores` is `plain` or `non-temporal`: see [`Bus::entry_stores`].
    ///
    /// # Errors
    /// [`BusError::Open`] names the step that failed and says what to do; the device is then as it
    /// was.
    pub fn open(address: Address, options: &[(String, String)]) -> Result<Self, BusError> {
        let name: Arc<str> = address.to_string().into();
        let failed = |problem: open::Problem| {
            let open::Problem { step, problem } = problem;
            BusError::Open { device: Arc::clone(&name), step, problem }
        };
        let (stores, options) = open::stores(options).map_err(failed)?;
        let (numbers, options) = Numbers::of(&options).map_err(failed)?;
        let wanted = open::wanted(&options).map_err(failed)?;
        Self::open_by(address, wanted, (numbers, stores), None)
    }

    fn open_by(
        address: Address,
        wanted: open::Wanted,
        (numbers, stores): (Numbers, EntryStores),
        token: Option<&Token>,
    ) -> Result<Self, BusError> {
        let name: Arc<str> = address.to_string().into();
        let failed = |problem: open::Problem| {
            let open::Problem { step, problem } = problem;
            BusError::Open { device: Arc::clone(&name), step, problem }
        };
        let site = open::site(&Roots::default(), address).map_err(failed)?;
        let (opened, kind, why) = open::open(&site, wanted, token).map_err(failed)?;
        let space = VfioSpace::new(Arc::clone(&name), opened.iommu, opened.ranges);
        // From here on the device is put back by being dropped, before its IOMMU is.
        let mut function = Function::new(Arc::clone(&name), opened.device)?;
        let config = function.config()?;
        let msix = config.msix().map_err(|error| function.bad(error))?;
        let (vendor, device) = config.ids().map_err(|error| function.bad(error))?;
        let class = config.class().map_err(|error| function.bad(error))?;
        function.enable()?;
        if function.resets() {
            // Whoever had it before may have left it doing anything.
            function.reset(Deadline::after(FIRST_RESET))?;
        }
        let bars = Bars::new(&function, msix.as_ref())?;
        let interrupts = Interrupts::enable(&function)?;
        let events = Events::subscribe(&function)?;
        let slices = Slices::probe(&function, &bars, numbers);
        let peer = peer::probe(&function, &slices, slices::first_page(&bars), &space);
        let mut features: BTreeSet<_> = opened.features.into_iter().collect();
        features.extend(slices.features());
        if peer.is_ok() {
            features.insert(Feature::PeerToPeer);
        }
        if interrupts.dynamic() {
            features.insert(Feature::DynamicMsix);
        }
        let mut about = vec![why];
        about.extend(opened.about);
        about.push(interrupts.describe());
        about.push(if function.resets() { "can be reset" } else { "cannot be reset" }.to_owned());
        about.push(slices.describe());
        about.push(match peer {
            Ok(()) => "peer-to-peer DMA: yes".to_owned(),
            Err(why) => format!("peer-to-peer DMA: no ({why})"),
        });
        let found: Vec<_> = features.iter().map(|feature| feature.name()).collect();
        about.push(format!("kernel: {}", found.join(", ")));
        let numa_node = site.numa_node;
        let identity = Identity { name, vendor, device, class, numa_node };
        let about = about.join("; ");
        tracing::info!(device = %identity.name, bus = kind, %about, "opened");
        Ok(Self {
            identity,
            kind,
            about,
            features,
            slices,
            interrupts,
            events,
            bars,
            function,
            space: Arc::new(space),
            address,
            wanted,
            numbers,
            stores,
            token: OnceLock::new(),
        })
    }

    /// The virtual functions that are enabled, in the order of their numbers; none if sysfs does not say.
    fn enabled(&self) -> Vec<Address> {
        let function = sysfs::Function::read(&Roots::default(), self.address);
        function.ok().and_then(|function| function.sriov).map_or_else(Vec::new, |it| it.functions)
    }

    fn virtual_function(&self, index: u16) -> Result<Address, BusError> {
        let functions = self.enabled();
        let found = functions.get(usize::from(index)).copied();
        let count = functions.len() as u16;
        found.ok_or_else(|| super::no_virtual_function(&self.identity, index, count))
    }

    /// What this function's virtual functions are opened with.
    fn token(&self) -> Result<&Token, BusError> {
        if let Some(token) = self.token.get() {
            return Ok(token);
        }
        let token = Token::set(&self.function).map_err(|source| BusError::Os {
            device: Arc::clone(&self.identity.name),
            what: "setting a token for its virtual functions (VFIO_DEVICE_FEATURE_PCI_VF_TOKEN)",
            source,
        })?;
        Ok(self.token.get_or_init(|| token))
    }

    /// What the kernel has for this device.
    #[must_use]
    pub fn features(&self) -> &BTreeSet<Feature> {
        &self.features
    }

    fn gone(&self, how: &'static str) -> BusError {
        BusError::Gone { device: Arc::clone(&self.identity.name), how }
    }
}

impl Drop for VfioBus {
    fn drop(&mut self) {
        self.function.leave();
        self.space.close();
    }
}

impl Bus for VfioBus {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn regions(&self) -> &[Region] {
        self.bars.regions()
    }

    fn read(&self, region: u8, offset: u64, width: Width) -> Result<u64, BusError> {
        let value = self.bars.read(&self.function, region, offset, width)?;
        // Rare, and what a device that is gone reads as: then config space tells.
        if is_all_ones(value, width) && self.function.gone() {
            return Err(self.gone("a register and its vendor id read all ones"));
        }
        Ok(value)
    }

    fn write(&self, region: u8, offset: u64, width: Width, value: u64) -> Result<(), BusError> {
        self.bars.write(&self.function, region, offset, width, value)
    }

    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        self.function.config_read(offset, width)
    }

    fn config_write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError> {
        if u64::from(offset) + width.bytes() > u64::from(layout::COMMAND)
            && offset < layout::COMMAND + 2
        {
            // A driver that switched memory off would raise SIGBUS in whoever has a BAR mapped.
            return Err(BusError::Config {
                device: Arc::clone(&self.identity.name),
                offset,
                problem: "the command register is the bus's own".to_owned(),
            });
        }
        self.function.config_write(offset, width, value)
    }

    fn map(&self, region: u8, offset: u64, len: u64) -> Result<SharedMem, BusError> {
        self.bars.map(&self.function, region, offset, len)
    }

    fn export(&self, region: u8, offset: u64, len: u64, at_least: Tier) -> Result<Slice, BusError> {
        let range = self.bars.pages(&self.function, region, offset, len)?;
        let outside = || BusError::OutOfRegion {
            device: Arc::clone(&self.identity.name),
            region,
            offset,
            len,
        };
        let place = self.bars.place(region).ok_or_else(outside)?;
        self.slices.export(&self.function, &Pages { region, place, range }, at_least)
    }

    fn revoke(&self, slice: Slice, proof: Quiesced) -> Result<Revoked, BusError> {
        self.slices.revoke(&self.function, &slice)?;
        drop(slice);
        Ok(proof.revoked())
    }

    fn offers(&self, at_least: Tier) -> Result<(), BusError> {
        self.slices.offers(&self.function, at_least)
    }

    fn exports_device_fd(&self) -> bool {
        self.slices.are_the_device()
    }

    fn export_peer(&self, region: u8, offset: u64, len: u64) -> Result<PeerSlice, BusError> {
        let range = self.bars.pages(&self.function, region, offset, len)?;
        if range != (offset..offset + len) {
            let device = Arc::clone(&self.identity.name);
            let why = format!("{len:#x} bytes from {offset:#x} of BAR{region} are not whole pages");
            return Err(BusError::Peer { device, why });
        }
        self.slices.export_peer(&self.function, region, &range)
    }

    fn vectors(&self) -> u16 {
        self.interrupts.vectors()
    }

    fn signals(&self, vector: u16) -> Result<Signals, BusError> {
        self.interrupts.signals(&self.function, vector)
    }

    fn retire_signals(&self, vector: u16) {
        self.interrupts.retire(&self.function, vector);
    }

    fn reset(&self, deadline: Deadline) -> Result<(), BusError> {
        self.function.reset(deadline)
    }

    fn silence(&self, _deadline: Deadline) -> Result<(), BusError> {
        // While the kernel removes a device it lets nobody reset it.
        self.function.silence()
    }

    fn dma(&self) -> Arc<dyn DmaSpace> {
        Arc::clone(&self.space) as Arc<dyn DmaSpace>
    }

    fn events(&self) -> Vec<DeviceEvent> {
        self.events.take()
    }

    fn event_fd(&self) -> Result<Option<OwnedFd>, BusError> {
        self.events.fd().map(Some).map_err(|source| BusError::Os {
            device: Arc::clone(&self.identity.name),
            what: "duplicating an epoll descriptor",
            source,
        })
    }

    fn virtual_functions(&self) -> u16 {
        self.enabled().len() as u16
    }

    fn check_virtual_function(&self, index: u16) -> Result<(), BusError> {
        let address = self.virtual_function(index)?;
        let site = open::site(&Roots::default(), address);
        site.map(drop).map_err(|open::Problem { step, problem }| {
            let device = address.to_string().into();
            BusError::Open { device, step, problem }
        })
    }

    fn open_virtual_function(&self, index: u16) -> Result<Arc<dyn Bus>, BusError> {
        let address = self.virtual_function(index)?;
        let bus =
            Self::open_by(address, self.wanted, (self.numbers, self.stores), Some(self.token()?))?;
        Ok(Arc::new(bus))
    }

    fn wanted_back(&self) -> bool {
        // The kernel's removal of the device waits until nobody has it open.
        true
    }

    fn entry_stores(&self) -> EntryStores {
        self.stores
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn about(&self) -> String {
        self.about.clone()
    }
}
