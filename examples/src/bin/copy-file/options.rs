//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

pub(crate) const HELP: &str = "\
Copies a file onto an NVMe device and back, checks that it is the same, and says how fast that was
beside a plain copy.

Usage: copy-file [OPTIONS] [FILE]

FILE is the file to copy; without one a file of 32 MiB is made up. It is only read.

Options:
  --device SPEC   the device [default: a software device with enough memory]: soft:nvme,ram=256M,
                  soft:nvme,image=PATH or, if this was built with --features vfio, the address of
                  a PCI function. ITS DATA IS OVERWRITTEN.
  --buffers N     buffers in flight, 1 to 32 [default: 8]
  -h, --help      this text
";

/// What the user wants.
#[derive(Debug)]
pub(crate) enum Asked {
    Help,
    Copy(Options),
}

/// How to copy.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) file: Option<PathBuf>,
    pub(crate) device: String,
    pub(crate) buffers: usize,
}

/// The software device that is brought along.
const OWN: &str = "soft:nvme";

impl Options {
    /// What to open for so many bytes.
    pub(crate) fn device_for(&self, bytes: u64) -> String {
        if self.device == OWN {
            format!("{OWN},ram={}M", bytes.div_ceil(1 << 20).max(1))
        } else {
            self.device.clone()
        }
    }
}

pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Asked> {
    let mut options = Options { file: None, device: OWN.to_owned(), buffers: 8 };
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().with_context(|| format!("'{argument}' needs a value; see --help"));
        match argument.as_str() {
            "-h" | "--help" => return Ok(Asked::Help),
            "--device" => options.device = value()?,
            "--buffers" => {
                let text = value()?;
                options.buffers =
                    text.parse().ok().filter(|n| (1..=32).contains(n)).with_context(|| {
                        format!("--buffers is a number from 1 to 32, and '{text}' is none")
                    })?;
            }
            other if other.starts_with('-') => bail!("no such option: '{other}'; see --help"),
            file => {
                ensure!(options.file.is_none(), "one file at a time; '{file}' is the second");
                options.file = Some(file.into());
            }
        }
    }
    Ok(Asked::Copy(options))
}
