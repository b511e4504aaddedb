//! Debian packages without installing them: fetched by apt-get, unpacked by dpkg into a folder of our own.
//!
//! No root is needed. The system's own package lists serve if they are there; else lists of our own are fetched into the
//! cache folder.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{LabError, Result, failed, unavailable};
use crate::host::cache;
use crate::host::process::{self, Ended, find_program};
use crate::host::scratch::Scratch;

/// Fetching is the one thing here that depends on a network; a slow one gets this long for each step.
const FETCH_LIMIT: Duration = Duration::from_secs(900);

/// Where packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// The release that this machine runs, with what is installed here left out: for programs that use the libraries of
    /// this machine.
    ThisMachine,
    /// Debian 13 with its backports, whatever this machine runs, with every dependency down to the C library: for
    /// programs that are run by a dynamic linker of their own.
    TrixieBackports,
}

/// The mirror network of Debian, and the keys that sign its releases (package debian-archive-keyring).
const TRIXIE_SOURCES: &str = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie-backports main
";

impl Suite {
    /// Folder of our own lists and settings, in the cache.
    fn state(self) -> Result<PathBuf> {
        let name = match self {
            Self::ThisMachine => "apt",
            Self::TrixieBackports => "apt-trixie-backports",
        };
        let state = cache::folder()?.join(name);
        for folder in ["lists/partial", "archives/partial"] {
            let folder = state.join(folder);
            fs::create_dir_all(&folder)
                .map_err(|error| LabError::file("make the folder", &folder, error))?;
        }
        Ok(state)
    }

    /// The options that make apt-get use that folder.
    fn options(self) -> Result<Vec<OsString>> {
        let state = self.state()?;
        let mut options = Vec::new();
        let mut set = |name: &str, value: &Path| {
            let mut option = OsString::from(format!("{name}="));
            option.push(value);
            options.extend(["-o".into(), option]);
        };
        set("Dir::State::Lists", &state.join("lists"));
        set("Dir::Cache", &state);
        if self == Self::TrixieBackports {
            let (sources, status) = (state.join("sources.list"), state.join("status"));
            for (file, text) in [(&sources, TRIXIE_SOURCES), (&status, "")] {
                fs::write(file, text).map_err(|error| LabError::file("write", file, error))?;
            }
            set("Dir::Etc::SourceList", &sources);
            set("Dir::Etc::SourceParts", Path::new("/dev/null"));
            set("Dir::State::Status", &status);
        }
        Ok(options)
    }
}

/// A view of package lists.
#[derive(Debug)]
pub struct Apt {
    suite: Suite,
    options: Vec<OsString>,
}

impl Apt {
    /// Package lists in which `package` can be found: the system's where they serve, else our own, fetched now.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] if this is no Debian, or the lists cannot be fetched.
    pub fn with(suite: Suite, package: &str) -> Result<Self> {
        for tool in ["apt-get", "dpkg-deb"] {
            if find_program(tool).is_none() {
                return unavailable(format!(
                    "{package} is not here, and there is no {tool} to get it with"
                ));
            }
        }
        let system = Self { suite, options: Vec::new() };
        if suite == Suite::ThisMachine && system.closure(package).is_ok() {
            return Ok(system);
        }
        let own = Self { suite, options: suite.options()? };
        if own.closure(package).is_ok() {
            return Ok(own);
        }
        // A source that cannot be reached need not be the one that has the package: what counts is the closure.
        let update = own.apt_get(&["update".into()])?;
        own.closure(package).map(|_| ()).map_err(|_| {
            LabError::Unavailable(format!(
                "package {package} cannot be found, is there a network? (apt-get update: {})",
                update.complaint()
            ))
        })?;
        Ok(own)
    }

    /// `NAME=VERSION` of everything that installing `package` would install.
    fn closure(&self, package: &str) -> Result<Vec<String>> {
        let mut arguments: Vec<OsString> = vec!["install".into(), "--simulate".into()];
        if self.suite == Suite::TrixieBackports {
            arguments.push("--target-release=trixie-backports".into());
        }
        arguments.extend(["--no-install-recommends".into(), package.into()]);
        let ended = self.apt_get(&arguments)?;
        let packages = installed_by(&ended.out);
        if !ended.status.success() || packages.is_empty() {
            return unavailable(format!("apt-get cannot install {package}: {}", ended.complaint()));
        }
        Ok(packages)
    }

