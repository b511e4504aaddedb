//! How an operator names a device: `soft:nvme,image=disk.img`, `0000:01:00.0`, `vfio-user:/path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::pci::Address;

/// A device, as named on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceSpec {
    /// `soft:MODEL[,KEY=VALUE...]`: a software device.
    Soft {
        /// The model's name: `nvme`.
        model: String,
        /// Its options, in order.
        options: Vec<(String, String)>,
    },
    /// `DDDD:BB:DD.F[,KEY=VALUE...]`: a PCI function, through the kernel's VFIO.
    Pci {
        /// Where it sits.
        address: Address,
        /// Options of the bus, in order.
        options: Vec<(String, String)>,
    },
    /// `vfio-user:PATH`: a device behind a vfio-user server.
    VfioUser(PathBuf),
}

/// A text that names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' names no device: {why}; write soft:MODEL[,KEY=VALUE...], DDDD:BB:DD.F or \
     vfio-user:PATH, for example soft:nvme,ram=64M"
)]
pub struct BadSpec {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl FromStr for DeviceSpec {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why: &str| BadSpec { text: text.to_owned(), why: why.to_owned() };
        if let Some(rest) = text.strip_prefix("soft:") {
            let (model, options) = split_options(rest).map_err(|why| bad(&why))?;
            if model.is_empty() {
                return Err(bad("no model"));
            }
            return Ok(Self::Soft { model: model.to_owned(), options });
        }
        if let Some(path) = text.strip_prefix("vfio-user:") {
            if path.is_empty() {
                return Err(bad("no socket path"));
            }
            return Ok(Self::VfioUser(path.into()));
        }
        let (address, options) = split_options(text).map_err(|why| bad(&why))?;
        match address.parse() {
            Ok(address) => Ok(Self::Pci { address, options }),
            Err(_) => Err(bad("it begins with no known bus, and is no PCI address")),
        }
    }
}

/// `KEY=VALUE`s.
type Options = Vec<(String, String)>;

/// What stands before the first comma, and the `KEY=VALUE` after it.
fn split_options(text: &str) -> Result<(&str, Options), String> {
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    let options = parts.map(|part| match part.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{part}' is no KEY=VALUE")),
    });
    Ok((first, options.collect::<Result<_, _>>()?))
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Soft { model, options } => {
                write!(f, "soft:{model}")?;
                options.iter().try_for_each(|(key, value)| write!(f, ",{key}={value}"))
            }
            Self::Pci { address, options } => {
                write!(f, "{address}")?;
                options.iter().try_for_each(|(key, value)| write!(f, ",{key}={value}"))
            }
            Self::VfioUser(path) => write!(f, "vfio-user:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_read_back_as_written() {
        for text in [
            "soft:nvme",
            "soft:nvme,image=/a/b.img,ram=64M",
            "0000:01:00.0",
            "0000:01:00.0,bus=cdev",
            "vfio-user:/x",
        ] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_device_says_why() {
        for text in
            ["", "nvme", "soft:", "soft:nvme,image", "soft:nvme,=1", "0000:01:00.8", "vfio-user:"]
        {
            let error = text.parse::<DeviceSpec>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("'{text}' names no device")), "{error}");
        }
    }
}
