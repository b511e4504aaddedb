//! Log pages (base 2.0, 5.16), read for clients and for events.

use bytemuck::Zeroable;

use super::ADMIN_LIMIT;
use super::admin_queue::{AdminQueue, DATA};
use super::error::AdminError;
use crate::admin::{ErrorEntry, Smart};
use crate::spec::command::{GetLog10, GetLog11};
use crate::spec::{AdminOpcode, ErrorLogEntry, LogId, NSID_ALL, SmartLog, Sqe};

/// Which bytes of which log page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    pub(super) lid: LogId,
    pub(super) nsid: u32,
    /// A multiple of 4.
    pub(super) offset: u64,
    /// A multiple of 4, from 4 to [`DATA`].
    pub(super) len: usize,
    /// Keep the event that names this page outstanding (RAE).
    pub(super) retain: bool,
}

impl Page {
    /// A page of the controller from its first byte.
    pub(super) fn of_controller(lid: LogId, len: usize, retain: bool) -> Self {
        Self { lid, nsid: NSID_ALL, offset: 0, len, retain }
    }
}

/// Reads a page.
pub(super) async fn read(
    admin: &AdminQueue,
    page: Page,
) -> Result<doorbell::dma::DmaBox<[u8]>, AdminError> {
    let len = page.len.clamp(4, DATA);
    let dwords = (len / 4 - 1) as u32;
    let sqe = Sqe {
        nsid: page.nsid,
        cdw10: GetLog10(0).with_lid(page.lid.0).with_rae(page.retain).with_numdl(dwords as u16).0,
        cdw11: GetLog11(0).with_numdu((dwords >> 16) as u16).0,
        // Low and high half of the byte offset.
        cdw12: page.offset as u32,
        cdw13: (page.offset >> 32) as u32,
        ..Sqe::admin(AdminOpcode::GET_LOG_PAGE)
    };
    admin.fetch(sqe, len, ADMIN_LIMIT).await.map(|(_, data)| data)
}

/// The SMART / Health Information log of the controller.
pub(super) async fn smart(admin: &AdminQueue, retain: bool) -> Result<Smart, AdminError> {
    let page = Page::of_controller(LogId::SMART, size_of::<SmartLog>(), retain);
    let bytes = read(admin, page).await?;
    let log = bytemuck::try_pod_read_unaligned(&bytes).unwrap_or_else(|_| SmartLog::zeroed());
    Ok(plain(&log))
}

fn plain(log: &SmartLog) -> Smart {
    Smart {
        critical_warning: log.critical_warning,
        temperature: u16::from_le_bytes(log.temperature),
        available_spare: log.available_spare,
        spare_threshold: log.spare_threshold,
        percentage_used: log.percentage_used,
        data_units_read: u128::from_le_bytes(log.data_units_read),
        data_units_written: u128::from_le_bytes(log.data_units_written),
        host_reads: u128::from_le_bytes(log.host_reads),
        host_writes: u128::from_le_bytes(log.host_writes),
        busy_minutes: u128::from_le_bytes(log.busy_minutes),
        power_cycles: u128::from_le_bytes(log.power_cycles),
        power_on_hours: u128::from_le_bytes(log.power_on_hours),
        unsafe_shutdowns: u128::from_le_bytes(log.unsafe_shutdowns),
        media_errors: u128::from_le_bytes(log.media_errors),
        error_entries: u128::from_le_bytes(log.error_entries),
    }
}

/// The newest entries of the error log, at most `entries`, 64 and as many as the controller keeps.
pub(super) async fn errors(
    admin: &AdminQueue,
    entries: u16,
    retain: bool,
) -> Result<Vec<ErrorEntry>, AdminError> {
    let size = size_of::<ErrorLogEntry>();
    let count = usize::from(entries).clamp(1, DATA / size);
    let page = Page::of_controller(LogId::ERROR, count * size, retain);
    let bytes = read(admin, page).await?;
    let raw = bytes.chunks_exact(size).take(usize::from(entries));
    let raw = raw.map(bytemuck::pod_read_unaligned::<ErrorLogEntry>);
    Ok(raw.filter(|entry| entry.error_count != 0).map(|entry| entry_of(&entry)).collect())
}

fn entry_of(entry: &ErrorLogEntry) -> ErrorEntry {
    let some = |id: u16| (id != u16::MAX).then_some(id);
    ErrorEntry {
        count: entry.error_count,
        queue: some(entry.sqid),
        tag: some(entry.cid),
        status: entry.status_phase >> 1,
        lba: entry.lba,
        nsid: entry.nsid,
    }
}
