//! Measuring: floors, latency histograms, load loops, and reports for the terminal and for HTML.
#![forbid(unsafe_code)]

pub mod clock;
pub mod cores;
pub mod cpu;
pub mod floors;
pub mod load;
pub mod machine;
pub mod page;
pub mod report;
pub mod results;
pub mod series;

pub use cores::Placement;
pub use floors::{Floor, Floors};
pub use page::Page;
pub use report::{Report, Row};
pub use results::Results;
pub use series::{Latency, Percentiles, Series};
