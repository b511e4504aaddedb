//! What guest and host say to each other over the guest's second serial port: one JSON object a line.
//!
//! A serial port needs no kernel module and exists in every guest, so it also serves kernels that come with none of
//! virtio built in.

use serde::{Deserialize, Serialize};

/// The port's device file in the guest.
pub const PORT: &str = "/dev/ttyS1";

/// The longest line that either side reads.
pub const MAX_LINE: usize = 1 << 20;

/// From the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromGuest {
    /// User space runs; the kernel's release, as `uname -r` says it.
    Alive(String),
    /// A proof has begun.
    Begin(String),
    /// It has ended.
    End(Proved),
    /// Blocks of a disk now hold the pattern of another seed: what the host is to find in the image.
    Wrote(Wrote),
    /// The image of a served device's namespace now holds a file system, which is not mounted: the host is to find it
    /// clean.
    FileSystem(String),
    /// Everything of this boot is done, and the next one follows: the machine starts again.
    Reboot,
    /// The guest asks the host to do something; [`ToGuest::Done`] answers.
    Do(Request),
    /// Everything that was asked for is done.
    Finished,
}

/// To the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToGuest {
    /// What to do; the first line, in answer to [`FromGuest::Alive`].
    Job(Job),
    /// The answer to [`FromGuest::Do`].
    Done(Result<(), String>),
}

/// What only the host can do for the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// QEMU's `device_del`: ask for a device's removal, as a person who presses the slot's button does.
    Unplug(String),
    /// QEMU's `device_add` of a device that was unplugged.
    Plug(String),
    /// Look into what the servers of devices have logged: this must be in so many lines of it, or more.
    Logged(String, usize),
}

/// What a guest is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The machine's name, which chooses the proofs.
    pub machine: String,
    /// The folder with the programs under test.
    pub programs: String,
    /// The framework's own test program, for the tests of its buses on a real device.
    pub tests: String,
    /// Only proofs whose name contains one of these; all if there is none.
    pub only: Vec<String>,
    /// Only this bus (`container` or `cdev`); both if it is not given.
    pub bus: Option<String>,
    /// Run the plan so many times in this one boot.
    pub rounds: u32,
    /// Which boot of the machine this is, from 1.
    pub boot: u32,
    /// How many there are to be.
    pub boots: u32,
    /// Programs of others that can be run in the guest.
    pub tools: Vec<Tool>,
    /// A command line for the guest's shell instead of a plan; for people who look around.
    pub shell: Option<String>,
}

/// A program of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// What it is called.
    pub name: String,
    /// Where it lies.
    pub path: String,
    /// Where its libraries are (as `LD_LIBRARY_PATH` takes it), if not where the system has them.
    pub libraries: String,
}

/// How one proof ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proved {
    /// Its name.
    pub name: String,
    /// The bus it ran over, where that applies.
    pub bus: Option<String>,
    /// Which round of the plan, from 1.
    pub round: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took; about emulation, so it says nothing about hardware.
    pub seconds: f64,
    /// What the processes of a proof that failed had logged.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}

/// Passed, or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "result", content = "why")]
pub enum Outcome {
    /// It was proved; what was seen, in a few words.
    Passed(String),
    /// It was refuted, or could not be finished.
    Failed(String),
    /// It does not apply here, and why.
    Skipped(String),
}

/// Blocks that a guest wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrote {
    /// The disk, by the serial number of its device.
    pub disk: String,
    /// The first block of [`crate::pattern::BLOCK`] bytes.
    pub lba: u64,
    /// How many blocks.
    pub blocks: u64,
    /// The pattern's seed.
    pub seed: u64,
}

/// A message as a line.
///
/// # Errors
/// If it cannot be written as JSON, which no message of this module is.
pub fn line<T: Serialize>(message: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}
