//! `doorbell bench`: latency, throughput and CPU time of a namespace.
//!
//! | file | what |
//! |---|---|
//! | `plan` | the loads of a command line |
//! | `work` | which commands a load sends |
//! | `runner` | one client: runs a load on a queue |
//! | `clients` | several clients: processes |
//! | `measure` | rounds that take turns |
//! | `tell` | what is printed and written |

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use doorbell_bench::machine::Machine;
use doorbell_bench::{Placement, Results, cores};

use crate::cli::Bench;
use crate::connect::block_on;
use crate::sockets;

pub(crate) mod clients;
mod measure;
mod plan;
mod runner;
mod tell;
pub(crate) mod work;

use measure::{Measured, Measurer};
use plan::Plan;
use runner::{Device, Setup};

/// The longest file that is read as an old report.
const MOST_BYTES: u64 = 256 << 20;

/// Runs `doorbell bench`.
pub(crate) fn run(args: &Bench) -> Result<()> {
    let plan = Plan::new(args)?;
    // Before anything is measured: a file that cannot be read is told at once.
    let old = args.against.as_deref().map(read_old).transpose()?;
    let files = args.report.as_deref().map(tell::Files::new);
    if let (Some(files), Some(old)) = (&files, &args.against) {
        ensure!(
            !files.would_overwrite(old),
            "the report would overwrite {}, which it is to be compared with; name another --report",
            old.display()
        );
    }
    let placement = if args.floors { Placement::choose()? } else { None };
    let setups = setups(args, &plan, placement)?;
    let measured = block_on(async {
        let mut measurer = Measurer::start(setups).await?;
        if let (Some(cores), true) = (placement, args.floors) {
            // The floors' client is this thread, whoever the device's clients are.
            cores::pin_to(cores.client)?;
        }
        let measured = measurer.measure(args, &plan, placement, old.as_ref()).await;
        let device = measurer.device().to_owned();
        measurer.finish().await?;
        anyhow::Ok((measured?, device))
    });
    let (Measured { floors, results }, device) = measured?;
    let facts = facts(args, &plan, placement);
    let machine = Machine::this();
    let results = Results { device, namespace: args.namespace, machine, facts, floors, results };
    tell::tell(args, &results, old.as_ref(), files.as_ref())
}

/// What each client works with.
fn setups(args: &Bench, plan: &Plan, placement: Option<Placement>) -> Result<Vec<Setup>> {
    let device = match &args.spec {
        Some(spec) => Device::Inside(spec.clone()),
        None => Device::Served(sockets::find(&args.target)?),
    };
    let alone = placement.filter(|_| args.clients == 1).map(|cores| cores.client);
    let setup = |index: u32| Setup {
        device: device.clone(),
        namespace: args.namespace,
        tier: args.tier,
        depth: plan.deepest,
        arena: plan.arena_bytes(),
        futures: args.futures,
        core: args.core.get(index as usize % args.core.len().max(1)).copied().or(alone),
        index,
    };
    Ok((0..args.clients).map(setup).collect())
}

fn read_old(file: &Path) -> Result<Results> {
    let name = file.display();
    let length = fs::metadata(file).with_context(|| format!("reading {name}"))?.len();
    ensure!(length <= MOST_BYTES, "{name} is too long for a report");
    let text = fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
    Results::from_json(&text).with_context(|| format!("{name} is no report to compare with"))
}

/// What a reader must know of the run.
fn facts(args: &Bench, plan: &Plan, placement: Option<Placement>) -> Vec<(String, String)> {
    let list = |cores: &[usize]| {
        let names: Vec<String> = cores.iter().map(usize::to_string).collect();
        names.join(", ")
    };
    let cores = match placement {
        Some(cores) if args.clients == 1 => {
            format!("client {}, floors' device {}", cores.client, cores.device)
        }
        _ if args.core.is_empty() => "as the kernel likes".to_owned(),
        _ => format!("clients {}", list(&args.core)),
    };
    let time = match args.ios {
        Some(operations) => format!("{operations} operations of each client"),
        None => format!("{} s", args.seconds),
    };
    let how = if args.futures { "futures" } else { "callbacks; with sleep, futures" };
    let facts = [
        ("each load", format!("{time}, in {} rounds", plan.rounds)),
        ("order", if args.sequential { "sequential" } else { "random" }.to_owned()),
        ("seed", args.seed.to_string()),
        ("clients", args.clients.to_string()),
        ("cores", cores),
        ("driven by", how.to_owned()),
        ("isolation", format!("at least {}", args.tier)),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).to_vec()
}
