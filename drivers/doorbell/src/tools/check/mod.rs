//! `doorbell check`.

use anyhow::{Result, bail};
use doorbell::pci::sysfs::Roots;
use serde::Serialize;

use super::args::{Check, Require};
use super::table::aligned;
use crate::output;

mod device;
mod finding;
mod iommu;
mod limits;
mod software;
#[cfg(test)]
mod tests;
mod vfio;

use finding::{Finding, Part, State};

/// All that was looked at, and what follows.
#[derive(Debug, Serialize)]
struct Report {
    /// Software devices and vfio-user work.
    software: bool,
    /// Real devices can be driven.
    vfio: bool,
    /// By iommufd and the VFIO cdev.
    cdev: bool,
    /// The device that was named can be served now.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<bool>,
    findings: Vec<Finding>,
}

/// Runs `doorbell check`.
pub(crate) fn run(args: &Check) -> Result<()> {
    let roots = args.machine.roots();
    let mut findings = software::look(&roots);
    findings.extend(machine(&roots));
    findings.extend(match args.address {
        Some(address) => device::named(&roots, address),
        None => device::all(&roots),
    });
    let report = Report::new(findings, args.address.is_some());
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(report.text())?;
    }
    let least = if args.address.is_some() { Require::Vfio } else { Require::Software };
    report.verdict(args.require.unwrap_or(least).max(least))
}

/// What real devices need, of what the kernel's files show.
fn machine(roots: &Roots) -> Vec<Finding> {
    let mut findings = iommu::look(roots);
    findings.extend(vfio::look(roots));
    findings.extend(limits::look(roots));
    findings
}

impl Report {
    fn new(findings: Vec<Finding>, named: bool) -> Self {
        let whole = |part: Part| {
            !findings.iter().any(|one| one.part == part && one.state == State::Missing)
        };
        let software = whole(Part::Software);
        let vfio = software && whole(Part::Vfio);
        // A kernel without it is no fault, but it is without it.
        let absent = |one: &Finding| one.part == Part::Cdev && one.state == State::Note;
        let cdev = vfio && whole(Part::Cdev) && !findings.iter().any(absent);
        let device = named.then(|| vfio && whole(Part::Device));
        Self { software, vfio, cdev, device, findings }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (part, title) in [
            (Part::Software, "software devices and vfio-user"),
            (Part::Vfio, "real devices by VFIO"),
            (Part::Cdev, "real devices by iommufd and the VFIO cdev"),
            (Part::Device, "devices"),
        ] {
            let found: Vec<_> = self.findings.iter().filter(|one| one.part == part).collect();
            if found.is_empty() {
                continue;
            }
            let rows: Vec<_> = found
                .iter()
                .map(|one| {
                    [format!("{:<7}", one.state.word()), one.what.clone(), one.found.clone()]
                })
                .collect();
            text.push_str(&format!("{title}\n"));
            for (line, one) in aligned(&rows).iter().zip(&found) {
                text.push_str(&format!("  {line}\n"));
                if let Some(todo) = &one.todo {
                    text.push_str(&format!("           -> {todo}\n"));
                }
            }
        }
        text.push_str(&self.summary());
        text
    }

    fn summary(&self) -> String {
        let software = if self.software { "work" } else { "DO NOT WORK" };
        let real = match (self.vfio, self.cdev) {
            (true, true) => "can be driven, by the container and by iommufd",
            (true, false) => "can be driven, by the container",
            (false, _) => "cannot be driven yet",
        };
        format!("\nSoftware devices and vfio-user {software}; real devices {real}.\n")
    }

    /// # Errors
    /// If what is required does not work: what is missing, in one line.
    fn verdict(&self, require: Require) -> Result<()> {
        let (met, parts): (bool, &[Part]) = match require {
            Require::Software => (self.software, &[Part::Software]),
            Require::Vfio => (self.vfio, &[Part::Software, Part::Vfio, Part::Device]),
            Require::Cdev => (self.cdev, &[Part::Software, Part::Vfio, Part::Cdev, Part::Device]),
        };
        if met && self.device != Some(false) {
            return Ok(());
        }
        let missing: Vec<&str> = self
            .findings
            .iter()
            .filter(|one| parts.contains(&one.part))
            .filter(|one| match one.part {
                Part::Cdev => matches!(one.state, State::Missing | State::Note),
                _ => one.state == State::Missing,
            })
            .map(|one| one.what.as_str())
            .collect();
        bail!("missing: {}; the lines above say what to do", missing.join(", "));
    }
}
