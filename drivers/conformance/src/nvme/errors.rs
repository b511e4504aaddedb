//! What cannot be: refused before the device, by the broker, or by the device with a status.

use anyhow::{Result, bail, ensure};
use doorbell::Tier;
use doorbell::client::{ClientError, QueueSpec};
use doorbell::wire::Refusal;
use doorbell_nvme::{Lba, NvmeAdmin, NvmeError, NvmeProtocol, NvmeReply};

use super::{claim, first};
use crate::common;
use crate::plan::Outcome;
use crate::rig::Rig;

pub(super) fn refusals(rig: &mut Rig) -> Result<Outcome> {
    common::refusals(rig)?;
    rig.block_on(async {
        queues(rig).await?;
        let nvme = claim(rig, 4 << 20, QueueSpec::depth(4)).await?;
        {
            let ns = first(&nvme)?;
            let alloc = |len| nvme.dma().alloc(len);
            let block = ns.block_size();
            for (lba, len) in [(ns.blocks(), block), (ns.blocks() - 1, 2 * block), (0, block - 1)] {
                match ns.read(Lba(lba), alloc(len)?).await {
                    Err(failed) if failed.error.bad_range().is_some() => {
                        ensure!(failed.buffer.is_some(), "the buffer did not come back");
                    }
                    other => bail!("{len} bytes from LBA {lba}: {other:?}"),
                }
            }
            ensure!(nvme.namespace(u32::MAX).is_err(), "there is a namespace ffffffffh");
        }
        device(&nvme).await?;
        let ns = first(&nvme)?;
        ns.read(Lba(0), nvme.dma().alloc(ns.block_size())?).await?;
        nvme.release().await?;
        Ok(Outcome::Passed)
    })
}

/// Queues that cannot be had.
async fn queues(rig: &Rig) -> Result<()> {
    let client = rig.client(4 << 20).await?;
    for depth in [0, u32::MAX] {
        let claimed = client.claim::<NvmeProtocol>(QueueSpec::depth(depth)).await;
        let refused = matches!(claimed, Err(ClientError::Depth { .. }));
        ensure!(refused, "a queue of depth {depth}: {:?}", claimed.map(drop));
    }
    let isolated = QueueSpec::depth(4).at_least(Tier::Isolated);
    match client.claim::<NvmeProtocol>(isolated).await {
        Ok(claimed) => {
            let tier = claimed.tier();
            ensure!(tier == Tier::Isolated, "tier {tier} was given for isolated");
        }
        Err(ClientError::Refused { refusal: Refusal::Tier { .. }, .. }) => {}
        Err(error) => bail!("a queue of tier isolated: {error}"),
    }
    Ok(())
}

/// Operations that the driver or the device refuses, in words that name the device.
async fn device(nvme: &doorbell_nvme::Nvme) -> Result<()> {
    let operations = [
        NvmeAdmin::GetFeature { fid: 0, select: 0, nsid: 0, cdw11: 0 },
        NvmeAdmin::LogPage { lid: 2, nsid: u32::MAX, offset: 1, len: 4 },
        NvmeAdmin::LogPage { lid: 2, nsid: u32::MAX, offset: 0, len: 1 << 20 },
        NvmeAdmin::Format { nsid: u32::MAX - 1, lbaf: 15 },
    ];
    for operation in operations {
        let answer: Result<NvmeReply, NvmeError> = nvme.admin(&operation).await;
        match answer {
            Err(NvmeError::Client(error)) => {
                let refused = matches!(*error, ClientError::Refused { .. });
                ensure!(refused, "{operation:?}: {error}");
            }
            other => bail!("{operation:?}: {other:?}"),
        }
    }
    Ok(())
}
