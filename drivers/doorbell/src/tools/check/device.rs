//! The devices that are to be driven.

use doorbell::pci::Address;
use doorbell::pci::ids::Ids;
use doorbell::pci::sysfs::{Function, Roots, SysfsError, functions, printable, why_not};

use super::finding::{Finding, Part, State};
use crate::registry;

/// The one that was named: what keeps it from being served is missing.
pub(super) fn named(roots: &Roots, address: Address) -> Vec<Finding> {
    let name = address.to_string();
    let mut findings = Vec::new();
    if let Ok(function) = Function::read(roots, address)
        && let Err(error) = registry::all().find(&function.identity())
    {
        findings.push(
            Finding::new(Part::Device, &name, State::Missing, error.to_string())
                .todo("serve it with a program that has a driver for it"),
        );
    }
    findings.push(match why_not(roots, address) {
        Ok(None) => ready(roots, address),
        Ok(Some(why)) => Finding::new(Part::Device, &name, State::Missing, why),
        Err(error) => unreadable(&name, &error),
    });
    findings
}

/// All that a driver of this program matches; none of them need be ready.
pub(super) fn all(roots: &Roots) -> Vec<Finding> {
    let registry = registry::all();
    let (found, broken) = match functions(roots) {
        Ok(found) => found,
        Err(error) => return vec![unreadable("PCI", &error)],
    };
    let ours = found.iter().filter(|function| registry.find(&function.identity()).is_ok());
    let mut findings: Vec<Finding> = ours
        .map(|function| {
            let name = function.address.to_string();
            match why_not(roots, function.address) {
                Ok(None) => ready(roots, function.address),
                Ok(Some(why)) => Finding::new(Part::Device, &name, State::Note, why),
                Err(error) => unreadable(&name, &error),
            }
        })
        .collect();
    findings.extend(broken.iter().map(|error| unreadable("PCI", error)));
    if findings.is_empty() {
        let found = "no device here that a driver of this program matches";
        findings.push(
            Finding::new(Part::Device, "PCI", State::Note, found)
                .todo("software devices need none: doorbell serve soft:nvme"),
        );
    }
    findings
}

fn ready(roots: &Roots, address: Address) -> Finding {
    let ids = Ids::load(&roots.share);
    let what = Function::read(roots, address)
        .map(|function| ids.describe(function.vendor, function.device, function.class));
    let what = what.map_or_else(|_| String::new(), |what| format!("{}: ", printable(&what)));
    Finding::ok(
        Part::Device,
        &address.to_string(),
        format!("{what}ready for `doorbell serve {address}`"),
    )
}

fn unreadable(name: &str, error: &SysfsError) -> Finding {
    Finding::new(Part::Device, name, State::Warn, error.to_string())
}
