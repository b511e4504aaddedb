//! `doorbell nvme`: looks into a served NVMe device, and reads and writes its blocks.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use doorbell::client::{Client, QueueSpec};
use doorbell_bench::report::units::bytes;
use doorbell_nvme::{
    ControllerInfo, Lba, Namespace, NamespaceInfo, Nvme, NvmeAdmin, NvmeReply, Smart,
};
use serde::Serialize;

use crate::cli::{self, Blocks, NvmeRead, NvmeWrite, Target};
use crate::connect::{block_on, to_look, to_work};
use crate::data::{self, Sink};
use crate::{output, sockets};

/// Bytes that are moved at a time.
const CHUNK: u64 = 1 << 20;

/// Commands in flight.
const DEPTH: u32 = 16;

/// Runs `doorbell nvme`.
pub(crate) fn run(command: &cli::Nvme) -> Result<()> {
    match command {
        cli::Nvme::Identify { target, json } => block_on(identify(target, *json)),
        cli::Nvme::Smart { target, json } => block_on(smart(target, *json)),
        cli::Nvme::Read(args) => block_on(read(args)),
        cli::Nvme::Write(args) => block_on(write(args)),
    }
}

/// What `identify --json` prints.
#[derive(Debug, Serialize)]
struct Identity {
    controller: ControllerInfo,
    namespaces: Vec<NamespaceInfo>,
}

/// Asks a served device about itself; no queue is needed.
async fn ask(client: &Client, operation: &NvmeAdmin) -> Result<NvmeReply> {
    let driver = &client.device().driver;
    ensure!(driver == "nvme", "device {} is driven by {driver}, not by nvme", client.device().name);
    Ok(client.admin(operation).await?)
}

async fn identify(target: &Target, json: bool) -> Result<()> {
    let client = to_look(&sockets::find(target)?).await?;
    let mut namespaces: Vec<NamespaceInfo> = Vec::new();
    let controller = loop {
        let after = namespaces.last().map_or(0, |info| info.nsid);
        let reply = ask(&client, &NvmeAdmin::Info { after }).await?;
        let NvmeReply::Info { controller, namespaces: some, more } = reply else {
            anyhow::bail!("the driver answered with something else; are the versions the same?");
        };
        let last = some.is_empty() || !more;
        namespaces.extend(some);
        if last {
            break *controller;
        }
    };
    if json {
        return output::print_json(&Identity { controller, namespaces });
    }
    output::print(describe(&controller, &namespaces))
}

fn describe(controller: &ControllerInfo, namespaces: &[NamespaceInfo]) -> String {
    let ControllerInfo { version, .. } = controller;
    let version = format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff);
    let most = controller.max_transfer.map_or_else(|| "no limit".to_owned(), bytes);
    let mut optional = Vec::new();
    for (has, name) in [
        (controller.commands.compare, "compare"),
        (controller.commands.write_zeroes, "write zeroes"),
        (controller.commands.dataset_management, "dataset management"),
        (controller.commands.format, "format"),
    ] {
        if has {
            optional.push(name);
        }
    }
    let mut text = String::new();
    for (name, value) in [
        ("model", controller.model.clone()),
        ("serial", controller.serial.clone()),
        ("firmware", controller.firmware.clone()),
        ("PCI vendor", format!("{:04x}", controller.vendor)),
        ("NVMe version", version),
        ("subsystem", controller.subnqn.clone()),
        (
            "I/O queues",
            format!("{}, of up to {} entries", controller.queues, controller.max_entries),
        ),
        (
            "doorbells",
            if controller.shadow_doorbells { "registers and shadows" } else { "registers" }
                .to_owned(),
        ),
        ("largest transfer", most),
        (
            "write cache",
            if controller.volatile_write_cache { "volatile" } else { "none" }.to_owned(),
        ),
        ("optional commands", optional.join(", ")),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<18} {value}");
    }
    for info in namespaces {
        let size = info.blocks << info.block_shift;
        let _ = writeln!(
            text,
            "namespace {:<8} {}, {} blocks of {} bytes{}",
            info.nsid,
            bytes(size),
            info.blocks,
            1_u64 << info.block_shift,
            if info.write_protected { ", write protected" } else { "" }
        );
    }
    text
}

