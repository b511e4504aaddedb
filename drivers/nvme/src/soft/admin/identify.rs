//! Identify (base 5.17; NVM 4.1.5).

use bytemuck::{Zeroable, bytes_of, cast_slice};
use doorbell::soft::SoftCx;

use crate::soft::SoftNvme;
use crate::soft::command::{Failure, Reply, byte};
use crate::soft::error_log;
use crate::soft::events;
use crate::soft::namespace::{FORMATS, Namespace};
use crate::spec::command::{Identify10, Identify11};
use crate::spec::identify::{NAMESPACE_LIST_LEN, lpa, oacs, oaes, oncs, set_text, vwc};
use crate::spec::identify_ns::{
    DescriptorHeader, IdentifyControllerNvm, IdentifyNamespaceIndependent, csi, nidt,
};
use crate::spec::log::wide;
use crate::spec::{
    AdminOpcode, Cns, IDENTIFY_BYTES, IdentifyController, IdentifyNamespace, LbaFormat, NSID_ALL,
    Sqe, Status, Version,
};

/// WCTEMP, in kelvin; also the default over temperature threshold.
pub(crate) const WARNING_TEMPERATURE: u16 = 343;
const CRITICAL_TEMPERATURE: u16 = 353;
/// Firmware revision, in Identify Controller and in the firmware slot log.
pub(crate) const FIRMWARE: &str = env!("CARGO_PKG_VERSION");
impl SoftNvme {
    pub(super) fn identify(&mut self, cx: &mut SoftCx, sqe: &Sqe) -> Reply {
        let page = self.identify_page(sqe)?;
        self.answer(cx, sqe, &page, IDENTIFY_BYTES as u64)
    }

    fn identify_page(&self, sqe: &Sqe) -> Result<Vec<u8>, Failure> {
        let cns = Cns(Identify10(sqe.cdw10).cns());
        let by_set =
            matches!(cns, Cns::NAMESPACE_CSI | Cns::CONTROLLER_CSI | Cns::ACTIVE_NAMESPACES_CSI);
        if by_set && Identify11(sqe.cdw11).csi() != csi::NVM {
            return Err(Failure::invalid(byte::CDW11 + 3, 0));
        }
        let page = match cns {
            Cns::CONTROLLER => bytes_of(&self.identify_controller()).to_vec(),
            Cns::NAMESPACE | Cns::ALLOCATED_NAMESPACE => {
                bytes_of(&self.named_namespace(sqe).map(identify_namespace)?).to_vec()
            }
            Cns::ACTIVE_NAMESPACES | Cns::ACTIVE_NAMESPACES_CSI | Cns::ALLOCATED_NAMESPACES => {
                self.namespace_list(sqe.nsid)?
            }
            Cns::NAMESPACE_DESCRIPTORS => descriptors(self.named_namespace(sqe)?),
            Cns::NAMESPACE_CSI => {
                // Nothing in it but protection information, which is not supported.
                self.named_namespace(sqe)?;
                vec![0; IDENTIFY_BYTES]
            }
            Cns::CONTROLLER_CSI => bytes_of(&IdentifyControllerNvm::zeroed()).to_vec(),
            Cns::NAMESPACE_INDEPENDENT => {
                bytes_of(&self.named_namespace(sqe).map(independent)?).to_vec()
            }
            Cns::ATTACHED_CONTROLLERS => {
                self.named_namespace(sqe)?;
                self.controllers(sqe)
            }
            Cns::CONTROLLERS => self.controllers(sqe),
            Cns::PRIMARY_CAPABILITIES if !self.secondaries.is_empty() => {
                self.primary_capabilities()
            }
            Cns::SECONDARY_CONTROLLERS if !self.secondaries.is_empty() => self.secondary_list(sqe),
            _ => return Err(Failure::invalid(byte::CDW10, 0)),
        };
        Ok(page)
    }

    fn named_namespace(&self, sqe: &Sqe) -> Result<&Namespace, Failure> {
        let missing = Failure::field(Status::INVALID_NAMESPACE, byte::NSID, 0);
        self.namespaces.get(sqe.nsid).ok_or(missing)
    }

    /// Identifiers above `after`, ascending (base 5.17.2.2).
    fn namespace_list(&self, after: u32) -> Result<Vec<u8>, Failure> {
        if after >= NSID_ALL - 1 {
            return Err(Failure::field(Status::INVALID_NAMESPACE, byte::NSID, 0));
        }
        let mut list = [0u32; NAMESPACE_LIST_LEN];
        let above = self.namespaces.iter().map(|(nsid, _)| nsid).filter(|nsid| *nsid > after);
        list.iter_mut().zip(above).for_each(|(to, nsid)| *to = nsid);
        Ok(cast_slice(&list).to_vec())
    }

