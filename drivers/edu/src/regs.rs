//! The registers in BAR 0, as a table (edu, "MMIO area spec").
//!
//! Below 0x80 the device takes accesses of 4 bytes only, from there on of 4 or 8. All of them are of
//! 4 bytes here: the device sends 28 bits of an address, and a bus may take 8 bytes apart.

doorbell::registers! {
    /// BAR 0 of the device, 1 MiB.
    pub block Registers;

    /// Identification.
    id @ 0x00: u32, ro, never_ones => Id {
        /// Major version.
        major: 31:24,
        /// Minor version.
        minor: 23:16,
        /// 00edh.
        signature: 15:0,
    }
    /// Liveness check: reads as the inverse of what was written.
    liveness @ 0x04: u32, rw => Liveness {}
    /// A number is written, its factorial is read once the device no longer computes.
    factorial @ 0x08: u32, rw => Factorial {}
    /// Status.
    status @ 0x20: u32, rw, never_ones => Status {
        /// A factorial is being computed (read only).
        computing: 0,
        /// Interrupt when a factorial is done.
        interrupt | with_interrupt: 7,
    }
    /// Interrupt status: what the device interrupted for and nobody has acknowledged.
    pending @ 0x24: u32, ro, never_ones => Pending {}
    /// Raises an interrupt: these bits become pending.
    raise @ 0x60: u32, wo => Raise {}
    /// Acknowledges interrupts: these bits are pending no longer.
    acknowledge @ 0x64: u32, wo => Acknowledge {}
    /// DMA source address.
    source @ 0x80: u32, rw => Source {}
    /// DMA destination address.
    destination @ 0x88: u32, rw => Destination {}
    /// DMA transfer count, in bytes.
    count @ 0x90: u32, rw => Count {}
    /// DMA command.
    command @ 0x98: u32, rw, never_ones => Command {
        /// Starts a transfer; reads as 1 until it is done.
        run | with_run: 0,
        /// From the device's buffer to memory, instead of the other way.
        out | with_out: 1,
        /// Interrupt when it is done.
        interrupt | with_interrupt: 2,
    }
}

/// Pending once a factorial is done.
pub const FACTORIAL_DONE: u32 = 1;

/// Pending once a DMA transfer is done.
pub const DMA_DONE: u32 = 0x100;

/// Where the buffer lies in the DMA engine's own address space.
pub const BUFFER_ADDRESS: u32 = 0x4_0000;
