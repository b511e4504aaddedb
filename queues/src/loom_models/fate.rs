//! Whoever sees the end of a queue sees what was done before it.

use core::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use crate::fate::{EndReason, Fate};

/// Two threads end a queue, each after work of its own, the second as quiesced.
#[test]
fn the_end_shows_what_was_done_before_it() {
    loom::model(|| {
        let shared = Arc::new((Fate::new(), AtomicU32::new(0), AtomicU32::new(0)));
        let end = |reason, quiesced| {
            let shared = shared.clone();
            thread::spawn(move || {
                let done = if quiesced { &shared.2 } else { &shared.1 };
                done.store(1, Ordering::Relaxed);
                shared.0.end(reason, quiesced);
            })
        };
        let threads = [end(EndReason::Revoked, false), end(EndReason::DeviceReset, true)];

        let (fate, revoked, reset) = &*shared;
        let seen = fate.ended();
        match seen {
            Some(EndReason::Revoked) => assert_eq!(revoked.load(Ordering::Relaxed), 1),
            Some(EndReason::DeviceReset) => assert_eq!(reset.load(Ordering::Relaxed), 1),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        if fate.quiesced() {
            assert_eq!(reset.load(Ordering::Relaxed), 1);
            assert!(fate.ended().is_some());
        }
        if seen.is_some() {
            assert_eq!(fate.ended(), seen, "the first reason stays");
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(fate.ended().is_some() && fate.quiesced());
    });
}

/// The model bites: a flag that does not release shows the end before the work.
#[test]
#[should_panic(expected = "the work")]
fn a_relaxed_end_would_not() {
    loom::model(|| {
        let shared = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        let writer = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.store(1, Ordering::Relaxed);
                shared.0.store(1, Ordering::Relaxed);
            })
        };
        if shared.0.load(Ordering::Acquire) == 1 {
            assert_eq!(shared.1.load(Ordering::Relaxed), 1, "the work");
        }
        writer.join().unwrap();
    });
}
