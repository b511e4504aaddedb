//! Every status code that the driver or the controller uses, with its name.

use super::status::{Status, sct, statuses};

statuses! {
    // Generic command status (base 3.3.3.2.1.1).
    /// The command completed.
    SUCCESS = (sct::GENERIC, 0x00), "Successful Completion";
    /// A reserved or unsupported opcode.
    INVALID_OPCODE = (sct::GENERIC, 0x01), "Invalid Command Opcode";
    /// A reserved or unsupported value in a field of the command.
    INVALID_FIELD = (sct::GENERIC, 0x02), "Invalid Field in Command";
    /// The identifier of a command that is outstanding on the same queue.
    CID_CONFLICT = (sct::GENERIC, 0x03), "Command ID Conflict";
    /// Moving data or metadata failed.
    DATA_TRANSFER_ERROR = (sct::GENERIC, 0x04), "Data Transfer Error";
    /// Power was about to fail.
    ABORTED_POWER_LOSS = (sct::GENERIC, 0x05), "Commands Aborted due to Power Loss Notification";
    /// An error inside the controller.
    INTERNAL_ERROR = (sct::GENERIC, 0x06), "Internal Error";
    /// An Abort command asked for it.
    ABORT_REQUESTED = (sct::GENERIC, 0x07), "Command Abort Requested";
    /// The submission queue was deleted.
    ABORTED_SQ_DELETION = (sct::GENERIC, 0x08), "Command Aborted due to SQ Deletion";
    /// The other half of a fused operation failed.
    ABORTED_FAILED_FUSED = (sct::GENERIC, 0x09), "Command Aborted due to Failed Fused Command";
    /// The other half of a fused operation was not there.
    ABORTED_MISSING_FUSED = (sct::GENERIC, 0x0a), "Command Aborted due to Missing Fused Command";
    /// No such namespace, or its format is not supported.
    INVALID_NAMESPACE = (sct::GENERIC, 0x0b), "Invalid Namespace or Format";
    /// A protocol violation in the order of commands.
    SEQUENCE_ERROR = (sct::GENERIC, 0x0c), "Command Sequence Error";
    /// An SGL segment with an invalid descriptor.
    INVALID_SGL_SEGMENT = (sct::GENERIC, 0x0d), "Invalid SGL Segment Descriptor";
    /// A wrong number of SGL descriptors.
    INVALID_SGL_COUNT = (sct::GENERIC, 0x0e), "Invalid Number of SGL Descriptors";
    /// A data length that does not fit the command.
    INVALID_DATA_SGL_LENGTH = (sct::GENERIC, 0x0f), "Data SGL Length Invalid";
    /// An SGL descriptor type that is not supported.
    INVALID_SGL_TYPE = (sct::GENERIC, 0x11), "SGL Descriptor Type Invalid";
    /// A PRP entry whose offset breaks the rules of base 4.1.1.
    INVALID_PRP_OFFSET = (sct::GENERIC, 0x13), "PRP Offset Invalid";
    /// More than the namespace's atomic write unit.
    ATOMIC_WRITE_UNIT_EXCEEDED = (sct::GENERIC, 0x14), "Atomic Write Unit Exceeded";
    /// Not allowed to this host.
    OPERATION_DENIED = (sct::GENERIC, 0x15), "Operation Denied";
    /// A sanitize operation failed earlier.
    SANITIZE_FAILED = (sct::GENERIC, 0x1c), "Sanitize Failed";
    /// A sanitize operation is under way.
    SANITIZE_IN_PROGRESS = (sct::GENERIC, 0x1d), "Sanitize In Progress";
    /// The namespace is write protected.
    NAMESPACE_WRITE_PROTECTED = (sct::GENERIC, 0x20), "Namespace is Write Protected";
    /// The command was interrupted and may be tried again.
    COMMAND_INTERRUPTED = (sct::GENERIC, 0x21), "Command Interrupted";
    /// A transient error of the transport.
    TRANSIENT_TRANSPORT_ERROR = (sct::GENERIC, 0x22), "Transient Transport Error";
    /// Lockdown forbids this command.
    PROHIBITED_BY_LOCKDOWN = (sct::GENERIC, 0x23), "Command Prohibited by Command and Feature Lockdown";
    /// The media is not ready yet.
    ADMIN_MEDIA_NOT_READY = (sct::GENERIC, 0x24), "Admin Command Media Not Ready";
    /// Blocks beyond the end of the namespace.
    LBA_OUT_OF_RANGE = (sct::GENERIC, 0x80), "LBA Out of Range";
    /// More than the namespace's capacity.
    CAPACITY_EXCEEDED = (sct::GENERIC, 0x81), "Capacity Exceeded";
    /// The namespace is not ready; it may be later.
    NAMESPACE_NOT_READY = (sct::GENERIC, 0x82), "Namespace Not Ready";
    /// A reservation of another host.
    RESERVATION_CONFLICT = (sct::GENERIC, 0x83), "Reservation Conflict";
    /// A Format NVM of this namespace is under way.
    FORMAT_IN_PROGRESS = (sct::GENERIC, 0x84), "Format In Progress";

    // Command specific status (base 3.3.3.2.1.2).
    /// The completion queue of Create I/O Submission Queue does not exist.
    INVALID_COMPLETION_QUEUE = (sct::COMMAND, 0x00), "Completion Queue Invalid";
    /// A queue identifier that is 0, in use, not in use, or above what there is.
    INVALID_QUEUE_ID = (sct::COMMAND, 0x01), "Invalid Queue Identifier";
    /// A queue size of 0 or above CAP.MQES.
    INVALID_QUEUE_SIZE = (sct::COMMAND, 0x02), "Invalid Queue Size";
    /// More Abort commands than Identify Controller's ACL.
    ABORT_LIMIT_EXCEEDED = (sct::COMMAND, 0x03), "Abort Command Limit Exceeded";
    /// More Asynchronous Event Requests than Identify Controller's AERL.
    ASYNC_EVENT_LIMIT_EXCEEDED = (sct::COMMAND, 0x05), "Asynchronous Event Request Limit Exceeded";
    /// No such firmware slot, or it is read-only.
    INVALID_FIRMWARE_SLOT = (sct::COMMAND, 0x06), "Invalid Firmware Slot";
    /// A firmware image that is not one.
    INVALID_FIRMWARE_IMAGE = (sct::COMMAND, 0x07), "Invalid Firmware Image";
    /// An interrupt vector that the device does not have.
    INVALID_INTERRUPT_VECTOR = (sct::COMMAND, 0x08), "Invalid Interrupt Vector";
    /// A log page that is not supported.
    INVALID_LOG_PAGE = (sct::COMMAND, 0x09), "Invalid Log Page";
    /// An LBA format, metadata or protection setting that is not supported.
    INVALID_FORMAT = (sct::COMMAND, 0x0a), "Invalid Format";
    /// A completion queue that submission queues still use.
    INVALID_QUEUE_DELETION = (sct::COMMAND, 0x0c), "Invalid Queue Deletion";
    /// The feature cannot be saved.
    FEATURE_NOT_SAVEABLE = (sct::COMMAND, 0x0d), "Feature Identifier Not Saveable";
    /// The feature cannot be changed.
    FEATURE_NOT_CHANGEABLE = (sct::COMMAND, 0x0e), "Feature Not Changeable";
    /// A feature of the whole controller, asked for one namespace.
    FEATURE_NOT_NAMESPACE_SPECIFIC = (sct::COMMAND, 0x0f), "Feature Not Namespace Specific";
    /// Firmware ranges overlap.
    OVERLAPPING_RANGE = (sct::COMMAND, 0x14), "Overlapping Range";
    /// The namespace is attached to a controller.
    NAMESPACE_ALREADY_ATTACHED = (sct::COMMAND, 0x18), "Namespace Already Attached";
    /// The namespace is not attached to this controller.
    NAMESPACE_NOT_ATTACHED = (sct::COMMAND, 0x1a), "Namespace Not Attached";
    /// A device self-test is under way.
    SELF_TEST_IN_PROGRESS = (sct::COMMAND, 0x1d), "Device Self-test In Progress";
    /// Boot partition write prohibited.
    BOOT_PARTITION_WRITE_PROHIBITED = (sct::COMMAND, 0x1e), "Boot Partition Write Prohibited";
    /// Identifier of a controller that does not exist.
    INVALID_CONTROLLER_ID = (sct::COMMAND, 0x1f), "Invalid Controller Identifier";
    /// Secondary controller in a wrong state.
    INVALID_SECONDARY_STATE = (sct::COMMAND, 0x20), "Invalid Secondary Controller State";
    /// A wrong number of controller resources.
    INVALID_RESOURCE_COUNT = (sct::COMMAND, 0x21), "Invalid Number of Controller Resources";
    /// An unknown resource.
    INVALID_RESOURCE_ID = (sct::COMMAND, 0x22), "Invalid Resource Identifier";
    /// An I/O command set that is not supported.
    IO_COMMAND_SET_NOT_SUPPORTED = (sct::COMMAND, 0x29), "I/O Command Set Not Supported";
    /// Attributes of an NVM command that contradict each other (NVM 3.1.1).
    CONFLICTING_ATTRIBUTES = (sct::COMMAND, 0x80), "Conflicting Attributes";
    /// Protection information the namespace does not support.
    INVALID_PROTECTION = (sct::COMMAND, 0x81), "Invalid Protection Information";
    /// A write to a read-only range.
    WRITE_TO_READ_ONLY_RANGE = (sct::COMMAND, 0x82), "Attempted Write to Read Only Range";
    /// Larger than a limit of the controller (NVM 3.1.1).
    COMMAND_SIZE_LIMIT = (sct::COMMAND, 0x83), "Command Size Limit Exceeded";

    // Media and data integrity errors (base 3.3.3.2.1.3).
    /// Data could not be written to the medium.
    WRITE_FAULT = (sct::MEDIA, 0x80), "Write Fault";
    /// Data could not be read from the medium.
    UNRECOVERED_READ_ERROR = (sct::MEDIA, 0x81), "Unrecovered Read Error";
    /// End-to-end guard check.
    GUARD_CHECK = (sct::MEDIA, 0x82), "End-to-end Guard Check Error";
    /// End-to-end application tag check.
    APPLICATION_TAG_CHECK = (sct::MEDIA, 0x83), "End-to-end Application Tag Check Error";
    /// End-to-end reference tag check.
    REFERENCE_TAG_CHECK = (sct::MEDIA, 0x84), "End-to-end Reference Tag Check Error";
    /// The data differs.
    COMPARE_FAILURE = (sct::MEDIA, 0x85), "Compare Failure";
    /// Not allowed.
    ACCESS_DENIED = (sct::MEDIA, 0x86), "Access Denied";
    /// Blocks that were never written, or were deallocated.
    DEALLOCATED_BLOCK = (sct::MEDIA, 0x87), "Deallocated or Unwritten Logical Block";

    // Path related status (base 3.3.3.2.1.4).
    /// An error inside the path.
    INTERNAL_PATH_ERROR = (sct::PATH, 0x00), "Internal Path Error";
    /// The host gave up on the command (set by drivers, not by controllers).
    ABORTED_BY_HOST = (sct::PATH, 0x71), "Command Aborted By Host";
}
