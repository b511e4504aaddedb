//! One boot from end to end: start, hand over the job, collect the proofs, compare the images.

use std::fs;
use std::time::Duration;

use crate::error::{LabError, Result, failed, unavailable};
use crate::host::machine::Machine;
use crate::host::process;
use crate::host::running::{Boot, Guest, Images};
use crate::pattern;
use crate::protocol::{FromGuest, Job, Outcome, Proved, ToGuest, Wrote};

/// The longest that a guest may be silent: more than any wait of a proof.
const SILENCE: Duration = Duration::from_secs(180);

/// For a check of a file system of some hundred megabytes.
const CHECK_LIMIT: Duration = Duration::from_secs(120);

/// What a boot has shown.
#[derive(Debug, Default)]
pub struct Session {
    /// The guest's `uname -r`.
    pub release: String,
    /// Every proof, in order; the last ones (`image`, `server`, `e2fsck`) the host makes.
    pub proofs: Vec<Proved>,
}

/// Boots a machine and has it do a job. `progress` is told of every proof as it ends.
///
/// # Errors
/// If the machine does not boot or does not report to the end. What it had reported until then `progress` has seen.
pub fn run(
    machine: &Machine,
    boot: &Boot<'_>,
    mut job: Job,
    mut progress: impl FnMut(&Proved),
) -> Result<Session> {
    let mut guest = Guest::boot(machine, boot)?;
    let mut session = Session { release: guest.release.clone(), proofs: Vec::new() };
    let rounds = job.rounds;
    (job.boot, job.boots) = (1, machine.boot_count());
    guest.send(&ToGuest::Job(job.clone()))?;
    let (mut wrote, mut file_systems) = (Vec::new(), Vec::new());
    let mut current = "the start".to_owned();
    loop {
        match guest.next(SILENCE)? {
            Some(FromGuest::Finished) => break,
            Some(FromGuest::Begin(name)) => current = name,
            Some(FromGuest::Do(request)) => guest.serve(&request)?,
            Some(FromGuest::Wrote(what)) => wrote.push(what),
            Some(FromGuest::End(proved)) => {
                progress(&proved);
                session.proofs.push(proved);
            }
            Some(FromGuest::FileSystem(image)) => file_systems.push(image),
            Some(FromGuest::Reboot) => "a reboot".clone_into(&mut current),
            Some(FromGuest::Alive(_)) if job.boot < job.boots => {
                job.boot += 1;
                if job.boot == job.boots {
                    guest.no_more_boots()?;
                }
                guest.send(&ToGuest::Job(job.clone()))?;
            }
            Some(FromGuest::Alive(_)) => {
                return failed(guest.about("the guest has started once more than it should"));
            }
            None => return failed(guest.about(&format!("the guest ended during {current}"))),
        }
    }
    let mut images = guest.finish()?;
    let mut shown = |name: &str, result: Result<String>| {
        let outcome = match result {
            Ok(seen) => Outcome::Passed(seen),
            Err(error) if error.is_unavailable() => Outcome::Skipped(error.to_string()),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        let (name, log) = (name.to_owned(), String::new());
        let proved = Proved { name, bus: None, round: rounds, outcome, seconds: 0.0, log };
        progress(&proved);
        session.proofs.push(proved);
    };
    if !machine.disks().is_empty() {
        shown("image", compare(machine, &images, &wrote));
    }
    for server in std::mem::take(&mut images.servers) {
        shown("server", server);
    }
    file_systems.dedup();
    for image in &file_systems {
        shown("e2fsck", file_system(&images, image));
    }
    Ok(session)
}

/// Checks a file system with the host's own program, once nothing uses the image any more.
fn file_system(images: &Images, image: &str) -> Result<String> {
    let Some(program) = process::find_program("e2fsck") else {
        return unavailable("there is no e2fsck to check the file system with: install e2fsprogs");
    };
    let mut command = process::with_parent(program);
    let ended = process::run(command.args(["-f", "-n"]).arg(images.served(image)), CHECK_LIMIT)?;
    if !ended.status.success() {
        let said = ended.out.replace('\n', "; ");
        return failed(format!("{image}: e2fsck ends with {}: {said}", ended.status));
    }
    // "PATH: 226/32768 files (0.4% non-contiguous), 27241/131072 blocks"
    let said = ended.out.lines().last().and_then(|line| line.rsplit(": ").next());
    Ok(format!("{image} is clean: {}", said.unwrap_or("it says no more")))
}

/// Compares every disk's image, block by block, with the pattern that it was made with and what the guest says it
/// wrote since.
fn compare(machine: &Machine, images: &Images, wrote: &[Wrote]) -> Result<String> {
    let mut compared = 0;
    for disk in machine.disks() {
        let path = images.path(disk.name);
        let data = fs::read(&path).map_err(|error| LabError::file("read", &path, error))?;
        let ours: Vec<_> = wrote.iter().filter(|wrote| wrote.disk == disk.name).collect();
        for (lba, block) in (0_u64..).zip(data.chunks(pattern::BLOCK)) {
            let writer = ours
                .iter()
                .rev()
                .find(|wrote| (wrote.lba..wrote.lba + wrote.blocks).contains(&lba));
            let seed = writer.map_or(disk.seed, |wrote| wrote.seed);
            if block != pattern::block(seed, lba) {
                let was =
                    if writer.is_some() { "does not hold what was written" } else { "has changed" };
                return failed(format!("disk {}: block {lba} {was}", disk.name));
            }
            compared += 1;
        }
    }
    Ok(format!("{compared} blocks hold what they must, {} writes among them", wrote.len()))
}
