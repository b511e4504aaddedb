//! The token that virtual functions are opened with while VFIO has their physical function too.
//!
//! The kernel gives a virtual function only to whoever knows its physical function's token, because
//! whoever has the physical function can do the virtual one harm. The broker has both: it sets a
//! random token, and tells nobody.

use std::fmt;
use std::os::fd::AsFd;

use super::function::Function;
use super::uapi;
use super::uapi::types::flag;

/// What a wrong token means.
pub(super) const REFUSED: &str =
    "the kernel refuses the token of its physical function: is another process in charge of that?";

/// A UUID (RFC 9562, version 4).
#[derive(Clone)]
pub(super) struct Token([u8; 16]);

impl Token {
    /// Gives the virtual functions of a physical function a new random token.
    pub(super) fn set(function: &Function) -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        if got != bytes.len() {
            return Err(std::io::Error::other("the kernel gave too few random bytes"));
        }
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let mut data = bytes;
        uapi::feature(function.as_fd(), flag::FEATURE_VF_TOKEN, flag::FEATURE_SET, &mut data)?;
        Ok(Self(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Whoever knows it can open the functions: it is in no log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_as_a_uuid_and_is_not_logged() {
        let token = Token(std::array::from_fn(|at| at as u8 * 0x11));
        assert_eq!(token.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(format!("{token:?}"), "Token(..)");
    }
}
