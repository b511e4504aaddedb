//! The operations that clients may ask for, and who may ask for which.

use std::time::Duration;

use doorbell::dma::DmaBox;
use doorbell::driver::{DriverError, Who};

use super::admin_queue::{AdminQueue, DATA};
use super::state::Shared;
use super::{ADMIN_LIMIT, identify, logs};
use crate::admin::{NAMESPACES_PER_REPLY, NvmeAdmin, NvmeReply};
use crate::spec::command::Format10;
use crate::spec::feature::Features10;
use crate::spec::{AdminOpcode, Cns, LogId, Sqe};

/// How long a Format may take: the specification gives no bound, and large media take minutes.
const FORMAT: Duration = Duration::from_secs(600);

/// Log pages that every client may read: they describe the controller and not its users.
const OPEN_LOGS: [LogId; 6] = [
    LogId::SUPPORTED,
    LogId::ERROR,
    LogId::SMART,
    LogId::FIRMWARE_SLOT,
    LogId::EFFECTS,
    LogId::FEATURE_EFFECTS,
];

/// Identify structures that every client may read.
const OPEN_IDENTIFY: [Cns; 8] = [
    Cns::NAMESPACE,
    Cns::CONTROLLER,
    Cns::ACTIVE_NAMESPACES,
    Cns::NAMESPACE_DESCRIPTORS,
    Cns::NAMESPACE_CSI,
    Cns::CONTROLLER_CSI,
    Cns::NAMESPACE_INDEPENDENT,
    Cns::IO_COMMAND_SETS,
];

/// Whether `who` may ask for this.
fn check(who: &Who, operation: &NvmeAdmin) -> Result<(), DriverError> {
    let open = match operation {
        NvmeAdmin::Info { .. }
        | NvmeAdmin::Smart
        | NvmeAdmin::ErrorLog { .. }
        | NvmeAdmin::GetFeature { .. } => true,
        NvmeAdmin::Identify { cns, .. } => OPEN_IDENTIFY.contains(&Cns(*cns)),
        NvmeAdmin::LogPage { lid, .. } => OPEN_LOGS.contains(&LogId(*lid)),
        NvmeAdmin::Format { .. } => false,
    };
    if open || who.operator {
        return Ok(());
    }
    Err(DriverError::Refused(format!(
        "this {operation} is for operators; uid {} is none: name it in the policy file",
        who.uid
    )))
}

/// Executes an operation.
pub(super) async fn execute(
    shared: &Shared,
    who: &Who,
    operation: NvmeAdmin,
) -> Result<NvmeReply, DriverError> {
    check(who, &operation)?;
    let admin = shared.admin()?;
    let name = operation.name();
    let bytes = |data: DmaBox<[u8]>| NvmeReply::Bytes(data.to_vec());
    let answer = match operation {
        NvmeAdmin::Info { after } => return info(shared, &admin, after).await,
        NvmeAdmin::Identify { cns, nsid } => identify::raw(&admin, Cns(cns), nsid).await.map(bytes),
        NvmeAdmin::Smart => {
            logs::smart(&admin, true).await.map(|smart| NvmeReply::Smart(Box::new(smart)))
        }
        NvmeAdmin::ErrorLog { entries } => {
            logs::errors(&admin, entries, true).await.map(NvmeReply::Errors)
        }
        NvmeAdmin::LogPage { lid, nsid, offset, len } => {
            logs::read(&admin, page(LogId(lid), nsid, offset, len)?).await.map(bytes)
        }
        NvmeAdmin::GetFeature { fid, select, nsid, cdw11 } => {
            let cdw10 = Features10(0).with_fid(fid).with_sel(select).0;
            let sqe = Sqe { nsid, cdw10, cdw11, ..Sqe::admin(AdminOpcode::GET_FEATURES) };
            let answer = admin.fetch(sqe, DATA, ADMIN_LIMIT).await;
            answer.map(|(value, data)| NvmeReply::Feature { value, data: data.to_vec() })
        }
        NvmeAdmin::Format { nsid, lbaf } => return format(shared, &admin, nsid, lbaf).await,
    };
    answer.map_err(|error| shared.failed(error, name))
}

async fn info(shared: &Shared, admin: &AdminQueue, after: u32) -> Result<NvmeReply, DriverError> {
    shared.refresh(admin).await;
    let (namespaces, more) = shared.namespaces(after, NAMESPACES_PER_REPLY);
    let controller = shared.controller().ok_or_else(|| {
        super::error::broken(shared.name(), "info", "the controller is being reset")
    })?;
    Ok(NvmeReply::Info { controller: Box::new(controller), namespaces, more })
}

/// Checks what a client says of a log page: the length decides how much the controller writes.
fn page(lid: LogId, nsid: u32, offset: u64, len: u32) -> Result<logs::Page, DriverError> {
    let len = len as usize;
    if len == 0 || len > DATA || !len.is_multiple_of(4) || !offset.is_multiple_of(4) {
        return Err(DriverError::Refused(format!(
            "{len} bytes at {offset} of a log page: 4 to {DATA} bytes are possible, and both must \
             be multiples of 4"
        )));
    }
    Ok(logs::Page { lid, nsid, offset, len, retain: true })
}

async fn format(
    shared: &Shared,
    admin: &AdminQueue,
    nsid: u32,
    lbaf: u8,
) -> Result<NvmeReply, DriverError> {
    if shared.is_virtual() {
        return Err(DriverError::Refused(
            "a namespace is formatted through the device itself: connect again, and claim no \
             isolated queue on that connection"
                .to_owned(),
        ));
    }
    if !shared.queues.is_empty() || !shared.functions.is_empty() {
        // Their clients would go on with the old block size, and with it the wrong lengths.
        return Err(DriverError::Refused(
            "a namespace is formatted only while no I/O queue exists; end the clients first, or \
             revoke their queues"
                .to_owned(),
        ));
    }
    let sqe = Sqe {
        nsid,
        cdw10: Format10(0).with_lbafl(lbaf).with_lbafu(lbaf >> 4).0,
        ..Sqe::admin(AdminOpcode::FORMAT_NVM)
    };
    let formatting = shared.formatting()?;
    let done = admin.run(sqe, FORMAT).await;
    drop(formatting);
    done.map_err(|error| shared.failed(error, "format"))?;
    shared.refresh(admin).await;
    Ok(NvmeReply::Done)
}
