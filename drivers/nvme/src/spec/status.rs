//! The status field of a completion (base 3.3.3.2.1).

use core::fmt;

/// Status field: completion dword 3, bits 17 to 31, here from bit 0.
///
/// SC in bits 0 to 7, SCT in 8 to 10, CRD in 11 and 12, M in 13, DNR in 14. The constants have CRD,
/// M and DNR clear: compare with [`Status::code`], or against a constant by [`Status::is`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Status(pub u16);

/// Status code types (base 3.3.3.2.1, figure "Status Code Type").
pub mod sct {
    /// Generic command status.
    pub const GENERIC: u8 = 0;
    /// Command specific status.
    pub const COMMAND: u8 = 1;
    /// Media and data integrity errors.
    pub const MEDIA: u8 = 2;
    /// Path related status.
    pub const PATH: u8 = 3;
    /// Vendor specific.
    pub const VENDOR: u8 = 7;
}

const MORE: u16 = 1 << 13;
const DNR: u16 = 1 << 14;

impl Status {
    /// A status of this type and code, nothing else set.
    #[must_use]
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self((sct as u16 & 0b111) << 8 | sc as u16)
    }

    /// Status code.
    #[must_use]
    pub const fn sc(self) -> u8 {
        self.0 as u8
    }

    /// Status code type: see [`sct`].
    #[must_use]
    pub const fn sct(self) -> u8 {
        (self.0 >> 8) as u8 & 0b111
    }

    /// Command Retry Delay: an index into Identify Controller's CRDT1 to CRDT3; 0 is none.
    #[must_use]
    pub const fn crd(self) -> u8 {
        (self.0 >> 11) as u8 & 0b11
    }

    /// More: the error log has an entry for this command.
    #[must_use]
    pub const fn is_more(self) -> bool {
        self.0 & MORE != 0
    }

    /// Do Not Retry: the same command will fail again.
    #[must_use]
    pub const fn is_dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// True for success of any command: code type and code are zero.
    #[must_use]
    #[inline]
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Type and code alone, without CRD, M and DNR.
    #[must_use]
    pub const fn code(self) -> Self {
        Self(self.0 & 0x7ff)
    }

    /// True if type and code are those of `other`.
    #[must_use]
    pub const fn is(self, other: Self) -> bool {
        self.code().0 == other.code().0
    }

    /// The same with Do Not Retry set.
    #[must_use]
    pub const fn dnr(self) -> Self {
        Self(self.0 | DNR)
    }

    /// The same with More set.
    #[must_use]
    pub const fn more(self) -> Self {
        Self(self.0 | MORE)
    }
}

macro_rules! statuses {
    ($( $(#[$meta:meta])* $name:ident = ($sct:expr, $sc:literal), $text:literal; )*) => {
        impl Status {
            $(
                #[doc = concat!("\"", $text, "\"")]
                $(#[$meta])*
                pub const $name: Self = Self::new($sct, $sc);
            )*

            /// What the specification calls this type and code, if this crate knows it.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                $( if self.is(Self::$name) { return Some($text); } )*
                None
            }
        }
    };
}
pub(super) use statuses;

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name)?,
            None => f.write_str("unknown status")?,
        }
        write!(f, " (type {}, code {:#04x}", self.sct(), self.sc())?;
        if self.is_dnr() {
            f.write_str(", do not retry")?;
        }
        if self.is_more() {
            f.write_str(", see the error log")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:#06x}: {self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_where_the_specification_puts_them() {
        let status = Status::LBA_OUT_OF_RANGE.dnr().more();
        assert_eq!(status.0, 0x6080);
        assert_eq!((status.sct(), status.sc(), status.crd()), (0, 0x80, 0));
        assert!(status.is_dnr() && status.is_more() && !status.is_success());
        assert!(status.is(Status::LBA_OUT_OF_RANGE));
        assert_eq!(Status::INVALID_QUEUE_ID.0, 0x101);
        assert_eq!(Status::COMPARE_FAILURE.0, 0x285);
    }

    #[test]
    fn a_status_reads_well() {
        let text = Status::LBA_OUT_OF_RANGE.dnr().to_string();
        assert_eq!(text, "LBA Out of Range (type 0, code 0x80, do not retry)");
        assert_eq!(Status::new(7, 0x33).to_string(), "unknown status (type 7, code 0x33)");
    }
}
