//! The engine through a broker: laps of the portal, errors, queues that come and go.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use doorbell::client::ClientError;
use doorbell::queues::{DoorbellKind, QueueProtocol, Tag};
use doorbell::tier::Tier;

use super::*;
use crate::protocol::{BAD_LENGTH, BAD_OPERATION, Completion, DMA_FAULT, MAX_LEN};

/// The same bytes for a device with a ring in memory.
#[derive(Debug)]
struct Ringed;

impl QueueProtocol for Ringed {
    type Entry = Descriptor;
    type Completion = Completion;
    type Outcome = u32;
    const DOORBELL: DoorbellKind = DoorbellKind::Tail;
    const PHASE_WORD: usize = PortalProtocol::PHASE_WORD;

    fn phase(word: u32) -> bool {
        PortalProtocol::phase(word)
    }
    fn stamp(entry: &mut Descriptor, tag: Tag) {
        PortalProtocol::stamp(entry, tag);
    }
    fn tag(completion: &Completion) -> Tag {
        PortalProtocol::tag(completion)
    }
    fn submission_head(_: &Completion) -> Option<u16> {
        None
    }
    fn outcome(completion: &Completion) -> u32 {
        PortalProtocol::outcome(completion)
    }
}

#[test]
fn the_example_runs() {
    pollster::block_on(fill_and_copy()).unwrap();
}

#[test]
fn many_commands_go_around_the_portal() {
    pollster::block_on(async {
        let client = open().await.unwrap();
        for depth in [1, 15, 63] {
            let spec = QueueSpec::depth(depth).at_least(Tier::Paged);
            let claimed = client.claim::<PortalProtocol>(spec).await.unwrap();
            assert_eq!(claimed.tier(), Tier::Paged, "each queue's pages are its own");
            let queue = claimed.into_queue().unwrap();
            let mut buffers: Vec<_> =
                (0..depth).map(|_| client.dma().alloc(4096).unwrap().into_shared()).collect();
            for lap in 0..20_u8 {
                let byte = |n: usize| lap.wrapping_mul(63).wrapping_add(n as u8);
                let futures: Vec<_> = buffers
                    .drain(..)
                    .enumerate()
                    .map(|(n, buffer)| queue.submit(buffer, |_, to| fill(to, byte(n))).unwrap())
                    .collect();
                for (n, future) in futures.into_iter().enumerate() {
                    let (status, buffer) = future.await.unwrap();
                    let mut seen = [0; 4096];
                    buffer.mem().copy_out(0, &mut seen).unwrap();
                    assert_eq!((status, seen), (DONE, [byte(n); 4096]));
                    buffers.push(buffer);
                }
            }
            queue.release().await.unwrap();
        }
    });
}

#[test]
fn a_bad_descriptor_has_a_status_and_the_next_is_served() {
    pollster::block_on(async {
        let client = open().await.unwrap();
        let queue = client
            .claim::<PortalProtocol>(QueueSpec::depth(4))
            .await
            .unwrap()
            .into_queue()
            .unwrap();
        let buffer = client.dma().alloc(4096).unwrap().into_shared();
        let good = fill(&buffer, 1);
        for (descriptor, expected) in [
            (Descriptor { len: 0, ..good }, BAD_LENGTH),
            (Descriptor { len: MAX_LEN + 1, ..good }, BAD_LENGTH),
            (Descriptor { target: 1 << 60, ..good }, DMA_FAULT),
            (Descriptor { operation: COPY, source: 1 << 60, ..good }, DMA_FAULT),
            (Descriptor { operation: 77, ..good }, BAD_OPERATION),
            (Descriptor { valid: 0xffff_ffff, ..good }, DONE),
            (good, DONE),
        ] {
            let (status, ()) = queue.submit((), |_, ()| descriptor).unwrap().await.unwrap();
            assert_eq!(status, expected, "{descriptor:?}");
        }
    });
}

#[test]
fn dropped_commands_are_finished_and_their_portal_serves_the_next_owner() {
    pollster::block_on(async {
        let client = open().await.unwrap();
        for round in 0..10 {
            let spec = QueueSpec::depth(8);
            let queue = client.claim::<PortalProtocol>(spec).await.unwrap().into_queue().unwrap();
            for _ in 0..8 {
                let buffer = client.dma().alloc(4096).unwrap().into_shared();
                drop(queue.submit(buffer, |_, to| fill(to, round)).unwrap());
            }
            queue.slot_free().await.unwrap();
            queue.release().await.unwrap();
        }
    });
}

#[test]
fn a_protocol_without_a_portal_is_not_for_this_device() {
    pollster::block_on(async {
        let client = open().await.unwrap();
        let error = client.claim::<Ringed>(QueueSpec::depth(4)).await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
        assert!(error.to_string().contains("64 through a portal and 8"), "{error}");
        let error = client.claim::<PortalProtocol>(QueueSpec::depth(64)).await.unwrap_err();
        assert!(matches!(error, ClientError::Depth { max: 63, .. }), "{error}");
    });
}
