//! Identify: what the controller and its namespaces are (base 2.0, 5.17), checked and summarised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;
use doorbell::driver::DriverError;

use super::admin_queue::{AdminQueue, DATA};
use super::bringup::Limits;
use super::error::{AdminError, broken};
use crate::admin::{ControllerInfo, FormatInfo, NamespaceInfo, OptionalCommands};
use crate::spec::command::{DSM_RANGES_MAX, Identify10};
use crate::spec::identify::{NAMESPACE_LIST_LEN, oacs, oncs, text, vwc};
use crate::spec::identify_ns::{IdentifyControllerNvm, csi};
use crate::spec::regs::{IOCQES, IOSQES};
use crate::spec::{
    AdminOpcode, Cns, IdentifyController, IdentifyNamespace, LbaFormat, NSID_ALL, Sqe, Version,
};

/// Most namespaces that this driver keeps track of.
const NAMESPACES: usize = 4096;

/// How long an Identify may take.
const LIMIT: Duration = super::ADMIN_LIMIT;

/// Any Identify data structure, as it came.
pub(super) async fn raw(
    admin: &AdminQueue,
    cns: Cns,
    nsid: u32,
) -> Result<doorbell::dma::DmaBox<[u8]>, AdminError> {
    let cdw10 = Identify10(0).with_cns(cns.0).0;
    let sqe = Sqe { nsid, cdw10, ..Sqe::admin(AdminOpcode::IDENTIFY) };
    admin.fetch(sqe, DATA, LIMIT).await.map(|(_, data)| data)
}

