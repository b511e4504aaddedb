//! Format NVM: namespaces to zeroes, and to another block size (base 5.14).

use super::erase::{Erasure, Purpose, erase};
use super::{Job, Kind, Step, Tools};
use crate::soft::command::Failure;
use crate::soft::namespace::Namespaces;
use crate::spec::Status;

/// A Format NVM under way.
///
/// # Invariants
/// `Namespace::formatting` is set for all of `first ..= last` until [`Formatting::end`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Formatting {
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// The format to be, an index in `FORMATS`.
    format: u8,
    /// The namespace at hand.
    now: u32,
    /// Its erasure; `None` until other jobs on it have ended.
    erasure: Option<Erasure>,
}

impl Formatting {
    /// Marks the namespaces; from here on I/O to them is refused.
    pub(crate) fn begin(ns: &mut Namespaces, first: u32, last: u32, format: u8) -> Self {
        for nsid in first..=last {
            if let Some(ns) = ns.get_mut(nsid) {
                ns.formatting = Some(100);
            }
        }
        Self { first, last, format, now: first, erasure: None }
    }

    /// It is over, one way or the other.
    pub(super) fn end(&self, ns: &mut Namespaces) {
        for nsid in self.first..=self.last {
            if let Some(ns) = ns.get_mut(nsid) {
                ns.formatting = None;
            }
        }
    }
}

/// A step: wait for other jobs, erase, switch the block size, go on to the next namespace.
pub(super) fn step(
    job: &mut Job,
    tools: &mut Tools<'_>,
    mut format: Formatting,
    result: Option<i32>,
) -> Step {
    if job.origin.is_none() {
        // Aborted, or the controller was reset. Nothing of ours is in the kernel at this point.
        return Step::End(Err(Failure::new(Status::ABORT_REQUESTED)));
    }
    let step = advance(job, tools, &mut format, result);
    job.kind = Kind::Format(format);
    step
}

fn advance(job: &Job, tools: &mut Tools<'_>, format: &mut Formatting, result: Option<i32>) -> Step {
    let now = format.now;
    let Some((bytes, jobs)) = tools.ns.get(now).map(|ns| (ns.bytes, ns.jobs)) else {
        return Step::End(Err(Failure::new(Status::INTERNAL_ERROR)));
    };
    let erasure = match &mut format.erasure {
        Some(erasure) => erasure,
        // Commands that came before the format still use the old block size.
        None if jobs > 0 => return Step::Again,
        slot @ None => slot.insert(Erasure::of(Purpose::Format, 0, bytes, true)),
    };
    let step = erase(job, tools, now, erasure, result);
    let left = erasure.left(bytes);
    if let Some(ns) = tools.ns.get_mut(now) {
        ns.formatting = Some(left);
        if matches!(step, Step::End(Ok(()))) {
            ns.set_format(format.format);
        }
    }
    match step {
        Step::End(Ok(())) if now < format.last => {
            (format.now, format.erasure) = (now + 1, None);
            Step::Again
        }
        other => other,
    }
}
