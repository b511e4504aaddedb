//! The command line of `doorbell bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use doorbell::tier::Tier;

use super::{Target, seconds, size};

/// Measures latency, throughput and CPU time of a namespace.
///
/// Closed loop, unless told otherwise: a fixed number of commands in flight, each completion followed
/// at once by the next command. With --rate an open loop: commands arrive at that rate whatever the
/// device does, and latency counts from the intended arrival, so that a stall is seen by everything
/// that arrived during it. Data that was read is copied out of the buffer, as a reader would.
///
/// Every load is measured in rounds that take turns, so that two reports can be compared
/// (--against) and chance be told from change.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell bench                                        4 KiB reads at depth 1 and 32
  doorbell bench --depth 1,8,64 --block 512,4k,1M --seconds 5 --report bench.html
  doorbell bench --rate 10k,50k,100k --arrivals poisson latency at these loads
  doorbell bench --sweep --depth 32 --report load.html  ... and from idle to saturation
  doorbell bench --mode spin,hybrid,interrupt --depth 1 what waiting costs, in time and in CPU
  doorbell bench --clients 4 --depth 8                  four processes at once
  doorbell bench --namespace 2 --read 70 --overwrite    70 % reads, 30 % writes
  doorbell bench --floors --report new --against old.json
  doorbell bench --spec soft:nvme,ram=64M               a device of this process, no broker")]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Measure this device without a broker: it is opened in this process
    #[arg(long, value_name = "SPEC", conflicts_with_all = ["socket", "device"])]
    pub(crate) spec: Option<String>,
    /// The namespace
    #[arg(long, short, default_value_t = 1)]
    pub(crate) namespace: u32,
    /// The least isolation that will do: cooperative, paged, mediated or isolated
    #[arg(long, default_value_t = Tier::Cooperative)]
    pub(crate) tier: Tier,
    /// Queue depths, separated by commas; an open loop has at most the greatest of them in flight
    #[arg(long, value_delimiter = ',', default_value = "1,32", value_name = "N,...")]
    pub(crate) depth: Vec<u16>,
    /// Block sizes, separated by commas: 4k, 128k, 1M
    #[arg(long, value_delimiter = ',', default_value = "4k", value_name = "SIZE,...", value_parser = size)]
    pub(crate) block: Vec<u64>,
    /// Percent of the operations that read; the others write
    #[arg(long, default_value_t = 100, value_name = "PERCENT",
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) read: u8,
    /// Flush instead of reading and writing
    #[arg(long, conflicts_with_all = ["block", "read", "overwrite"])]
    pub(crate) flush: bool,
    /// Allow writes: they destroy what is in the namespace
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// One block after the other instead of in random order
    #[arg(long)]
    pub(crate) sequential: bool,
    /// Only the first bytes of the namespace
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) span: Option<u64>,
    /// Open loop: arrivals per second of all clients together, separated by commas: 10k,1M
    #[arg(long, value_delimiter = ',', value_name = "RATE,...", value_parser = rate)]
    pub(crate) rate: Vec<f64>,
    /// After the closed loops, open loops from a tenth of their throughput to beyond it; with
    /// --against, at the old report's rates
    #[arg(long, conflicts_with = "rate")]
    pub(crate) sweep: bool,
    /// How arrivals follow each other: evenly, or at random as from many users [default: fixed]
    #[arg(long, value_enum)]
    pub(crate) arrivals: Option<Arrivals>,
    /// Repeats the same choices of blocks and arrivals
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How completions are waited for, separated by commas: always looking, looking for a short time
    /// and then sleeping, or sleeping at once
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "spin",
        value_name = "MODE,..."
    )]
    pub(crate) mode: Vec<Wait>,
    /// Client processes at the same time, each with a queue of its own
    #[arg(long, default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) clients: u32,
    /// In spin mode, drive the queue by futures instead of by callbacks
    #[arg(long, conflicts_with_all = ["rate", "sweep"])]
    pub(crate) futures: bool,
    /// Seconds for each load
    #[arg(long, default_value_t = 2.0, conflicts_with = "ios", value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Operations of each client for each load, instead of a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) ios: Option<u64>,
    /// Rounds that the time is divided into
    #[arg(long, default_value_t = 5, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Keep the clients on these cores, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "CORE,...")]
    pub(crate) core: Vec<usize>,
    /// Measure the floors of this machine as well, on two cores of its choice
    #[arg(long, conflicts_with = "core")]
    pub(crate) floors: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a report: FILE.html with plots, and beside it FILE.json and FILE.csv
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Compare with the JSON of an older run
    #[arg(long, value_name = "OLD.json")]
    pub(crate) against: Option<PathBuf>,
}

/// How arrivals follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arrivals {
    /// Evenly spaced
    Fixed,
    /// At random, with bursts
    Poisson,
}

/// How completions are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wait {
    /// Always looking
    Spin,
    /// Looking for a short time, then sleeping
    Hybrid,
    /// Sleeping at once
    Interrupt,
}

/// Arrivals per second: `500`, `10k`, `1.5M`; powers of 1000.
fn rate(text: &str) -> Result<f64, String> {
    let digits = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "m" | "M" => 1e6,
        _ => return Err("write a number and k or M: 50k".to_owned()),
    };
    let rate = number.parse::<f64>().ok().map(|number| number * factor);
    rate.filter(|rate| (0.01..=1e8).contains(rate))
        .ok_or_else(|| "write arrivals per second, from 0.01 to 100M".to_owned())
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn rates() {
        assert_eq!(rate("500"), Ok(500.0));
        assert_eq!(rate("1.5M"), Ok(1_500_000.0));
        for bad in ["", "0", "k", "4g", "-1", "1e9", "nan", "inf", "101M"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
