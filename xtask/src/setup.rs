//! The Debian packages that a build, a test or the demo needs: which are missing, and installing exactly those.
//!
//! A thing counts as present if dpkg says so, or if the tool or the library itself is found: a machine that is not a
//! Debian one, or has the library from elsewhere, is fine too.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::exec;

/// What a machine is made ready for; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Purpose {
    /// Build everything and run the demo
    Demo,
    /// Run all tests
    Test,
    /// Run the slower gates and count instructions
    Ci,
    /// Build the virtual lab's own kernel
    Kernel,
}

/// How a package shows without dpkg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// A program of this name, on `PATH` or in the folders of system administration.
    Tool(&'static str),
    /// A library that pkg-config knows by this name.
    Library(&'static str),
}

/// A Debian package.
#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: &'static str,
    probe: Probe,
    /// The first purpose that needs it.
    since: Purpose,
}

/// Every package that any command needs. Why: hwlocality finds hwloc by pkg-config and links libudev; the demo makes and
/// checks an ext4 image; tests count system calls with strace; callgrind counts instructions; libFuzzer is C++; the rest
/// compiles a kernel.
const PACKAGES: [Package; 12] = [
    Package { name: "pkg-config", probe: Probe::Tool("pkg-config"), since: Purpose::Demo },
    Package { name: "libhwloc-dev", probe: Probe::Library("hwloc"), since: Purpose::Demo },
    Package { name: "libudev-dev", probe: Probe::Library("libudev"), since: Purpose::Demo },
    Package { name: "e2fsprogs", probe: Probe::Tool("mkfs.ext4"), since: Purpose::Demo },
    Package { name: "strace", probe: Probe::Tool("strace"), since: Purpose::Test },
    Package { name: "valgrind", probe: Probe::Tool("valgrind"), since: Purpose::Ci },
    Package { name: "g++", probe: Probe::Tool("c++"), since: Purpose::Ci },
    Package { name: "flex", probe: Probe::Tool("flex"), since: Purpose::Kernel },
    Package { name: "bison", probe: Probe::Tool("bison"), since: Purpose::Kernel },
    Package { name: "bc", probe: Probe::Tool("bc"), since: Purpose::Kernel },
    Package { name: "libelf-dev", probe: Probe::Library("libelf"), since: Purpose::Kernel },
    Package { name: "libssl-dev", probe: Probe::Library("libcrypto"), since: Purpose::Kernel },
];

/// How packages can be installed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// apt-get, by ourselves.
    Root,
    /// apt-get, through a sudo that asks for no password.
    Sudo,
    /// There is apt-get, but no right to use it.
    Forbidden,
    /// Not a Debian-like system.
    NoApt,
}

/// Sees to it that everything for `purpose` is installed. Asks nothing, and prints to standard error only.
///
/// # Errors
/// If something is missing and cannot be installed: the message is one line that says what to install.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        eprintln!("every package that is needed is there");
        return Ok(());
    }
    install(&missing, means())?;
    let still = self::missing(purpose);
    if !still.is_empty() {
        bail!("apt-get reported success, but these packages are not there: {}", still.join(" "));
    }
    Ok(())
}

/// The names of the packages for `purpose` that are not there.
fn missing(purpose: Purpose) -> Vec<&'static str> {
    let needed = || PACKAGES.iter().filter(|package| package.since <= purpose);
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Package}\t${db:Status-Status}\n"]);
    query.args(needed().map(|package| package.name));
    // It fails when it does not know one of the names, and still prints the others.
    let listing = exec::ask(&mut query).unwrap_or_default();
    missing_from(needed(), &listing, |probe| found(*probe))
}

/// The packages that neither dpkg's `listing` (lines of "name, tab, status") nor a probe shows.
fn missing_from<'a>(
    needed: impl Iterator<Item = &'a Package>,
    listing: &str,
    found: impl Fn(&Probe) -> bool,
) -> Vec<&'static str> {
    let installed =
        |name: &str| listing.lines().any(|line| line.split_once('\t') == Some((name, "installed")));
    needed
        .filter(|package| !installed(package.name) && !found(&package.probe))
        .map(|package| package.name)
        .collect()
}

/// Looks for the thing itself.
fn found(probe: Probe) -> bool {
    match probe {
        Probe::Tool(name) => find_tool(name).is_some(),
        Probe::Library(name) => exec::succeeds(Command::new("pkg-config").args(["--exists", name])),
    }
}

