//! One boot from end to end: start, hand over the job, collect the proofs, compare the images.

use std::fs;
use std::time::Duration;

use crate::error::{LabError, Result, failed};
use crate::host::machine::Machine;
use crate::host::running::{Boot, Guest, Images};
use crate::pattern;
use crate::protocol::{FromGuest, Job, Outcome, Proved, ToGuest, Wrote};

/// The longest that a guest may be silent: more than any wait of a proof.
const SILENCE: Duration = Duration::from_secs(180);

/// What a boot has shown.
#[derive(Debug, Default)]
pub struct Session {
    /// The guest's `uname -r`.
    pub release: String,
    /// Every proof, in order; the last is `image`, which the host makes.
    pub proofs: Vec<Proved>,
}

/// Boots a machine and has it do a job. `progress` is told of every proof as it ends.
///
/// # Errors
/// If the machine does not boot or does not report to the end. What it had reported until then `progress` has seen.
pub fn run(
    machine: &Machine,
    boot: &Boot<'_>,
    job: Job,
    mut progress: impl FnMut(&Proved),
) -> Result<Session> {
    let mut guest = Guest::boot(machine, boot)?;
    let mut session = Session { release: guest.release.clone(), proofs: Vec::new() };
    let rounds = job.rounds;
    guest.send(&ToGuest::Job(job))?;
    let mut wrote = Vec::new();
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
            Some(FromGuest::Alive(_)) => {
                return failed(guest.about("the guest has started a second time"));
            }
            None => return failed(guest.about(&format!("the guest ended during {current}"))),
        }
    }
    let images = guest.finish()?;
    let outcome = match compare(machine, &images, &wrote) {
        Ok(seen) => Outcome::Passed(seen),
        Err(error) => Outcome::Failed(error.to_string()),
    };
    let name = "image".to_owned();
    let image =
        Proved { name, bus: None, round: rounds, outcome, seconds: 0.0, log: String::new() };
    progress(&image);
    session.proofs.push(image);
    Ok(session)
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
