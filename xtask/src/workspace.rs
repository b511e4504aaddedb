//! What cargo says about this workspace: where it lies, where its output goes, which packages have which features.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::exec;

/// The workspace that xtask belongs to.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder, wherever the environment or a configuration file puts it.
    pub(crate) target: PathBuf,
    /// The workspace's own packages.
    pub(crate) packages: Vec<Package>,
}

/// One package of the workspace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name in `Cargo.toml`.
    pub(crate) name: String,
    /// Its crate features, `default` left out, in alphabetical order.
    pub(crate) features: Vec<String>,
}

impl Workspace {
    /// Asks `cargo metadata`, which needs no network for this.
    pub(crate) fn load() -> Result<Self> {
        // The variable is what `cargo run` sets now; the constant is where xtask was compiled. They differ when a
        // clone was moved together with its target folder.
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
        let manifest = Path::new(&manifest_dir).join("Cargo.toml");
        let metadata = exec::capture(
            cargo_program()
                .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
                .arg(&manifest),
        )?;
        Self::parse(&metadata).context("cannot make sense of what `cargo metadata` printed")
    }

    /// Reads the JSON of `cargo metadata --format-version 1`.
    fn parse(metadata: &str) -> Result<Self> {
        let metadata: Value = serde_json::from_str(metadata)?;
        let path = |name: &str| metadata[name].as_str().map(PathBuf::from).context("no folder");
        let packages = metadata["packages"].as_array().context("no packages")?;
        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
            packages: packages.iter().map(parse_package).collect::<Result<_>>()?,
        })
    }

    /// A cargo command that runs in the workspace's root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo_program();
        command.current_dir(&self.root);
        command
    }
}

fn parse_package(package: &Value) -> Result<Package> {
    let name = package["name"].as_str().context("a package without a name")?.to_owned();
    let features = package["features"].as_object().context("a package without features")?;
    let mut features: Vec<_> = features.keys().filter(|name| *name != "default").cloned().collect();
    features.sort();
    Ok(Package { name, features })
}

/// The cargo that started us, so that a toolchain chosen by hand (`cargo +nightly xtask`) stays chosen.
fn cargo_program() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_gives_folders_and_features() {
        let workspace = Workspace::parse(
            r#"{"workspace_root":"/src/doorbell","target_directory":"/tmp/t","packages":[
                {"name":"doorbell","features":{"soft":[],"default":["soft"],"broker":["client"],"client":[]}},
                {"name":"xtask","features":{}}]}"#,
        )
        .unwrap();
        assert_eq!(workspace.root, Path::new("/src/doorbell"));
        assert_eq!(workspace.target, Path::new("/tmp/t"));
        assert_eq!(workspace.packages[0].features, ["broker", "client", "soft"]);
        assert_eq!(workspace.packages[1], Package { name: "xtask".to_owned(), features: vec![] });
    }

    #[test]
    fn metadata_of_another_shape_is_an_error() {
        for metadata in
            ["", "{}", r#"{"workspace_root":"/","target_directory":"/","packages":[{}]}"#]
        {
            assert!(Workspace::parse(metadata).is_err(), "{metadata}");
        }
    }

    #[test]
    fn this_workspace_can_be_loaded() {
        let workspace = Workspace::load().unwrap();
        assert!(workspace.root.join("xtask/Cargo.toml").is_file());
        assert!(workspace.packages.iter().any(|package| package.name == "xtask"));
    }
}