/// A data structure at the beginning of what came.
pub(super) fn view<T: Pod>(bytes: &[u8]) -> Option<T> {
    bytes.get(..size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

async fn fetch<T: Pod>(
    admin: &AdminQueue,
    device: &Arc<str>,
    step: &'static str,
    cns: Cns,
    nsid: u32,
) -> Result<T, DriverError> {
    let bytes = raw(admin, cns, nsid).await.map_err(|error| error.during(device, step))?;
    view(&bytes).ok_or_else(|| broken(device, step, "the data structure is cut short"))
}

/// Identify Controller, and what the NVM command set adds to it where the controller has that.
pub(super) async fn controller(
    admin: &AdminQueue,
    device: &Arc<str>,
    limits: &Limits,
    version: Version,
) -> Result<(ControllerInfo, Events), DriverError> {
    let step = "Identify Controller";
    let id: IdentifyController = fetch(admin, device, step, Cns::CONTROLLER, 0).await?;
    for (what, field, ours) in [("submission", id.sqes, IOSQES), ("completion", id.cqes, IOCQES)] {
        // Bits 0 to 3 are the size that the controller requires, bits 4 to 7 the largest.
        if !(field & 0xf..=field >> 4).contains(&ours) {
            let problem =
                format!("I/O {what} entries of 2^{ours} bytes are not possible ({field:#04x})");
            return Err(broken(device, step, problem));
        }
    }
    let micros = u64::from(id.rtd3e);
    let events = Events {
        requests: usize::from(id.aerl) + 1,
        namespace: id.oaes & 1 << 8 != 0,
        shadows: id.oacs & oacs::DOORBELL_BUFFER != 0,
        shutdown: (micros != 0).then(|| Duration::from_micros(micros)),
    };
    let nvm = nvm_limits(admin).await;
    Ok((summary(&id, nvm.as_ref(), limits, version), events))
}

/// The NVM command set's own limits (NVM command set 1.0, 4.1.5.4). Controllers before 2.0 have no
/// such structure; then there are no limits to know.
async fn nvm_limits(admin: &AdminQueue) -> Option<IdentifyControllerNvm> {
    let sqe = Sqe {
        cdw10: Identify10(0).with_cns(Cns::CONTROLLER_CSI.0).0,
        cdw11: u32::from(csi::NVM) << 24,
        ..Sqe::admin(AdminOpcode::IDENTIFY)
    };
    match admin.fetch(sqe, DATA, LIMIT).await {
        Ok((_, bytes)) => view(&bytes),
        Err(error) => {
            tracing::debug!(%error, "no limits of the NVM command set");
            None
        }
    }
}

fn summary(
    id: &IdentifyController,
    nvm: Option<&IdentifyControllerNvm>,
    limits: &Limits,
    version: Version,
) -> ControllerInfo {
    let cap = limits.cap;
    let exponent = u32::from(cap.mpsmin());
    let wzsl = nvm.map_or(0, |nvm| nvm.wzsl);
    let bytes = |units: u8| 4096u64.checked_shl(exponent + u32::from(units));
    let dmrl = nvm.map_or(0, |nvm| nvm.dmrl);
    ControllerInfo {
        vendor: id.vid,
        subsystem_vendor: id.ssvid,
        serial: text(&id.sn),
        model: text(&id.mn),
        firmware: text(&id.fr),
        subnqn: text(&id.subnqn),
        version: version.0,
        controller_id: id.cntlid,
        page_size: limits.page.bytes() as u32,
        max_transfer: id.max_transfer(cap.mpsmin()),
        max_zeroes: if wzsl == 0 { None } else { bytes(wzsl) },
        max_ranges: if dmrl == 0 { DSM_RANGES_MAX as u16 } else { dmrl.into() },
        max_range_blocks: nvm.map(|nvm| nvm.dmrsl).filter(|most| *most != 0),
        doorbell_stride: 4 << cap.dstrd(),
        shadow_doorbells: false,
        commands: OptionalCommands {
            compare: id.oncs & oncs::COMPARE != 0,
            write_zeroes: id.oncs & oncs::WRITE_ZEROES != 0,
            dataset_management: id.oncs & oncs::DATASET_MANAGEMENT != 0,
            format: id.oacs & oacs::FORMAT != 0,
        },
        volatile_write_cache: id.vwc & vwc::PRESENT != 0,
        queues: 0,
        max_entries: cap.max_entries(),
    }
}

/// What else bring-up needs of Identify Controller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Events {
    /// Asynchronous Event Requests that may be outstanding (AERL).
    pub(super) requests: usize,
    /// Namespace attribute notices are supported (OAES bit 8).
    pub(super) namespace: bool,
    /// Shadow doorbells are offered (OACS bit 8).
    pub(super) shadows: bool,
    /// How long a shutdown may take (RTD3E), if the controller says.
    pub(super) shutdown: Option<Duration>,
}

/// Every active namespace, by identifier.
pub(super) async fn namespaces(
    admin: &AdminQueue,
    device: &Arc<str>,
) -> Result<BTreeMap<u32, NamespaceInfo>, DriverError> {
    let mut found = BTreeMap::new();
    for nsid in active(admin, device).await? {
        if let Some(info) = namespace(admin, device, nsid).await? {
            found.insert(nsid, info);
        }
    }
    Ok(found)
}

/// The identifiers of the active namespaces, ascending (base 2.0, 5.17.2.2).
async fn active(admin: &AdminQueue, device: &Arc<str>) -> Result<Vec<u32>, DriverError> {
    let step = "Identify Active Namespace list";
    let mut ids: Vec<u32> = Vec::new();
    loop {
        let after = ids.last().copied().unwrap_or(0);
        let list: [u32; NAMESPACE_LIST_LEN] =
            fetch(admin, device, step, Cns::ACTIVE_NAMESPACES, after).await?;
        let page = list.iter().take_while(|nsid| **nsid != 0);
        for &nsid in page {
            // Ascending, or the next page would never end.
            if nsid <= ids.last().copied().unwrap_or(0) || nsid == NSID_ALL {
                return Err(broken(device, step, format!("namespace {nsid:#x} is out of order")));
            }
            ids.push(nsid);
        }
        if ids.len() >= NAMESPACES {
            tracing::warn!(%device, "more than {NAMESPACES} namespaces: the rest is not offered");
            ids.truncate(NAMESPACES);
            return Ok(ids);
        }
        if list[NAMESPACE_LIST_LEN - 1] == 0 {
            return Ok(ids);
        }
    }
}

/// One namespace; `None` if it went away meanwhile.
pub(super) async fn namespace(
    admin: &AdminQueue,
    device: &Arc<str>,
    nsid: u32,
) -> Result<Option<NamespaceInfo>, DriverError> {
    let id: IdentifyNamespace =
        fetch(admin, device, "Identify Namespace", Cns::NAMESPACE, nsid).await?;
    if id.nsze == 0 {
        return Ok(None);
    }
    let formats = id.lbaf.iter().take(usize::from(id.nlbaf) + 1).map(format_info).collect();
    let used = id.format();
    Ok(Some(NamespaceInfo {
        nsid,
        blocks: id.nsze,
        block_shift: used.lbads,
        metadata: used.ms,
        protected: id.dps & 0b111 != 0,
        write_protected: id.nsattr & 1 != 0,
        deallocated_reads_zero: id.dlfeat & 0b111 == 1,
        format: id.format_index() as u8,
        formats,
    }))
}

fn format_info(format: &LbaFormat) -> FormatInfo {
    FormatInfo { block_shift: format.lbads, metadata: format.ms, performance: format.rp & 0b11 }
}
