//! Get Log Page (base 5.16).

use bytemuck::{Zeroable, bytes_of};
use doorbell::soft::SoftCx;

use crate::soft::SoftNvme;
use crate::soft::command::{Failure, Reply, byte};
use crate::soft::io;
use crate::spec::command::{GetLog10, GetLog11, GetLog14};
use crate::spec::identify::set_text;
use crate::spec::log::{
    ChangedNamespaces, CommandEffects, EffectsLog, FeatureEffects, FirmwareSlotLog, LogSupport,
    scope,
};
use crate::spec::{AdminOpcode, FeatureId, IoOpcode, LogId, NSID_ALL, Sqe, Status};

/// The log pages that there are.
const PAGES: [LogId; 8] = [
    LogId::SUPPORTED,
    LogId::ERROR,
    LogId::SMART,
    LogId::FIRMWARE_SLOT,
    LogId::CHANGED_NAMESPACES,
    LogId::EFFECTS,
    LogId::FEATURE_EFFECTS,
    LogId::MI_EFFECTS,
];

impl SoftNvme {
    pub(super) fn get_log_page(&mut self, cx: &mut SoftCx, sqe: &Sqe) -> Reply {
        let (cdw10, cdw11) = (GetLog10(sqe.cdw10), GetLog11(sqe.cdw11));
        let page = LogId(cdw10.lid());
        if !PAGES.contains(&page) {
            return Err(Failure::field(Status::INVALID_LOG_PAGE, byte::CDW10, 0));
        }
        // All pages are of the controller's scope (base 5.16.1; LPA bit 0 is 0).
        if sqe.nsid != 0 && sqe.nsid != NSID_ALL {
            return Err(Failure::invalid(byte::NSID, 0));
        }
        // No page is indexed (LogSupport::ios is 0 for all).
        if GetLog14(sqe.cdw14).ot() {
            return Err(Failure::invalid(byte::CDW14 + 2, 7));
        }
        let dwords = u64::from(cdw11.numdu()) << 16 | u64::from(cdw10.numdl());
        let len = (dwords + 1) * 4;
        if len > self.max_transfer() {
            return Err(Failure::invalid(byte::CDW10 + 2, 0));
        }
        let offset = u64::from(sqe.cdw13) << 32 | u64::from(sqe.cdw12);
        let bytes = self.log_page(page);
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
        let Some(rest) = rest.filter(|_| offset.is_multiple_of(4)) else {
            return Err(Failure::invalid(byte::CDW12, 0));
        };
        let reply = self.answer(cx, sqe, rest, len)?;
        if !cdw10.rae() {
            self.events.log_read(page);
            if page == LogId::CHANGED_NAMESPACES {
                self.changed.clear();
            }
        }
        Ok(reply)
    }

    fn log_page(&self, page: LogId) -> Vec<u8> {
        match page {
            LogId::SUPPORTED => {
                let mut pages = [LogSupport(0); 256];
                PAGES.iter().for_each(|page| {
                    pages[usize::from(page.0)] = LogSupport(0).with_lsupp(true);
                });
                bytemuck::cast_slice(&pages).to_vec()
            }
            LogId::ERROR => bytemuck::cast_slice(&self.errors.page()).to_vec(),
            LogId::SMART => {
                let warning = self.features.critical_warning();
                bytes_of(&self.stats.page(warning, self.errors.count)).to_vec()
            }
            LogId::FIRMWARE_SLOT => {
                // Slot 1 is active.
                let mut log = FirmwareSlotLog { afi: 1, ..Zeroable::zeroed() };
                set_text(&mut log.revisions[0], super::identify::FIRMWARE);
                bytes_of(&log).to_vec()
            }
            LogId::CHANGED_NAMESPACES => {
                let mut log = ChangedNamespaces::zeroed();
                log.nsid.iter_mut().zip(&self.changed).for_each(|(to, nsid)| *to = *nsid);
                bytes_of(&log).to_vec()
            }
            LogId::EFFECTS => bytes_of(&self.effects()).to_vec(),
            LogId::FEATURE_EFFECTS => {
                let mut log = [FeatureEffects(0); 256];
                for fid in self.features.supported() {
                    let narrow = fid == FeatureId::ERROR_RECOVERY;
                    let scope = if narrow { scope::NAMESPACE } else { scope::CONTROLLER };
                    let effects = FeatureEffects(0).with_fsupp(true).with_fsp(scope);
                    log[usize::from(fid.0)] = effects;
                }
                bytemuck::cast_slice(&log).to_vec()
            }
            // No management interface: no command of it is supported.
            _ => vec![0; 4096],
        }
    }

    /// Commands Supported and Effects (base 5.16.1.6).
    fn effects(&self) -> EffectsLog {
        let mut log = EffectsLog::zeroed();
        let has = CommandEffects(0).with_csupp(true);
        for opcode in self.supported() {
            log.admin[usize::from(opcode.0)] = has.with_csp(scope::CONTROLLER);
        }
        // No other command to the same namespace meanwhile; content and capabilities change.
        let format = &mut log.admin[usize::from(AdminOpcode::FORMAT_NVM.0)];
        if format.csupp() {
            *format = has.with_lbcc(true).with_ncc(true).with_cse(1).with_csp(scope::NAMESPACE);
        }
        // Of commands with a namespace identifier no scope is told: it goes without saying, and Linux takes any bit
        // that it does not know for an effect, and warns.
        for opcode in io::SUPPORTED {
            let changes = matches!(
                opcode,
                IoOpcode::WRITE | IoOpcode::WRITE_ZEROES | IoOpcode::DATASET_MANAGEMENT
            );
            log.io[usize::from(opcode.0)] = has.with_lbcc(changes);
        }
        log
    }
}
