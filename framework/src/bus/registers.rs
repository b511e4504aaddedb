//! Register blocks as tables: the macro [`registers!`](crate::registers).
//!
//! A table names each register's offset, width, access and fields; the macro makes a type for the
//! block, one for each register's value, and typed accessors for the fields. Reading or writing one
//! takes one access of its width.
//!
//! ```
//! use doorbell::bus::{Bar, BusError};
//!
//! doorbell::registers! {
//!     /// Controller registers (NVM Express base 2.0, 3.1.3).
//!     pub block NvmeRegisters;
//!
//!     /// Controller capabilities (3.1.3.1). Reserved bits are zero, so it never reads all ones.
//!     cap @ 0x00: u64, ro, never_ones => Cap {
//!         /// Maximum queue entries supported, zero-based.
//!         mqes: 15:0,
//!         /// Contiguous queues required.
//!         cqr: 16,
//!         /// Worst time to ready, in units of 500 ms.
//!         to: 31:24,
//!     }
//!     /// Controller configuration (3.1.3.5).
//!     cc @ 0x14: u32, rw => Cc {
//!         /// Enable.
//!         en | with_en: 0,
//!         /// I/O submission queue entry size, as a power of two.
//!         iosqes | with_iosqes: 19:16,
//!     }
//!     /// Admin submission queue base address (3.1.3.9).
//!     asq @ 0x28: u64, rw => Asq {}
//! }
//!
//! fn bring_up(bar: Bar) -> Result<u16, BusError> {
//!     let regs = NvmeRegisters::new(bar);
//!     let entries = regs.cap().read()?.mqes() + 1; // Gone, if it reads all ones
//!     regs.cc().write(Cc::default().with_en(true).with_iosqes(6))?;
//!     regs.cc().modify(|cc| cc.with_en(false))?;
//!     Ok(entries as u16)
//! }
//!
//! assert_eq!(Cap::from_bits(0x0f00_00ff).to(), 0x0f);
//! assert_eq!(Cc::default().with_iosqes(6).with_en(true).bits(), 0x0006_0001);
//! ```

use std::marker::PhantomData;

use super::{Bar, BusError, Width};

/// The value of a register: made by [`registers!`](crate::registers).
pub trait Register: Copy {
    /// The register's name in the table.
    const NAME: &'static str;
    /// Its offset in the block, in bytes.
    const OFFSET: u64;
    /// Its width.
    const WIDTH: Width;
    /// True if no value it can have is all ones: reading that means that the device is gone.
    const NEVER_ONES: bool;
    /// From the bits read.
    fn from_raw(raw: u64) -> Self;
    /// The bits to write.
    fn to_raw(self) -> u64;
}

/// A register that may be read.
pub trait Readable: Register {}

/// A register that may be written.
pub trait Writable: Register {}

/// One register of a block on a device.
#[derive(Debug, Clone, Copy)]
pub struct Reg<'a, R> {
    bar: &'a Bar,
    base: u64,
    _register: PhantomData<R>,
}

impl<'a, R: Register> Reg<'a, R> {
    /// The register `R` of the block at `base` in `bar`.
    #[must_use]
    pub fn new(bar: &'a Bar, base: u64) -> Self {
        Self { bar, base, _register: PhantomData }
    }
}

impl<R: Readable> Reg<'_, R> {
    /// Reads it.
    ///
    /// # Errors
    /// [`BusError::Gone`] if it reads all ones and never can; else as [`Bar::read`].
    pub fn read(&self) -> Result<R, BusError> {
        let raw = self.bar.read(self.base + R::OFFSET, R::WIDTH)?;
        if R::NEVER_ONES && is_all_ones(raw, R::WIDTH) {
            return Err(BusError::Gone {
                device: self.bar.device(),
                how: "a register that never does reads all ones",
            });
        }
        Ok(R::from_raw(raw))
    }
}

impl<R: Writable> Reg<'_, R> {
    /// Writes it.
    ///
    /// # Errors
    /// As [`Bar::write`].
    pub fn write(&self, value: R) -> Result<(), BusError> {
        self.bar.write(self.base + R::OFFSET, R::WIDTH, value.to_raw())
    }
}

impl<R: Readable + Writable> Reg<'_, R> {
    /// Reads it, changes it, and writes it: two accesses, not one.
    ///
    /// # Errors
    /// As [`Reg::read`] and [`Reg::write`].
    pub fn modify(&self, change: impl FnOnce(R) -> R) -> Result<(), BusError> {
        self.write(change(self.read()?))
    }
}

/// True if `raw` has every bit of `width` set: what a bus reads of a device that is gone.
#[must_use]
pub fn is_all_ones(raw: u64, width: Width) -> bool {
    raw == u64::MAX >> (64 - 8 * width.bytes())
}

