//! `cargo xtask lab`: builds the programs, boots the virtual lab's machines, and adds up what they prove.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use doorbell_lab::LabError;
use doorbell_lab::host::kernel::{self, Kernel};
use doorbell_lab::host::qemu::{self, Qemu};
use doorbell_lab::host::running::{Accelerator, Boot};
use doorbell_lab::host::{accelerator, session, sites, tools};
use doorbell_lab::proofs::{self, Site};
use doorbell_lab::protocol::{Job, Outcome, Proved, Tool};
use serde_json::json;

use crate::steps::Done;
use crate::workspace::Workspace;

mod programs;

/// What `cargo xtask lab` can be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// List the proofs and end
    #[arg(long)]
    list: bool,
    /// Only proofs whose name contains this (may be given more than once)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only this bus
    #[arg(long, value_enum)]
    bus: Option<Bus>,
    /// A kernel (bzImage), or a folder that holds some, instead of those that DOORBELL_LAB_KERNEL names
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Which kernels: those with everything built in, or the one that Debian ships
    #[arg(long, value_enum, default_value_t = Kernels::All)]
    kernels: Kernels,
    /// How often the first guest goes through its plan: the second time finds what the first has not given back
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Try the processor's own virtualisation, and go back to emulation if a guest does not come up
    #[arg(long)]
    kvm: bool,
    /// Print one JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Run this shell line in the machine instead of the plan; its output is the console's
    #[arg(long, value_name = "LINE", conflicts_with_all = ["only", "bus", "json"])]
    shell: Option<String>,
}

impl Options {
    /// What CI runs.
    pub(crate) fn ci() -> Self {
        Self {
            list: false,
            only: Vec::new(),
            bus: None,
            kernel: None,
            kernels: Kernels::All,
            rounds: 2,
            kvm: false,
            json: false,
            shell: None,
        }
    }
}

/// One of the kernel's buses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bus {
    /// The legacy container
    Container,
    /// The VFIO device file and iommufd
    Cdev,
}

/// Which kernels a run uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kernels {
    /// Both
    All,
    /// Kernels with everything built in
    Ready,
    /// The kernel of this machine's Debian release
    Debian,
}

/// Runs the lab for a person.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.list {
        return list();
    }
    match perform(workspace, options)? {
        Done::Passed => Ok(()),
        Done::Skipped(why) => {
            eprintln!("skipped: {why}");
            Ok(())
        }
    }
}

/// Runs the lab. A machine on which a part of it cannot run is a skip.
pub(crate) fn perform(workspace: &Workspace, options: &Options) -> Result<Done> {
    let built = programs::build(workspace)?;
    let tests = if proofs::BUS_TESTS.is_named_by(&options.only) {
        programs::framework_tests(workspace)?.display().to_string()
    } else {
        String::new()
    };
    let mut report = Report::default();
    match Lab::prepare(workspace, options, built, tests) {
        Ok(lab) => lab.boots(&mut report)?,
        Err(error) => report.could_not("the lab", &error)?,
    }
    report.finish(options.json)
}

/// What guests need that drive our own devices.
#[derive(Debug)]
struct Client {
    qemu: Qemu,
    tools: Vec<Tool>,
}

impl Client {
    /// A program that cannot be had is left out: the proofs that need it are skipped.
    fn find() -> Result<Self, LabError> {
        let qemu = Qemu::find(&qemu::VFIO_USER)?;
        let mut tools = Vec::new();
        for wanted in [tools::FIO, tools::NVME] {
            match tools::find(wanted) {
                Ok(tool) => tools.push(tool),
                Err(error) => eprintln!("  no {}: {error}", wanted.program),
            }
        }
        Ok(Self { qemu, tools })
    }
}

/// What every boot of a run shares.
#[derive(Debug)]
struct Lab<'a> {
    options: &'a Options,
    qemu: Qemu,
    /// What guests need that drive our own devices: a QEMU that is a vfio-user client, and programs. Found when the first
    /// of them boots.
    client: OnceCell<Result<Client, LabError>>,
    accelerator: Accelerator,
    programs: PathBuf,
    tests: String,
    logs: PathBuf,
    ready: Vec<Kernel>,
    skipped: Vec<(String, LabError)>,
}