    fn identify_controller(&self) -> IdentifyController {
        let capacity: u128 = self.namespaces.iter().map(|(_, ns)| u128::from(ns.bytes)).sum();
        let cached = if self.namespaces.any_cache() { vwc::PRESENT } else { 0 };
        let oacs = self.supported().fold(0, |bits, opcode| match opcode {
            AdminOpcode::FORMAT_NVM => bits | oacs::FORMAT,
            AdminOpcode::VIRTUALIZATION_MANAGEMENT => bits | oacs::VIRTUALIZATION,
            AdminOpcode::DOORBELL_BUFFER_CONFIG => bits | oacs::DOORBELL_BUFFER,
            _ => bits,
        });
        let mut id = IdentifyController {
            vid: super::super::VENDOR,
            ssvid: super::super::VENDOR,
            mdts: self.config.mdts,
            cntlid: self.id(),
            ver: Version::V2_0.0,
            rtd3r: 500_000,
            rtd3e: 5_000_000,
            oaes: oaes::NAMESPACE_ATTRIBUTE,
            cntrltype: 1,
            oacs,
            acl: 3,
            aerl: events::REQUESTS as u8 - 1,
            // One slot, read-only.
            frmw: 0b11,
            lpa: lpa::EFFECTS | lpa::EXTENDED | lpa::SUPPORTED_PAGES,
            elpe: error_log::ENTRIES as u8 - 1,
            wctemp: WARNING_TEMPERATURE,
            cctemp: CRITICAL_TEMPERATURE,
            tnvmcap: wide(capacity),
            sqes: 0x66,
            cqes: 0x44,
            nn: self.namespaces.count(),
            mnan: self.namespaces.count(),
            oncs: oncs::COMPARE | oncs::DATASET_MANAGEMENT | oncs::WRITE_ZEROES | oncs::SAVE_SELECT,
            vwc: cached | vwc::FLUSH_ALL_YES,
            ..Zeroable::zeroed()
        };
        // Power state 0: 25 W, in centiwatts.
        id.psd[0].mp = 2500;
        set_text(&mut id.sn, &self.serial);
        set_text(&mut id.mn, super::super::MODEL);
        set_text(&mut id.fr, FIRMWARE);
        let nqn = self.subsystem_nqn();
        id.subnqn.iter_mut().zip(nqn.bytes()).for_each(|(to, from)| *to = from);
        id
    }
}

/// Identify Namespace (NVM 4.1.5.1).
fn identify_namespace(ns: &Namespace) -> IdentifyNamespace {
    let blocks = ns.blocks();
    let mut id = IdentifyNamespace {
        nsze: blocks,
        ncap: blocks,
        nuse: blocks,
        nlbaf: ns.formats() - 1,
        flbas: ns.format(),
        fpi: 0x80 | ns.formatting.unwrap_or(0),
        // Deallocated blocks read as zeroes, and Write Zeroes can deallocate.
        dlfeat: 0b1001,
        nvmcap: wide(ns.bytes.into()),
        nsattr: ns.readonly.into(),
        nguid: ns.guid,
        ..Zeroable::zeroed()
    };
    for (format, lbads) in id.lbaf.iter_mut().zip(FORMATS).take(ns.formats().into()) {
        *format = LbaFormat { ms: 0, lbads, rp: 0 };
    }
    id
}

/// I/O Command Set Independent Identify Namespace (base 5.17.2.8).
fn independent(ns: &Namespace) -> IdentifyNamespaceIndependent {
    IdentifyNamespaceIndependent {
        fpi: 0x80 | ns.formatting.unwrap_or(0),
        nsattr: ns.readonly.into(),
        nstat: u8::from(ns.formatting.is_none()),
        ..Zeroable::zeroed()
    }
}

/// Namespace Identification Descriptors (base 5.17.2.3).
fn descriptors(ns: &Namespace) -> Vec<u8> {
    let mut page = Vec::with_capacity(IDENTIFY_BYTES);
    for (nidt, id) in
        [(nidt::NGUID, &ns.guid[..]), (nidt::UUID, &ns.guid), (nidt::CSI, &[csi::NVM])]
    {
        let header = DescriptorHeader { nidt, nidl: id.len() as u8, reserved2: 0 };
        page.extend_from_slice(bytes_of(&header));
        page.extend_from_slice(id);
    }
    page.resize(IDENTIFY_BYTES, 0);
    page
}

impl SoftNvme {
    /// Controller List (base 3.2.1 and 5.17.2.12): a count and identifiers not below CNTID. A
    /// secondary controller knows of itself only.
    fn controllers(&self, sqe: &Sqe) -> Vec<u8> {
        let first = Identify10(sqe.cdw10).cntid();
        let ids = std::iter::once(self.id()).chain(self.secondaries.iter().map(|one| one.id()));
        let mut list = [0u16; IDENTIFY_BYTES / 2];
        let (count, slots) = list.split_at_mut(1);
        for (slot, id) in slots.iter_mut().zip(ids.filter(|id| *id >= first)) {
            *slot = id;
            count[0] += 1;
        }
        cast_slice(&list).to_vec()
    }
}
