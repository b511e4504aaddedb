//! `doorbell bench` as a whole: every kind of load, against a device of its own and a broker's.
//! Nothing is asserted about time.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;

use common::{Broker, Ended, doorbell, run};
use serde_json::Value;

/// A bench of a device in its own process.
fn inside(arguments: &str) -> Ended {
    run(doorbell().args(["bench", "--spec", "soft:nvme,ram=8M"]).args(arguments.split(' ')))
}

/// The results of a bench, each of which must have what every result has.
#[track_caller]
fn results(ended: &Ended) -> Vec<Value> {
    let json = ended.json();
    assert_eq!((&json["schema"], &json["version"]), (&"doorbell-bench".into(), &2.into()));
    assert!(json["machine"]["kernel"].is_string() && json["facts"].is_array());
    let results = json["results"].as_array().unwrap().clone();
    for one in &results {
        for number in ["operations", "completed", "p50_ns", "p9999_ns", "max_ns", "iops"] {
            assert!(one[number].is_number(), "{number}: {one}");
        }
        assert!(one["p50_ns"].as_u64() <= one["max_ns"].as_u64());
        let counted: u64 = one["histogram"]
            .as_str()
            .unwrap()
            .split(' ')
            .map(|pair| pair.split_once(':').unwrap().1.parse::<u64>().unwrap())
            .sum();
        assert_eq!(Some(counted), one["operations"].as_u64());
        assert!(one["cpu_per_operation"]["client_ns"].as_f64().unwrap() > 0.0);
    }
    results
}

