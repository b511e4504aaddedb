//! The plan of NVMe controllers.
//!
//! It works on the first namespace, in eight [`Part`]s of at most 4 MiB from its start.

use anyhow::{Context, Result, bail, ensure};
use doorbell::client::{Client, QueueSpec};
use doorbell_nvme::{Lba, Namespace, Nvme};

use crate::common;
use crate::plan::{Check, Outcome};
use crate::rig::Rig;
use crate::role::Work;
use load::Load;

pub mod clients;
pub mod errors;
pub mod io;
pub mod load;

/// The plan.
pub const CHECKS: &[Check] = &[
    Check {
        name: "bring-up",
        what: "the broker serves the controller, which says what it and its namespaces are",
        run: bring_up,
    },
    Check {
        name: "sizes",
        what: "data of every size comes back, and its neighbours stay: PRP 1, 2, list, split",
        run: io::sizes,
    },
    Check {
        name: "interrupts",
        what: "waits that really sleep end with an interrupt",
        run: io::interrupts,
    },
    Check {
        name: "compare",
        what: "the controller compares, and finds a difference",
        run: io::compare,
    },
    Check { name: "erase", what: "write zeroes and deallocate", run: io::erase },
    Check { name: "image", what: "what was written is in the file behind it", run: io::image },
    Check {
        name: "refusals",
        what: "what cannot be is a typed refusal or the device's status",
        run: errors::refusals,
    },
    Check {
        name: "load",
        what: "a full queue, everything verified, as deep as the device allows",
        run: clients::load,
    },
    Check {
        name: "quiesce",
        what: "queues given back with commands in flight, again and again",
        run: io::quiesce,
    },
    Check {
        name: "clients",
        what: "several client processes, each with a queue and a partition of its own",
        run: clients::partitions,
    },
    Check {
        name: "killed",
        what: "clients killed at random points leave nothing behind",
        run: |rig| common::killed(rig, &busy(0), &busy(1), 6),
    },
    Check {
        name: "revoked",
        what: "a revoked client gets a typed error, its neighbour does not notice",
        run: |rig| common::revoked(rig, &busy(0), &busy(1), &["revoked"]),
    },
    Check {
        name: "reset",
        what: "an operator's reset ends every queue with a typed error, and the next ones work",
        run: |rig| common::reset(rig, &busy(0), "device_reset", &verify(0, 2)),
    },
    Check {
        name: "restarted",
        what: "a broker that ends or is killed, and the next one",
        run: |rig| common::restarted(rig, &busy(0), &verify(0, 2)),
    },
    Check { name: "released", what: "nothing is left behind", run: common::released },
    Check {
        name: "removed",
        what: "a controller that is pulled out ends every grant",
        run: |rig| common::removed(rig, &busy(0)),
    },
];

/// Commands in flight of a client process.
const DEPTH: u32 = 31;

/// How much of a namespace belongs together, in blocks.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The first block.
    pub start: u64,
    /// How many.
    pub blocks: u64,
}

impl Part {
    /// Part `number` of a namespace, 0 to 7.
    ///
    /// # Errors
    /// If the namespace is too small for eight.
    pub fn of(namespace: &Namespace<'_>, number: u64) -> Result<Self> {
        let most = (4 << 20) / namespace.block_size() as u64;
        let blocks = (namespace.blocks() / 8).min(most);
        let bytes = namespace.len_bytes();
        ensure!(blocks * namespace.block_size() as u64 >= 1 << 20, "{bytes} bytes are too few");
        Ok(Self { start: number * blocks, blocks })
    }
}

fn load(part: u64, rounds: u64) -> Load {
    Load { part, depth: DEPTH, seed: part + 1, rounds }
}

fn verify(part: u64, rounds: u64) -> Work {
    Work::NvmeVerify(load(part, rounds))
}

fn busy(part: u64) -> Work {
    Work::NvmeLoad(load(part, 0))
}

/// Connects and claims a queue.
async fn claim(rig: &Rig, arena: usize, spec: QueueSpec) -> Result<Nvme> {
    let client: Client = rig.client(arena).await?;
    Ok(Nvme::claim(&client, spec).await?)
}

fn first(nvme: &Nvme) -> Result<Namespace<'_>> {
    let nsid = nvme.namespaces().first().context("the controller has no namespace")?.nsid;
    Ok(nvme.namespace(nsid)?)
}

/// Refuses a disk that holds anything but zeros in its first MiB.
///
/// # Errors
/// If it does, or cannot be read.
pub fn refuse_data(rig: &Rig) -> Result<()> {
    rig.block_on(async {
        let nvme = claim(rig, 8 << 20, QueueSpec::depth(4)).await?;
        let ns = first(&nvme)?;
        let len = (1 << 20).min(ns.len_bytes() as usize);
        let data = ns.read(Lba(0), nvme.dma().alloc(len)?).await?;
        if data.iter().any(|byte| *byte != 0) {
            let device = &rig.setup.device;
            bail!(
                "device {device} holds data in its first MiB, which this plan destroys; \
                   give --overwrite if it may"
            );
        }
        drop(data);
        Ok(nvme.release().await?)
    })
}

fn bring_up(rig: &mut Rig) -> Result<Outcome> {
    common::bring_up(rig, "nvme")?;
    rig.block_on(async {
        let nvme = claim(rig, 1 << 20, QueueSpec::depth(2)).await?;
        let controller = nvme.controller();
        ensure!(!controller.model.is_empty() && controller.queues > 0, "{controller:?}");
        ensure!(controller.page_size >= 4096, "pages of {} bytes", controller.page_size);
        Part::of(&first(&nvme)?, 0)?;
        let before = nvme.smart().await?.host_reads;
        let ns = first(&nvme)?;
        let buffer = nvme.dma().alloc(ns.block_size())?;
        ns.read(Lba(0), buffer).await?;
        let smart = nvme.smart().await?;
        ensure!(smart.host_reads >= before, "fewer reads than before: {smart:?}");
        nvme.release().await?;
        Ok(Outcome::Passed)
    })
}
