//! Features (base 5.15 and 5.27): identifiers, selects, and their dwords.

codes! {
    /// Feature identifiers (base 5.27.1; NVM 4.1.3).
    pub struct FeatureId {
        /// Arbitration (base 5.27.1.1).
        ARBITRATION = 0x01;
        /// Power Management (base 5.27.1.2).
        POWER_MANAGEMENT = 0x02;
        /// LBA Range Type (NVM 4.1.3.1).
        LBA_RANGE_TYPE = 0x03;
        /// Temperature Threshold (base 5.27.1.3).
        TEMPERATURE_THRESHOLD = 0x04;
        /// Error Recovery (NVM 4.1.3.2).
        ERROR_RECOVERY = 0x05;
        /// Volatile Write Cache (base 5.27.1.4).
        VOLATILE_WRITE_CACHE = 0x06;
        /// Number of Queues (base 5.27.1.5).
        NUMBER_OF_QUEUES = 0x07;
        /// Interrupt Coalescing (base 5.27.1.6).
        INTERRUPT_COALESCING = 0x08;
        /// Interrupt Vector Configuration (base 5.27.1.7).
        INTERRUPT_VECTOR_CONFIG = 0x09;
        /// Write Atomicity Normal (NVM 4.1.3.3).
        WRITE_ATOMICITY = 0x0a;
        /// Asynchronous Event Configuration (base 5.27.1.8).
        ASYNC_EVENT_CONFIG = 0x0b;
        /// Autonomous Power State Transition (base 5.27.1.9).
        AUTONOMOUS_POWER_STATE = 0x0c;
        /// Host Memory Buffer (base 5.27.1.10).
        HOST_MEMORY_BUFFER = 0x0d;
        /// Timestamp (base 5.27.1.11).
        TIMESTAMP = 0x0e;
        /// Keep Alive Timer (base 5.27.1.12).
        KEEP_ALIVE_TIMER = 0x0f;
        /// Host Controlled Thermal Management (base 5.27.1.13).
        THERMAL_MANAGEMENT = 0x10;
        /// Non-Operational Power State Config (base 5.27.1.14).
        NON_OPERATIONAL_POWER = 0x11;
        /// Host Behavior Support (base 5.27.1.18).
        HOST_BEHAVIOR = 0x16;
        /// I/O Command Set Profile (base 5.27.1.21).
        IO_COMMAND_SET_PROFILE = 0x19;
        /// Software Progress Marker (base 5.27.1.22).
        SOFTWARE_PROGRESS = 0x80;
        /// Host Identifier (base 5.27.1.25).
        HOST_IDENTIFIER = 0x81;
        /// Namespace Write Protection Config (base 5.27.1.28).
        NAMESPACE_WRITE_PROTECT = 0x84;
    }

    /// Select of Get Features (base 5.15, CDW10 bits 8 to 10).
    pub struct FeatureSelect {
        /// Current value.
        CURRENT = 0;
        /// Default value.
        DEFAULT = 1;
        /// Saved value; the default where it cannot be saved.
        SAVED = 2;
        /// Supported capabilities, as [`FeatureCapabilities`].
        SUPPORTED = 3;
    }
}