    /// Unpacks into `folder` everything that installing `package` would install and `wanted` (given the name) picks.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] if it cannot be fetched.
    pub fn unpack(
        &self,
        package: &str,
        wanted: impl Fn(&str) -> bool,
        folder: &Path,
        files: &[&str],
    ) -> Result<()> {
        let all = self.closure(package)?;
        let chosen: Vec<_> =
            all.iter().filter(|one| wanted(one.split('=').next().unwrap_or(one))).collect();
        if chosen.is_empty() {
            return failed(format!("apt-get installs nothing for {package} that is of use here"));
        }
        let downloads = Scratch::new(".unfinished-", Some(&self.suite.state()?))?;
        let mut command = self.command(&["download".into()]);
        command.args(chosen).current_dir(downloads.path());
        let ended = process::run(&mut command, FETCH_LIMIT)?;
        if !ended.status.success() {
            return unavailable(format!(
                "the packages of {package} cannot be fetched: {}",
                ended.complaint()
            ));
        }
        let entries = fs::read_dir(downloads.path())
            .map_err(|error| LabError::file("read", downloads.path(), error))?;
        for entry in entries.flatten() {
            unpack_one(&entry.path(), folder, files)?;
        }
        Ok(())
    }

    fn apt_get(&self, arguments: &[OsString]) -> Result<Ended> {
        process::run(&mut self.command(arguments), FETCH_LIMIT)
    }

    fn command(&self, arguments: &[OsString]) -> Command {
        let mut command = process::with_parent("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").arg("--quiet");
        // The user `_apt` can seldom write to our folders, and apt-get then says so at length.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command.args(["-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30"]);
        command.args(&self.options).args(arguments);
        command
    }
}

/// The packages in what `apt-get --simulate install` prints: lines of `Inst NAME [OLD] (VERSION ORIGIN [ARCH])`.
fn installed_by(simulation: &str) -> Vec<String> {
    let package = |line: &str| {
        let rest = line.strip_prefix("Inst ")?;
        let name = rest.split(' ').next()?;
        let version = rest.split_once('(')?.1.split([' ', ')']).next()?;
        Some(format!("{name}={version}"))
    };
    simulation.lines().filter_map(package).collect()
}

/// Unpacks a package; if `files` has any, only these (patterns of tar).
fn unpack_one(package: &Path, folder: &Path, files: &[&str]) -> Result<()> {
    let mut command = if files.is_empty() {
        let mut command = process::with_parent("dpkg-deb");
        command.arg("--extract").arg(package).arg(folder);
        command
    } else {
        let mut command = process::with_parent("sh");
        command.args([
            "-c",
            r#"dpkg-deb --fsys-tarfile "$1" | { d=$2; shift 2; tar -x -C "$d" --wildcards "$@"; }"#,
            "sh",
        ]);
        command.arg(package).arg(folder).args(files);
        command
    };
    let ended = process::run(&mut command, FETCH_LIMIT)?;
    // tar complains about a pattern that matches nothing; what has to be there its user looks for.
    if !ended.status.success() && files.is_empty() {
        return failed(format!("{} cannot be unpacked: {}", package.display(), ended.complaint()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_names_packages_and_versions() {
        let simulation = "Reading package lists...\nInst libfdt1 (1.6.1-4+b1 Debian:12.5/stable [amd64])\n\
            Inst qemu-system-common [1:7.0] (1:7.2+dfsg-7 Debian:12.5/stable [amd64])\nConf libfdt1 (1.6.1-4+b1 x)\n";
        assert_eq!(
            installed_by(simulation),
            ["libfdt1=1.6.1-4+b1", "qemu-system-common=1:7.2+dfsg-7"]
        );
        assert!(installed_by("Inst broken\nInst\n").is_empty());
    }
}
