//! Faults that the controller commits on request, to test drivers against.
//!
//! A fault is armed for the N-th I/O command that the controller fetches (from 1, over all I/O
//! queues, since it was built), or from the beginning.

use crate::spec::Cqe;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectKind {
    /// The command never completes, until it is aborted, its queue deleted, or the controller reset.
    Timeout,
    /// Controller fatal status (CSTS.CFS); nothing is processed any more.
    Fatal,
    /// Every register reads as all ones and nothing is processed: the device is gone.
    AllOnes,
    /// The completion has the wrong phase: the host never sees it.
    Phase,
    /// The completion names a command that was never submitted.
    UnknownId,
    /// The completion names the previous command of that queue.
    StaleId,
    /// The completion comes twice.
    Duplicate,
    /// The completion reports a submission queue head outside of the queue.
    Head,
    /// CSTS.RDY never follows CC.EN.
    NeverReady,
    /// The command's DMA goes to an address that is not mapped.
    Dma,
    /// The medium fails.
    Media,
}

/// A fault and when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injection {
    /// What goes wrong.
    pub kind: InjectKind,
    /// At which I/O command, from 1; 0 is from the beginning ([`InjectKind::AllOnes`],
    /// [`InjectKind::Fatal`]) and otherwise each command.
    pub at: u64,
}

/// Names of the kinds, as `fault=NAME@N` has them.
const NAMES: [(&str, InjectKind); 11] = [
    ("timeout", InjectKind::Timeout),
    ("fatal", InjectKind::Fatal),
    ("all-ones", InjectKind::AllOnes),
    ("phase", InjectKind::Phase),
    ("unknown-id", InjectKind::UnknownId),
    ("stale-id", InjectKind::StaleId),
    ("duplicate", InjectKind::Duplicate),
    ("head", InjectKind::Head),
    ("never-ready", InjectKind::NeverReady),
    ("dma", InjectKind::Dma),
    ("media", InjectKind::Media),
];

/// What `fault=` takes.
pub(crate) const WANT: &str = "write KIND or KIND@N (the N-th I/O command, from 1): timeout, fatal, \
    all-ones, phase, unknown-id, stale-id, duplicate, head, never-ready, dma, media";

/// `KIND@N`; without `@N` the first command, or the beginning for kinds that need no command.
pub(crate) fn parse_injection(text: &str) -> Option<Injection> {
    let (name, at) = match text.split_once('@') {
        Some((name, at)) => (name, Some(at.parse().ok()?)),
        None => (text, None),
    };
    let kind = NAMES.iter().find(|(known, _)| *known == name)?.1;
    let early = matches!(kind, InjectKind::AllOnes | InjectKind::Fatal | InjectKind::NeverReady);
    Some(Injection { kind, at: at.unwrap_or(u64::from(!early)) })
}

/// The faults of one controller.
#[derive(Debug)]
pub(crate) struct Inject {
    armed: Vec<Injection>,
    /// I/O commands fetched so far.
    seen: u64,
}

impl Inject {
    pub(crate) fn new(armed: Vec<Injection>) -> Self {
        Self { armed, seen: 0 }
    }

    /// True if there is anything to think about at all.
    #[inline]
    pub(crate) fn is_armed(&self) -> bool {
        !self.armed.is_empty()
    }

    /// Takes note of an I/O command; the fault that it meets, if any.
    pub(crate) fn on_command(&mut self) -> Option<InjectKind> {
        self.seen += 1;
        let hit = |fault: &&Injection| fault.at == self.seen || fault.at == 0;
        let late = |fault: &&Injection| !matches!(fault.kind, InjectKind::NeverReady);
        self.armed.iter().filter(late).find(hit).map(|fault| fault.kind)
    }

    /// True if this fault holds from the beginning.
    pub(crate) fn holds_always(&self, kind: InjectKind) -> bool {
        self.armed.iter().any(|fault| fault.kind == kind && fault.at == 0)
    }
}

/// How a completion is damaged. `None` means that it is not.
pub(crate) fn damage(cqe: &mut Cqe, kind: InjectKind, size: u32) -> bool {
    match kind {
        InjectKind::Phase => return true,
        InjectKind::UnknownId => cqe.cid ^= 0x8000,
        InjectKind::StaleId => cqe.cid = cqe.cid.wrapping_sub(1),
        InjectKind::Head => cqe.sqhd = size.min(0xfffe) as u16 + 1,
        _ => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_as_written() {
        let fault = |kind, at| Some(Injection { kind, at });
        assert_eq!(parse_injection("timeout@7"), fault(InjectKind::Timeout, 7));
        assert_eq!(parse_injection("dma"), fault(InjectKind::Dma, 1));
        assert_eq!(parse_injection("all-ones"), fault(InjectKind::AllOnes, 0));
        assert_eq!(parse_injection("timeout@x"), None);
        assert_eq!(parse_injection("nonsense"), None);
    }

    #[test]
    fn a_fault_meets_its_command_only() {
        let mut inject = Inject::new(vec![Injection { kind: InjectKind::Media, at: 2 }]);
        assert!(inject.is_armed());
        let met: Vec<_> = (0..3).map(|_| inject.on_command()).collect();
        assert_eq!(met, [None, Some(InjectKind::Media), None]);
    }
}
