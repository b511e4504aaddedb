//! A controller that misbehaves: each fault ends in a typed error that names it, in bounded time, and
//! what can be used again is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

mod common;

use common::{Rig, SHORT, everywhere, pattern};
use doorbell::client::{Client, QueueSpec};
use doorbell::wire::RevokeTarget;
use doorbell_nvme::spec::Status;
use doorbell_nvme::{Io, Lba, Nvme, NvmeError};
use doorbell_queues::{EndReason, QueueError, Violation};

async fn hasty(rig: &Rig) -> (Client, Nvme) {
    let client = rig.client().await;
    let nvme = Nvme::claim(&client, QueueSpec::depth(8).time_limit(SHORT)).await.unwrap();
    (client, nvme)
}

fn ended(error: &NvmeError) -> EndReason {
    match error.queue() {
        Some(QueueError::Ended { reason, queue }) => {
            assert_eq!(&*queue.device, "soft:nvme");
            *reason
        }
        _ => panic!("not the end of the queue: {error}"),
    }
}

fn violation(error: &NvmeError) -> Violation {
    match error.queue() {
        Some(QueueError::Violation { violation, queue }) => {
            assert_eq!(&*queue.device, "soft:nvme");
            *violation
        }
        _ => panic!("no violation: {error}"),
    }
}

/// A new queue works, on the same client and with the same memory.
async fn works_again(client: &Client) {
    let nvme = Nvme::claim(client, QueueSpec::depth(8)).await.unwrap();
    let ns = nvme.namespace(1).unwrap();
    ns.write(Lba(0), pattern(&nvme, 4096, 1)).await.unwrap();
    nvme.release().await.unwrap();
}

#[test]
fn a_command_that_never_completes_is_aborted() {
    everywhere(async || {
        let rig = Rig::new("ram=1M,fault=timeout@2");
        let (client, nvme) = hasty(&rig).await;
        let before = client.dma().stats();
        let ns = nvme.namespace(1).unwrap();
        ns.write(Lba(0), pattern(&nvme, 512, 0)).await.unwrap();
        let failed = ns.read(Lba(0), pattern(&nvme, 512, 0)).await.unwrap_err();
        let status = failed.error.status().expect("it was completed as aborted");
        assert!(status.is(Status::ABORT_REQUESTED), "{failed}");
        assert!(failed.buffer.is_some());
        drop(failed);
        ns.read(Lba(0), pattern(&nvme, 512, 0)).await.unwrap();
        assert_eq!(client.dma().stats(), before);
    });
}

#[test]
fn a_medium_that_fails() {
    everywhere(async || {
        let rig = Rig::new("ram=1M,fault=media@1");
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let failed = ns.read(Lba(7), pattern(&nvme, 512, 0)).await.unwrap_err();
        assert!(failed.to_string().contains("LBA 7"), "{failed}");
        assert!(failed.error.status().is_some() && failed.buffer.is_some());
        ns.read(Lba(7), pattern(&nvme, 512, 0)).await.unwrap();
        let errors = nvme.admin(&doorbell_nvme::NvmeAdmin::ErrorLog { entries: 4 }).await.unwrap();
        let doorbell_nvme::NvmeReply::Errors(entries) = errors else { panic!("{errors:?}") };
        let entry = entries.first().expect("the status says that there is one");
        assert_eq!((entry.queue, entry.nsid), (Some(nvme.queue().id()), 1), "{entry:?}");
        let said = Status(entry.status).code();
        assert!(failed.error.status().unwrap().is(said), "{entry:?}");
    });
}

#[test]
fn a_dma_fault_is_an_error_of_its_command_only() {
    everywhere(async || {
        let rig = Rig::new("ram=1M,fault=dma@1");
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let failed = ns.read(Lba(0), pattern(&nvme, 512, 0)).await.unwrap_err();
        assert!(failed.error.status().is_some(), "{failed}");
        ns.read(Lba(0), pattern(&nvme, 512, 0)).await.unwrap();
    });
}

#[test]
fn completions_that_cannot_be_end_the_queue_and_not_the_device() {
    let cases = [
        ("unknown-id", "which"),
        ("stale-id", "which"),
        ("duplicate", "completed"),
        ("head", "reported submission queue head"),
    ];
    for (fault, says) in cases {
        everywhere(async || {
            let rig = Rig::new(&format!("ram=1M,fault={fault}@3"));
            let (client, nvme) = hasty(&rig).await;
            let before_claim = nvme.namespaces().len();
            assert_eq!(before_claim, 1);
            let ns = nvme.namespace(1).unwrap();
            let read = |at| ns.read(Lba(at), pattern(&nvme, 512, 0));
            for at in 0..2 {
                read(at).await.unwrap();
            }
            let mut seen = None;
            let late: Vec<Io<'_>> = (2..6).map(read).collect();
            for io in late {
                if let Err(failed) = io.await {
                    seen.get_or_insert(failed.error);
                }
            }
            // A duplicate may come when nobody waits any more.
            let error = match seen {
                Some(error) => error,
                None => read(0).await.unwrap_err().error,
            };
            let text = violation(&error).to_string();
            assert!(text.contains(says), "{fault}: {text}");
            let refused = read(0).await.unwrap_err();
            assert!(refused.buffer.is_some(), "it never reached the device");
            drop(refused);
            nvme.release().await.unwrap();
            works_again(&client).await;
            assert_eq!(client.dma().stats().in_use, 0, "{fault}: all memory is back");
        });
    }
}