#[test]
fn closed_loops_in_every_mode() {
    let bench = inside("--mode spin,hybrid,interrupt --depth 1,8 --ios 203 --json");
    let results = results(&bench);
    let modes: Vec<&str> = results.iter().map(|one| one["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["spin", "spin", "hybrid", "hybrid", "interrupt", "interrupt"]);
    for one in &results {
        assert_eq!((&one["completed"], &one["bytes"]), (&203.into(), &(203 * 4096).into()));
        assert_eq!(one["rounds"].as_array().unwrap().len(), 5);
        assert!(one["cpu_per_operation"]["device_ns"].is_number(), "{one}");
        assert!(one["service"].is_null() && one["offered"].is_null());
    }
}

#[test]
fn open_loops_in_every_mode() {
    for arrivals in ["fixed", "poisson"] {
        let bench = inside(&format!(
            "--mode spin,hybrid,interrupt --rate 5k --arrivals {arrivals} --depth 4 --ios 100 --json"
        ));
        for one in results(&bench) {
            assert_eq!((&one["completed"], &one["unserved"]), (&100.into(), &0.into()), "{one}");
            assert_eq!(one["offered"]["pattern"], arrivals);
            assert_eq!(one["service"]["operations"], 100);
            // From the intended arrival is never less than from the start.
            assert!(one["max_ns"].as_u64() >= one["service"]["p50_ns"].as_u64());
        }
    }
}

#[test]
fn more_than_can_be_served_is_said() {
    // A hundred million arrivals in a second: no machine does that.
    let bench = inside("--rate 100M --depth 2 --seconds 0.02 --rounds 1 --json");
    let one = &results(&bench)[0];
    assert_eq!(one["saturated"], true, "{one}");
    assert!(one["unserved"].as_u64().unwrap() > 0);
    let text = inside("--rate 100M --depth 2 --seconds 0.02 --rounds 1").text();
    assert!(text.contains("Saturated: read 4 KiB was offered 100 M/s"), "{text}");
}

#[test]
fn sizes_and_mixes() {
    let bench = inside("--block 512,64k,1M --depth 2 --read 70 --overwrite --ios 40 --json");
    // The software device moves 128 KiB at most unless told otherwise.
    bench.fails_with(&["1048576 bytes", "--block"]);
    let bench = run(doorbell()
        .args(["bench", "--spec", "soft:nvme,ram=8M,mdts=8", "--block", "512,64k,1M"])
        .args(["--depth", "2", "--read", "70", "--overwrite", "--ios", "40", "--json"]));
    let results = results(&bench);
    let names: Vec<&str> = results.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["70 % read 512 B, QD 2", "70 % read 64 KiB, QD 2", "70 % read 1 MiB, QD 2"]);
    assert_eq!(results[2]["bytes"], 40 << 20);
}

#[test]
fn several_clients_are_processes_and_each_is_shown() {
    let broker = Broker::serve("soft:nvme,ram=8M");
    let clients = ["bench", "--clients", "3", "--depth", "4", "--ios", "300", "--rounds", "2"];
    let bench = broker.ask(&[&clients[..], &["--json"]].concat());
    let one = &results(&bench)[0];
    assert_eq!((&one["completed"], &one["clients"]), (&900.into(), &3.into()));
    let each = one["clients_each"].as_array().unwrap();
    assert!(each.len() == 3 && each.iter().all(|client| client["operations"] == 300), "{one}");
    assert!(one["fairness"].as_f64().unwrap() > 0.999);
    let text = broker.ask(&clients).text();
    assert!(text.contains("client 3") && text.contains("fairness 1.000"), "{text}");
    // A client's failure is the whole command's, in one line.
    broker.ask(&["bench", "--clients", "2", "--block", "1000"]).fails_with(&["1000 bytes"]);
    // At a rate, each has its share of the arrivals.
    let open = ["bench", "--clients", "2", "--rate", "4k", "--ios", "50", "--mode", "interrupt"];
    let bench = broker.ask(&[&open[..], &["--json"]].concat());
    assert_eq!(results(&bench)[0]["completed"], 100);
}

#[test]
fn a_sweep_a_report_and_a_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old");
    let report = |to: &Path| format!("--sweep --depth 1,2 --ios 200 --report {}", to.display());
    inside(&report(&old)).text();
    let json = old.with_extension("json");
    let csv = fs::read_to_string(old.with_extension("csv")).unwrap();
    // Two closed loops and the open ones of the deeper.
    assert_eq!(csv.lines().count(), 1 + 2 + 9, "{csv}");
    assert!(fs::read_to_string(old.with_extension("html")).unwrap().contains("offered load"));

    let new = folder.path().join("new.html");
    let against = format!("{} --against {}", report(&new), json.display());
    let text = inside(&against).text();
    // The old rates were offered again, so that every load has its like.
    assert!(text.contains("Against the old run") && text.contains("of 55 figures"), "{text}");
    assert!(fs::read_to_string(&new).unwrap().contains("Against the old run"));

    inside(&format!("{} --against {}", report(&old), json.display()))
        .fails_with(&["would overwrite", "--report"]);
    for (content, says) in
        [("", "cannot be read"), ("{}", "not a report"), ("[[", "cannot be read")]
    {
        fs::write(&json, content).unwrap();
        inside(&format!("--ios 5 --against {}", json.display())).fails_with(&[says, "old.json"]);
    }
    inside("--ios 5 --against /nowhere.json").fails_with(&["/nowhere.json"]);
}

#[test]
fn floors_stand_beside_what_has_their_shape() {
    let bench = inside("--floors --flush --depth 1 --ios 100 --rounds 2 --json");
    let json = bench.json();
    let floors: Vec<&str> =
        json["floors"].as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap()).collect();
    assert_eq!(floors, ["shm", "shm4k", "uds"]);
    assert_eq!(json["floors"][0]["rounds_p50_ns"].as_array().unwrap().len(), 2);
    assert!(json["results"][0]["ratio"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    inside("--clients 2").fails_with(&["doorbell serve", "--clients"]);
    inside("--arrivals poisson").fails_with(&["--rate"]);
    inside("--mode interrupt --futures").fails_with(&["--futures"]);
    for (option, value) in [("--rate", "0"), ("--mode", "sleep"), ("--ios", "0"), ("--rounds", "0")]
    {
        inside(&format!("{option} {value}")).fails_with(&[option]);
    }
}
