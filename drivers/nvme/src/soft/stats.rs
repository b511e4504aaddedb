//! What the SMART log counts (base 5.16.1.3).

use std::time::Instant;

use crate::spec::SmartLog;
use crate::spec::log::wide;

/// The composite temperature that is reported, in kelvin: 30 degrees Celsius.
pub(crate) const TEMPERATURE: u16 = 303;

/// Counters of one controller.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) media_errors: u64,
    since: Instant,
}

impl Stats {
    pub(crate) fn new() -> Self {
        let since = Instant::now();
        Self { bytes_read: 0, bytes_written: 0, reads: 0, writes: 0, media_errors: 0, since }
    }

    /// Bytes read and written.
    #[inline]
    pub(crate) fn moved(&self) -> u64 {
        self.bytes_read.wrapping_add(self.bytes_written)
    }

    /// The log page.
    pub(crate) fn page(&self, critical_warning: u8, errors: u64) -> SmartLog {
        // Thousands of 512 bytes, rounded up.
        let units = |bytes: u64| wide(u128::from(bytes.div_ceil(512_000)));
        SmartLog {
            critical_warning,
            temperature: TEMPERATURE.to_le_bytes(),
            available_spare: 100,
            spare_threshold: 10,
            data_units_read: units(self.bytes_read),
            data_units_written: units(self.bytes_written),
            host_reads: wide(self.reads.into()),
            host_writes: wide(self.writes.into()),
            power_cycles: wide(1),
            power_on_hours: wide((self.since.elapsed().as_secs() / 3600).into()),
            media_errors: wide(self.media_errors.into()),
            error_entries: wide(errors.into()),
            ..bytemuck::Zeroable::zeroed()
        }
    }
}
