//! [`Move`]: giving a function to vfio-pci, and back to the kernel's own driver.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::Roots;
use super::error::SysfsError;
use super::function::Function;
use super::processes::vfio_holders;
use super::read::printable;
use super::undo;
use super::uses::{Use, Uses};
use crate::pci::Address;

/// The driver that hands functions to user space.
pub const VFIO_PCI: &str = "vfio-pci";

/// The longest that a driver may take to let go of a function, or to take it. NVMe's own limits are
/// below that (CAP.TO is at most 127.5 s).
const PATIENCE: Duration = Duration::from_secs(150);

/// Which way a function goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// To vfio-pci.
    Bind,
    /// To whichever driver the kernel chooses.
    Unbind,
}

/// One file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The file.
    pub path: PathBuf,
    /// What is written, without a line break.
    pub text: String,
}

impl fmt::Display for Step {
    /// As a shell would do it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "echo {} > {}",
            if self.text.is_empty() { "''" } else { &self.text },
            self.path.display()
        )
    }
}

/// Who carries out the steps: the kernel, or in tests something that acts like it.
pub trait Kernel {
    /// Writes a text, in one call, to a file that is there.
    ///
    /// # Errors
    /// The kernel's, or that it took too long.
    fn write(&mut self, path: &Path, text: &str) -> io::Result<()>;
}

/// The running kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemKernel;

impl Kernel for SystemKernel {
    fn write(&mut self, path: &Path, text: &str) -> io::Result<()> {
        let (path, text) = (path.to_owned(), format!("{text}\n"));
        let (done, ended) = channel();
        // A driver whose device hangs keeps the writer asleep: that thread is left behind.
        std::thread::spawn(move || {
            let file = OpenOptions::new().write(true).open(&path);
            // Nobody listens any more if it took too long.
            let _ = done.send(file.and_then(|mut file| file.write_all(text.as_bytes())));
        });
        ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the kernel has not finished after {seconds} s; its log says more"),
            ))
        })
    }
}

/// A function cannot change its driver, or did not.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// Something cannot be read.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// A bridge stays with the kernel.
    #[error("{0} is a bridge: the devices behind it need it, and VFIO drives none")]
    Bridge(Address),
    /// Something uses the function.
    #[error("{address} is in use: {}; nothing was changed", list(uses))]
    InUse {
        /// The function.
        address: Address,
        /// What uses it.
        uses: Vec<Use>,
    },
    /// Whether something uses the function cannot be seen.
    #[error("{address}: cannot see {}; run this as root", what.join("; nor "))]
    Unseen {
        /// The function.
        address: Address,
        /// What cannot be seen.
        what: Vec<String>,
    },
    /// A process holds the function through VFIO: the kernel would wait for its end.
    #[error(
        "{address} is held by process {pid} ({program}), which has /dev/{node} open; end it first"
    )]
    Held {
        /// The function.
        address: Address,
        /// The process.
        pid: u32,
        /// Its name.
        program: String,
        /// What it has open.
        node: String,
    },
    /// vfio-pci is not there.
    #[error("{address}: the driver vfio-pci is not loaded; load it with `modprobe vfio-pci`")]
    NoVfioPci {
        /// The function.
        address: Address,
    },
    /// Without an IOMMU vfio-pci refuses. In its no-IOMMU mode it would not, but nothing would keep the
    /// device from any memory: no bus of this framework drives it then.
    #[error(
        "{0} is in no IOMMU group, so it cannot be handed out: the IOMMU is off; `doorbell check` \
         says how to turn it on"
    )]
    NoIommu(Address),
    /// A step failed, or the function is not where it was to go.
    #[error("{address}: {what}; {restored}")]
    Failed {
        /// The function.
        address: Address,
        /// What failed.
        what: String,
        /// Where the function is now.
        restored: String,
    },
}

/// Uses as one line; the first few of many.
fn list(uses: &[Use]) -> String {
    const SHOWN: usize = 4;
    let mut words: Vec<_> = uses.iter().take(SHOWN).map(ToString::to_string).collect();
    if uses.len() > SHOWN {
        words.push(format!("and {} more", uses.len() - SHOWN));
    }
    words.join(", ")
}

/// A change of driver that was checked and can be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The function as it is.
    pub function: Function,
    /// Which way.
    pub change: Change,
    /// What is done, in order; nothing if the function is there already.
    pub steps: Vec<Step>,
    /// What could not be looked at. A move with such gaps is refused unless it is forced.
    pub unseen: Vec<String>,
}

/// Where a function is after a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The function as it is now.
    pub function: Function,
    /// False if nothing had to be done.
    pub changed: bool,
}

