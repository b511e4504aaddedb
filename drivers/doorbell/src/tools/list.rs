//! `doorbell list`.

use anyhow::Result;
use doorbell::DeviceSpec;
use doorbell::driver::Registry;
use doorbell::pci::Address;
use doorbell::pci::ids::Ids;
use doorbell::pci::sysfs::{
    Function, Group, Member, Opener, Roots, Uses, functions, printable, vfio_holders,
};
use serde::Serialize;

use super::args::List;
use super::table::aligned;
use crate::connect::block_on;
use crate::{output, registry, sockets, status};

/// One function, as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    address: String,
    name: String,
    /// The driver of this program that matches.
    matched: Option<&'static str>,
    function: Function,
    shares_group_with: Vec<Member>,
    /// What the kernel uses it for.
    used: Vec<String>,
    /// Who has one of its VFIO nodes open.
    held: Vec<Opener>,
    /// The broker that serves it.
    broker: Option<Served>,
    /// What could not be found out.
    unknown: Vec<String>,
}

/// A device that a broker of ours serves.
#[derive(Debug, Clone, Serialize)]
struct Served {
    #[serde(skip)]
    address: Address,
    name: String,
    pid: i32,
}

/// Runs `doorbell list`.
pub(crate) fn run(args: &List) -> Result<()> {
    let roots = args.machine.roots();
    let (found, broken) = functions(&roots)?;
    let registry = registry::all();
    let served = if args.machine.is_this_one() { served() } else { Vec::new() };
    let ids = Ids::load(&roots.share);
    let total = found.len();
    let rows: Vec<Row> = found
        .into_iter()
        .map(|function| row(&roots, &registry, &ids, &served, function))
        .filter(|row| args.all || row.matched.is_some())
        .collect();
    if args.json {
        return output::print_json(&rows);
    }
    let mut text = if rows.is_empty() { nothing(total) } else { describe(&rows) };
    for error in broken {
        text.push_str(&format!("left out: {error}\n"));
    }
    output::print(text)
}

fn row(
    roots: &Roots,
    registry: &Registry,
    ids: &Ids,
    served: &[Served],
    function: Function,
) -> Row {
    let address = function.address;
    let mut unknown = Vec::new();
    let mut note = |error: doorbell::pci::sysfs::SysfsError| unknown.push(error.to_string());
    let uses = Uses::shown(roots, &function).map_err(&mut note).unwrap_or_default();
    let group = function.group.and_then(|group| Group::read(roots, group).map_err(&mut note).ok());
    let vfio = function.driver.as_deref().is_some_and(|driver| driver.contains("vfio"));
    let scan = if vfio { vfio_holders(roots, &function) } else { Default::default() };
    Row {
        address: address.to_string(),
        name: ids.describe(function.vendor, function.device, function.class),
        matched: registry.find(&function.identity()).ok().map(|entry| entry.name),
        shares_group_with: group
            .map(|group| group.others(address).cloned().collect())
            .unwrap_or_default(),
        used: uses.uses.iter().map(ToString::to_string).collect(),
        held: scan.openers,
        broker: served.iter().find(|one| one.address == address).cloned(),
        function,
        unknown,
    }
}

/// The PCI functions that brokers in the usual folders serve. One that does not answer serves none.
fn served() -> Vec<Served> {
    let ask = |socket: std::path::PathBuf| {
        let report = block_on(status::ask(&socket)).ok()?;
        match report.spec.parse() {
            Ok(DeviceSpec::Pci { address, .. }) => {
                Some(Served { address, name: sockets::short_name(&socket), pid: report.broker_pid })
            }
            _ => None,
        }
    };
    sockets::all().into_iter().filter_map(ask).collect()
}

fn nothing(total: usize) -> String {
    let all = match total {
        0 => "This machine shows no PCI functions".to_owned(),
        _ => format!("`doorbell list --all` shows all {total} PCI functions"),
    };
    format!(
        "No device here that a driver of this program matches. {all}.\n\
         Software devices need none: doorbell serve soft:nvme\n"
    )
}

fn describe(rows: &[Row]) -> String {
    let head = ["address", "id", "for", "driver now", "group", "node", "device"].map(str::to_owned);
    let or_dash =
        |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let cells = rows.iter().map(|row| {
        let function = &row.function;
        [
            row.address.clone(),
            format!("{:04x}:{:04x}", function.vendor, function.device),
            row.matched.unwrap_or("-").to_owned(),
            printable(function.driver.as_deref().unwrap_or("-")),
            or_dash(function.group),
            or_dash(function.numa_node),
            row.name.clone(),
        ]
    });
    let table: Vec<[String; 7]> = std::iter::once(head).chain(cells).collect();
    let lines = aligned(&table);
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        text.push_str(&format!("{line}\n"));
        // The first line is the head.
        let Some(row) = index.checked_sub(1).and_then(|index| rows.get(index)) else { continue };
        for detail in details(row) {
            text.push_str(&format!("    {detail}\n"));
        }
    }
    text
}

/// What does not fit in a column.
fn details(row: &Row) -> Vec<String> {
    let mut lines = Vec::new();
    if !row.shares_group_with.is_empty() {
        let others = row.shares_group_with.iter().map(|member| {
            let driver = member.driver.as_deref().unwrap_or("no driver");
            format!("{} ({})", printable(&member.name), printable(driver))
        });
        lines.push(format!("shares its group with {}", others.collect::<Vec<_>>().join(", ")));
    }
    if let Some(physical) = row.function.physical {
        lines.push(format!("virtual function of {physical}"));
    }
    if let Some(sriov) = &row.function.sriov {
        lines.push(format!("{} of {} virtual functions enabled", sriov.enabled, sriov.total));
    }
    if !row.used.is_empty() {
        lines.push(format!("in use: {}", row.used.join(", ")));
    }
    lines.extend(holders(row));
    lines.extend(row.unknown.iter().map(|what| format!("unknown: {what}")));
    lines
}

/// The broker that serves it, or whoever else has it open.
fn holders(row: &Row) -> Vec<String> {
    if let Some(broker) = &row.broker {
        return vec![format!("served by broker {} (pid {})", broker.name, broker.pid)];
    }
    let holders = row.held.iter().map(|holder| {
        let (pid, program, node) = (holder.pid, &holder.program, &holder.node);
        format!("held by process {pid} ({program}), which has /dev/{node} open")
    });
    holders.collect()
}
