//! Features: their values, and what may be set (base 5.15 and 5.27; NVM 4.1.3).
//!
//! Interrupt coalescing is kept and not acted on: it is a recommendation (base 5.27.1.6), and a
//! completion is never delayed here.
//!
//! No feature of this controller can be saved, so "saved" is the default (base 5.15). A controller
//! reset brings the defaults back.

use super::command::{Failure, byte};
use super::stats;
use crate::spec::feature::{
    Arbitration, AsyncEventConfig, ErrorRecovery, FeatureCapabilities, FeatureId, FeatureSelect,
    Features10, InterruptCoalescing, InterruptVectorConfig, NumberOfQueues, PowerManagement,
    TemperatureThreshold, VolatileWriteCache, WriteAtomicity,
};
use crate::spec::identify::oaes;
use crate::spec::{NSID_ALL, Sqe, Status};

/// Features that this controller has, ascending. The volatile write cache is one only where there
/// is a cache.
pub(crate) const FEATURES: [FeatureId; 10] = [
    FeatureId::ARBITRATION,
    FeatureId::POWER_MANAGEMENT,
    FeatureId::TEMPERATURE_THRESHOLD,
    FeatureId::ERROR_RECOVERY,
    FeatureId::VOLATILE_WRITE_CACHE,
    FeatureId::NUMBER_OF_QUEUES,
    FeatureId::INTERRUPT_COALESCING,
    FeatureId::INTERRUPT_VECTOR_CONFIG,
    FeatureId::WRITE_ATOMICITY,
    FeatureId::ASYNC_EVENT_CONFIG,
];

/// Bits of a temperature sensor selection: the composite temperature, and "all sensors".
const COMPOSITE: u8 = 0;
const ALL_SENSORS: u8 = 0xf;

/// Arbitration Burst: no limit.
const NO_LIMIT: u8 = 7;

/// The values.
#[derive(Debug, Clone)]
pub(crate) struct Features {
    arbitration: Arbitration,
    power: PowerManagement,
    /// Over and under temperature thresholds, in kelvin.
    over: u16,
    under: u16,
    /// One per namespace.
    recovery: Vec<ErrorRecovery>,
    pub(crate) cache: VolatileWriteCache,
    queues: NumberOfQueues,
    coalescing: InterruptCoalescing,
    /// Coalescing Disable, one per vector.
    vectors: Vec<bool>,
    atomicity: WriteAtomicity,
    pub(crate) events: AsyncEventConfig,
    has_cache: bool,
}

/// What the controller must know to judge a Set Features.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// I/O queue pairs there can be.
    pub(crate) queues: u16,
    /// I/O queues exist.
    pub(crate) in_use: bool,
}

impl Features {
    /// The defaults.
    pub(crate) fn new(queues: u16, namespaces: u32, has_cache: bool) -> Self {
        let most = NumberOfQueues(0).with_nsq(queues - 1).with_ncq(queues - 1);
        Self {
            arbitration: Arbitration(0).with_ab(NO_LIMIT),
            power: PowerManagement(0),
            over: super::admin::WARNING_TEMPERATURE,
            under: 0,
            recovery: vec![ErrorRecovery(0); namespaces as usize],
            cache: VolatileWriteCache(0).with_wce(has_cache),
            queues: most,
            coalescing: InterruptCoalescing(0),
            vectors: vec![false; usize::from(queues) + 1],
            atomicity: WriteAtomicity(0),
            events: AsyncEventConfig(0),
            has_cache,
        }
    }

    /// The highest I/O submission and completion queue identifiers that were allocated.
    pub(crate) fn allocated(&self) -> (u16, u16) {
        (self.queues.nsq() + 1, self.queues.ncq() + 1)
    }

    /// Commands that are fetched from one queue before the next one's turn: the arbitration burst,
    /// as far as the controller goes along with it.
    #[inline]
    pub(crate) fn burst(&self) -> u32 {
        match self.arbitration.ab() {
            NO_LIMIT => super::BURST,
            ab => (1 << ab).min(super::BURST),
        }
    }

