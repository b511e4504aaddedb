//! The relay's thread: looks, sends, sleeps.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use super::super::access::check_written;
use super::super::error::LinkError;
use super::{State, WORDS, lock};
use crate::deadline::Deadline;
use crate::vfio_user::message::{RegionAccess, RegionData, SmallWrite, WriteMulti};
use crate::vfio_user::{Command, Reply, Request};

/// How long it looks for new values before it sleeps.
const SPIN: Duration = Duration::from_micros(50);
/// Writes of one message or of one batch of messages.
const BATCH: usize = 64;

/// A doorbell's new value.
#[derive(Debug, Clone, Copy)]
struct Ring {
    region: u8,
    offset: u64,
    value: u32,
}

pub(super) fn run(state: &State) {
    let mut rings = Vec::new();
    let mut since = Instant::now();
    while !state.stop.load(Ordering::Acquire) {
        look(state, &mut rings);
        if !rings.is_empty() {
            if let Err(error) = send(state, &rings) {
                // The value is not lost on a server that still answers: it is as if the device had
                // ignored a doorbell, and only a reset mends that.
                tracing::error!(device = %state.link.shared.name, %error, "doorbells were not passed on");
                state.link.shared.trouble("a doorbell could not be passed on to the device server");
            }
            since = Instant::now();
        } else if since.elapsed() < SPIN {
            std::thread::yield_now();
        } else {
            sleep(state);
            since = Instant::now();
        }
    }
}

/// Collects the words that changed since they were sent, and takes them as sent.
fn look(state: &State, rings: &mut Vec<Ring>) {
    rings.clear();
    for ((region, start), page) in lock(&state.pages).iter_mut() {
        for (index, sent) in page.sent.iter_mut().enumerate().take(WORDS) {
            // Acquire: what was written before the doorbell is in memory before the server hears.
            let Ok(value) = page.memory.load_u32(4 * index, Ordering::Acquire) else { continue };
            if value != *sent {
                *sent = value;
                rings.push(Ring { region: *region, offset: start + 4 * index as u64, value });
            }
        }
    }
}

/// Sends them, in order, and waits until the server has taken them.
fn send(state: &State, rings: &[Ring]) -> Result<(), LinkError> {
    for batch in rings.chunks(BATCH) {
        if state.write_multiple && batch.len() > 1 {
            send_multiple(state, batch)?;
        } else {
            send_each(state, batch)?;
        }
    }
    Ok(())
}

fn send_each(state: &State, batch: &[Ring]) -> Result<(), LinkError> {
    let deadline = Deadline::after(state.link.timeout);
    let mut sent = Vec::with_capacity(batch.len());
    for Ring { region, offset, value } in batch.iter().copied() {
        let wanted = RegionAccess { offset, region: region.into(), count: 4 };
        let data = &value.to_le_bytes();
        let write = RegionData { offset, region: region.into(), data };
        let write = Request::RegionWrite(write);
        sent.push((wanted, state.link.send(&write, Vec::new(), deadline)?));
    }
    for (wanted, sent) in sent {
        let frame = sent.wait()?;
        let reply = Reply::decode(Command::RegionWrite, &frame.payload);
        let reply = reply.map_err(|error| LinkError::protocol(Command::RegionWrite, &error))?;
        if let Reply::RegionWrite(written) = reply {
            check_written(written, wanted)?;
        }
    }
    Ok(())
}

fn send_multiple(state: &State, batch: &[Ring]) -> Result<(), LinkError> {
    let small =
        |ring: &Ring| SmallWrite::new(ring.region.into(), ring.offset, &ring.value.to_le_bytes());
    let writes: Vec<SmallWrite> = batch.iter().filter_map(small).collect();
    let wanted = writes.len() as u64;
    let request = Request::RegionWriteMulti(WriteMulti { writes });
    let done = state.link.ask_for(&request, |reply| match reply {
        Reply::RegionWriteMulti(count) => Some(count),
        _ => None,
    })?;
    if done == wanted {
        return Ok(());
    }
    let problem = format!("{done} of {wanted} writes were done");
    Err(LinkError::answer(Command::RegionWriteMulti, problem))
}

/// Sleeps until a doorbell is rung. Returns at once if one was.
fn sleep(state: &State) {
    for words in lock(&state.vectors).values() {
        words.fall_asleep();
    }
    // From here on a ring kicks; one that came before is seen by this look.
    if !rung(state) && !state.stop.load(Ordering::Acquire) {
        let mut events = Vec::with_capacity(16);
        match epoll::wait(&state.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                let device = &state.link.shared.name;
                tracing::error!(%device, %error, "the doorbell relay cannot sleep");
            }
        }
    }
    for words in lock(&state.vectors).values() {
        words.wake_up();
    }
}

/// True if a word changed since it was sent.
fn rung(state: &State) -> bool {
    lock(&state.pages).values().any(|page| {
        page.sent.iter().enumerate().any(|(index, sent)| {
            page.memory.load_u32(4 * index, Ordering::Acquire).is_ok_and(|value| value != *sent)
        })
    })
}
