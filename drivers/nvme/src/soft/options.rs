//! How a software controller is described: a builder, and the `KEY=VALUE` options of a device name.

use std::path::{Path, PathBuf};

use super::SoftNvme;
use super::inject::{Injection, parse_injection};
use super::shadow::most_queues;

/// A namespace to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Disk {
    /// A file, regular or block.
    Image(PathBuf),
    /// Memory of this many bytes; its content ends with the controller.
    Ram(u64),
    /// This many bytes that hold nothing: reads complete without moving data.
    Null(u64),
}

/// What a software controller is to be.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Namespaces, in the order of their identifiers from 1.
    pub(crate) disks: Vec<Disk>,
    /// Logical block size in bytes, 512 or 4096.
    pub(crate) lba: u32,
    /// I/O queue pairs, 1 to 1023.
    pub(crate) queues: u16,
    /// Virtual functions, 0 to 64.
    pub(crate) vfs: u16,
    /// I/O queue pairs that each can have, 1 to 1023.
    pub(crate) vf_queues: u16,
    /// Most entries of an I/O queue, 2 to 65536 (CAP.MQES is one less).
    pub(crate) depth: u32,
    /// Doorbell stride, 0 to 10 (CAP.DSTRD): doorbells lie `4 << dstrd` bytes apart.
    pub(crate) dstrd: u8,
    /// Maximum data transfer size, 1 to 8: `4096 << mdts` bytes.
    pub(crate) mdts: u8,
    /// Shadow doorbells are offered.
    pub(crate) dbbuf: bool,
    /// NUMA node that the device belongs to, if any.
    pub(crate) numa: Option<u32>,
    /// Serial number, 1 to 20 printable ASCII characters.
    pub(crate) serial: String,
    /// True if no command may change a namespace.
    pub(crate) readonly: bool,
    /// Faults to inject.
    pub(crate) injections: Vec<Injection>,
}

/// A controller that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error(
        "option {0}: the software controller has no such option; there are image, ram, null, lba, \
         queues, vfs, vfqueues, depth, dstrd, mdts, dbbuf, numa, serial, readonly, fault"
    )]
    Unknown(String),
    /// A value that is not what the option takes.
    #[error("{key}={value}: {want}")]
    Value {
        /// The option.
        key: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        want: &'static str,
    },
    /// A namespace whose size does not fit its block size.
    #[error("{disk}: {size} bytes are not a whole number of {lba}-byte blocks; {hint}")]
    Size {
        /// Which namespace, as in the options.
        disk: String,
        /// Its bytes.
        size: u64,
        /// Its block size.
        lba: u32,
        /// What to do.
        hint: String,
    },
    /// An image that cannot be used.
    #[error("image={path}: {problem}")]
    Image {
        /// The path.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Memory for a RAM namespace could not be had.
    #[error("ram={size}: {problem}; ask for less")]
    Ram {
        /// Bytes asked for.
        size: u64,
        /// The kernel's answer.
        problem: String,
    },
    /// The kernel offers no io_uring.
    #[error(
        "image={path}: files need io_uring, and the kernel refuses it ({source}); allow it \
         (sysctl kernel.io_uring_disabled=0, or the container's seccomp profile), or use ram=SIZE"
    )]
    Ring {
        /// The first image.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            disks: Vec::new(),
            lba: 512,
            queues: 32,
            vfs: 0,
            vf_queues: 4,
            depth: 1024,
            dstrd: 4,
            mdts: 5,
            dbbuf: false,
            numa: None,
            serial: String::new(),
            readonly: false,
            injections: Vec::new(),
        }
    }
}

/// Builds a [`SoftNvme`].
///
/// ```
/// use doorbell_nvme::soft::SoftNvme;
/// let controller = SoftNvme::builder().ram(1 << 20).null(1 << 20).queues(4).build()?;
/// # Ok::<(), doorbell_nvme::soft::OptionError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Builder {
    config: Config,
    queues_set: bool,
}

impl Builder {
    /// Adds a namespace of `size` bytes of memory.
    #[must_use]
    pub fn ram(mut self, size: u64) -> Self {
        self.config.disks.push(Disk::Ram(size));
        self
    }

    /// Adds a namespace of `size` bytes that holds nothing.
    #[must_use]
    pub fn null(mut self, size: u64) -> Self {
        self.config.disks.push(Disk::Null(size));
        self
    }

    /// Adds a namespace with the content of a file.
    #[must_use]
    pub fn image(mut self, path: impl AsRef<Path>) -> Self {
        self.config.disks.push(Disk::Image(path.as_ref().to_owned()));
        self
    }

    /// Block size in bytes of all namespaces: 512 or 4096. Default 512.
    #[must_use]
    pub fn lba(mut self, bytes: u32) -> Self {
        self.config.lba = bytes;
        self
    }

