//! One macro: a register or dword as a table of bit fields.

/// Declares a newtype over an unsigned integer with a getter and a `with_` setter per field.
///
/// A setter masks its value to the field, so that a field can never spill into its neighbour.
macro_rules! bitfields {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident($repr:ty) {
            $( $(#[$fmeta:meta])* $get:ident, $with:ident: $low:literal .. $high:literal as $ty:ident; )*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            $(
                $(#[$fmeta])*
                #[must_use]
                #[inline]
                pub const fn $get(self) -> $ty {
                    const MASK: $repr = <$repr>::MAX >> (<$repr>::BITS - ($high - $low));
                    bitfields!(@get $ty, (self.0 >> $low) & MASK)
                }

                #[doc = concat!("Sets [`Self::", stringify!($get), "`]; bits that do not fit are cut off.")]
                #[must_use]
                #[inline]
                pub const fn $with(self, value: $ty) -> Self {
                    const MASK: $repr = <$repr>::MAX >> (<$repr>::BITS - ($high - $low));
                    Self((self.0 & !(MASK << $low)) | ((value as $repr & MASK) << $low))
                }
            )*
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("raw", &format_args!("{:#x}", self.0))
                    $( .field(stringify!($get), &self.$get()) )*
                    .finish()
            }
        }
    )* };
    (@get bool, $value:expr) => { ($value) != 0 };
    (@get $ty:ident, $value:expr) => { ($value) as $ty };
}

/// Declares a byte-sized code with named values; unknown values are kept, not refused.
macro_rules! codes {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$vmeta:meta])* $konst:ident = $value:literal; )*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u8);

        impl $name {
            $( $(#[$vmeta])* pub const $konst: Self = Self($value); )*

            /// Its name as a constant of this type, if it has one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( $value => Some(stringify!($konst)), )*
                    _ => None,
                }
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => write!(f, "{}({:#04x})", name, self.0),
                    None => write!(f, "{}({:#04x})", stringify!($name), self.0),
                }
            }
        }
    )* };
}
