//! A kernel with everything built in, from Debian's kernel source: fetched, configured and compiled once, in the cache
//! folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{LabError, Result, failed, unavailable};
use crate::host::debian::{Apt, Suite};
use crate::host::kernel::{Kernel, VARIABLE};
use crate::host::{cache, process};

mod config;
mod make;

/// The package that depends on the newest kernel source of its release. That of older releases has no iommufd.
const PACKAGE: &str = "linux-source";

/// What compiling a kernel takes: a program, or a header of a library, and the package that has it.
const TOOLS: [(&str, &str); 7] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("/usr/include/libelf.h", "libelf-dev"),
    ("/usr/include/openssl/opensslv.h", "libssl-dev"),
];

/// Unpacking a kernel's source, and making its configuration, on a busy machine.
const STEP_LIMIT: Duration = Duration::from_secs(1800);

/// The kernel that `fragment` describes: the one that was built before, or one that is built now.
///
/// # Errors
/// [`LabError::Unavailable`] if the source cannot be fetched or tools to compile it are missing.
pub fn built(fragment: &Path) -> Result<Kernel> {
    let text =
        fs::read_to_string(fragment).map_err(|error| LabError::file("read", fragment, error))?;
    let place = Place { cache: cache::folder()?, key: key(&text) };
    if let Some(folder) = place.built() {
        return Kernel::built_in(folder.join("bzImage"));
    }
    let missing = missing_tools();
    if !missing.is_empty() {
        return unavailable(format!(
            "no kernel with iommufd was named by {VARIABLE}, and building one needs the packages {}: \
             `cargo xtask setup --for kernel` installs them",
            missing.join(", ")
        ));
    }
    let source = source(&place)?;
    let output = place.output();
    configure(&source, &output, fragment, &text)?;
    make::compile(&source, &output)?;
    let version = name(&source).trim_start_matches("linux-source-").to_owned();
    let kept = place.kernel(&version);
    cache::keep(&kept, |work| {
        let (from, to) = (output.join("arch/x86/boot/bzImage"), work.join("bzImage"));
        fs::copy(&from, &to).map(|_| ()).map_err(|error| LabError::file("copy", &from, error))
    })?;
    let kernel = Kernel::built_in(kept.join("bzImage"))?;
    for folder in [&output, &place.source()] {
        // Gigabytes that nobody needs any more; if they cannot be removed they are only that.
        let _ = fs::remove_dir_all(folder);
    }
    Ok(kernel)
}

/// Where things lie in the cache.
#[derive(Debug)]
struct Place {
    cache: PathBuf,
    key: String,
}

impl Place {
    /// The unpacked source; whichever kernel comes of it.
    fn source(&self) -> PathBuf {
        self.cache.join(PACKAGE)
    }

    /// What the compiler makes. An interrupted build goes on here.
    fn output(&self) -> PathBuf {
        self.cache.join(format!("kernel-objects-{}", self.key))
    }

    fn kernel(&self, version: &str) -> PathBuf {
        self.cache.join(format!("kernel-{}-{version}", self.key))
    }

    /// The kernel of the newest version that was built of this configuration.
    fn built(&self) -> Option<PathBuf> {
        let prefix = name(&self.kernel(""));
        let entries = fs::read_dir(&self.cache).ok()?.flatten().map(|entry| entry.path());
        entries.filter(|path| name(path).starts_with(&prefix)).max()
    }
}

/// A name for a configuration (FNV-1a, 64 bits).
fn key(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn missing_tools() -> Vec<&'static str> {
    let missing = |tool: &str| match tool.starts_with('/') {
        true => !Path::new(tool).is_file(),
        false => process::find_program(tool).is_none(),
    };
    TOOLS.iter().filter(|(tool, _)| missing(tool)).map(|(_, package)| *package).collect()
}

/// The folder with the unpacked source, fetched unless it is there.
fn source(place: &Place) -> Result<PathBuf> {
    let kept = place.source();
    cache::keep(&kept, |work| {
        eprintln!("  fetching Debian's kernel source into {} (once)", kept.display());
        let is_source = |name: &str| {
            name.strip_prefix("linux-source-")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let package = work.join("package");
        Apt::with(Suite::TrixieBackports, PACKAGE)?.unpack(PACKAGE, is_source, &package, &[])?;
        let archives = package.join("usr/src");
        let Some(archive) = the_one(&archives, ".tar.xz") else {
            return failed(format!("Debian's package has no archive in {}", archives.display()));
        };
        eprintln!("  unpacking {}", name(&archive));
        let mut tar = process::with_parent("tar");
        tar.arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(work);
        done(&mut tar, "unpacking the kernel's source")?;
        fs::remove_dir_all(&package).map_err(|error| LabError::file("remove", &package, error))
    })?;
    the_one(&kept, "").map_or_else(
        || failed(format!("no source was unpacked; delete {} to fetch it anew", kept.display())),
        Ok,
    )
}

/// The entry of a folder whose name ends so.
fn the_one(folder: &Path, end: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries
        .filter(|path| name(path).starts_with("linux-source-") && name(path).ends_with(end))
        .max()
}

/// Makes the configuration: nothing but what the fragment wants and what that depends on.
fn configure(source: &Path, output: &Path, fragment: &Path, wanted: &str) -> Result<()> {
    fs::create_dir_all(output).map_err(|error| LabError::file("make the folder", output, error))?;
    let made = output.join(".config");
    done(make::command(source, output).arg("allnoconfig"), "make allnoconfig")?;
    let mut merge = process::with_parent(source.join("scripts/kconfig/merge_config.sh"));
    merge.current_dir(source).arg("-m").arg("-O").arg(output).arg(&made).arg(fragment);
    done(&mut merge, "merge_config.sh")?;
    done(make::command(source, output).arg("olddefconfig"), "make olddefconfig")?;
    let got = fs::read_to_string(&made).map_err(|error| LabError::file("read", &made, error))?;
    let (without, fatal) = config::not_taken(wanted, &got);
    if !fatal.is_empty() {
        return failed(format!("this kernel cannot have {}", fatal.join(", ")));
    }
    if !without.is_empty() {
        eprintln!("  this kernel does not know, or decides otherwise: {}", without.join(" "));
    }
    Ok(())
}

/// Runs a step that must succeed.
fn done(command: &mut Command, what: &str) -> Result<()> {
    let ended = process::run(command, STEP_LIMIT)?;
    if ended.status.success() {
        return Ok(());
    }
    failed(format!("{what} failed: {}", ended.complaint()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panic")]
    use super::*;

    #[test]
    fn a_kernel_that_was_built_is_found_again_and_one_of_another_configuration_is_not() {
        let cache = tempfile::tempdir().unwrap();
        let place = |text| Place { cache: cache.path().to_owned(), key: key(text) };
        assert_eq!(place("a").built(), None);
        for version in ["7.3", "7.2"] {
            fs::create_dir(place("a").kernel(version)).unwrap();
        }
        assert_eq!(place("a").built(), Some(place("a").kernel("7.3")));
        assert_eq!(place("b").built(), None);
        assert_eq!(key(""), "cbf29ce484222325");
    }
}
