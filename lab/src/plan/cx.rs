//! What a proof has in its hands.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::guest::pci::Function;
use crate::guest::port::Port;
use crate::guest::process::Ended;
use crate::guest::programs::{Broker, Programs, Serve};
use crate::protocol::{FromGuest, Job, Request, Tool, Wrote};

/// The kernel's two buses.
pub(super) const BUSES: [&str; 2] = ["container", "cdev"];

/// The driver that gives a device to user space.
pub(super) const VFIO: &str = "vfio-pci";

/// Why a proof did not pass.
#[derive(Debug)]
pub(super) enum Trouble {
    Failed(String),
    Skipped(String),
}

/// What was seen, or why it was not.
pub(super) type Verdict = Result<String, Trouble>;

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Whether the running kernel has what a bus needs.
pub(super) fn kernel_offers(bus: &str) -> bool {
    let file = if bus == "cdev" { "/dev/iommu" } else { "/dev/vfio/vfio" };
    Path::new(file).exists()
}

/// A proof fails unless `is` holds.
pub(super) fn check(is: bool, otherwise: impl FnOnce() -> String) -> Result<(), Trouble> {
    if is { Ok(()) } else { Err(Trouble::Failed(otherwise())) }
}

/// The proof's surroundings.
#[derive(Debug)]
pub(super) struct Cx<'p> {
    pub(super) programs: Programs,
    pub(super) round: u32,
    /// The framework's test program.
    pub(super) tests: String,
    bus: Option<&'static str>,
    tools: Vec<Tool>,
    port: &'p mut Port,
}

impl<'p> Cx<'p> {
    pub(super) fn new(
        job: &Job,
        bus: Option<&'static str>,
        round: u32,
        port: &'p mut Port,
    ) -> Self {
        Self {
            programs: Programs::new(&job.programs),
            round,
            tests: job.tests.clone(),
            bus,
            tools: job.tools.clone(),
            port,
        }
    }

    /// The bus of this proof; for proofs that are done over each.
    pub(super) fn bus(&self) -> &'static str {
        self.bus.unwrap_or("container")
    }

    /// A number that differs between buses and rounds: proofs that write use blocks and seeds of their own.
    pub(super) fn turn(&self) -> u64 {
        let bus = BUSES.iter().position(|bus| Some(*bus) == self.bus).unwrap_or(0);
        u64::from(self.round) * 2 + bus as u64
    }

    /// What `doorbell` calls a device that is to be reached over this proof's bus.
    pub(super) fn spec(&self, function: &Function) -> String {
        format!("{},bus={}", function.address, self.bus())
    }

    /// Gives a function to VFIO and serves it.
    pub(super) fn serve(&mut self, function: &Function) -> Result<Broker, Trouble> {
        self.serve_as(function, &Serve::default())
    }

    /// The same with options.
    pub(super) fn serve_as(
        &mut self,
        function: &Function,
        serve: &Serve<'_>,
    ) -> Result<Broker, Trouble> {
        function.bind(VFIO)?;
        let spec = self.spec(function);
        Ok(self.programs.serve(&spec, serve)?)
    }

    /// Runs a command against a broker; it must succeed.
    pub(super) fn ask(&mut self, broker: &Broker, arguments: &[&str]) -> Result<Ended, Trouble> {
        succeeded(broker.ask(&mut self.programs, arguments)?)
    }

    /// Tells the host what a disk's image must now hold.
    pub(super) fn wrote(&mut self, wrote: Wrote) -> Result<(), Trouble> {
        Ok(self.port.send(&FromGuest::Wrote(wrote))?)
    }

    /// Tells the host that an image holds a file system that is not mounted.
    pub(super) fn file_system(&mut self, image: &str) -> Result<(), Trouble> {
        Ok(self.port.send(&FromGuest::FileSystem(image.to_owned()))?)
    }

    /// A command of a program of others. A skip if the host has none.
    pub(super) fn tool(&self, name: &str) -> Result<Command, Trouble> {
        let tool = self.tools.iter().find(|tool| tool.name == name);
        // What the guest has file systems of its own for, it does not see of the host.
        let Some(tool) = tool.filter(|tool| Path::new(&tool.path).is_file()) else {
            return Err(Trouble::Skipped(format!("{name} is not here and cannot be fetched")));
        };
        let mut command = Command::new(&tool.path);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command.env("HOME", "/tmp").current_dir("/tmp");
        if !tool.libraries.is_empty() {
            command.env("LD_LIBRARY_PATH", &tool.libraries);
        }
        Ok(command)
    }

    /// Has the host do something.
    pub(super) fn host(&mut self, request: Request) -> Result<(), Trouble> {
        Ok(self.port.ask(request)?)
    }

    /// What the processes of this proof have said.
    pub(super) fn logs(&self) -> String {
        let mut text = String::new();
        for (path, said) in outputs() {
            if path.ends_with(".err") && !said.is_empty() {
                text.push_str(&format!("{path}:\n{said}"));
            }
        }
        text
    }

    /// Removes what the proof has left in memory.
    pub(super) fn clean_up(&self) {
        for (path, _) in outputs() {
            // A file that cannot be removed only takes space until the machine ends.
            let _ = fs::remove_file(path);
        }
        for entry in fs::read_dir("/run").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("broker-") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// The files with the output of processes, and what they hold.
fn outputs() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("process-") {
            let said = fs::read(entry.path()).unwrap_or_default();
            files.push((
                entry.path().display().to_string(),
                String::from_utf8_lossy(&said).into_owned(),
            ));
        }
    }
    files.sort();
    files
}

/// A command that must have succeeded.
pub(super) fn succeeded(ended: Ended) -> Result<Ended, Trouble> {
    if ended.status.success() {
        return Ok(ended);
    }
    Err(Trouble::Failed(format!(
        "`doorbell {}` ended with {}: {}",
        ended.name,
        ended.status,
        ended.err.trim_end()
    )))
}

/// Checks that a command failed with one line that has every one of `parts` in it.
pub(super) fn refused(ended: &Ended, parts: &[&str]) -> Result<String, Trouble> {
    one_line(&ended.name, &ended.err, ended.status.success(), parts)
}

fn one_line(name: &str, said: &str, success: bool, parts: &[&str]) -> Result<String, Trouble> {
    let line = said.trim_end();
    check(!success, || format!("`doorbell {name}` succeeded"))?;
    check(!line.is_empty() && !line.contains('\n'), || {
        format!("`doorbell {name}` did not fail with one line: {line:?}")
    })?;
    for part in parts {
        check(line.contains(part), || format!("{part:?} is not in: {line}"))?;
    }
    Ok(line.to_owned())
}
