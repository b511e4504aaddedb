//! Every contender completes what it submits; nothing is asserted about time.
#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;

const BRIEF: Duration = Duration::from_millis(30);

#[test]
fn every_contender_gets_through_its_rounds() {
    for contender in Contender::ALL {
        for batch in [1, 32] {
            let contended = contender.measure(&[None, None], batch, BRIEF).unwrap();
            let (counted, all) = contended.rounds;
            assert!(all > 0 && counted <= all, "{contender:?}: {contended:?}");
            assert_eq!(contended.ns.is_some(), counted > 0, "{contender:?}");
            assert_eq!(contended.turns.is_none(), contender == Contender::Single);
            // Producers that share a word take turns at least once in a round.
            let may_never_meet = contender == Contender::CompareExchange;
            let changed = contended.turns.is_none_or(|turns| turns > 0.0);
            assert!(changed || may_never_meet, "{contender:?}: {contended:?}");
        }
    }
}

#[test]
fn one_producer_never_changes_turns() {
    for contender in Contender::ALL {
        let contended = contender.measure(&[None], 8, BRIEF).unwrap();
        assert!(contended.turns.is_none_or(|turns| turns == 0.0), "{contender:?}: {contended:?}");
        assert!(contended.ns.is_some(), "{contender:?}");
    }
}

#[test]
fn only_rounds_in_which_all_were_at_work_count() {
    let rounds = |times: &[(u64, u64)]| Rounds {
        epoch: Instant::now(),
        arrived: CachePadded::default(),
        over: CachePadded::default(),
        began: times.iter().map(|time| CachePadded::new(AtomicU64::new(time.0))).collect(),
        ended: times.iter().map(|time| CachePadded::new(AtomicU64::new(time.1))).collect(),
    };
    let judge = |times: &[(u64, u64)]| rounds(times).judge(10);
    assert_eq!(judge(&[(0, 100), (10, 110)]), (11.0, true));
    assert_eq!(judge(&[(0, 100), (100, 200)]), (20.0, false));
    // The shorter one was not alone for a moment.
    assert_eq!(judge(&[(0, 1000), (500, 600)]), (100.0, true));
}

#[test]
fn a_core_that_is_not_there_ends_it_for_all() {
    let core = rustix::thread::CpuSet::MAX_CPU;
    let error = Contender::Mutex.measure(&[None, Some(core)], 1, BRIEF).unwrap_err();
    assert!(format!("{error:#}").contains("producer 1"), "{error:#}");
}
