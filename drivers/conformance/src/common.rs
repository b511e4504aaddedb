//! Checks that any driver on any bus must pass.

use anyhow::{Result, bail, ensure};
use doorbell::client::ClientError;
use doorbell::wire::{Refusal, RevokeTarget};
use rustix::process::Signal;

use crate::plan::{Outcome, skip};
use crate::rig::Rig;
use crate::role::Work;

/// The broker serves the device with the driver that is meant, and nobody holds anything.
///
/// # Errors
/// What is otherwise.
pub fn bring_up(rig: &Rig, driver: &str) -> Result<()> {
    let status = rig.status()?;
    let found = &status.device.driver;
    ensure!(found == driver, "the device is driven by {found}, not by {driver}");
    ensure!(status.spec == rig.setup.device, "it serves {}", status.spec);
    ensure!(status.out_of_service.is_none(), "out of service: {:?}", status.out_of_service);
    ensure!(status.sessions.is_empty(), "somebody is there already: {:?}", status.sessions);
    Ok(())
}

/// What a client asks for that cannot be is a typed refusal, and the connection goes on.
///
/// # Errors
/// What was not refused, or in another way.
pub fn refusals(rig: &mut Rig) -> Result<Outcome> {
    let garbage = rig.dice.bytes(64);
    rig.block_on(async {
        let client = rig.client(0).await?;
        match client.admin::<_, ()>(&vec![u64::MAX; 8]).await {
            Err(ClientError::Refused { refusal: Refusal::Driver(_), .. }) => {}
            other => bail!("an operation that no driver has: {other:?}"),
        }
        match client.admin::<_, ()>(&garbage).await {
            Err(
                ClientError::Refused { refusal: Refusal::Driver(_), .. }
                | ClientError::Codec { .. },
            ) => {}
            other => bail!("random bytes as an operation: {other:?}"),
        }
        for target in [RevokeTarget::Session(u64::MAX), RevokeTarget::Queue(u16::MAX)] {
            match client.revoke(target).await {
                Err(ClientError::Refused { refusal: Refusal::NoTarget(_), .. }) => {}
                other => bail!("revoking {target:?}, which nobody has: {other:?}"),
            }
        }
        client.status().await?;
        Ok(Outcome::Passed)
    })
}

/// A client that is killed, at a random point, leaves nothing behind; a neighbour goes on.
///
/// # Errors
/// What it left, or what the neighbour noticed.
pub fn killed(rig: &mut Rig, victim: &Work, neighbour: &Work, rounds: u32) -> Result<Outcome> {
    let before = rig.status()?;
    let mut neighbour = rig.start(neighbour.clone())?;
    neighbour.started()?;
    for _ in 0..rounds {
        let mut victim = rig.start(victim.clone())?;
        victim.started()?;
        // Where in its next round it is then is anybody's guess.
        for _ in 0..rig.dice.below(4) {
            victim.round()?;
        }
        victim.kill()?;
        rig.until_gone(victim.pid())?;
        neighbour.round()?;
    }
    neighbour.kill()?;
    rig.until_gone(neighbour.pid())?;
    let after = rig.status()?;
    ensure!(after.resets == before.resets, "the device was reset: {after:?}");
    ensure!(after.faults == before.faults, "DMA faults: {:?}", after.last_fault);
    ensure!(after.quarantined_queues.is_empty(), "quarantined: {:?}", after.quarantined_queues);
    ensure!(after.quarantined_bytes == 0, "quarantined: {} bytes", after.quarantined_bytes);
    Ok(Outcome::Passed)
}

/// A revoked client gets a typed error, one of `told`, and lives on; a neighbour does not notice.
///
/// # Errors
/// What happened instead.
pub fn revoked(rig: &mut Rig, victim: &Work, neighbour: &Work, told: &[&str]) -> Result<Outcome> {
    let mut neighbour = rig.start(neighbour.clone())?;
    let mut victim = rig.start(victim.clone())?;
    neighbour.started()?;
    victim.started()?;
    victim.round()?;
    let pid = victim.pid();
    rig.block_on(async {
        let (_, sessions) = rig.client(0).await?.revoke(RevokeTarget::Pid(pid)).await?;
        ensure!(sessions == 1, "{sessions} sessions were revoked, not 1");
        Ok(())
    })?;
    let (why, error) = victim.ended()?;
    ensure!(told.contains(&why.as_str()), "the revoked client was told '{why}': {error}");
    rig.until_gone(pid)?;
    // Of the rounds that come now at least one began after the revocation.
    neighbour.round()?;
    neighbour.round()?;
    neighbour.kill()?;
    rig.until_gone(neighbour.pid())?;
    Ok(Outcome::Passed)
}