/// Where a program lies. A user's `PATH` often lacks `/usr/sbin`, where Debian keeps mkfs.
fn find_tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Finds out how packages can be installed here.
fn means() -> Means {
    let is_root = exec::ask(Command::new("id").arg("-u")).is_some_and(|uid| uid.trim_end() == "0");
    if find_tool("apt-get").is_none() {
        Means::NoApt
    } else if is_root {
        Means::Root
    } else if exec::succeeds(Command::new("sudo").args(["-n", "true"])) {
        Means::Sudo
    } else {
        Means::Forbidden
    }
}

/// Installs `missing`, or says in one line why not and what to do.
fn install(missing: &[&str], means: Means) -> Result<()> {
    let names = missing.join(" ");
    match means {
        Means::NoApt => bail!(
            "these Debian packages are missing and there is no apt-get here: install what this system calls {names}"
        ),
        Means::Forbidden => bail!(
            "packages are missing, and installing them takes root or a sudo that asks for no password: \
             run `sudo apt-get install {names}`, or as root the same without sudo"
        ),
        Means::Root | Means::Sudo => {}
    }
    eprintln!("installing {names}");
    // Lists of packages that are new enough are the common case; without lists, or with stale ones, the first try fails.
    let try_now = exec::succeeds(apt_get(means, &["--simulate", "install"]).args(missing))
        && run_install(missing, means).is_ok();
    if try_now {
        return Ok(());
    }
    exec::run_to_stderr(&mut apt_get(means, &["update"]))?;
    run_install(missing, means)
}

fn run_install(missing: &[&str], means: Means) -> Result<()> {
    exec::run_to_stderr(
        apt_get(means, &["--yes", "--no-install-recommends", "install"]).args(missing),
    )
}

/// An apt-get command that asks nothing, and waits at most two minutes for another one to end.
fn apt_get(means: Means, args: &[&str]) -> Command {
    // sudo does not pass the environment on, so `env` sets it behind it.
    let mut command = if means == Means::Sudo {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "env"]);
        sudo
    } else {
        Command::new("env")
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    command.args(["--option", "DPkg::Lock::Timeout=120"]).args(args);
    command.current_dir(Path::new("/"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &Probe) -> bool {
        false
    }

    #[test]
    fn what_dpkg_has_or_a_probe_finds_is_not_missing() {
        let listing = "e2fsprogs\tinstalled\npkg-config\tnot-installed\nstrace\tconfig-files\n";
        let found = |probe: &Probe| *probe == Probe::Library("hwloc");
        assert_eq!(
            missing_from(PACKAGES.iter(), listing, found),
            [
                "pkg-config",
                "libudev-dev",
                "strace",
                "valgrind",
                "g++",
                "flex",
                "bison",
                "bc",
                "libelf-dev",
                "libssl-dev"
            ]
        );
    }

    #[test]
    fn without_dpkg_only_the_probes_count() {
        assert_eq!(missing_from(PACKAGES.iter(), "", |_| true), [""; 0]);
        assert_eq!(missing_from(PACKAGES.iter(), "", nothing).len(), PACKAGES.len());
    }

    #[test]
    fn a_name_that_another_one_begins_with_is_not_taken_for_it() {
        let listing = "strace-dbg\tinstalled\nvalgrind\tinstalled\textra\n";
        let meant = [Purpose::Test, Purpose::Ci];
        let needed = PACKAGES.iter().filter(|package| meant.contains(&package.since));
        assert_eq!(missing_from(needed, listing, nothing), ["strace", "valgrind", "g++"]);
    }

    #[test]
    fn who_may_not_install_is_told_what_to_type() {
        let error = install(&["libhwloc-dev", "strace"], Means::Forbidden).unwrap_err().to_string();
        assert!(error.contains("run `sudo apt-get install libhwloc-dev strace`,"), "{error}");
        assert!(!error.contains('\n') && !error.contains("  "), "{error}");
        let error = install(&["strace"], Means::NoApt).unwrap_err().to_string();
        assert!(error.contains("no apt-get") && error.ends_with("strace"), "{error}");
    }

    #[test]
    fn sudo_is_given_no_chance_to_ask() {
        let command = exec::describe(&apt_get(Means::Sudo, &["update"]));
        assert_eq!(
            command,
            "sudo -n env DEBIAN_FRONTEND=noninteractive apt-get --quiet \
             --option DPkg::Lock::Timeout=120 update"
        );
    }

    #[test]
    fn programs_of_system_administration_are_found_off_the_path() {
        assert_eq!(find_tool("no-such-program-anywhere"), None);
        assert!(find_tool("sh").is_some());
    }
}