    /// I/O queue pairs, 1 to 1023. Default 32.
    #[must_use]
    pub fn queues(mut self, count: u16) -> Self {
        self.config.queues = count;
        self.queues_set = true;
        self
    }

    /// Virtual functions, 0 to 64. Default 0. Each is a secondary controller (base 8.26) of its own,
    /// with the same namespaces.
    #[must_use]
    pub fn vfs(mut self, count: u16) -> Self {
        self.config.vfs = count;
        self
    }

    /// I/O queue pairs that each virtual function can have, 1 to 1023. Default 4.
    #[must_use]
    pub fn vf_queues(mut self, count: u16) -> Self {
        self.config.vf_queues = count;
        self
    }

    /// Most entries of an I/O queue, 2 to 65536. Default 1024.
    #[must_use]
    pub fn depth(mut self, entries: u32) -> Self {
        self.config.depth = entries;
        self
    }

    /// Doorbell stride, 0 to 10. Default 4: doorbells share no cache line.
    #[must_use]
    pub fn dstrd(mut self, stride: u8) -> Self {
        self.config.dstrd = stride;
        self
    }

    /// Maximum data transfer size, 1 to 8: `4096 << mdts` bytes. Default 5: 128 KiB.
    #[must_use]
    pub fn mdts(mut self, mdts: u8) -> Self {
        self.config.mdts = mdts;
        self
    }

    /// Whether shadow doorbells are offered (Doorbell Buffer Config, base 5.8). Default: not, for where
    /// doorbell registers are memory a shadow spares nothing. All doorbells then have a place in one
    /// page: at most `4096 / (8 << dstrd) - 1` I/O queue pairs, which is also the default then if it is
    /// below 32.
    #[must_use]
    pub fn dbbuf(mut self, offered: bool) -> Self {
        self.config.dbbuf = offered;
        self
    }

    /// NUMA node that the device belongs to: its thread, and the broker's for it, keep to the cores
    /// near that node. Default: none, and no thread is placed.
    #[must_use]
    pub fn numa(mut self, node: u32) -> Self {
        self.config.numa = Some(node);
        self
    }

    /// Serial number. Default: derived from the images, or from the process.
    #[must_use]
    pub fn serial(mut self, serial: &str) -> Self {
        serial.clone_into(&mut self.config.serial);
        self
    }

    /// Whether every namespace is write protected. Default: not.
    #[must_use]
    pub fn readonly(mut self, readonly: bool) -> Self {
        self.config.readonly = readonly;
        self
    }

    /// Adds a fault to inject.
    #[must_use]
    pub fn inject(mut self, injection: Injection) -> Self {
        self.config.injections.push(injection);
        self
    }

    /// One option of a device name.
    ///
    /// # Errors
    /// [`OptionError::Unknown`], [`OptionError::Value`].
    pub fn option(self, key: &str, value: &str) -> Result<Self, OptionError> {
        let bytes = |key| parse_size(value).ok_or_else(|| bad(key, value, SIZE));
        Ok(match key {
            "image" => self.image(value),
            "ram" => self.ram(bytes("ram")?),
            "null" => self.null(bytes("null")?),
            "lba" => self.lba(number("lba", value)?),
            "queues" => self.queues(number("queues", value)?),
            "vfs" => self.vfs(number("vfs", value)?),
            "vfqueues" => self.vf_queues(number("vfqueues", value)?),
            "depth" => self.depth(number("depth", value)?),
            "dstrd" => self.dstrd(number("dstrd", value)?),
            "mdts" => self.mdts(number("mdts", value)?),
            "dbbuf" => self.dbbuf(flag("dbbuf", value)?),
            "numa" => self.numa(number("numa", value)?),
            "serial" => self.serial(value),
            "readonly" => self.readonly(flag("readonly", value)?),
            "fault" => {
                let injection = parse_injection(value);
                self.inject(injection.ok_or_else(|| bad("fault", value, super::inject::WANT))?)
            }
            _ => return Err(OptionError::Unknown(key.to_owned())),
        })
    }

    /// With shadow doorbells the default is what has a place in their page.
    fn limit_queues(&mut self) {
        if self.config.dbbuf && !self.queues_set {
            let most = most_queues(self.config.dstrd).max(1);
            self.config.queues = self.config.queues.min(most);
        }
    }

    /// Opens the images and builds the controller. Without a namespace it gets `ram=64M`.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn build(mut self) -> Result<SoftNvme, OptionError> {
        if self.config.disks.is_empty() {
            self.config.disks.push(Disk::Ram(64 << 20));
        }
        self.limit_queues();
        check(&self.config)?;
        SoftNvme::new(self.config)
    }
}

const SIZE: &str = "write a size: bytes, or a number with K, M, G or T";

fn bad(key: &'static str, value: &str, want: &'static str) -> OptionError {
    OptionError::Value { key, value: value.to_owned(), want }
}