impl<'a> Lab<'a> {
    fn prepare(
        workspace: &Workspace,
        options: &'a Options,
        programs: PathBuf,
        tests: String,
    ) -> Result<Self, LabError> {
        let hidden = ["/tmp", "/run", "/dev", "/proc", "/sys"];
        if let Some(place) = hidden.iter().find(|place| programs.starts_with(place)) {
            return Err(LabError::Unavailable(format!(
                "the target folder {} lies in {place}, which a guest has its own of: set CARGO_TARGET_DIR",
                programs.display()
            )));
        }
        let qemu = Qemu::find(&qemu::LAB)?;
        let mut skipped = Vec::new();
        let mut kernels = Vec::new();
        if options.kernels != Kernels::Debian {
            match ready(workspace, options) {
                Ok(found) => kernels = found,
                Err(error) => skipped.push(("a kernel with everything built in".to_owned(), error)),
            }
        }
        if options.kernels != Kernels::Ready && options.kernel.is_none() {
            match debian(workspace) {
                Ok(kernel) => kernels.push(kernel),
                Err(error) => skipped.push(("Debian's kernel".to_owned(), error)),
            }
        }
        let logs = workspace.target.join("lab");
        let accelerator =
            accelerator::choose(options.kvm, &qemu, kernels.first(), &programs, &logs)?;
        let client = OnceCell::new();
        Ok(Self {
            options,
            qemu,
            client,
            accelerator,
            programs,
            tests,
            logs,
            ready: kernels,
            skipped,
        })
    }

