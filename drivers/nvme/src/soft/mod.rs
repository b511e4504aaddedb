//! A software NVMe controller: an NVM Express 2.0 I/O controller with the NVM command set, as a
//! [`SoftDevice`].
//!
//! It moves real data through the soft IOMMU, to and from memory, files, or nothing. Any driver that
//! follows the specification can use it. How it is built up:
//!
//! * `registers`, `lifecycle`: the register file, and what a write to it starts.
//! * `rings`, `queues`: heads, tails, phases; doorbells are believed only as far as they make sense.
//! * `shadow`: doorbells in the host's memory.
//! * `serve`: the poll, from doorbell to completion; `trouble`: when something is wrong.
//! * `admin`, `io`: the commands; `prp` finds their data.
//! * `jobs`: commands that take longer than a poll, and all file I/O.
//! * `namespace`, `backend`: what the data is kept in.
//! * `features`, `events`, `error_log`, `stats`: what the host may ask about.
//! * `secondary`: virtual functions, each a controller of its own with the same namespaces.
//! * `inject`: faults on request.
//!
//! A poll looks at the tail doorbell of each queue that exists, fetches a bounded number of commands
//! from each, and interrupts once per completion queue that got completions.
//!
//! What it does not do: SGLs, metadata and protection information, fused operations, namespace
//! management, firmware updates, reservations, sanitize, controller memory buffers,
//! subsystem reset. PCI configuration space and MSI-X tables belong to whoever puts it on a bus; of
//! its interrupt pin it knows the level. Write Uncorrectable, Verify and Copy are not offered.
//!
//! [`SoftDevice`]: doorbell::soft::SoftDevice
#![deny(unsafe_code)]

mod admin;
mod backend;
mod command;
mod device;
mod error_log;
mod events;
mod features;
mod inject;
mod io;
mod jobs;
mod lifecycle;
mod namespace;
mod options;
mod prp;
mod queues;
mod registers;
mod rings;
mod secondary;
mod serve;
mod shadow;
mod stats;
#[cfg(test)]
mod tests;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;

use doorbell::soft::SoftDevice;

use self::admin::Deletion;
use self::backend::Ring;
use self::command::Origin;
use self::error_log::ErrorLog;
use self::events::Events;
use self::features::Features;
use self::inject::Inject;
use self::jobs::Jobs;
use self::lifecycle::Phase;
use self::namespace::Namespaces;
use self::options::{Config, Disk};
use self::prp::Segments;
use self::queues::Queues;
use self::registers::Registers;
use self::secondary::{Link, Secondary, Usable};
use self::shadow::Buffers;
use self::stats::Stats;

pub use self::inject::{InjectKind, Injection};
pub use self::options::{Builder, OptionError};

/// Vendor identifier. No PCI-SIG member has it: this is no product of anyone's.
pub const VENDOR: u16 = 0xdb01;
/// Device identifier.
pub const DEVICE: u16 = 0x0001;
/// Model number in Identify Controller.
pub const MODEL: &str = "Doorbell Software NVMe Controller";
/// PCI class: mass storage, non-volatile memory, NVM Express I/O controller.
pub const CLASS: u32 = 0x01_08_02;

/// Most commands that are fetched from one queue before the next one's turn.
pub(crate) const BURST: u32 = 64;
/// Bytes after which a queue's turn ends, so that large transfers do not hold up the others, nor
/// whoever waits for the device's thread.
pub(crate) const BURST_BYTES: u64 = 256 << 10;

/// The controller.
#[derive(Debug)]
pub struct SoftNvme {
    config: Config,
    serial: String,
    regs: Registers,
    phase: Phase,
    queues: Queues,
    /// Where the host keeps its shadow doorbells, from the command to the next reset.
    shadow: Option<Buffers>,
    namespaces: Namespaces,
    jobs: Jobs,
    features: Features,
    events: Events,
    errors: ErrorLog,
    stats: Stats,
    inject: Inject,
    /// Where the data of the command at hand lies.
    segments: Segments,
    /// Deletions of submission queues that wait for commands under way.
    deletions: Vec<Deletion>,
    /// Commands that an injected fault keeps from completing.
    held: Vec<Origin>,
    /// How an injected fault damages the next completion.
    damaged: Option<InjectKind>,
    /// Namespaces that changed since the host read the list, ascending.
    changed: Vec<u32>,
    /// SMART warnings that were reported.
    warned: u8,
    /// Polls since doorbells were last looked at that nobody should write, see `serve`.
    unscrubbed: u32,
    /// The next doorbell to look at then.
    scrub_at: u64,
    /// Of the secondary controllers, by index.
    secondaries: Vec<Arc<Secondary>>,
    /// Present in a secondary controller.
    link: Option<Link>,
    usable: Usable,
}

