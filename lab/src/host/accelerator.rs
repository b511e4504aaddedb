//! Emulation, or the processor's own virtualisation where that works.

use std::fs::OpenOptions;
use std::path::Path;

use crate::error::Result;
use crate::host::kernel::Kernel;
use crate::host::machine::Machine;
use crate::host::qemu::Qemu;
use crate::host::running::{Accelerator, Boot, Guest};

/// Emulation, unless `kvm` asks for more and a guest comes up with it. There are machines that have `/dev/kvm` and on
/// which a guest hangs at its first instruction, so the device file alone says nothing. One line on standard error says
/// what became of the wish.
///
/// # Errors
/// Never for the lack of KVM; reserved for a guest that cannot be started for other reasons.
pub fn choose(
    kvm: bool,
    qemu: &Qemu,
    kernel: Option<&Kernel>,
    programs: &Path,
    logs: &Path,
) -> Result<Accelerator> {
    let Some(kernel) = kernel.filter(|_| kvm) else { return Ok(Accelerator::Tcg) };
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        eprintln!("  /dev/kvm cannot be used ({error}): emulation it is");
        return Ok(Accelerator::Tcg);
    }
    let init = programs.join("lab-guest");
    let console = logs.join("kvm-check.log");
    let accelerator = Accelerator::Kvm;
    let boot = Boot { qemu, kernel, accelerator, init: &init, console: &console };
    match Guest::boot(&Machine::new("kvm-check"), &boot) {
        Ok(_) => Ok(Accelerator::Kvm),
        Err(error) => {
            eprintln!("  a guest does not come up with KVM, so emulation it is: {error}");
            Ok(Accelerator::Tcg)
        }
    }
}
