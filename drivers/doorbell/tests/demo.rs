//! The demo from beginning to end. Nothing is asserted about time.

mod common;

use common::{doorbell, run};

#[test]
fn the_demo_runs_and_its_json_is_what_was_promised() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("demo.html");
    let kept = folder.path().join("kept");
    let demo = run(doorbell()
        .args(["demo", "--json", "--measure", "0.9", "--seed", "7", "--report"])
        .arg(&page)
        .arg("--keep")
        .arg(&kept));
    let json = demo.json();
    for (group, keys) in [
        ("floors", &["shm_ns", "shm_4k_ns", "uds_ns"][..]),
        ("reclaim", &["queues", "mappings", "bytes", "ms"]),
    ] {
        for key in keys {
            assert!(json[group][key].as_f64().unwrap() > 0.0, "{group}.{key}: {json}");
        }
    }
    for load in ["flush_qd1", "read4k_qd1", "read4k_qd32"] {
        for key in ["p50_ns", "p99_ns", "p999_ns"] {
            assert!(json["latency"][load][key].as_u64().unwrap() > 0, "{load}.{key}: {json}");
        }
    }
    assert!(json["latency"]["read4k_qd32"]["iops"].as_f64().unwrap() > 0.0);
    // The whole image at least twice (once beside its scratch range), and the scratch range.
    assert!(json["verified_bytes"].as_u64().unwrap() >= (256 + 272 + 16) << 20);
    assert_eq!(json["mismatches"], 0);
    assert_eq!(json["surviving_client_errors"], 0);
    assert_eq!(json["fsck_clean"], true);
    assert!(demo.err.contains("seed 7"), "{}", demo.err);
    assert!(std::fs::read_to_string(&page).unwrap().contains("<svg"));
    for file in ["disk.img", "SHA256SUMS", "broker.log"] {
        assert!(kept.join(file).exists(), "{file}");
    }
    assert!(!kept.join("nvme0.sock").exists());

    let again = run(doorbell().args(["demo", "--keep"]).arg(&kept));
    again.ends_with(&["not empty"]);
}
