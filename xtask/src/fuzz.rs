//! A short run of every fuzz target: libFuzzer throws changed inputs at the decoders of the vfio-user messages.
//!
//! The targets are a workspace of their own in `fuzz/`, for their build wants flags that nothing else does. cargo-fuzz
//! passes the compiler options that only a nightly one takes, or a stable one with `RUSTC_BOOTSTRAP=1`.
//!
//! It begins with the corpus in `fuzz/corpus`, which it does not change: what it finds of interest goes into the target
//! folder, where the next run begins with it as well. An input that fails is left in `fuzz/artifacts`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::steps::Done;
use crate::tools;
use crate::workspace::Workspace;

/// How long each target runs, in seconds.
const SECONDS: u32 = 20;

/// How long one input may take, in seconds: longer is a loop that does not end.
const LONGEST: u32 = 10;

/// Runs every target. Where cargo-fuzz or what the targets are built of cannot be had, it is skipped.
///
/// # Errors
/// If a target does not build, or an input fails.
pub(crate) fn perform(workspace: &Workspace) -> Result<Done> {
    let folder = workspace.root.join("fuzz");
    let targets = targets(&folder.join("fuzz_targets"))?;
    let mut fetch = workspace.cargo();
    fetch.args(["fetch", "--locked", "--manifest-path", "fuzz/Cargo.toml"]);
    let tool = exec::run(&mut fetch).and_then(|()| tools::CARGO_FUZZ.ensure(workspace));
    let tool = match tool {
        Ok(tool) => tool,
        Err(error) => return Ok(Done::Skipped(format!("no cargo-fuzz to be had: {error:#}"))),
    };
    let output = workspace.target.join("fuzz");
    let cargo_fuzz = |command: &str| {
        let mut fuzz = Command::new(&tool);
        fuzz.env("RUSTC_BOOTSTRAP", "1").current_dir(&workspace.root).arg(command);
        fuzz.args(["--fuzz-dir", "fuzz", "--target-dir"]).arg(&output);
        fuzz
    };
    exec::run(&mut cargo_fuzz("build"))?;
    for target in &targets {
        let found = output.join("corpus").join(target);
        std::fs::create_dir_all(&found)
            .with_context(|| format!("cannot make {}", found.display()))?;
        // libFuzzer writes into the first folder and only reads the others.
        let mut run = cargo_fuzz("run");
        run.arg(target).arg(&found).arg(folder.join("corpus").join(target)).arg("--");
        run.args([format!("-max_total_time={SECONDS}"), format!("-timeout={LONGEST}")]);
        exec::run(run.arg("-print_final_stats=1"))?;
    }
    Ok(Done::Passed)
}

/// The names of the targets: one for each source file.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let reading = || format!("cannot list {}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            names.push(name.to_owned());
        }
    }
    if names.is_empty() {
        bail!("there is no fuzz target in {}", folder.display());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus_and_stands_in_the_manifest() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let targets = targets(&folder.join("fuzz_targets")).unwrap();
        assert_eq!(targets, ["vfio_user_client", "vfio_user_server"]);
        for target in targets {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
            let mut corpus = std::fs::read_dir(folder.join("corpus").join(&target)).unwrap();
            assert!(corpus.next().is_some(), "{target} begins with nothing");
        }
    }

    #[test]
    fn no_targets_are_not_a_success() {
        assert!(targets(Path::new("/nowhere")).is_err());
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        assert!(targets(&sources).is_err(), "folders, and no source file");
    }
}
