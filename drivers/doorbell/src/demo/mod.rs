//! `doorbell demo`: the whole path on real data.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use doorbell_bench::Placement;
use doorbell_bench::report::{html, terminal, units::bytes};

use crate::cli::Demo;
use crate::output;

mod death;
pub(crate) mod dice;
mod image;
mod measure;
mod narrate;
mod programs;
pub(crate) mod role;
mod summary;
pub(crate) mod supervise;
mod verify;
mod victim;

use image::{FILE_SYSTEM, Image, SCRATCH};
use narrate::Narrator;
use role::{Measured, Role, Said, Verified, Work, hear};
use summary::{Findings, shown};
use supervise::Supervised;

/// How long after the demo's beginning its last child must have ended.
const LIFE: Duration = Duration::from_secs(55);

/// The namespace that is the image.
const IMAGE: u32 = 1;

/// The namespace in memory, for latencies.
const MEMORY: u32 = 2;

/// A broker that the demo started, and what its clients need.
struct Stage {
    broker: Supervised,
    socket: PathBuf,
    narrator: Narrator,
    until: Instant,
}

/// Runs the demo.
pub(crate) fn run(args: &Demo) -> Result<()> {
    let narrator = Narrator::new(args.json);
    let until = Instant::now() + LIFE;
    let seed = args.seed.unwrap_or_else(random_seed);
    let folder = Folder::make(args.keep.as_deref())?;
    // Better to learn now than in the end that it cannot be written.
    let report = File::create(&args.report)
        .with_context(|| format!("cannot write the report to {}", args.report.display()))?;
    drop(report);
    narrator.step(&format!("making a disk image (seed {seed})"));
    let image = Image::make(folder.path(), seed)?;
    let about = format!(
        "{} ext4, {} files of {} together",
        bytes(FILE_SYSTEM),
        image.files,
        bytes(image.bytes)
    );
    narrator.detail(&about);
    let mut stage = Stage::set(folder.path(), &image, narrator, until)?;
    let mut findings = stage.play(&image, seed, args.measure, about)?;
    stage.close(folder.path())?;
    stage.narrator.step("checking the image (e2fsck -fn) and the files in it");
    findings.fsck = image.check()?;
    findings.damaged_files = image.compare_files()?;
    tell(args, &findings, &stage.narrator, &folder)
}

/// Prints and writes the outcome; an error if anything is not as it should be.
fn tell(args: &Demo, findings: &Findings, narrator: &Narrator, folder: &Folder) -> Result<()> {
    let report = findings.report();
    fs::write(&args.report, html::page(&report))
        .with_context(|| format!("writing the report to {}", args.report.display()))?;
    narrator.line("");
    narrator.line(&terminal::table(&report));
    narrator.line(&terminal::histogram("read 4 KiB, QD 1", &findings.measured.read_1));
    narrator.line(&findings.against_socket());
    narrator.line(&format!("The same with plots: {}", shown(&args.report)));
    if let Folder::Kept(path) = folder {
        narrator.line(&format!("Image, checksums and the broker's log: {}", shown(path)));
    }
    if args.json {
        output::print_json(&findings.json())?;
    }
    match findings.verdict() {
        None => Ok(()),
        Some(wrong) => bail!("the demo failed (seed {}): {wrong}", findings.seed),
    }
}

impl Stage {
    /// Starts the broker, as an operator would.
    fn set(folder: &Path, image: &Image, narrator: Narrator, until: Instant) -> Result<Self> {
        let socket = folder.join("nvme0.sock");
        let file = image.path.to_string_lossy();
        let spec = format!("soft:nvme,image={file},ram=64M");
        narrator.step(&format!("starting the broker: doorbell serve {spec}"));
        let placement = Placement::choose()?;
        let log = File::create(folder.join("broker.log")).context("making the broker's log")?;
        let mut serve = this_program()?;
        serve.args(["serve", &spec, "--with-parent", "--socket"]).arg(&socket);
        if let Some(cores) = placement {
            serve.args(["--core", &cores.device.to_string()]);
        }
        serve.stdin(Stdio::null()).stderr(log);
        let mut broker = Supervised::start("the broker", serve, until)?;
        match broker.line("its first line") {
            Ok(ready) => narrator.detail(&ready),
            Err(error) => return Err(error.context(last_words(folder))),
        }
        Ok(Self { broker, socket, narrator, until })
    }