async fn smart(target: &Target, json: bool) -> Result<()> {
    let client = to_look(&sockets::find(target)?).await?;
    let NvmeReply::Smart(smart) = ask(&client, &NvmeAdmin::Smart).await? else {
        anyhow::bail!("the driver answered with something else; are the versions the same?");
    };
    if json {
        return output::print_json(&smart);
    }
    output::print(health(&smart))
}

fn health(smart: &Smart) -> String {
    let units =
        |units: u128| bytes(u64::try_from(units.saturating_mul(512_000)).unwrap_or(u64::MAX));
    let warning = match smart.critical_warning {
        0 => "none".to_owned(),
        bits => format!("{bits:#04x}"),
    };
    let mut text = String::new();
    for (name, value) in [
        ("critical warning", warning),
        ("temperature", format!("{} °C", i32::from(smart.temperature) - 273)),
        (
            "available spare",
            format!("{} % (threshold {} %)", smart.available_spare, smart.spare_threshold),
        ),
        ("percentage used", format!("{} %", smart.percentage_used)),
        ("data read", units(smart.data_units_read)),
        ("data written", units(smart.data_units_written)),
        ("read commands", smart.host_reads.to_string()),
        ("write commands", smart.host_writes.to_string()),
        ("busy minutes", smart.busy_minutes.to_string()),
        ("power cycles", smart.power_cycles.to_string()),
        ("power-on hours", smart.power_on_hours.to_string()),
        ("unsafe shutdowns", smart.unsafe_shutdowns.to_string()),
        ("media errors", smart.media_errors.to_string()),
        ("error log entries", smart.error_entries.to_string()),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<18} {value}");
    }
    text
}

async fn claim(at: &Blocks) -> Result<Nvme> {
    let client = to_work(&at.target, (CHUNK as usize) + (2 << 20)).await?;
    Ok(Nvme::claim(&client, QueueSpec::depth(DEPTH).at_least(at.tier)).await?)
}

/// Checks a range before anything is moved: half of a write would be worse than none.
fn check_range(ns: &Namespace<'_>, lba: u64, blocks: u64) -> Result<()> {
    let fits = blocks > 0 && lba.checked_add(blocks).is_some_and(|end| end <= ns.blocks());
    ensure!(
        fits,
        "{blocks} blocks from LBA {lba} do not lie in namespace {}, which has {} blocks of {} bytes",
        ns.nsid(),
        ns.blocks(),
        ns.block_size()
    );
    Ok(())
}

async fn read(args: &NvmeRead) -> Result<()> {
    let nvme = claim(&args.at).await?;
    let ns = nvme.namespace(args.at.namespace)?;
    check_range(&ns, args.at.lba, args.blocks)?;
    let mut sink = Sink::open(args.out.as_deref())?;
    let each = CHUNK / ns.block_size() as u64;
    let mut done = 0;
    while done < args.blocks {
        let blocks = each.min(args.blocks - done);
        let buffer = nvme.dma().alloc(blocks as usize * ns.block_size())?;
        let buffer = ns.read(Lba(args.at.lba + done), buffer).await?;
        sink.put((args.at.lba + done) * ns.block_size() as u64, &buffer)?;
        done += blocks;
    }
    Ok(nvme.release().await?)
}

async fn write(args: &NvmeWrite) -> Result<()> {
    let data = data::read_all(args.from.as_deref())?;
    let nvme = claim(&args.at).await?;
    let ns = nvme.namespace(args.at.namespace)?;
    let size = ns.block_size();
    ensure!(!data.is_empty(), "there is nothing to write; give a file with --in");
    ensure!(
        data.len().is_multiple_of(size),
        "{} bytes are no whole number of blocks of {size} bytes; pad them",
        data.len()
    );
    check_range(&ns, args.at.lba, (data.len() / size) as u64)?;
    let mut lba = args.at.lba;
    for chunk in data.chunks(CHUNK as usize) {
        let mut buffer = nvme.dma().alloc(chunk.len())?;
        buffer.copy_from_slice(chunk);
        ns.write(Lba(lba), buffer).await?;
        lba += (chunk.len() / size) as u64;
    }
    ns.flush().await?;
    nvme.release().await?;
    output::print(format!(
        "wrote {} blocks ({}) from LBA {}\n",
        data.len() / size,
        bytes(data.len() as u64),
        args.at.lba
    ))
}
