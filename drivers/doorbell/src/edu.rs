//! `doorbell edu`: uses a served edu device.

use anyhow::{Result, ensure};
use doorbell_edu::Edu;

use crate::cli::{self, EduRead, EduWrite, Target};
use crate::connect::{block_on, to_look};
use crate::data::{self, Sink};
use crate::{output, sockets};

/// Runs `doorbell edu`.
pub(crate) fn run(command: &cli::Edu) -> Result<()> {
    match command {
        cli::Edu::Identify { target } => block_on(identify(target)),
        cli::Edu::Factorial { target, number } => block_on(factorial(target, *number)),
        cli::Edu::Read(args) => block_on(read(args)),
        cli::Edu::Write(args) => block_on(write(args)),
    }
}

/// Its operations move data in messages, so no memory is needed.
async fn connect(target: &Target) -> Result<Edu> {
    Ok(Edu::connect(&to_look(&sockets::find(target)?).await?).await?)
}

async fn identify(target: &Target) -> Result<()> {
    let edu = connect(target).await?;
    let (major, minor) = edu.version();
    output::print(format!("{}: edu, version {major}.{minor}\n", edu.client().device().name))
}

async fn factorial(target: &Target, number: u32) -> Result<()> {
    let factorial = connect(target).await?.factorial(number).await?;
    output::print(format!("{number}! = {factorial}\n"))
}

async fn read(args: &EduRead) -> Result<()> {
    let edu = connect(&args.target).await?;
    let data = edu.read(args.offset, args.bytes).await?;
    Sink::open(args.out.as_deref())?.put(args.offset as u64, &data)
}

async fn write(args: &EduWrite) -> Result<()> {
    let data = data::read_all(args.from.as_deref())?;
    ensure!(!data.is_empty(), "there is nothing to write; give a file with --in");
    connect(&args.target).await?.write(args.offset, &data).await?;
    output::print(format!("wrote {} bytes from offset {}\n", data.len(), args.offset))
}
