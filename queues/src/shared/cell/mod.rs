//! The cells of this mode: memory that threads hand to each other by the state of an atomic word.
//!
//! All `unsafe` code of the mode is here, behind types that cannot be misused: a right to a cell is
//! a value that is not [`Clone`]. There are three kinds of cell:
//! * [`Delegated`]: who holds the baton has it;
//! * a slot's buffer, outcome and waker ([`SlotTable`]): who has them is said by the slot's word;
//! * [`WriteOnce`]: written once, then read by everyone.

mod baton;
mod command;
mod once;
mod settled;
mod slots;

pub(super) use baton::{Delegated, Turn};
pub(super) use command::{Command, Orphan, Reserved, WakerSet};
pub(super) use once::WriteOnce;
pub(super) use slots::{Settled, SlotTable};

/// A cell that threads take turns at: `core`'s, or loom's, which notices two at once.
#[cfg(loom)]
type Racy<T> = loom::cell::UnsafeCell<T>;

#[cfg(not(loom))]
struct Racy<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> Racy<T> {
    fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    /// A pointer to use in `f`, for a caller that has the cell to itself.
    #[inline(always)]
    fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }

    /// A pointer to read through in `f`, for a caller while nobody writes.
    #[inline(always)]
    fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }
}