    /// Boots every machine that has something to prove.
    fn boots(&self, report: &mut Report) -> Result<()> {
        for (what, error) in &self.skipped {
            report.could_not(what, error)?;
        }
        for (at, kernel) in self.ready.iter().enumerate() {
            let served = if self.options.shell.is_none() { &proofs::SERVED[..] } else { &[] };
            for site in [Site::Main, Site::NoIommu, Site::VirtioIommu].iter().chain(served).copied()
            {
                // The others do not depend on the kernel.
                if site != Site::Main && at > 0 {
                    continue;
                }
                if self.options.shell.is_some() || wanted(site, &self.options.only) {
                    // What is left over from the first round does not depend on the kernel either.
                    let rounds = if at == 0 { self.options.rounds } else { 1 };
                    self.boot(kernel, site, rounds, report)?;
                }
                if self.options.shell.is_some() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn boot(&self, kernel: &Kernel, site: Site, rounds: u32, report: &mut Report) -> Result<()> {
        let machine = sites::machine(site);
        let title = format!("{} on {}", machine.name, kernel.release);
        eprintln!("==> {title}");
        let console = self.logs.join(format!("{}-{}.log", machine.name, kernel.release));
        let init = self.programs.join("lab-guest");
        let (qemu, tools) = if proofs::SERVED.contains(&site) {
            match self.client.get_or_init(Client::find) {
                Ok(client) => (&client.qemu, client.tools.clone()),
                Err(error) => return report.could_not(&title, error),
            }
        } else {
            (&self.qemu, Vec::new())
        };
        let boot =
            Boot { qemu, kernel, accelerator: self.accelerator, init: &init, console: &console };
        let job = Job {
            machine: machine.name.to_owned(),
            programs: self.programs.display().to_string(),
            tests: self.tests.clone(),
            only: self.options.only.clone(),
            bus: self
                .options
                .bus
                .and_then(|bus| Some(bus.to_possible_value()?.get_name().to_owned())),
            rounds,
            tools,
            shell: self.options.shell.clone(),
            ..Job::default()
        };
        match session::run(&machine, &boot, job, |proved| report.add(&title, proved)) {
            Ok(_) if self.options.shell.is_some() => {
                eprint!("{}", std::fs::read_to_string(&console).unwrap_or_default());
            }
            Ok(_) => {}
            Err(error) => report.could_not(&title, &error)?,
        }
        Ok(())
    }
}

/// Ready kernels: those given, those of the variable, else those of a folder `shared/lab` beside the checkout.
fn ready(workspace: &Workspace, options: &Options) -> Result<Vec<Kernel>, LabError> {
    if let Some(place) = &options.kernel {
        return kernel::ready_at(place.clone().into_os_string());
    }
    let named = kernel::ready()?;
    if !named.is_empty() {
        return Ok(named);
    }
    let beside = workspace.root.parent().unwrap_or(Path::new("/")).join("shared/lab");
    if beside.is_dir() {
        return kernel::ready_at(beside.into_os_string());
    }
    Ok(vec![doorbell_lab::host::build::built(&workspace.root.join("lab/kernel.config-fragment"))?])
}

/// Debian's own kernel, with a first program for its modules.
fn debian(workspace: &Workspace) -> Result<Kernel, LabError> {
    let init = programs::init(workspace).map_err(|error| LabError::Failed(format!("{error:#}")))?;
    doorbell_lab::host::modular::debian(&init, &workspace.target.join("lab"))
}

/// Whether a site has a proof that was asked for.
fn wanted(site: Site, only: &[String]) -> bool {
    proofs::ALL.iter().any(|proof| proof.sites.contains(&site) && proof.is_named_by(only))
}

fn list() -> Result<()> {
    let mut text = String::new();
    for proof in proofs::ALL {
        let buses = if proof.each_bus { "each bus" } else { "once" };
        for site in proof.sites {
            writeln!(text, "{:<18} {:<15} {buses:<9} {}", proof.name, site.name(), proof.about)?;
        }
    }
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the list")
}

/// What was proved so far.
#[derive(Debug, Default)]
struct Report {
    rows: Vec<(String, Proved)>,
    skipped: Vec<String>,
    failed: Vec<String>,
}

impl Report {
    /// Takes note of a proof, and says so at once.
    fn add(&mut self, title: &str, proved: &Proved) {
        let bus = proved.bus.as_deref().unwrap_or("-");
        let (word, said) = match &proved.outcome {
            Outcome::Passed(seen) => ("passed", seen),
            Outcome::Failed(why) => ("FAILED", why),
            Outcome::Skipped(why) => ("skipped", why),
        };
        let Proved { name, round, seconds, log, .. } = proved;
        eprintln!("  {name:<18} {bus:<10} {round:>2}  {word:<8} {seconds:>6.1} s  {said}");
        for line in log.lines() {
            eprintln!("      {line}");
        }
        let full = format!("{name} ({bus}, round {round}, {title})");
        match &proved.outcome {
            Outcome::Passed(_) => {}
            Outcome::Failed(_) => self.failed.push(full),
            Outcome::Skipped(why) => self.skipped.push(format!("{name}: {why}")),
        }
        self.rows.push((title.to_owned(), proved.clone()));
    }

    /// Takes note of something that could not be done at all.
    fn could_not(&mut self, what: &str, error: &LabError) -> Result<()> {
        if error.is_unavailable() {
            eprintln!("  {what}: skipped: {error}");
            self.skipped.push(format!("{what}: {error}"));
        } else {
            eprintln!("  {what}: FAILED: {error}");
            self.failed.push(format!("{what}: {error}"));
        }
        Ok(())
    }

    fn finish(self, as_json: bool) -> Result<Done> {
        let passed =
            self.rows.iter().filter(|row| matches!(row.1.outcome, Outcome::Passed(_))).count();
        if as_json {
            let mut machines: BTreeMap<&str, Vec<&Proved>> = BTreeMap::new();
            for (title, proved) in &self.rows {
                machines.entry(title).or_default().push(proved);
            }
            let object = json!({
                "passed": passed, "failed": self.failed, "skipped": self.skipped, "machines": machines,
            });
            writeln!(std::io::stdout(), "{object}").context("cannot print the report")?;
        }
        eprintln!("{passed} passed, {} failed, {} skipped", self.failed.len(), self.skipped.len());
        if !self.failed.is_empty() {
            bail!("the lab refutes: {}", self.failed.join("; "));
        }
        let mut reasons = self.skipped;
        reasons.sort();
        reasons.dedup();
        if reasons.is_empty() { Ok(Done::Passed) } else { Ok(Done::Skipped(reasons.join("; "))) }
    }
}
