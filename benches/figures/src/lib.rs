//! Every figure of speed beside its floor, measured in one run, and the instructions of every hot
//! path.
//!
//! | module | what it measures |
//! |---|---|
//! | [`in_thread`], [`rings`] | submit plus complete with the device in the same thread; one to 256 in flight |
//! | [`served`], [`nvme`] | a client process against a software controller in another process |
//! | [`contention`] | two producers on one device queue, and what atomic operations cost them |
//! | [`wake`] | from a completion to the task that awaits it |
//! | [`peers`] | the kernel's io_uring: no-ops, and reads of the same image |
//! | [`cases`] | instructions of each hot path, counted by callgrind |
//! | [`figures`], [`table`], [`run`] | the figures of one run, and how they are shown |
//! | [`counting`] | an allocator that counts |
//!
//! The programs are `doorbell-figures`, which `cargo xtask bench` runs, and `doorbell-instructions`,
//! which `cargo xtask instructions` runs. What each figure says and what it does not is in the book's
//! chapter "Benchmarks".
#![deny(unsafe_code)]

pub mod cases;
pub mod contention;
pub mod counting;
pub mod figures;
pub mod in_thread;
pub mod nvme;
pub mod peers;
pub mod rings;
pub mod run;
pub mod served;
pub mod table;
pub mod wake;

/// The middle sample; NaN of none.
#[must_use]
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
