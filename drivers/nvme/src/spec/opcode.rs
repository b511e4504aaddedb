//! Command opcodes.

codes! {
    /// Admin commands (base 5, figure "Opcodes for Admin Commands").
    pub struct AdminOpcode {
        /// Delete I/O Submission Queue (base 5.7).
        DELETE_IO_SQ = 0x00;
        /// Create I/O Submission Queue (base 5.5).
        CREATE_IO_SQ = 0x01;
        /// Get Log Page (base 5.16).
        GET_LOG_PAGE = 0x02;
        /// Delete I/O Completion Queue (base 5.6).
        DELETE_IO_CQ = 0x04;
        /// Create I/O Completion Queue (base 5.4).
        CREATE_IO_CQ = 0x05;
        /// Identify (base 5.17).
        IDENTIFY = 0x06;
        /// Abort (base 5.1).
        ABORT = 0x08;
        /// Set Features (base 5.27).
        SET_FEATURES = 0x09;
        /// Get Features (base 5.15).
        GET_FEATURES = 0x0a;
        /// Asynchronous Event Request (base 5.2).
        ASYNC_EVENT_REQUEST = 0x0c;
        /// Namespace Management (base 5.23).
        NAMESPACE_MANAGEMENT = 0x0d;
        /// Firmware Commit (base 5.12).
        FIRMWARE_COMMIT = 0x10;
        /// Firmware Image Download (base 5.13).
        FIRMWARE_DOWNLOAD = 0x11;
        /// Device Self-test (base 5.9).
        DEVICE_SELF_TEST = 0x14;
        /// Namespace Attachment (base 5.22).
        NAMESPACE_ATTACHMENT = 0x15;
        /// Keep Alive (base 5.18).
        KEEP_ALIVE = 0x18;
        /// Virtualization Management (base 5.28).
        VIRTUALIZATION_MANAGEMENT = 0x1c;
        /// Doorbell Buffer Config (base 5.8).
        DOORBELL_BUFFER_CONFIG = 0x7c;
        /// Format NVM (base 5.14).
        FORMAT_NVM = 0x80;
        /// Security Send (base 5.26).
        SECURITY_SEND = 0x81;
        /// Security Receive (base 5.25).
        SECURITY_RECEIVE = 0x82;
        /// Sanitize (base 5.24).
        SANITIZE = 0x84;
    }

    /// I/O commands of the NVM command set (NVM 3.2; Flush: base 7.1).
    pub struct IoOpcode {
        /// Flush (base 7.1).
        FLUSH = 0x00;
        /// Write (NVM 3.2.6).
        WRITE = 0x01;
        /// Read (NVM 3.2.4).
        READ = 0x02;
        /// Write Uncorrectable (NVM 3.2.7).
        WRITE_UNCORRECTABLE = 0x04;
        /// Compare (NVM 3.2.1).
        COMPARE = 0x05;
        /// Write Zeroes (NVM 3.2.8).
        WRITE_ZEROES = 0x08;
        /// Dataset Management (NVM 3.2.3).
        DATASET_MANAGEMENT = 0x09;
        /// Verify (NVM 3.2.5).
        VERIFY = 0x0c;
        /// Copy (NVM 3.2.2).
        COPY = 0x19;
    }
}
