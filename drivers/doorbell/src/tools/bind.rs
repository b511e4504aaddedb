//! `doorbell bind` and `doorbell unbind`.

use std::fmt::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::Result;
use doorbell::pci::sysfs::{
    Change, Function, Group, Move, MoveError, Outcome, Roots, SystemKernel, VFIO_PCI, printable,
    vfio_nodes,
};

use super::args::{Bind, Unbind};
use crate::{output, registry};

/// Runs `doorbell bind`.
pub(crate) fn bind(args: &Bind) -> Result<()> {
    let roots = args.machine.roots();
    let checked = Move::bind(&roots, args.address, args.force)?;
    if args.dry_run {
        return output::print(plan(&roots, &checked));
    }
    let outcome = carry_out(&roots, &checked)?;
    let mut text = moved(&checked.function, &outcome);
    after_bind(&mut text, &roots, &outcome.function);
    output::print(text)
}

/// Runs `doorbell unbind`.
pub(crate) fn unbind(args: &Unbind) -> Result<()> {
    let roots = args.machine.roots();
    let checked = Move::unbind(&roots, args.address)?;
    if args.dry_run {
        return output::print(plan(&roots, &checked));
    }
    let outcome = carry_out(&roots, &checked)?;
    let mut text = moved(&checked.function, &outcome);
    if outcome.changed && outcome.function.driver.is_none() {
        line(&mut text, "no driver of this kernel wants it");
    }
    output::print(text)
}

fn carry_out(roots: &Roots, checked: &Move) -> Result<Outcome, MoveError> {
    checked.carry_out(roots, &mut SystemKernel)
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

/// What would be done.
fn plan(roots: &Roots, checked: &Move) -> String {
    let mut text = String::new();
    let function = &checked.function;
    let (address, driver) = (function.address, printable(function.driver_name()));
    if checked.steps.is_empty() {
        line(&mut text, &format!("{address}: {driver} has it already; nothing would be done"));
        return text;
    }
    line(&mut text, &format!("{address}: {driver} has it now; this would be done:"));
    for step in &checked.steps {
        line(&mut text, &format!("  {step}"));
    }
    if !checked.unseen.is_empty() {
        let unseen = checked.unseen.join("; nor ");
        line(&mut text, &format!("it would be refused for this user, who cannot see {unseen}"));
    }
    if checked.change == Change::Bind {
        siblings(&mut text, roots, function);
    }
    text
}

fn moved(before: &Function, outcome: &Outcome) -> String {
    let address = before.address;
    let now = printable(outcome.function.driver_name());
    if outcome.changed {
        format!("{address}: {} -> {now}\n", printable(before.driver_name()))
    } else {
        format!("{address}: {now} has it already\n")
    }
}

/// What to do next with a function that vfio-pci has.
fn after_bind(text: &mut String, roots: &Roots, function: &Function) {
    siblings(text, roots, function);
    for name in vfio_nodes(roots, function) {
        let Ok(node) = roots.dev.join(&name).metadata() else { continue };
        let (uid, gid, mode) = (node.uid(), node.gid(), node.permissions().mode() & 0o777);
        line(text, &format!("node: /dev/{name}, owner {uid}:{gid}, mode {mode:04o}"));
    }
    let address = function.address;
    if registry::all().find(&function.identity()).is_ok() {
        line(text, &format!("next: doorbell check {address}, doorbell serve {address}"));
    } else {
        let ids = format!("{:04x}:{:04x}", function.vendor, function.device);
        line(
            text,
            &format!("no driver of this program matches {ids}; it is for a program of yours"),
        );
    }
}

/// Who keeps the group from being used.
fn siblings(text: &mut String, roots: &Roots, function: &Function) {
    let Some(number) = function.group else { return };
    // What cannot be read here is said by `doorbell check`.
    let Ok(group) = Group::read(roots, number) else { return };
    for member in group.in_the_way(function.address) {
        let driver = printable(member.driver.as_deref().unwrap_or_default());
        let name = printable(&member.name);
        line(
            text,
            &format!(
                "IOMMU group {number} cannot be used yet: {name} (driven by {driver}) is in it; \
                 give that to {VFIO_PCI} as well"
            ),
        );
    }
}
