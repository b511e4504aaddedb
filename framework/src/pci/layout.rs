//! Offsets and ids of config space (PCI Express base specification 5.0, 7.5; PCI local bus 3.0, 6).

/// Bytes of conventional config space.
pub const CONFIG_SIZE: usize = 256;
/// Bytes of config space with the extended part.
pub const EXTENDED_CONFIG_SIZE: usize = 4096;

/// Vendor id, 16 bits. All ones: nobody is there.
pub const VENDOR_ID: u16 = 0x00;
/// Device id, 16 bits.
pub const DEVICE_ID: u16 = 0x02;
/// Command register, 16 bits.
pub const COMMAND: u16 = 0x04;
/// Status register, 16 bits.
pub const STATUS: u16 = 0x06;
/// Revision id, 8 bits; the class code is the three bytes above it.
pub const REVISION_ID: u16 = 0x08;
/// Header type, 8 bits.
pub const HEADER_TYPE: u16 = 0x0e;
/// Base address register 0; each has 4 bytes.
pub const BAR0: u16 = 0x10;
/// Subsystem vendor id, 16 bits.
pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
/// Subsystem id, 16 bits.
pub const SUBSYSTEM_ID: u16 = 0x2e;
/// Offset of the first capability, 8 bits.
pub const CAPABILITIES_POINTER: u16 = 0x34;
/// Interrupt line, 8 bits.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, 8 bits; 0: none.
pub const INTERRUPT_PIN: u16 = 0x3d;
/// First extended capability.
pub const EXTENDED_CAPABILITIES: u16 = 0x100;

/// [`COMMAND`]: the function answers to its memory BARs.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// [`COMMAND`]: the function may do DMA and send MSI.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// [`COMMAND`]: no INTx.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// [`STATUS`]: there is a list of capabilities.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Capability id: power management.
pub const CAP_POWER_MANAGEMENT: u8 = 0x01;
/// Capability id: MSI.
pub const CAP_MSI: u8 = 0x05;
/// Capability id: PCI Express.
pub const CAP_EXPRESS: u8 = 0x10;
/// Capability id: MSI-X.
pub const CAP_MSIX: u8 = 0x11;
/// Extended capability id: advanced error reporting.
pub const EXT_CAP_AER: u16 = 0x0001;
/// Extended capability id: SR-IOV.
pub const EXT_CAP_SRIOV: u16 = 0x0010;
