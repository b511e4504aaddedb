//! The command line of `doorbell nvme`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use doorbell::tier::Tier;

use super::Target;

/// Looks into a served NVMe device, and reads and writes its blocks.
#[derive(Debug, Subcommand)]
pub(crate) enum Nvme {
    /// Shows the controller and its namespaces
    Identify {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows the health log
    Smart {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Reads blocks to a file, or to standard output (as a hex dump if that is a terminal)
    Read(NvmeRead),
    /// Writes a file, or standard input, to blocks
    Write(NvmeWrite),
}

/// Which blocks.
#[derive(Debug, Args)]
pub(crate) struct Blocks {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The namespace
    #[arg(long, short, default_value_t = 1)]
    pub(crate) namespace: u32,
    /// The first block
    #[arg(long, default_value_t = 0)]
    pub(crate) lba: u64,
    /// The least isolation that will do: cooperative, paged, mediated or isolated
    #[arg(long, default_value_t = Tier::Cooperative)]
    pub(crate) tier: Tier,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell nvme read --blocks 8
  doorbell nvme read --namespace 2 --lba 100 --blocks 2048 --out blocks.bin")]
pub(crate) struct NvmeRead {
    #[command(flatten)]
    pub(crate) at: Blocks,
    /// How many blocks
    #[arg(long, default_value_t = 1)]
    pub(crate) blocks: u64,
    /// Where the data goes
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell nvme write --namespace 2 --lba 100 --in blocks.bin
  head -c 4096 /dev/zero | doorbell nvme write --lba 8

The data must be a whole number of blocks. It is durable (flushed) when the command ends.")]
pub(crate) struct NvmeWrite {
    #[command(flatten)]
    pub(crate) at: Blocks,
    /// Where the data comes from
    #[arg(long = "in", value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
}