fn number<T: std::str::FromStr>(key: &'static str, value: &str) -> Result<T, OptionError> {
    value.parse().map_err(|_| bad(key, value, "write a number in its range"))
}

fn flag(key: &'static str, value: &str) -> Result<bool, OptionError> {
    match value {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(bad(key, value, "write yes or no")),
    }
}

/// Bytes, with an optional suffix K, M, G or T (powers of 1024).
fn parse_size(text: &str) -> Option<u64> {
    let shift = match text.as_bytes().last()? {
        b'K' | b'k' => 10,
        b'M' | b'm' => 20,
        b'G' | b'g' => 30,
        b'T' | b't' => 40,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { &text[..text.len() - 1] };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Ranges of everything that is no file.
fn check(config: &Config) -> Result<(), OptionError> {
    let range = |ok: bool, key, value: String, want| {
        if ok { Ok(()) } else { Err(OptionError::Value { key, value, want }) }
    };
    let ascii = config.serial.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let disks = config.disks.len();
    range(matches!(config.lba, 512 | 4096), "lba", config.lba.to_string(), "512 or 4096")?;
    range((1..=1023).contains(&config.queues), "queues", config.queues.to_string(), "1 to 1023")?;
    range(config.vfs <= 64, "vfs", config.vfs.to_string(), "0 to 64")?;
    let vf_queues = config.vf_queues;
    range((1..=1023).contains(&vf_queues), "vfqueues", vf_queues.to_string(), "1 to 1023")?;
    range((2..=65536).contains(&config.depth), "depth", config.depth.to_string(), "2 to 65536")?;
    range(config.dstrd <= 10, "dstrd", config.dstrd.to_string(), "0 to 10")?;
    let most = config.queues.max(if config.vfs > 0 { vf_queues } else { 0 });
    range(
        !config.dbbuf || (config.dstrd <= 10 && most <= most_queues(config.dstrd)),
        "dbbuf",
        "yes".to_owned(),
        "the doorbells of all queues must have a place in one page of 4096 bytes, with 8 << dstrd bytes \
         for each pair; take fewer queues or a smaller dstrd",
    )?;
    range((1..=8).contains(&config.mdts), "mdts", config.mdts.to_string(), "1 to 8")?;
    range(
        config.serial.len() <= 20 && ascii,
        "serial",
        config.serial.clone(),
        "at most 20 printable ASCII characters",
    )?;
    range(disks <= 1024, "image", disks.to_string(), "at most 1024 namespaces")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Config, String> {
        let mut builder = Builder::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap();
            builder = builder.option(key, value).map_err(|error| error.to_string())?;
        }
        builder.limit_queues();
        check(&builder.config).map_err(|error| error.to_string())?;
        Ok(builder.config)
    }

    #[test]
    fn options_read_as_written() {
        let config =
            options("ram=64M,null=1G,image=/a,lba=4096,queues=4,depth=64,dstrd=0").unwrap();
        let image = Disk::Image("/a".into());
        assert_eq!(config.disks, [Disk::Ram(64 << 20), Disk::Null(1 << 30), image]);
        assert_eq!((config.lba, config.queues, config.depth, config.dstrd), (4096, 4, 64, 0));
        assert_eq!(options("dbbuf=1").unwrap().queues, 31, "and the admin queue's");
        assert_eq!(options("dbbuf=1,dstrd=0,queues=511").unwrap().queues, 511);
        assert_eq!(options("dbbuf=0").unwrap().queues, 32);
        assert!(options("readonly=yes,serial=ABC,mdts=8").unwrap().readonly);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (text, says) in [
            ("ram=64X", "ram=64X: write a size"),
            ("ram=99999999T", "ram=99999999T: write a size"),
            ("lba=513", "lba=513: 512 or 4096"),
            ("queues=0", "queues=0: 1 to 1023"),
            ("queues=70000", "queues=70000: write a number in its range"),
            ("vfs=65", "vfs=65: 0 to 64"),
            ("vfqueues=0", "vfqueues=0: 1 to 1023"),
            ("depth=1", "depth=1: 2 to 65536"),
            ("dstrd=11", "dstrd=11: 0 to 10"),
            ("mdts=0", "mdts=0: 1 to 8"),
            ("serial=123456789012345678901", "at most 20"),
            ("dbbuf=2", "dbbuf=2: write yes or no"),
            ("dbbuf=1,queues=32", "dbbuf=yes: the doorbells of all queues must have a place"),
            ("dbbuf=1,vfs=1,vfqueues=32", "dbbuf=yes: the doorbells of all queues"),
            ("dbbuf=1,dstrd=10", "dbbuf=yes: the doorbells of all queues"),
            ("readonly=maybe", "readonly=maybe: write yes or no"),
            ("fault=none", "fault=none: "),
            ("colour=red", "option colour: the software controller has no such option"),
        ] {
            let error = options(text).unwrap_err();
            assert!(error.contains(says) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
