//! Clients of the plan: processes of their own that do what no command of `doorbell` does.
//!
//! `lab-guest ROLE SOCKET [NUMBER...]`; one line on standard output, or one on standard error and a status that is
//! not 0.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write as _;

use doorbell::Tier;
use doorbell::client::{Client, QueueSpec};
use doorbell::poll::Pollers;
use doorbell_nvme::spec::{IoOpcode, Sqe};
use doorbell_nvme::{Lba, Namespace, Nvme, NvmeProtocol};
use doorbell_queues::SpinBudget;

use crate::pattern;

/// An IOVA that no partition reaches: below the 48 bits of the lab's VT-d, far above any arena.
pub const STRAY_IOVA: u64 = 0x7abc_dead_b000;

/// Blocks of one command.
const CHUNK: u64 = 16;

/// What a client ends with.
type Said = Result<String, Box<dyn Error>>;

/// Runs the client that the command line names, and returns the exit status.
#[must_use]
pub fn main() -> i32 {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let said = pollster::block_on(run(&words));
    // Whoever started this reads it, or does not care for it.
    let _ = match &said {
        Ok(line) => writeln!(std::io::stdout(), "{line}"),
        Err(error) => writeln!(std::io::stderr(), "{error}"),
    };
    i32::from(said.is_err())
}

async fn run(words: &[OsString]) -> Said {
    let [role, socket, numbers @ ..] = words else {
        return Err(
            "lab-guest is the first program of a guest; start it by `cargo xtask lab`".into()
        );
    };
    let numbers = numbers
        .iter()
        .map(|word| word.to_str().and_then(|word| word.parse().ok()).ok_or("not a number"))
        .collect::<Result<Vec<u64>, _>>()?;
    let connect = || Client::connect(socket);
    match (role.to_str().unwrap_or_default(), numbers.as_slice()) {
        ("work", &[lba, blocks, seed, rounds, tier]) => {
            let spec = QueueSpec::depth(8).at_least(tier_of(tier)?);
            work(&connect().await?, spec, lba, blocks, seed, rounds).await
        }
        ("sleep", &[lba, seed, rounds]) => {
            // No spinning: each wait looks once, and then for an interrupt.
            let spec = QueueSpec::depth(8).spin(SpinBudget::adaptive(0));
            work(&connect().await?, spec, lba, CHUNK, seed, rounds).await
        }
        ("poll", &[lba, blocks, seed, rounds, queues]) => {
            poll(&connect().await?, lba, blocks, seed, rounds, queues).await
        }
        ("stray", &[lba]) => stray(&connect().await?, lba).await,
        (role, _) => Err(format!("no client {role} with {} numbers", numbers.len()).into()),
    }
}

/// The tier that a number on the command line stands for.
fn tier_of(number: u64) -> Result<Tier, String> {
    match number {
        0 => Ok(Tier::Cooperative),
        1 => Ok(Tier::Paged),
        2 => Ok(Tier::Mediated),
        3 => Ok(Tier::Isolated),
        other => Err(format!("no tier {other}")),
    }
}

/// So many queues on one poller near the device: each writes a range of its own and compares, as `work` does. With
/// no rounds each reads the first blocks of its range until it is stopped.
async fn poll(client: &Client, lba: u64, blocks: u64, seed: u64, rounds: u64, queues: u64) -> Said {
    let pollers = Pollers::builder().build();
    let poller = pollers.near_device(client.device())?;
    let tasks: Vec<_> = (0..queues)
        .map(|number| {
            let (client, lba) = (client.clone(), lba + number * blocks);
            poller.spawn(move || async move {
                let spec = QueueSpec::depth(8);
                let done = match rounds {
                    0 => read_on(&client, spec, lba).await,
                    _ => work(&client, spec, lba, blocks, seed, rounds).await,
                };
                done.map_err(|error| error.to_string())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let (counters, cpu) = (poller.counters(), poller.placement().cpu);
    Ok(format!(
        "{queues} queues on CPU {cpu:?}, {} polls, {} sleeps",
        counters.polls, counters.sleeps
    ))
}

/// Reads until it is stopped.
async fn read_on(client: &Client, spec: QueueSpec, lba: u64) -> Said {
    let nvme = Nvme::claim(client, spec).await?;
    let ns = nvme.namespace(1)?;
    let mut buffer = nvme.dma().alloc(4096)?;
    loop {
        buffer = ns.read(Lba(lba), buffer).await?;
    }
}

/// Writes a pattern, flushes, reads it back and compares, again and again.
async fn work(
    client: &Client,
    spec: QueueSpec,
    lba: u64,
    blocks: u64,
    seed: u64,
    rounds: u64,
) -> Said {
    let nvme = Nvme::claim(client, spec).await?;
    let (queue, tier) = (nvme.queue().id(), nvme.queue().tier());
    let ns = nvme.namespace(1)?;
    for _ in 0..rounds {
        let mut at = lba;
        while at < lba + blocks {
            let some = CHUNK.min(lba + blocks - at);
            check(&nvme, &ns, at, some, seed).await?;
            at += some;
        }
    }
    nvme.release().await?;
    Ok(format!("queue {queue}, tier {tier}, {rounds} times {blocks} blocks"))
}

async fn check(
    nvme: &Nvme,
    ns: &Namespace<'_>,
    lba: u64,
    blocks: u64,
    seed: u64,
) -> Result<(), Box<dyn Error>> {
    let want = pattern::blocks(seed, lba, blocks);
    let mut buffer = nvme.dma().alloc(want.len())?;
    buffer.copy_from_slice(&want);
    let mut buffer = ns.write(Lba(lba), buffer).await?;
    ns.flush().await?;
    buffer.fill(0);
    let buffer = ns.read(Lba(lba), buffer).await?;
    match pattern::first_difference(seed, lba, &buffer) {
        Some(lba) => Err(format!("block {lba} is not what was written").into()),
        None => Ok(()),
    }
}

/// Reads a block to an address that is not in the client's partition, and in nobody's. What the command's status says
/// is the device's opinion: QEMU's calls it a success.
async fn stray(client: &Client, lba: u64) -> Said {
    let queue = client.claim::<NvmeProtocol>(QueueSpec::depth(4)).await?.into_queue::<()>()?;
    let entry = |_, (): &mut ()| {
        let mut entry = Sqe::io(IoOpcode::READ, 1).with_cdw10_11(lba);
        entry.prp1 = STRAY_IOVA;
        entry
    };
    let in_flight = queue.submit((), entry).map_err(|error| error.reason.to_string())?;
    queue.flush();
    let status = match in_flight.await {
        Ok((outcome, ())) => format!("{:?}", outcome.status),
        Err(lost) => return Err(lost.error.to_string().into()),
    };
    queue.release().await?;
    Ok(format!("the device completed it with {status}"))
}