/// An operator's reset ends the grants of every client with the error `why`, or lets them go on where
/// that is empty: a device without queues has none to end. Others work after it as before.
///
/// # Errors
/// What happened instead.
pub fn reset(rig: &mut Rig, client: &Work, why: &str, verify: &Work) -> Result<Outcome> {
    let before = rig.status()?.resets;
    let mut at_work = rig.start(client.clone())?;
    at_work.started()?;
    at_work.round()?;
    rig.block_on(async { Ok(rig.client(0).await?.reset().await?) })?;
    if why.is_empty() {
        at_work.round()?;
        at_work.round()?;
        at_work.kill()?;
    } else {
        let (told, error) = at_work.ended()?;
        ensure!(told == why, "a client of a device that was reset was told '{told}': {error}");
    }
    rig.until_gone(at_work.pid())?;
    let status = rig.status()?;
    ensure!(status.resets == before + 1, "{} resets, and there were {before}", status.resets);
    rig.start(verify.clone())?.done()?;
    Ok(Outcome::Passed)
}

/// A broker that is told to end does so in good order, one that is killed does not stand in the way of
/// the next, and clients of either get a typed error. A new broker serves as the old one did.
///
/// # Errors
/// What happened instead.
pub fn restarted(rig: &mut Rig, client: &Work, verify: &Work) -> Result<Outcome> {
    for signal in [Signal::TERM, Signal::KILL] {
        let mut at_work = rig.start(client.clone())?;
        at_work.started()?;
        at_work.round()?;
        let status = rig.end(signal)?;
        if signal == Signal::TERM {
            ensure!(status.success(), "the broker ended with {status}: {}", rig.last_words());
            ensure!(!rig.socket().exists(), "the broker left its socket behind");
        }
        let (why, error) = at_work.ended()?;
        ensure!(
            why == "broker_gone",
            "a client of a broker that has ended was told '{why}': {error}"
        );
        rig.serve()?;
        rig.start(verify.clone())?.done()?;
    }
    Ok(Outcome::Passed)
}

/// A device that is pulled out ends every grant with a typed error, and the broker says so.
///
/// # Errors
/// What happened instead.
pub fn removed(rig: &mut Rig, client: &Work) -> Result<Outcome> {
    let Some(unplug) = rig.setup.unplug.clone() else {
        return skip("no --unplug command was given");
    };
    let mut at_work = rig.start(client.clone())?;
    at_work.started()?;
    let status = std::process::Command::new("sh").args(["-c", &unplug]).status()?;
    ensure!(status.success(), "the --unplug command ended with {status}");
    let (why, error) = at_work.ended()?;
    ensure!(why == "device_gone", "a client of a removed device was told '{why}': {error}");
    rig.given_up()?;
    Ok(Outcome::Passed)
}

/// After all of this nobody holds anything, nothing is quarantined, and the broker ends in good order.
///
/// # Errors
/// What is left.
pub fn released(rig: &mut Rig) -> Result<Outcome> {
    let status = rig.until("every session to end", |status| {
        status.sessions.is_empty().then(|| status.clone())
    })?;
    ensure!(status.quarantined_queues.is_empty(), "queues: {:?}", status.quarantined_queues);
    ensure!(status.quarantined_bytes == 0, "{} bytes are quarantined", status.quarantined_bytes);
    ensure!(status.out_of_service.is_none(), "out of service: {:?}", status.out_of_service);
    ensure!(status.faults == 0, "DMA faults: {:?}", status.last_fault);
    let ended = rig.end(Signal::TERM)?;
    ensure!(ended.success(), "the broker ended with {ended}: {}", rig.last_words());
    ensure!(!rig.socket().exists(), "the broker left its socket behind");
    Ok(Outcome::Passed)
}
