//! Tier `Paged`: with a doorbell stride of a page, a client maps doorbells that are its alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

mod common;

use common::{Rig, bytes, pattern};
use doorbell::client::QueueSpec;
use doorbell::tier::Tier;
use doorbell::wire::RevokeTarget;
use doorbell_nvme::{Lba, Nvme};

#[test]
fn doorbells_that_share_a_page_are_not_called_paged() {
    pollster::block_on(async {
        let rig = Rig::new("ram=16M");
        let client = rig.client().await;
        let spec = QueueSpec::depth(4).at_least(Tier::Paged);
        let refused = Nvme::claim(&client, spec).await.unwrap_err().to_string();
        assert!(refused.contains("paged") && refused.contains("cooperative"), "{refused}");
        assert!(!refused.contains('\n'), "{refused}");
        // Nothing was taken by the refusal.
        let nvme = Nvme::claim(&client, QueueSpec::depth(4)).await.unwrap();
        assert_eq!(nvme.queue().tier(), Tier::Cooperative);
    });
}

#[test]
fn a_revoked_page_ends_one_client_and_no_other() {
    pollster::block_on(async {
        let rig = Rig::new("ram=16M,dstrd=10");
        let spec = QueueSpec::depth(8).at_least(Tier::Paged);
        let victim = rig.nvme_with(8 << 20, spec).await;
        let neighbour = rig.nvme_with(8 << 20, spec).await;
        assert_eq!(victim.queue().tier(), Tier::Paged);
        for nvme in [&victim, &neighbour] {
            let ns = nvme.namespace(1).unwrap();
            ns.write(Lba(0), pattern(nvme, 4096, 7)).await.unwrap();
        }

        let revoked = RevokeTarget::Queue(victim.queue().id());
        assert_eq!(rig.client().await.revoke(revoked).await.unwrap(), (1, 1));
        let ns = victim.namespace(1).unwrap();
        let buffer = victim.dma().alloc(4096).unwrap();
        let error = ns.read(Lba(0), buffer).await.unwrap_err().to_string();
        assert!(error.contains("revoked"), "{error}");

        let ns = neighbour.namespace(1).unwrap();
        let buffer = neighbour.dma().alloc(4096).unwrap();
        assert!(*ns.read(Lba(0), buffer).await.unwrap() == bytes(4096, 7)[..]);
        // The same page can be given out again, to a queue that works.
        let next = rig.nvme_with(8 << 20, spec).await;
        let ns = next.namespace(1).unwrap();
        let buffer = next.dma().alloc(4096).unwrap();
        assert!(*ns.read(Lba(0), buffer).await.unwrap() == bytes(4096, 7)[..]);
    });
}
