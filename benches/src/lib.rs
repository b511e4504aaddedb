//! Measuring: floors, latency histograms, load loops, and reports for the terminal and for HTML.
#![forbid(unsafe_code)]

pub mod clock;
pub mod cores;
pub mod floors;
pub mod load;
pub mod page;
pub mod report;
pub mod series;

pub use cores::Placement;
pub use floors::{Floor, Floors};
pub use page::Page;
pub use report::{Report, Row};
pub use series::{Latency, Series};
