//! What of the machine matters for a figure. No names of hosts, users or paths.

use std::fs;

use serde::{Deserialize, Serialize};

/// The machine of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model, as the kernel calls it.
    pub cpu: String,
    /// Logical cores that are online.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The frequency governor of the first core; empty where the kernel does not scale.
    pub governor: String,
    /// True if the kernel says that it runs on a hypervisor.
    pub is_virtual: bool,
}

impl Machine {
    /// This machine. What it does not tell is empty.
    #[must_use]
    pub fn this() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = info.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let flags = field("flags").unwrap_or_default();
        let governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
        Self {
            cpu: field("model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            governor: fs::read_to_string(governor).unwrap_or_default().trim().to_owned(),
            is_virtual: flags.split(' ').any(|flag| flag == "hypervisor"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_core_and_a_kernel() {
        let machine = Machine::this();
        assert!(machine.cores > 0 && !machine.kernel.is_empty());
    }
}
