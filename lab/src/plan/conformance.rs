//! Plans of others, run here on devices of the kernel: conformance, and the framework's own tests.

use std::time::Duration;

use serde_json::Value;

use super::cx::{Cx, Trouble, VFIO, Verdict, check, succeeded};
use super::slices;
use crate::guest::pci::Function;
use crate::host::sites::SCRATCH;
use crate::pattern;
use crate::protocol::Wrote;

/// The disk that these programs may write to as they like.
const SCRATCH_ADDRESS: &str = "0000:00:06.0";
const EDU_ADDRESS: &str = "0000:00:05.0";

/// A whole plan takes longer than a single command. Less than the host's patience with a guest.
const PLAN_LIMIT: Duration = Duration::from_secs(150);

pub(super) fn nvme(cx: &mut Cx<'_>) -> Verdict {
    let scratch = Function::at(SCRATCH_ADDRESS);
    let said = conformance(cx, &scratch, "nvme")?;
    fill(cx, &scratch)?;
    Ok(said)
}

pub(super) fn edu(cx: &mut Cx<'_>) -> Verdict {
    conformance(cx, &Function::at(EDU_ADDRESS), "edu")
}

/// Every check of a driver's plan.
fn conformance(cx: &mut Cx<'_>, function: &Function, driver: &str) -> Verdict {
    function.bind(VFIO)?;
    // With slices that can be revoked where the kernel has them, as a user of such a kernel would.
    let more = if slices::kernel_revokes() { slices::options() } else { String::new() };
    let (spec, seed) = (cx.spec(function) + &more, (0x6000 + cx.turn()).to_string());
    let mut command = cx.programs.command("conformance");
    command.args(["--device", &spec, "--driver", driver, "--overwrite", "--json"]);
    let ended = cx.programs.start(command.args(["--seed", &seed]))?.wait_within(PLAN_LIMIT)?;
    let report: Value = serde_json::from_slice(&ended.out).map_err(|_| {
        Trouble::Failed(format!("`conformance {}`: {}", ended.name, ended.err.trim_end()))
    })?;
    let of = |result: &str| -> Vec<String> {
        let checks = report["checks"].as_array().into_iter().flatten();
        let these = checks.filter(|check| check["result"] == result);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        these.map(|check| format!("{}: {}", text(&check["name"]), text(&check["why"]))).collect()
    };
    let (passed, failed, skipped) = (of("passed"), of("failed"), of("skipped"));
    check(failed.is_empty(), || format!("seed {seed}: {}", failed.join("; ")))?;
    succeeded(ended)?;
    check(!passed.is_empty(), || format!("no check was made: {report}"))?;
    let skipped = match skipped.len() {
        0 => String::new(),
        _ => format!("; skipped: {}", skipped.join("; ")),
    };
    Ok(format!("{} checks with seed {seed}{skipped}", passed.len()))
}

/// Fills the disk with the pattern of this turn, so that the host can compare it again.
fn fill(cx: &mut Cx<'_>, scratch: &Function) -> Result<(), Trouble> {
    let (file, seed) = ("/tmp/process-pattern", 0x7000 + cx.turn());
    std::fs::write(file, pattern::blocks(seed, 0, SCRATCH.blocks))?;
    let broker = cx.serve(scratch)?;
    cx.ask(&broker, &["nvme", "write", "--lba", "0", "--in", file])?;
    broker.stop()?;
    cx.wrote(Wrote { disk: SCRATCH.name.to_owned(), lba: 0, blocks: SCRATCH.blocks, seed })
}

/// The framework's tests that need a device; they write nothing to it.
pub(super) fn bus_tests(cx: &mut Cx<'_>) -> Verdict {
    let scratch = Function::at(SCRATCH_ADDRESS);
    scratch.bind(VFIO)?;
    let mut said = framework_test(cx, "bus::vfio::real_tests::")?;
    if slices::kernel_revokes() {
        said =
            format!("{said}, {} of slices", framework_test(cx, "bus::vfio::slices_real_tests::")?);
    }
    Ok(said)
}

/// Runs the tests of a module, those that are left out elsewhere too; says how many passed.
fn framework_test(cx: &mut Cx<'_>, module: &str) -> Result<String, Trouble> {
    let mut command = cx.programs.command(&cx.tests);
    command.args([module, "--include-ignored", "--test-threads=1"]);
    command.env("DOORBELL_TEST_NVME", SCRATCH_ADDRESS).env("DOORBELL_TEST_BUS", cx.bus());
    command.env("DOORBELL_TEST_REVOKE", slices::REVOKE);
    let ended = cx.programs.start(&mut command)?.wait_within(PLAN_LIMIT)?;
    let out = String::from_utf8_lossy(&ended.out).into_owned();
    let result = out.lines().rev().find(|line| line.starts_with("test result:"));
    let result = result.unwrap_or("the program reports nothing").to_owned();
    check(ended.status.success(), || {
        let panic = out.lines().skip_while(|line| !line.contains("panicked")).take(3);
        format!("{module}: {}", panic.collect::<Vec<_>>().join(" "))
    })?;
    let passed = result.split_whitespace().nth(3).and_then(|word| word.parse::<u32>().ok());
    match passed {
        Some(passed) if passed > 0 => Ok(format!("{passed} passed")),
        _ => Err(Trouble::Failed(format!("{module}: {result}"))),
    }
}
