//! The client that measures: figures and floors in turn, so that both see the same machine.

use std::time::Duration;

use anyhow::Result;
use doorbell::client::{Client, QueueSpec};
use doorbell_bench::floors::{BLOCK, WORKING_SET};
use doorbell_bench::load::{Stop, run as run_load};
use doorbell_bench::{Floor, Floors, Placement, Series, clock, cores};
use doorbell_nvme::{Namespace, Nvme};

use super::role::{Measured, Role, Said, say};
use crate::bench::work::{Load, Mix, Posting};
use crate::connect::block_on;

/// Rounds of every floor and figure.
const ROUNDS: u32 = 10;

/// Series of each round.
const SERIES: u32 = 6;

/// The deepest queue that is measured.
const DEPTH: usize = 32;

/// Reads of blocks that lie as close together as those of the floor.
const READS: Load = Load {
    mix: Mix::ReadWrite { read_percent: 100 },
    block: BLOCK,
    span: (BLOCK * WORKING_SET) as u64,
    sequential: true,
};

const FLUSHES: Load = Load { mix: Mix::Flush, ..READS };

/// Measures, and tells the demo.
pub(super) fn run(role: &Role, placement: Option<Placement>, seconds: f64) -> Result<()> {
    if let Some(cores) = placement {
        // Before the client's thread is started: it stays here as well.
        cores::pin_to(cores.client)?;
    }
    let time = Duration::from_secs_f64(seconds) / (ROUNDS * SERIES);
    block_on(async {
        let client = Client::builder().arena_bytes(4 << 20).connect(&role.socket).await?;
        let nvme = Nvme::claim(&client, QueueSpec::depth(DEPTH as u32)).await?;
        let ns = nvme.namespace(role.namespace)?;
        READS.check(&ns)?;
        say(&Said::Started)?;
        let mut measured = Measured {
            floors: Floors::new()?,
            flush: Series::new()?,
            read_1: Series::new()?,
            read_32: Series::new()?,
            clock_ns: clock::reading_costs_ns(),
        };
        for _ in 0..ROUNDS {
            // Each floor right beside what is compared with it.
            measured.floors.shm.append(&Floor::Shm.measure(placement, time)?);
            measured.flush.append(&figure(&nvme, ns, FLUSHES, 1, time)?);
            measured.floors.shm_4k.append(&Floor::Shm4k.measure(placement, time)?);
            measured.read_1.append(&figure(&nvme, ns, READS, 1, time)?);
            measured.floors.uds.append(&Floor::Uds.measure(placement, time)?);
            measured.read_32.append(&figure(&nvme, ns, READS, DEPTH, time)?);
        }
        say(&Said::Measured(Box::new(measured)))?;
        Ok(nvme.release().await?)
    })
}

/// One round of a figure, after a warm-up of a tenth of it: as the floors have.
fn figure(
    nvme: &Nvme,
    ns: Namespace<'_>,
    load: Load,
    depth: usize,
    time: Duration,
) -> Result<Series> {
    let mut work = Posting::new(nvme, ns, load, depth, 0)?;
    run_load(&mut work, depth, Stop::After(time / 10))?;
    run_load(&mut work, depth, Stop::After(time))
}
