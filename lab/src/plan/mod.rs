//! The proofs themselves. Each is a function that drives real programs and looks at what the kernel says.

pub mod client;
mod clients;
mod conformance;
mod cx;
mod functions;
mod io;
mod kernel;
mod places;
mod pollers;
mod refusals;
mod served;
mod slices;

use std::io as std_io;
use std::time::Instant;

use crate::guest::port::Port;
use crate::proofs::{self, Proof};
use crate::protocol::{FromGuest, Job, Outcome, Proved};

use cx::{BUSES, Cx, Trouble, Verdict};

/// Goes through the plan for a machine, as often as the job says, and reports each proof.
///
/// # Errors
/// If the port to the host fails. A proof that fails is a report.
pub fn run(job: &Job, port: &mut Port) -> std_io::Result<()> {
    for round in 1..=job.rounds.max(1) {
        for proof in proofs::ALL.iter().filter(|proof| chosen(proof, job)) {
            if !proof.rounds.has(round, job.rounds) {
                continue;
            }
            if !proof.each_bus {
                prove(proof, None, round, job, port)?;
                continue;
            }
            for bus in BUSES {
                // Which buses there must be, the proof `kernel` says.
                if job.bus.as_deref().is_none_or(|only| only == bus) && cx::kernel_offers(bus) {
                    prove(proof, Some(bus), round, job, port)?;
                }
            }
        }
    }
    Ok(())
}

fn chosen(proof: &Proof, job: &Job) -> bool {
    proof.sites.iter().any(|site| site.name() == job.machine)
        && proof.boot == job.boot
        && proof.is_named_by(&job.only)
}

/// Does one proof and reports it.
fn prove(
    proof: &Proof,
    bus: Option<&'static str>,
    round: u32,
    job: &Job,
    port: &mut Port,
) -> std_io::Result<()> {
    port.send(&FromGuest::Begin(proof.name.to_owned()))?;
    let begin = Instant::now();
    let mut cx = Cx::new(job, bus, round, port);
    let verdict = perform(proof.name, &mut cx);
    let log = if matches!(verdict, Err(Trouble::Failed(_))) { cx.logs() } else { String::new() };
    cx.clean_up();
    let outcome = match verdict {
        Ok(seen) => Outcome::Passed(seen),
        Err(Trouble::Failed(why)) => Outcome::Failed(why),
        Err(Trouble::Skipped(why)) => Outcome::Skipped(why),
    };
    port.send(&FromGuest::End(Proved {
        name: proof.name.to_owned(),
        bus: bus.map(str::to_owned),
        round,
        outcome,
        seconds: begin.elapsed().as_secs_f64(),
        log,
    }))
}

fn perform(name: &str, cx: &mut Cx<'_>) -> Verdict {
    match name {
        "kernel" => kernel::kernel(cx),
        "bring-up" => io::bring_up(cx),
        "identify" => io::identify(cx),
        "read" => io::read(cx),
        "write" => io::write(cx),
        "interrupts" => clients::interrupts(cx),
        "two-clients" => clients::two_clients(cx),
        "stray-dma" => clients::stray_dma(cx),
        "killed-client" => clients::killed_client(cx),
        "revoked-client" => clients::revoked_client(cx),
        "broker-restart" => clients::broker_restart(cx),
        "reset" => clients::reset(cx),
        "numa" => places::numa(cx),
        "poller" => pollers::poller(cx),
        "ordinary-user" => refusals::ordinary_user(cx),
        "memlock" => refusals::memlock(cx),
        "operator" => places::operator(cx),
        "slice" => slices::slice(cx),
        "revocable-slice" => slices::revocable(cx),
        "virtual-function" => functions::virtual_function(cx),
        "conformance" => conformance::nvme(cx),
        "edu" => conformance::edu(cx),
        "bus-tests" => conformance::bus_tests(cx),
        "held" => refusals::held(cx),
        "not-viable" => refusals::not_viable(cx),
        "released" => places::released(cx),
        "unplug" => places::unplug(cx),
        "no-iommu" => refusals::no_iommu(cx),
        "no-remapping" => refusals::no_remapping(cx),
        "guest-firmware" => served::driver::firmware(cx),
        "guest-driver" => served::driver::driver(cx),
        "guest-files" => served::files::files(cx),
        "guest-load" => served::load::load(cx),
        "guest-resets" => served::resets::resets(cx),
        "guest-shadows" => served::resets::shadows(cx),
        "guest-edu" => served::driver::edu(cx),
        "guest-tools" => served::commands::tools(cx),
        "guest-refusals" => served::commands::refusals(cx),
        "guest-format" => served::commands::format(cx),
        "guest-kept" => served::files::kept(cx),
        "guest-reboot" => served::files::reboot(cx),
        "guest-log" | "guest-reboot-log" => served::driver::log(cx),
        other => Err(Trouble::Failed(format!("the plan has no proof {other}"))),
    }
}
