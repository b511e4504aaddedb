//! Asynchronous events (base 5.2.1): what dword 0 of an Asynchronous Event Request's completion says.

bitfields! {
    /// Dword 0 of the completion (base 5.2.1, figure "Asynchronous Event Request - Completion Queue
    /// Entry Dword 0").
    pub struct AsyncEvent(u32) {
        /// Type: see [`kind`].
        kind, with_kind: 0..3 as u8;
        /// Information: see [`error`], [`smart`] and [`notice`].
        info, with_info: 8..16 as u8;
        /// Log page to read; reading it without RAE re-arms this type.
        log_page, with_log_page: 16..24 as u8;
    }
}

/// Event types.
pub mod kind {
    /// Error status.
    pub const ERROR: u8 = 0;
    /// SMART / health status.
    pub const SMART: u8 = 1;
    /// Notice.
    pub const NOTICE: u8 = 2;
    /// Immediate.
    pub const IMMEDIATE: u8 = 3;
    /// I/O command set specific.
    pub const IO_COMMAND_SET: u8 = 6;
    /// Vendor specific.
    pub const VENDOR: u8 = 7;
}

/// Information of [`kind::ERROR`] (base 5.2.1).
pub mod error {
    /// Host wrote the doorbell of a queue that does not exist.
    pub const INVALID_DOORBELL_REGISTER: u8 = 0;
    /// Host wrote an invalid value to a doorbell.
    pub const INVALID_DOORBELL_VALUE: u8 = 1;
    /// A diagnostic failure.
    pub const DIAGNOSTIC_FAILURE: u8 = 2;
    /// A persistent internal error.
    pub const PERSISTENT_INTERNAL: u8 = 3;
    /// A transient internal error.
    pub const TRANSIENT_INTERNAL: u8 = 4;
    /// A firmware image could not be loaded.
    pub const FIRMWARE_LOAD: u8 = 5;
}

/// Information of [`kind::SMART`] (base 5.2.1).
pub mod smart {
    /// The subsystem's reliability is compromised.
    pub const RELIABILITY: u8 = 0;
    /// A temperature crossed a threshold.
    pub const TEMPERATURE: u8 = 1;
    /// Available spare fell below its threshold.
    pub const SPARE: u8 = 2;
}

/// Information of [`kind::NOTICE`] (base 5.2.1).
pub mod notice {
    /// Identify data of a namespace changed, or a namespace came or went.
    pub const NAMESPACE_ATTRIBUTE_CHANGED: u8 = 0;
    /// Firmware activation starts.
    pub const FIRMWARE_ACTIVATION: u8 = 1;
    /// The telemetry log changed.
    pub const TELEMETRY_CHANGED: u8 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let event = AsyncEvent(0).with_kind(kind::NOTICE).with_info(0).with_log_page(4);
        assert_eq!(event.0, 0x0004_0002);
        assert_eq!(AsyncEvent(0x0001_0100).info(), error::INVALID_DOORBELL_VALUE);
    }
}
