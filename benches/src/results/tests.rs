//! A run of the imagination, for tests of everything that shows one.

use super::*;
use crate::report::tests::series;
use std::time::Duration;

fn what(mix: &str, block: u64, depth: u32, mode: Mode) -> What {
    What { mix: mix.to_owned(), block, depth, mode, clients: 1, offered: None }
}

/// Five rounds around `typical` nanoseconds, a few percent apart.
fn measured(what: What, floor: Option<&str>, typical: u64) -> Measurement {
    let mut one = Measurement::new(what, floor.map(str::to_owned)).unwrap();
    for round in 0..5 {
        let outcome = |at: u64| {
            let response = series(typical * (100 + round + at) / 100);
            let service = one.what.offered.map(|_| series(typical * 9 / 10));
            Outcome { service, ..Outcome::closed(response) }
        };
        let clients: Vec<Outcome> = (0..u64::from(one.what.clients)).map(outcome).collect();
        let busy = typical * 20_000;
        let cpu = Cpu { client_ns: busy / 2, device_ns: (round < 9).then_some(busy) };
        one.add_round(&clients, cpu);
    }
    one
}

fn floor(key: &str, name: &str, typical: u64) -> FloorResult {
    let rounds: Vec<u64> = (0..5).map(|round| typical * (100 + round) / 100).collect();
    let mut all = Series::new().unwrap();
    for typical in &rounds {
        all.append(&series(*typical));
    }
    let rounds = rounds.iter().map(|typical| series(*typical).quantile_ns(0.5) as f64).collect();
    FloorResult { key: key.to_owned(), name: name.to_owned(), series: all, rounds }
}

/// Closed loops in two modes and at three depths, open loops up to saturation, two clients.
pub(crate) fn sample() -> Results {
    let mut results = vec![
        measured(what("flush", 0, 1, Mode::Spin), Some("shm"), 180),
        measured(what("read", 4096, 1, Mode::Spin), Some("shm4k"), 600),
        measured(what("read", 4096, 8, Mode::Spin), None, 2_300),
        measured(what("read", 4096, 32, Mode::Spin), None, 9_000),
        measured(what("70 % read", 65_536, 1, Mode::Interrupt), None, 14_000),
    ];
    let mut pair = what("read", 4096, 8, Mode::Spin);
    pair.clients = 2;
    results.push(measured(pair, None, 5_000));
    for (rate, typical) in
        [(50_000.0, 700), (100_000.0, 800), (200_000.0, 1_400), (400_000.0, 900_000)]
    {
        let mut open = what("read", 4096, 32, Mode::Spin);
        open.offered = Some(Offered { rate, pattern: Pattern::Poisson });
        let mut one = measured(open, None, typical);
        one.outcome.scheduled_ns = 20_000 * 5 * 1_000_000_000 / rate as u64;
        if rate > 300_000.0 {
            one.outcome.unserved = 5_000;
        }
        results.push(one);
    }
    Results {
        device: "soft:nvme,ram=64M <\"one\">".to_owned(),
        namespace: 1,
        machine: Machine {
            cpu: "Some CPU".to_owned(),
            cores: 2,
            kernel: "6.1.0".to_owned(),
            governor: String::new(),
            is_virtual: true,
        },
        facts: vec![("seed".to_owned(), "1".to_owned())],
        floors: vec![
            floor("shm", "shared-memory ping-pong", 130),
            floor("shm4k", "the same with 4 KiB", 480),
            floor("uds", "Unix-socket ping-pong", 13_700),
        ],
        results,
    }
}

/// The same with times of floors and of figures multiplied.
pub(crate) fn slower(results: &Results, floors: f64, figures: f64) -> Results {
    let stretched = |series: &Series, by: f64| {
        let mut slow = Series::new().unwrap();
        for (ns, count) in series.buckets() {
            slow.record_many((ns as f64 * by) as u64, count);
        }
        slow.extend(series.elapsed().mul_f64(by), series.bytes());
        slow
    };
    let mut slow = results.clone();
    for floor in &mut slow.floors {
        floor.series = stretched(&floor.series, floors);
        floor.rounds.iter_mut().for_each(|round| *round *= floors);
    }
    for one in &mut slow.results {
        one.outcome.response = stretched(&one.outcome.response, figures);
        for round in &mut one.rounds {
            for time in [&mut round.p50_ns, &mut round.p99_ns, &mut round.p999_ns] {
                *time *= figures;
            }
            round.iops /= figures;
        }
    }
    slow
}

#[test]
fn names_say_what_is_not_usual() {
    let mut one = what("read", 4096, 32, Mode::Spin);
    assert_eq!(one.name(), "read 4 KiB, QD 32");
    one.mode = Mode::Interrupt;
    one.clients = 3;
    one.offered = Some(Offered { rate: 50_000.0, pattern: Pattern::Fixed });
    assert_eq!(one.name(), "read 4 KiB at 50.0 k/s, interrupt, 3 clients");
    assert_eq!(what("flush", 0, 1, Mode::Spin).name(), "flush, QD 1");
    assert_eq!(
        [512, 1536, 65_536, 1 << 20].map(block_name),
        ["512 B", "1536 B", "64 KiB", "1 MiB"]
    );
}

#[test]
fn rounds_add_up_and_clients_stand_side_by_side() {
    let results = sample();
    let (alone, pair) = (&results.results[2], &results.results[5]);
    assert_eq!(alone.completed(), 5 * 20_000);
    assert_eq!(pair.completed(), 2 * 5 * 20_000);
    assert_eq!((pair.shares.len(), alone.shares.len()), (2, 0));
    assert!(pair.fairness().unwrap() > 0.999 && alone.fairness().is_none());
    // Side by side: twice the operations in about the same time.
    assert!(pair.iops() > 1.8 * 1e9 / 5_300.0, "{}", pair.iops());
    let (client, device) = alone.cpu_per_operation();
    assert!((client - 1_150.0).abs() < 1.0 && (device.unwrap() - 2_300.0).abs() < 1.0);
    assert!(pair.outcome.response.elapsed() > Duration::from_millis(400));
}

#[test]
fn fairness_is_jains_index() {
    let mut one = sample().results.remove(5);
    one.shares = vec![series(10), Series::new().unwrap(), Series::new().unwrap()];
    assert!((one.fairness().unwrap() - 1.0 / 3.0).abs() < 1e-9);
}