impl Move {
    /// Checks whether a function can be given to vfio-pci. `force` lets processes that have a
    /// device node open lose it, and accepts what cannot be seen; nothing else.
    ///
    /// # Errors
    /// [`MoveError`]: why not.
    pub fn bind(roots: &Roots, address: Address, force: bool) -> Result<Self, MoveError> {
        let function = Function::read(roots, address)?;
        if function.is_bridge() {
            return Err(MoveError::Bridge(address));
        }
        if function.driver.as_deref() == Some(VFIO_PCI) {
            return Ok(Self {
                function,
                change: Change::Bind,
                steps: Vec::new(),
                unseen: Vec::new(),
            });
        }
        if !roots.sys.join("bus/pci/drivers").join(VFIO_PCI).is_dir() {
            return Err(MoveError::NoVfioPci { address });
        }
        if function.group.is_none() {
            return Err(MoveError::NoIommu(address));
        }
        let uses = Uses::find(roots, &function)?;
        let forbidding: Vec<Use> = uses.forbidding(force).into_iter().cloned().collect();
        if !forbidding.is_empty() {
            return Err(MoveError::InUse { address, uses: forbidding });
        }
        let steps = steps(roots, &function, VFIO_PCI);
        let unseen = if force { Vec::new() } else { uses.unseen };
        Ok(Self { function, change: Change::Bind, steps, unseen })
    }

    /// Checks whether a function can be given back to the kernel's own driver.
    ///
    /// # Errors
    /// [`MoveError`]: why not.
    pub fn unbind(roots: &Roots, address: Address) -> Result<Self, MoveError> {
        let function = Function::read(roots, address)?;
        let (ours, pinned) = (function.driver.as_deref(), function.driver_override.as_deref());
        let there = ours != Some(VFIO_PCI) && pinned != Some(VFIO_PCI);
        if there {
            return Ok(Self {
                function,
                change: Change::Unbind,
                steps: Vec::new(),
                unseen: Vec::new(),
            });
        }
        if let Some(sriov) = function.sriov.as_ref().filter(|sriov| sriov.enabled > 0) {
            let uses = vec![Use::VirtualFunctions { enabled: sriov.enabled }];
            return Err(MoveError::InUse { address, uses });
        }
        let mut unseen = Vec::new();
        if ours == Some(VFIO_PCI) {
            let scan = vfio_holders(roots, &function);
            if let Some(holder) = scan.openers.into_iter().next() {
                let (pid, program, node) = (holder.pid, holder.program, holder.node);
                return Err(MoveError::Held { address, pid, program, node });
            }
            if scan.unseen > 0 {
                unseen.push(format!("the open files of {} processes of other users", scan.unseen));
            }
        }
        let steps = steps(roots, &function, "");
        Ok(Self { function, change: Change::Unbind, steps, unseen })
    }

    /// Carries it out and looks whether the function is where it was to go. If a step fails, or it
    /// is not, the function goes back to where it was.
    ///
    /// # Errors
    /// [`MoveError::Unseen`] before anything was changed; [`MoveError::Failed`].
    pub fn carry_out(&self, roots: &Roots, kernel: &mut dyn Kernel) -> Result<Outcome, MoveError> {
        let address = self.function.address;
        if !self.unseen.is_empty() {
            return Err(MoveError::Unseen { address, what: self.unseen.clone() });
        }
        let failed = |what: String, kernel: &mut dyn Kernel| {
            let restored = undo::put_back(roots, &self.function, kernel);
            MoveError::Failed { address, what, restored }
        };
        for step in &self.steps {
            if let Err(error) = kernel.write(&step.path, &step.text) {
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied => " (run this as root)",
                    _ => "",
                };
                let path = step.path.display();
                return Err(failed(format!("writing {path} failed: {error}{hint}"), kernel));
            }
        }
        let now = Function::read(roots, address)?;
        match self.wrong(&now) {
            Some(why) => Err(failed(why, kernel)),
            None => Ok(Outcome { function: now, changed: !self.steps.is_empty() }),
        }
    }

    /// What is wrong with where the function is now.
    fn wrong(&self, now: &Function) -> Option<String> {
        let driver = now.driver.as_deref();
        match self.change {
            Change::Bind if driver == Some(VFIO_PCI) => None,
            Change::Bind => Some(format!(
                "vfio-pci did not take it ({} has it); the kernel's log says why",
                printable(now.driver_name())
            )),
            Change::Unbind if driver != Some(VFIO_PCI) => None,
            Change::Unbind => Some(
                "vfio-pci took it again: its id is in a `vfio-pci.ids=` option or in new_id"
                    .to_owned(),
            ),
        }
    }
}

/// Restrict who may bind, take the function from its driver, and have the kernel look for one.
fn steps(roots: &Roots, function: &Function, only: &str) -> Vec<Step> {
    let folder = roots.function(function.address);
    let address = function.address.to_string();
    let mut steps = vec![Step { path: folder.join("driver_override"), text: only.to_owned() }];
    if function.driver.is_some() {
        steps.push(Step { path: folder.join("driver/unbind"), text: address.clone() });
    }
    steps.push(Step { path: roots.sys.join("bus/pci/drivers_probe"), text: address });
    steps
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