    /// Steps 3 to 5 of the demo.
    fn play(&mut self, image: &Image, seed: u64, seconds: f64, about: String) -> Result<Findings> {
        self.narrator
            .step("two clients compare: one reads the image, one writes and reads back a pattern");
        let file = image.path.clone();
        let mut reader = self.client(
            "the reader",
            IMAGE,
            Work::Read { file: file.clone(), bytes: FILE_SYSTEM },
        )?;
        let write = Work::Write { start: FILE_SYSTEM, bytes: SCRATCH, seed };
        let mut writer = self.client("the writer", IMAGE, write)?;
        for (child, name) in [(&mut reader, "the reader"), (&mut writer, "the writer")] {
            expect_started(child, name)?;
        }
        let death = death::stage(
            self,
            &mut [(&mut reader, "the reader"), (&mut writer, "the writer")],
            seed,
        )?;
        let mut verified = Verified::default();
        for (mut child, name) in [(reader, "the reader"), (writer, "the writer")] {
            verified.add(&self.end_of_comparison(&mut child, name)?);
        }
        // Once more, all of it: what was written behind the file system is in the file as well.
        let work = Work::Read { file, bytes: FILE_SYSTEM + SCRATCH };
        let mut last = self.client("the last reader", IMAGE, work)?;
        expect_started(&mut last, "the last reader")?;
        verified.add(&self.end_of_comparison(&mut last, "the last reader")?);
        let differing =
            if verified.mismatches == 0 { "all as it should be" } else { "NOT all right" };
        self.narrator.detail(&format!("{} compared, {differing}", bytes(verified.bytes)));
        let measured = self.measure(seconds)?;
        Ok(Findings {
            seed,
            image: about,
            verified,
            measured,
            reclaim: death.reclaim,
            in_flight: death.in_flight,
            fsck: Err("it was not run".to_owned()),
            damaged_files: Vec::new(),
            problems: death.problems,
        })
    }

    /// Starts a client of the demo.
    fn client(&self, name: &str, namespace: u32, work: Work) -> Result<Supervised> {
        self.client_with(name, namespace, work, Stdio::piped())
    }

    fn client_with(
        &self,
        name: &str,
        namespace: u32,
        work: Work,
        stdin: Stdio,
    ) -> Result<Supervised> {
        let role = Role { socket: self.socket.clone(), namespace, work };
        let mut command = this_program()?;
        command.arg("demo-client").arg(serde_json::to_string(&role)?).stdin(stdin);
        // What it has to say it says in lines; its error would only repeat them.
        command.stderr(Stdio::null());
        Supervised::start(name, command, self.until)
    }

    /// Lets a comparing client finish what it is at and waits for what it found.
    fn end_of_comparison(&self, child: &mut Supervised, name: &str) -> Result<Verified> {
        child.tell_to_end();
        match hear(child, name, "what it found")? {
            Said::Verified(found) => Ok(found),
            other => bail!("{name}: said {other:?} instead of what it found"),
        }
    }

    fn measure(&self, seconds: f64) -> Result<Measured> {
        let placement = Placement::choose()?;
        let where_ = match placement {
            Some(cores) => {
                format!("client on core {}, device on core {}", cores.client, cores.device)
            }
            None => "there is only one core: expect milliseconds".to_owned(),
        };
        self.narrator
            .step(&format!("measuring latencies and floors for {seconds:.0} s ({where_})"));
        let mut client =
            self.client("the measuring client", MEMORY, Work::Measure { placement, seconds })?;
        expect_started(&mut client, "the measuring client")?;
        let measured = match hear(&mut client, "the measuring client", "its figures")? {
            Said::Measured(measured) => *measured,
            other => bail!("the measuring client: said {other:?} instead of its figures"),
        };
        client.finish()?;
        Ok(measured)
    }

    /// Ends the broker as an operator would, and waits for it.
    fn close(&mut self, folder: &Path) -> Result<()> {
        self.narrator.step("ending the broker");
        self.broker.terminate()?;
        let status = self.broker.wait()?;
        if !status.success() {
            bail!("the broker ended with {status}: {}", last_words(folder));
        }
        Ok(())
    }
}

fn expect_started(child: &mut Supervised, name: &str) -> Result<()> {
    match hear(child, name, "its first I/O")? {
        Said::Started => Ok(()),
        other => bail!("{name}: said {other:?} instead of starting"),
    }
}

/// This program, to start it again.
fn this_program() -> Result<Command> {
    Ok(Command::new(env::current_exe().context("finding this program's own file")?))
}

/// The end of the broker's log.
fn last_words(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("broker.log")).unwrap_or_default();
    let last = log.lines().rfind(|line| !line.trim().is_empty());
    last.unwrap_or("the broker's log is empty").to_owned()
}

fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        // Short enough to be typed again.
        Ok(8) => u64::from_le_bytes(bytes) >> 32,
        _ => u64::from(std::process::id()),
    }
}

/// Where the image lies: a folder that goes away, or one that stays.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn make(keep: Option<&Path>) -> Result<Self> {
        match keep {
            Some(path) => {
                fs::create_dir_all(path)
                    .with_context(|| format!("making the folder {}", path.display()))?;
                let mut entries = fs::read_dir(path).context("looking into the folder")?;
                if entries.next().is_some() {
                    bail!("{} is not empty; name a new folder with --keep", path.display());
                }
                Ok(Self::Kept(path.to_owned()))
            }
            None => {
                let made = tempfile::Builder::new().prefix("doorbell-demo-").tempdir();
                Ok(Self::Temporary(made.context("making a temporary folder")?))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}