    /// SMART critical warnings (base 5.16.1.3).
    pub(crate) fn critical_warning(&self) -> u8 {
        let hot = stats::TEMPERATURE >= self.over || stats::TEMPERATURE <= self.under;
        u8::from(hot) << 1
    }

    fn known(&self, fid: FeatureId) -> bool {
        FEATURES.contains(&fid) && (fid != FeatureId::VOLATILE_WRITE_CACHE || self.has_cache)
    }

    /// True if a feature is supported: for the effects log.
    pub(crate) fn supported(&self) -> impl Iterator<Item = FeatureId> + '_ {
        FEATURES.into_iter().filter(|fid| self.known(*fid))
    }

    /// Get Features: dword 0 of the completion.
    pub(crate) fn get(&self, sqe: &Sqe, defaults: &Self) -> Result<u32, Failure> {
        let cdw10 = Features10(sqe.cdw10);
        let fid = FeatureId(cdw10.fid());
        if !self.known(fid) {
            return Err(Failure::invalid(byte::CDW10, 0));
        }
        match FeatureSelect(cdw10.sel()) {
            FeatureSelect::CURRENT => self.value(fid, sqe),
            FeatureSelect::DEFAULT | FeatureSelect::SAVED => defaults.value(fid, sqe),
            FeatureSelect::SUPPORTED => Ok(FeatureCapabilities(0)
                .with_changeable(true)
                .with_namespace_specific(fid == FeatureId::ERROR_RECOVERY)
                .0),
            _ => Err(Failure::invalid(byte::CDW10 + 1, 0)),
        }
    }

    fn value(&self, fid: FeatureId, sqe: &Sqe) -> Result<u32, Failure> {
        Ok(match fid {
            FeatureId::ARBITRATION => self.arbitration.0,
            FeatureId::POWER_MANAGEMENT => self.power.0,
            FeatureId::TEMPERATURE_THRESHOLD => {
                let which = TemperatureThreshold(sqe.cdw11);
                match (which.tmpsel(), which.thsel()) {
                    (COMPOSITE, 0) => self.over.into(),
                    (COMPOSITE, 1) => self.under.into(),
                    _ => return Err(Failure::invalid(byte::CDW11 + 2, 0)),
                }
            }
            FeatureId::ERROR_RECOVERY => {
                let recovery = self.recovery.get(sqe.nsid.wrapping_sub(1) as usize);
                let missing = Failure::field(Status::INVALID_NAMESPACE, byte::NSID, 0);
                recovery.ok_or(missing)?.0
            }
            FeatureId::VOLATILE_WRITE_CACHE => self.cache.0,
            FeatureId::NUMBER_OF_QUEUES => self.queues.0,
            FeatureId::INTERRUPT_COALESCING => self.coalescing.0,
            FeatureId::INTERRUPT_VECTOR_CONFIG => {
                let vector = InterruptVectorConfig(sqe.cdw11).iv();
                let disabled = self.vectors.get(usize::from(vector));
                let disabled = *disabled.ok_or(Failure::invalid(byte::CDW11, 0))?;
                InterruptVectorConfig(0).with_iv(vector).with_cd(disabled).0
            }
            FeatureId::WRITE_ATOMICITY => self.atomicity.0,
            FeatureId::ASYNC_EVENT_CONFIG => self.events.0,
            _ => return Err(Failure::invalid(byte::CDW10, 0)),
        })
    }

    /// Set Features: dword 0 of the completion.
    pub(crate) fn set(&mut self, sqe: &Sqe, bounds: Bounds) -> Result<u32, Failure> {
        let cdw10 = Features10(sqe.cdw10);
        let fid = FeatureId(cdw10.fid());
        if !self.known(fid) {
            return Err(Failure::invalid(byte::CDW10, 0));
        }
        if cdw10.sv() {
            return Err(Failure::field(Status::FEATURE_NOT_SAVEABLE, byte::CDW10 + 3, 7));
        }
        if fid == FeatureId::ERROR_RECOVERY {
            return self.set_recovery(sqe);
        }
        if sqe.nsid != 0 && sqe.nsid != NSID_ALL {
            return Err(Failure::field(Status::FEATURE_NOT_NAMESPACE_SPECIFIC, byte::NSID, 0));
        }
        match fid {
            FeatureId::ARBITRATION => self.arbitration = Arbitration(sqe.cdw11 & 0xffff_ff07),
            FeatureId::POWER_MANAGEMENT => {
                let power = PowerManagement(sqe.cdw11 & 0xff);
                // One power state: NPSS is 0.
                if power.ps() != 0 {
                    return Err(Failure::invalid(byte::CDW11, 0));
                }
                self.power = power;
            }
            FeatureId::TEMPERATURE_THRESHOLD => self.set_threshold(sqe)?,
            FeatureId::VOLATILE_WRITE_CACHE => self.cache = VolatileWriteCache(sqe.cdw11 & 1),
            FeatureId::NUMBER_OF_QUEUES => return self.set_queues(sqe, bounds),
            FeatureId::INTERRUPT_COALESCING => {
                self.coalescing = InterruptCoalescing(sqe.cdw11 & 0xffff);
            }
            FeatureId::INTERRUPT_VECTOR_CONFIG => {
                let config = InterruptVectorConfig(sqe.cdw11);
                let slot = self.vectors.get_mut(usize::from(config.iv()));
                *slot.ok_or(Failure::invalid(byte::CDW11, 0))? = config.cd();
            }
            FeatureId::WRITE_ATOMICITY => self.atomicity = WriteAtomicity(sqe.cdw11 & 1),
            FeatureId::ASYNC_EVENT_CONFIG => {
                // Only what Identify Controller's OAES and the SMART log offer is kept.
                self.events = AsyncEventConfig(sqe.cdw11 & (0xff | oaes::NAMESPACE_ATTRIBUTE));
            }
            _ => return Err(Failure::invalid(byte::CDW10, 0)),
        }
        Ok(0)
    }

    fn set_recovery(&mut self, sqe: &Sqe) -> Result<u32, Failure> {
        let recovery = ErrorRecovery(sqe.cdw11 & 0x1_ffff);
        // Identify Namespace's NSFEAT says that there is no such error to enable.
        if recovery.dulbe() {
            return Err(Failure::invalid(byte::CDW11 + 2, 0));
        }
        if sqe.nsid == NSID_ALL {
            self.recovery.fill(recovery);
            return Ok(0);
        }
        let slot = self.recovery.get_mut(sqe.nsid.wrapping_sub(1) as usize);
        *slot.ok_or(Failure::field(Status::INVALID_NAMESPACE, byte::NSID, 0))? = recovery;
        Ok(0)
    }

    fn set_threshold(&mut self, sqe: &Sqe) -> Result<(), Failure> {
        let threshold = TemperatureThreshold(sqe.cdw11);
        if !matches!(threshold.tmpsel(), COMPOSITE | ALL_SENSORS) {
            return Err(Failure::invalid(byte::CDW11 + 2, 0));
        }
        match threshold.thsel() {
            0 => self.over = threshold.tmpth(),
            1 => self.under = threshold.tmpth(),
            _ => return Err(Failure::invalid(byte::CDW11 + 2, 4)),
        }
        Ok(())
    }

    /// Number of Queues (base 5.27.1.5): once after a reset, before I/O queues exist.
    fn set_queues(&mut self, sqe: &Sqe, bounds: Bounds) -> Result<u32, Failure> {
        let wanted = NumberOfQueues(sqe.cdw11);
        if wanted.nsq() == 0xffff || wanted.ncq() == 0xffff {
            return Err(Failure::invalid(byte::CDW11, 0));
        }
        if bounds.in_use {
            return Err(Failure::field(Status::SEQUENCE_ERROR, byte::CDW10, 0));
        }
        let most = bounds.queues - 1;
        self.queues =
            NumberOfQueues(0).with_nsq(wanted.nsq().min(most)).with_ncq(wanted.ncq().min(most));
        Ok(self.queues.0)
    }
}