#[test]
fn a_completion_with_the_wrong_phase() {
    everywhere(async || {
        // Nothing after it: it looks as if it had not come, and its time limit ends that.
        let rig = Rig::new("ram=1M,fault=phase@1");
        let (client, nvme) = hasty(&rig).await;
        let ns = nvme.namespace(1).unwrap();
        let failed = ns.read(Lba(0), pattern(&nvme, 512, 0)).await.unwrap_err();
        assert_eq!(ended(&failed.error), EndReason::TimedOut);
        drop(failed);
        nvme.release().await.unwrap();
        works_again(&client).await;
        assert_eq!(client.dma().stats().in_use, 0);
        // One after it: the order is wrong.
        let rig = Rig::new("ram=1M,fault=phase@1");
        let (_client, nvme) = hasty(&rig).await;
        let ns = nvme.namespace(1).unwrap();
        let first = ns.read(Lba(0), pattern(&nvme, 512, 0));
        let _second = ns.read(Lba(1), pattern(&nvme, 512, 0));
        let failed = first.await.unwrap_err();
        let found = violation(&failed.error);
        assert!(matches!(found, Violation::PhaseOutOfOrder { .. }), "{found}");
    });
}

#[test]
fn a_fatal_controller_is_reset_and_every_future_is_told() {
    everywhere(async || {
        let rig = Rig::new("ram=1M,fault=fatal@3");
        let (client, nvme) = hasty(&rig).await;
        let (other_client, other) = hasty(&rig).await;
        let ns = nvme.namespace(1).unwrap();
        let reads: Vec<Io<'_>> =
            (0..8).map(|at| ns.read(Lba(at), pattern(&nvme, 512, 0))).collect();
        let mut reasons = Vec::new();
        for io in reads {
            match io.await {
                Ok(_) => {}
                Err(failed) => {
                    reasons.push(ended(&failed.error));
                    assert!(failed.buffer.is_some(), "a device that was reset is done with it");
                }
            }
        }
        assert!(reasons.len() >= 6, "{reasons:?}");
        assert!(
            reasons.iter().all(|r| matches!(r, EndReason::TimedOut | EndReason::DeviceReset)),
            "{reasons:?}"
        );
        // The other client did nothing wrong, and is told what happened.
        let ns = other.namespace(1).unwrap();
        let failed = ns.read(Lba(0), pattern(&other, 512, 0)).await.unwrap_err();
        assert_eq!(ended(&failed.error), EndReason::DeviceReset);
        nvme.release().await.unwrap();
        other.release().await.unwrap();
        works_again(&client).await;
        works_again(&other_client).await;
        assert_eq!(client.dma().stats().in_use, 0);
    });
}

#[test]
fn registers_that_read_all_ones_are_no_registers() {
    everywhere(async || {
        let rig = Rig::new("ram=1M,fault=all-ones@3");
        let (client, nvme) = hasty(&rig).await;
        let ns = nvme.namespace(1).unwrap();
        let reads: Vec<Io<'_>> =
            (0..8).map(|at| ns.read(Lba(at), pattern(&nvme, 512, 0))).collect();
        let mut lost = 0;
        for io in reads {
            if let Err(failed) = io.await {
                let reason = ended(&failed.error);
                assert!(matches!(reason, EndReason::DeviceReset | EndReason::TimedOut), "{reason}");
                lost += 1;
            }
        }
        assert!(lost >= 6);
        nvme.release().await.unwrap();
        // The reset of the whole function brought it back.
        works_again(&client).await;
        assert_eq!(client.dma().stats().in_use, 0);
    });
}

#[test]
fn a_command_that_a_deletion_aborts_says_why_its_queue_was_deleted() {
    everywhere(async || {
        // In one command, and in two.
        for blocks in [1, 32] {
            // The third command is never completed by itself.
            let rig = Rig::new("ram=1M,mdts=1,fault=timeout@3");
            let nvme = rig.nvme().await;
            let ns = nvme.namespace(1).unwrap();
            ns.write(Lba(0), pattern(&nvme, 512, 0)).await.unwrap();
            ns.write(Lba(0), pattern(&nvme, 512, 0)).await.unwrap();
            let read = ns.read(Lba(0), pattern(&nvme, blocks * 512, 0));
            nvme.flush();
            let target = RevokeTarget::Queue(nvme.queue().id());
            rig.client().await.revoke(target).await.unwrap();
            let failed = read.await.unwrap_err();
            assert_eq!(ended(&failed.error), EndReason::Revoked);
            assert!(failed.buffer.is_some(), "the device is done with it");
        }
    });
}
