//! QEMU: one that is installed, or Debian's, unpacked into the cache folder.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{LabError, Result, failed};
use crate::host::cache;
use crate::host::debian::{Apt, Suite};
use crate::host::process::{self, find_program};

/// What a use of QEMU needs of it.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// The lowest version, major and minor.
    pub version: (u32, u32),
    /// Devices that it must be able to emulate.
    pub devices: &'static [&'static str],
    /// Whose package has all that, if none that is installed does.
    pub suite: Suite,
}

/// For the guests of the lab's plan: virtual functions came with 7.1.
pub const LAB: Needs = Needs {
    version: (7, 1),
    devices: &[
        "intel-iommu",
        "virtio-iommu-pci",
        "nvme",
        "nvme-subsys",
        "edu",
        "virtio-9p-pci",
        "pxb-pcie",
    ],
    suite: Suite::ThisMachine,
};

/// For a guest that drives a vfio-user server: the client device came with 10.1.
pub const VFIO_USER: Needs = Needs {
    version: (10, 1),
    devices: &["vfio-user-pci", "intel-iommu", "virtio-9p-pci"],
    suite: Suite::TrixieBackports,
};

const PROGRAM: &str = "qemu-system-x86_64";

/// It prints its version or a list and ends; emulating a start on a busy machine takes longer than one expects.
const ASK_LIMIT: Duration = Duration::from_secs(60);

/// A QEMU that can be started.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// The program, and what has to come before the machine's arguments.
    words: Vec<OsString>,
    /// Where its libraries are, if not where the system keeps them.
    libraries: Option<OsString>,
    version: (u32, u32),
}

impl Qemu {
    /// A QEMU that has what is needed. Says on standard error when it has to fetch one.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] if there is none and none can be fetched.
    pub fn find(needs: &Needs) -> Result<Self> {
        if let Some(program) = find_program(PROGRAM) {
            let installed = Self::ask(vec![program.into()], None);
            if let Ok(qemu) = installed.and_then(|qemu| qemu.checked(needs)) {
                return Ok(qemu);
            }
        }
        let folder = match needs.suite {
            Suite::ThisMachine => cache::folder()?.join("qemu"),
            Suite::TrixieBackports => cache::folder()?.join("qemu-trixie-backports"),
        };
        cache::keep(&folder, |folder| fetch(needs.suite, folder))?;
        Self::unpacked(needs.suite, &folder)?.checked(needs).map_err(|error| {
            LabError::Unavailable(format!("{error}; delete {} to fetch it anew", folder.display()))
        })
    }

    /// The one that was unpacked into `folder`.
    fn unpacked(suite: Suite, folder: &Path) -> Result<Self> {
        let mut libraries = OsString::new();
        for place in [
            "usr/lib/x86_64-linux-gnu",
            "lib/x86_64-linux-gnu",
            "usr/lib/x86_64-linux-gnu/pulseaudio",
        ] {
            if !libraries.is_empty() {
                libraries.push(":");
            }
            libraries.push(folder.join(place));
        }
        let program = folder.join("usr/bin").join(PROGRAM);
        let (mut words, libraries): (Vec<OsString>, _) = match suite {
            Suite::ThisMachine => (vec![program.into()], Some(libraries)),
            // Libraries of another release need the dynamic linker of that release.
            Suite::TrixieBackports => {
                let linker = folder.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
                (vec![linker.into(), "--library-path".into(), libraries, program.into()], None)
            }
        };
        for place in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            words.extend(["-L".into(), folder.join(place).into()]);
        }
        Self::ask(words, libraries)
    }

    /// Asks a program for its version.
    fn ask(words: Vec<OsString>, libraries: Option<OsString>) -> Result<Self> {
        let mut qemu = Self { words, libraries, version: (0, 0) };
        let ended = process::run(qemu.command().arg("--version"), ASK_LIMIT)?;
        match version_in(&ended.out) {
            Some(version) => qemu.version = version,
            None => return failed(format!("{PROGRAM} does not run: {}", ended.complaint())),
        }
        Ok(qemu)
    }

    /// Itself, if it has what is needed.
    fn checked(self, needs: &Needs) -> Result<Self> {
        let (major, minor) = self.version;
        if self.version < needs.version {
            return failed(format!(
                "QEMU {major}.{minor} is older than the {}.{} that is needed",
                needs.version.0, needs.version.1
            ));
        }
        let listing = process::run(self.command().args(["-device", "help"]), ASK_LIMIT)?.out;
        let missing = |device: &&&str| !listing.contains(&format!("name \"{device}\""));
        match needs.devices.iter().find(missing) {
            Some(device) => failed(format!("QEMU {major}.{minor} has no device {device}")),
            None => Ok(self),
        }
    }

    /// A command to which the machine's arguments can be added. It ends with this thread.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut words = self.words.iter();
        let mut command =
            process::with_parent(words.next().map_or(OsStr::new(PROGRAM), |word| word));
        command.args(words);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Major and minor version.
    #[must_use]
    pub fn version(&self) -> (u32, u32) {
        self.version
    }
}

/// Unpacks Debian's QEMU.
fn fetch(suite: Suite, folder: &Path) -> Result<()> {
    eprintln!("  fetching QEMU from Debian's packages into {} (once)", kept_as(suite));
    Apt::with(suite, "qemu-system-x86")?.unpack("qemu-system-x86", |_| true, folder, &[])
}

fn kept_as(suite: Suite) -> String {
    let folder = cache::folder().unwrap_or_else(|_| PathBuf::from("the cache folder"));
    match suite {
        Suite::ThisMachine => folder.display().to_string(),
        Suite::TrixieBackports => format!("{} (from trixie-backports)", folder.display()),
    }
}

/// The version in what `--version` prints: "QEMU emulator version 7.2.22 (Debian ...)".
fn version_in(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split("version ").nth(1)?.split(['.', ' ', '\n']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(
            version_in("QEMU emulator version 7.2.22 (Debian 1:7.2)\nCopyright"),
            Some((7, 2))
        );
        assert_eq!(version_in("QEMU emulator version 11.1.3\n"), Some((11, 1)));
        for strange in ["", "QEMU", "QEMU emulator version x", "version 7"] {
            assert_eq!(version_in(strange), None, "{strange}");
        }
    }
}
