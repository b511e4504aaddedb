//! Slices of a real BAR in real processes. `DOORBELL_TEST_PCI` names an NVMe function that vfio-pci has and
//! whose contents do not matter; `DOORBELL_TEST_REVOKE` is the number of the feature that revokes, on a
//! kernel that has it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod common;

use std::io::Read;
use std::process::{Command, Stdio};

use common::{Broker, Guard, doorbell, wait};

fn device(options: &str) -> String {
    let address = std::env::var("DOORBELL_TEST_PCI").expect("name a PCI function");
    format!("{address}{options}")
}

/// What a client's process has open and mapped of the device.
fn holdings(pid: i32) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5).map(str::to_owned));
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let all = mapped.chain(open.map(|path| path.display().to_string()));
    all.filter(|name| ["vfio", "iommu", "dmabuf"].iter().any(|part| name.contains(part))).collect()
}

fn one_line(client: &mut Guard) -> String {
    assert_eq!(wait(&mut client.0).code(), Some(1), "an error, no signal");
    let mut error = String::new();
    client.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn revoked_under_load(bus: &str) {
    let number = std::env::var("DOORBELL_TEST_REVOKE").expect("name the feature that revokes");
    let broker = Broker::serve(&device(&format!(",bus={bus},dmabuf-revoke={number}")));
    // Several times, so that stores meet a page that is gone.
    let (mut rounds, mut seconds) = (0, 8);
    while rounds < 2 {
        let mut neighbour = doorbell();
        neighbour.args(["bench", "--depth", "8", "--seconds", &seconds.to_string()]);
        neighbour.arg("--socket").arg(&broker.socket);
        neighbour.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut neighbour = Guard(neighbour.spawn().unwrap());
        broker.await_queue_of(neighbour.pid());
        let mut victim = broker.busy_client();
        broker.await_queue_of(victim.pid());
        let held = holdings(victim.pid());
        assert!(
            !held.is_empty() && held.iter().all(|name| name.starts_with("/dmabuf")),
            "{held:?}"
        );
        broker.ask(&["revoke", "--pid", &victim.pid().to_string()]).text();
        let error = one_line(&mut victim);
        assert!(error.contains("revoked"), "{error}");
        // It must have been there all the time; if the machine is too slow for that, once more.
        let there = neighbour.0.try_wait().unwrap().is_none();
        assert_eq!(wait(&mut neighbour.0).code(), Some(0), "the neighbour does not notice");
        if there { rounds += 1 } else { seconds *= 2 }
    }
    // All doorbells of this controller lie in one page, the admin queue's too.
    let policy = |file: &std::path::Path| {
        std::fs::write(file, "[[rule]]\nany = true\nrequired_tier = \"paged\"\n").unwrap();
    };
    drop(broker);
    refused(
        &format!(",bus={bus},dmabuf-revoke={number}"),
        policy,
        &["paged", "driver's own queue"],
    );
}

/// A broker with a policy of its own refuses a claim, and goes on.
fn refused(options: &str, policy: impl Fn(&std::path::Path), parts: &[&str]) {
    let broker = Broker::serve_with(&device(options), |command: &mut Command, folder| {
        let file = folder.join("policy.toml");
        policy(&file);
        command.arg("--policy").arg(file);
    });
    broker.ask(&["bench", "--ios", "10"]).fails_with(parts);
    broker.ask(&["status"]).text();
}

#[test]
#[ignore = "needs a kernel that revokes dma-bufs, and an NVMe function that vfio-pci has"]
fn a_client_that_holds_a_slice_only_is_revoked_under_load_and_its_neighbour_does_not_notice() {
    for bus in ["cdev", "container"] {
        revoked_under_load(bus);
    }
}

#[test]
#[ignore = "needs a kernel that does not revoke dma-bufs, and an NVMe function that vfio-pci has"]
fn a_kernel_that_cannot_revoke_refuses_paged_and_asks_the_policy_for_the_device() {
    for options in [",bus=cdev", ",bus=container", ",bus=cdev,dmabuf-revoke=14"] {
        let write =
            |text: &'static str| move |file: &std::path::Path| std::fs::write(file, text).unwrap();
        let paged = write("[[rule]]\nany = true\ndevice_fd = true\nrequired_tier = \"paged\"\n");
        refused(options, paged, &["paged", "this kernel cannot revoke BAR slices"]);
        refused(options, write("[[rule]]\nany = true\n"), &["device_fd = true"]);
        // The broker's own user may have the device's descriptor.
        let broker = Broker::serve(&device(options));
        assert_eq!(broker.ask(&["bench", "--ios", "10"]).code, Some(0));
        let status = broker.ask(&["status"]).text();
        assert!(status.contains("slices are the device's descriptor"), "{status}");
    }
}
