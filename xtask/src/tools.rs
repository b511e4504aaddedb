//! Cargo tools of a known version: one that is installed already, or one built once into the target folder.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::exec;
use crate::workspace::Workspace;

/// A tool that `cargo install` can build.
#[derive(Debug)]
pub(crate) struct Tool {
    /// Package and program name.
    pub(crate) name: &'static str,
    /// The version to build. One that is installed serves as well if it is of the same series (0.5.x for 0.5.4).
    version: &'static str,
    /// Whether its default features are of use here; leaving them out saves build time.
    default_features: bool,
}

/// Builds the book. Without its web server, file watcher and search index it compiles in half the time.
pub(crate) const MDBOOK: Tool = Tool { name: "mdbook", version: "0.5.4", default_features: false };

/// Checks licences, bans and sources. It has no features to leave out.
pub(crate) const CARGO_DENY: Tool =
    Tool { name: "cargo-deny", version: "0.20.2", default_features: true };

/// Builds and runs fuzz targets. It has no features to leave out.
pub(crate) const CARGO_FUZZ: Tool =
    Tool { name: "cargo-fuzz", version: "0.13.2", default_features: true };

impl Tool {
    /// The program: from `PATH`, or from the target folder, built there first if need be.
    pub(crate) fn ensure(&self, workspace: &Workspace) -> Result<PathBuf> {
        let folder = workspace.target.join("tools");
        let ours = folder.join("bin").join(self.name);
        for candidate in [PathBuf::from(self.name), ours.clone()] {
            let answer = exec::ask(Command::new(&candidate).arg("--version"));
            if answer.is_some_and(|answer| same_series(&answer, self.version)) {
                return Ok(candidate);
            }
        }
        let mut install = workspace.cargo();
        install.args(["install", self.name, "--locked", "--version", self.version]);
        if !self.default_features {
            install.arg("--no-default-features");
        }
        install.arg("--root").arg(&folder);
        // A folder of its own, as the workspace's would keep what nothing else there can use.
        let build = folder.join("build");
        install.arg("--target-dir").arg(&build);
        exec::run(&mut install).with_context(|| format!("cannot build {}", self.name))?;
        std::fs::remove_dir_all(&build)
            .with_context(|| format!("cannot remove {}", build.display()))?;
        Ok(ours)
    }
}

/// Whether what a program printed for `--version` ("mdbook v0.5.1", "cargo-deny 0.20.2") is of the series of `wanted`.
fn same_series(answer: &str, wanted: &str) -> bool {
    let series = |version: &str| {
        let mut parts = version.trim_start_matches('v').split('.').map(str::to_owned);
        Some((parts.next()?, parts.next()?))
    };
    answer.split_whitespace().nth(1).is_some_and(|found| series(found) == series(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_of_the_same_series_will_do() {
        assert!(same_series("mdbook v0.5.1\n", "0.5.4"));
        assert!(same_series("cargo-deny 0.20.9", "0.20.2"));
        for other in ["mdbook v0.4.52", "cargo-deny 0.2.0", "mdbook", "", "error: no such command"]
        {
            assert!(!same_series(other, "0.5.4"), "{other}");
        }
    }
}
