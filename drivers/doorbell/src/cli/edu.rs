//! The command line of `doorbell edu`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Target;

/// Uses a served edu device: QEMU's device to learn with.
#[derive(Debug, Subcommand)]
pub(crate) enum Edu {
    /// Shows which version the device is
    Identify {
        #[command(flatten)]
        target: Target,
    },
    /// Has the device compute a factorial
    Factorial {
        #[command(flatten)]
        target: Target,
        /// 0 to 12
        number: u32,
    },
    /// Reads the device's buffer to a file, or to standard output (as a hex dump if that is a terminal)
    Read(EduRead),
    /// Writes a file, or standard input, to the device's buffer
    Write(EduWrite),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell edu read --bytes 16
  doorbell edu read --offset 100 --bytes 5 --out part.bin")]
pub(crate) struct EduRead {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The first byte in the buffer
    #[arg(long, default_value_t = 0)]
    pub(crate) offset: usize,
    /// How many bytes; the buffer has 4095
    #[arg(long, default_value_t = 64)]
    pub(crate) bytes: usize,
    /// Where the data goes
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  echo hello | doorbell edu write --offset 100
  doorbell edu write --in data.bin")]
pub(crate) struct EduWrite {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The first byte in the buffer
    #[arg(long, default_value_t = 0)]
    pub(crate) offset: usize,
    /// Where the data comes from
    #[arg(long = "in", value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
}
