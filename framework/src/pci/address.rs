//! [`Address`]: where a PCI function sits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Domain, bus, device and function, written `DDDD:BB:DD.F` in hexadecimal. The domain may be left
/// out when reading: it is then 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// PCI domain (segment). Some host bridges have domains of more than 16 bits.
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

/// A text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no PCI address; write DDDD:BB:DD.F, for example 0000:01:00.0")]
pub struct BadAddress(pub String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        parse(text).ok_or_else(|| BadAddress(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Address> {
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.split_once(':').unwrap_or(("0000", rest));
    let domain = hex(domain, 4, 8)?;
    let bus = u8::try_from(hex(bus, 2, 2)?).ok()?;
    let device = u8::try_from(hex(device, 2, 2)?).ok().filter(|device| *device < 32)?;
    let function = u8::try_from(hex(function, 1, 1)?).ok().filter(|function| *function < 8)?;
    Some(Address { domain, bus, device, function })
}

fn hex(text: &str, least: usize, most: usize) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let len = (least..=most).contains(&text.len());
    if digits && len { u32::from_str_radix(text, 16).ok() } else { None }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for text in ["0000:01:00.0", "10000:e1:1f.7", "abcd:00:04.0"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("01:00.0".parse::<Address>().unwrap().to_string(), "0000:01:00.0");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "0000:01:00.8",
            "0000:01:20.0",
            "0:01:00.0",
            "0000:1:00.0",
            "01:00",
            "+1:00.0",
            "0000:01:00.0 ",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains(&format!("'{text}'")), "{error}");
        }
    }
}