/// A register block as a table. See [`bus::registers`](crate::bus::registers).
///
/// ```text
/// registers! {
///     /// Doc of the block, with the document that describes it.
///     pub block NAME;
///
///     /// Doc of the register, with the clause.
///     name @ OFFSET: u32, ro|wo|rw [, never_ones] => ValueType {
///         /// Doc of a field.
///         flag: BIT,                        // fn flag(self) -> bool
///         field: HIGH:LOW,                  // fn field(self) -> u32
///         /// A field that the driver sets: the setter's name follows.
///         other | with_other: HIGH:LOW,     // and fn with_other(self, u32) -> Self
///     }
/// }
/// ```
#[macro_export]
macro_rules! registers {
    (
        $(#[$block_doc:meta])*
        $vis:vis block $block:ident;
        $(
            $(#[$doc:meta])*
            $name:ident @ $offset:literal : $int:ident, $access:ident $(, $ones:ident)? => $value:ident {
                $($fields:tt)*
            }
        )*
    ) => {
        $(#[$block_doc])*
        #[derive(Debug, Clone)]
        $vis struct $block {
            bar: $crate::bus::Bar,
            base: u64,
        }

        impl $block {
            /// The block at the beginning of `bar`.
            #[must_use]
            $vis fn new(bar: $crate::bus::Bar) -> Self {
                Self::at(bar, 0)
            }

            /// The block `base` bytes into `bar`.
            #[must_use]
            $vis fn at(bar: $crate::bus::Bar, base: u64) -> Self {
                Self { bar, base }
            }

            /// The BAR that the block lies in.
            #[must_use]
            #[allow(dead_code, reason = "not every driver uses every part of a table")]
            $vis fn bar(&self) -> &$crate::bus::Bar {
                &self.bar
            }

            $(
                $(#[$doc])*
                #[must_use]
                #[allow(dead_code, reason = "not every driver uses every part of a table")]
                $vis fn $name(&self) -> $crate::bus::registers::Reg<'_, $value> {
                    $crate::bus::registers::Reg::new(&self.bar, self.base)
                }
            )*
        }

        $(
            $(#[$doc])*
            #[derive(Clone, Copy, PartialEq, Eq, Default)]
            $vis struct $value($int);

            impl $value {
                /// From the register's bits.
                #[must_use]
                #[allow(dead_code, reason = "not every driver uses every part of a table")]
                $vis const fn from_bits(bits: $int) -> Self {
                    Self(bits)
                }

                /// The register's bits.
                #[must_use]
                #[allow(dead_code, reason = "not every driver uses every part of a table")]
                $vis const fn bits(self) -> $int {
                    self.0
                }

                $crate::registers!(@fields $vis $int; $($fields)*);
            }

            impl ::core::fmt::Debug for $value {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    write!(f, "{}({:#x})", stringify!($name), self.0)
                }
            }

            impl $crate::bus::registers::Register for $value {
                const NAME: &'static str = stringify!($name);
                const OFFSET: u64 = $offset;
                const WIDTH: $crate::bus::Width = $crate::registers!(@width $int);
                const NEVER_ONES: bool = $crate::registers!(@ones $($ones)?);

                #[allow(clippy::cast_lossless, reason = "one arm for every width")]
                fn from_raw(raw: u64) -> Self {
                    Self(raw as $int)
                }

                #[allow(clippy::cast_lossless, reason = "one arm for every width")]
                fn to_raw(self) -> u64 {
                    self.0 as u64
                }
            }

            $crate::registers!(@access $access $value);
        )*
    };

    (@width u8) => { $crate::bus::Width::B1 };
    (@width u16) => { $crate::bus::Width::B2 };
    (@width u32) => { $crate::bus::Width::B4 };
    (@width u64) => { $crate::bus::Width::B8 };

    (@ones) => { false };
    (@ones never_ones) => { true };

    (@access ro $value:ident) => {
        impl $crate::bus::registers::Readable for $value {}
    };
    (@access wo $value:ident) => {
        impl $crate::bus::registers::Writable for $value {}
    };
    (@access rw $value:ident) => {
        impl $crate::bus::registers::Readable for $value {}
        impl $crate::bus::registers::Writable for $value {}
    };

    (@fields $vis:vis $int:ident;) => {};
    // A field of several bits.
    (@fields $vis:vis $int:ident;
        $(#[$doc:meta])* $field:ident $(| $with:ident)? : $high:literal : $low:literal
        $(, $($rest:tt)*)?) => {
        $(#[$doc])*
        #[must_use]
        #[allow(dead_code, reason = "not every driver uses every part of a table")]
        $vis const fn $field(self) -> $int {
            const { assert!($high >= $low && $high < $int::BITS) };
            (self.0 >> $low) & ($int::MAX >> ($int::BITS - 1 - ($high - $low)))
        }
        $(
            #[doc = concat!("The register's value with `", stringify!($field), "` replaced; bits of")]
            /// `value` beyond the field's width are cut off.
            #[must_use]
            #[allow(dead_code, reason = "not every driver uses every part of a table")]
            $vis const fn $with(self, value: $int) -> Self {
                let mask = $int::MAX >> ($int::BITS - 1 - ($high - $low));
                Self((self.0 & !(mask << $low)) | ((value & mask) << $low))
            }
        )?
        $crate::registers!(@fields $vis $int; $($($rest)*)?);
    };
    // A single bit.
    (@fields $vis:vis $int:ident;
        $(#[$doc:meta])* $field:ident $(| $with:ident)? : $bit:literal $(, $($rest:tt)*)?) => {
        $(#[$doc])*
        #[must_use]
        #[allow(dead_code, reason = "not every driver uses every part of a table")]
        $vis const fn $field(self) -> bool {
            const { assert!($bit < $int::BITS) };
            (self.0 >> $bit) & 1 != 0
        }
        $(
            #[doc = concat!("The register's value with `", stringify!($field), "` replaced.")]
            #[must_use]
            #[allow(dead_code, reason = "not every driver uses every part of a table")]
            $vis const fn $with(self, value: bool) -> Self {
                Self((self.0 & !(1 << $bit)) | ((value as $int) << $bit))
            }
        )?
        $crate::registers!(@fields $vis $int; $($($rest)*)?);
    };
}