bitfields! {
    /// CDW10 of Get Features and Set Features (base 5.15 and 5.27).
    pub struct Features10(u32) {
        /// Feature identifier.
        fid, with_fid: 0..8 as u8;
        /// Select, in Get Features.
        sel, with_sel: 8..11 as u8;
        /// Save, in Set Features.
        sv, with_sv: 31..32 as bool;
    }

    /// Dword 0 of Get Features with [`FeatureSelect::SUPPORTED`] (base 5.15).
    pub struct FeatureCapabilities(u32) {
        /// The feature can be saved.
        saveable, with_saveable: 0..1 as bool;
        /// The feature is per namespace.
        namespace_specific, with_namespace_specific: 1..2 as bool;
        /// The feature can be changed.
        changeable, with_changeable: 2..3 as bool;
    }

    /// Arbitration (base 5.27.1.1).
    pub struct Arbitration(u32) {
        /// Arbitration Burst: `1 << ab` commands at a time; 7 is no limit.
        ab, with_ab: 0..3 as u8;
        /// Low priority weight, 0's based.
        lpw, with_lpw: 8..16 as u8;
        /// Medium priority weight, 0's based.
        mpw, with_mpw: 16..24 as u8;
        /// High priority weight, 0's based.
        hpw, with_hpw: 24..32 as u8;
    }

    /// Power Management (base 5.27.1.2).
    pub struct PowerManagement(u32) {
        /// Power state.
        ps, with_ps: 0..5 as u8;
        /// Workload hint.
        wh, with_wh: 5..8 as u8;
    }

    /// Temperature Threshold (base 5.27.1.3).
    pub struct TemperatureThreshold(u32) {
        /// Threshold, in kelvin.
        tmpth, with_tmpth: 0..16 as u16;
        /// Which sensor: 0 is the composite temperature, 0xf all implemented ones.
        tmpsel, with_tmpsel: 16..20 as u8;
        /// 0: over temperature threshold, 1: under temperature threshold.
        thsel, with_thsel: 20..22 as u8;
    }

    /// Error Recovery (NVM 4.1.3.2).
    pub struct ErrorRecovery(u32) {
        /// Time Limited Error Recovery, in units of 100 ms; 0 is no limit.
        tler, with_tler: 0..16 as u16;
        /// Deallocated or Unwritten Logical Block Error Enable.
        dulbe, with_dulbe: 16..17 as bool;
    }

    /// Volatile Write Cache (base 5.27.1.4).
    pub struct VolatileWriteCache(u32) {
        /// Write cache enable.
        wce, with_wce: 0..1 as bool;
    }

    /// Number of Queues: CDW11 and completion dword 0 alike, 0's based (base 5.27.1.5).
    pub struct NumberOfQueues(u32) {
        /// I/O submission queues, 0's based.
        nsq, with_nsq: 0..16 as u16;
        /// I/O completion queues, 0's based.
        ncq, with_ncq: 16..32 as u16;
    }

    /// Interrupt Coalescing (base 5.27.1.6).
    pub struct InterruptCoalescing(u32) {
        /// Aggregation threshold: completions, 0's based.
        thr, with_thr: 0..8 as u8;
        /// Aggregation time, in units of 100 us; 0 is no delay.
        time, with_time: 8..16 as u8;
    }

    /// Interrupt Vector Configuration (base 5.27.1.7).
    pub struct InterruptVectorConfig(u32) {
        /// Interrupt vector.
        iv, with_iv: 0..16 as u16;
        /// Coalescing Disable.
        cd, with_cd: 16..17 as bool;
    }

    /// Write Atomicity Normal (NVM 4.1.3.3).
    pub struct WriteAtomicity(u32) {
        /// Disable Normal: only the power-fail atomicity is asked for.
        dn, with_dn: 0..1 as bool;
    }

    /// Asynchronous Event Configuration (base 5.27.1.8).
    pub struct AsyncEventConfig(u32) {
        /// SMART critical warnings that raise an event, bit for bit as in the log.
        smart, with_smart: 0..8 as u8;
        /// Namespace Attribute Notices.
        namespace, with_namespace: 8..9 as bool;
        /// Firmware Activation Notices.
        firmware, with_firmware: 9..10 as bool;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dwords_lie_where_the_specification_puts_them() {
        assert_eq!(
            Features10(0).with_fid(FeatureId::NUMBER_OF_QUEUES.0).with_sv(true).0,
            1 << 31 | 7
        );
        assert_eq!(Features10(0x0306).sel(), FeatureSelect::SUPPORTED.0);
        assert_eq!(NumberOfQueues(0).with_nsq(3).with_ncq(7).0, 7 << 16 | 3);
        assert_eq!(TemperatureThreshold(0x0010_0157).thsel(), 1);
        assert_eq!(InterruptVectorConfig(0).with_iv(2).with_cd(true).0, 1 << 16 | 2);
    }
}
