//! The whole program, with next to no time: the object has exactly the keys that it must have.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panic")]

use std::process::Command;

use serde_json::Value;

/// Every path to a value, points of curves once.
fn paths(value: &Value, path: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                paths(value, &format!("{path}.{key}"), into);
            }
        }
        Value::Array(points) => {
            let [first, ..] = &points[..] else { panic!("{path}: no points") };
            paths(first, &format!("{path}[]"), into);
        }
        Value::Number(_) | Value::Null => into.push(path.to_owned()),
        Value::Bool(_) | Value::String(_) => panic!("{path}: {value} is no figure"),
    }
}

const KEYS: [&str; 20] = [
    ".floors.shm_ns",
    ".floors.shm_4k_ns",
    ".floors.uds_ns",
    ".floors.memcpy_4k_ns",
    ".ring.direct_qd32_ns",
    ".ring.async_qd32_ns",
    ".ring.instructions_per_op",
    ".ring.allocations_per_op",
    ".ring.shared_2p_ns",
    ".ring.mutex_2p_ns",
    ".ring.fetch_add_2p_ns",
    ".device.nodata_qd1_ns",
    ".device.read4k_qd1_ns",
    ".device.nodata_qd32_mops",
    ".device.read4k_qd32_mops",
    ".wait.eventfd_floor_ns",
    ".wait.interrupt_ns",
    ".wait.hybrid_ns",
    ".scaling[].in_flight",
    ".scaling[].ns_per_op",
];

/// The curve that there is only where pollers are measured.
const QUEUES: [&str; 2] = [".queues_per_poller[].queues", ".queues_per_poller[].ns_per_op"];

#[test]
fn one_object_with_exactly_these_keys_and_nothing_else() {
    let output = Command::new(env!("CARGO_BIN_EXE_doorbell-figures"))
        .args(["--json", "--seconds", "0.5"])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let object: Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    paths(&object, "", &mut found);
    let mut wanted: Vec<_> = KEYS.into_iter().collect();
    match object.get("queues_per_poller") {
        Some(Value::Null) => wanted.push(".queues_per_poller"),
        _ => wanted.extend(QUEUES),
    }
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    // What needs neither a second core nor valgrind is there on every machine.
    for pointer in ["/floors/shm_ns", "/ring/direct_qd32_ns", "/device/read4k_qd1_ns"] {
        assert!(object.pointer(pointer).and_then(Value::as_f64).unwrap() > 0.0, "{pointer}: {log}");
    }
    assert_eq!(object.pointer("/ring/allocations_per_op").and_then(Value::as_f64), Some(0.0));
    let in_flight = |at: usize| object.pointer(&format!("/scaling/{at}/in_flight"));
    assert_eq!((in_flight(0), in_flight(8)), (Some(&1.into()), Some(&256.into())));
}
