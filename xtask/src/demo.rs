//! `cargo xtask demo`: set up, build in release mode, and become `doorbell demo`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::exec;
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;

/// Runs the demo with `args`; returns only if something before it failed.
///
/// This process becomes `doorbell demo`, so its standard streams, its exit status and a signal sent to it are the
/// demo's own.
pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> Result<()> {
    eprintln!("==> setup");
    setup::ensure(Purpose::Demo)?;
    eprintln!("==> build");
    exec::run_to_stderr(workspace.cargo().args([
        "build",
        "--release",
        "--package",
        "doorbell-cli",
    ]))?;
    let program = workspace.target.join("release/doorbell");
    let mut demo = Command::new(&program);
    demo.arg("demo").args(args);
    eprintln!("==> demo\n  $ {}", exec::describe(&demo));
    Err(demo.exec()).with_context(|| format!("cannot start {}", program.display()))
}