impl SoftNvme {
    /// Describes a controller, then builds it.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn new(config: Config) -> Result<Self, OptionError> {
        let serial = serial(&config);
        let namespaces = Namespaces::open(&config, &serial)?;
        Self::with(config, serial, namespaces)
    }

    fn with(config: Config, serial: String, namespaces: Namespaces) -> Result<Self, OptionError> {
        let ring = namespaces.any_cache().then(|| Ring::new(jobs::SLOTS, jobs::CHUNK)).transpose();
        let ring =
            ring.map_err(|source| OptionError::Ring { path: first_image(&config), source })?;
        let has_cache = namespaces.any_cache();
        let mut controller = Self {
            regs: Registers::new(&config),
            phase: Phase::Off,
            queues: Queues::new(config.queues),
            shadow: None,
            jobs: Jobs::new(ring, 4096 << config.mdts),
            features: Features::new(config.queues, namespaces.count(), has_cache),
            events: Events::new(),
            errors: ErrorLog::new(),
            stats: Stats::new(),
            inject: Inject::new(config.injections.clone()),
            segments: Segments::for_transfers_of(4096 << config.mdts),
            deletions: Vec::new(),
            held: Vec::new(),
            damaged: None,
            changed: Vec::new(),
            warned: 0,
            unscrubbed: 0,
            scrub_at: 0,
            secondaries: (0..config.vfs).map(|index| Arc::new(Secondary::new(index))).collect(),
            link: None,
            usable: Usable { queues: config.queues, vectors: config.queues + 1 },
            namespaces,
            serial,
            config,
        };
        controller.inject_at_start();
        Ok(controller)
    }

    /// Interrupt vectors: one for the admin queue and one per I/O queue.
    fn vector_count(&self) -> u16 {
        self.config.queues + 1
    }

    fn default_features(&self) -> Features {
        let (count, cache) = (self.namespaces.count(), self.namespaces.any_cache());
        Features::new(self.usable.queues, count, cache)
    }

    /// NVM subsystem qualified name, in the UUID form (base 4.5).
    fn subsystem_nqn(&self) -> String {
        let id = namespace::guid(&self.serial, 0);
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let (a, b, c) = (&hex[..8], &hex[8..12], &hex[12..16]);
        format!("nqn.2014-08.org.nvmexpress:uuid:{a}-{b}-{c}-{}-{}", &hex[16..20], &hex[20..])
    }
}

/// The serial number that was asked for, or one that is the same whenever the same images are
/// served, and different in every process that serves none.
fn serial(config: &Config) -> String {
    if !config.serial.is_empty() {
        return config.serial.clone();
    }
    let mut text = String::new();
    for disk in &config.disks {
        if let Disk::Image(path) = disk {
            text.push_str(&path.canonicalize().unwrap_or_else(|_| path.clone()).to_string_lossy());
            text.push('\n');
        }
    }
    if text.is_empty() {
        text = std::process::id().to_string();
    }
    format!("DB{:016X}", namespace::hash(2, text.as_bytes()))
}

fn first_image(config: &Config) -> PathBuf {
    let image = |disk: &Disk| match disk {
        Disk::Image(path) => Some(path.clone()),
        Disk::Ram(_) | Disk::Null(_) => None,
    };
    config.disks.iter().find_map(image).unwrap_or_default()
}

/// Builds the controller that the options of a device name describe (`soft:nvme,KEY=VALUE,...`):
/// for the registry of software models.
///
/// | option | meaning |
/// |---|---|
/// | `image=PATH` | a namespace with the content of a file; repeatable |
/// | `ram=SIZE` | a namespace in memory; repeatable; `ram=64M` if there is no namespace |
/// | `null=SIZE` | a namespace that holds nothing: no data is moved; repeatable |
/// | `lba=N` | block size, 512 or 4096 |
/// | `queues=N` | I/O queue pairs; 32 |
/// | `vfs=N` | virtual functions, one for each client that asks for isolation; 0 |
/// | `vfqueues=N` | I/O queue pairs of each of them; 4 |
/// | `depth=N` | most entries of an I/O queue; 1024 |
/// | `dstrd=N` | doorbell stride, CAP.DSTRD; 4 |
/// | `mdts=N` | most bytes of a transfer, `4096 << N`; 5 |
/// | `dbbuf=yes` | shadow doorbells (base 5.8) are offered; no |
/// | `numa=N` | NUMA node whose cores serve the device; none |
/// | `serial=TEXT` | serial number |
/// | `readonly=yes` | write protected |
/// | `fault=KIND@N` | a fault at the N-th I/O command, for tests: see [`InjectKind`] |
///
/// Namespaces are numbered in the order of their options, from 1.
///
/// # Errors
/// One line that says what is wrong and what to do.
pub fn build(options: &[(String, String)]) -> Result<Box<dyn SoftDevice>, String> {
    let builder = options
        .iter()
        .try_fold(SoftNvme::builder(), |builder, (key, value)| builder.option(key, value));
    let controller = builder.and_then(Builder::build).map_err(|error| error.to_string())?;
    Ok(Box::new(controller))
}
