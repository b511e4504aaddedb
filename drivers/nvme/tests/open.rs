//! The same API without a broker process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

use doorbell_nvme::{Lba, Nvme, NvmeError, NvmeReply};

#[test]
fn a_device_of_this_programs_own() {
    pollster::block_on(async {
        let nvme = Nvme::open("soft:nvme,ram=16M").await.unwrap();
        let ns = nvme.namespace(1).unwrap();
        let mut buffer = nvme.dma().alloc(4096).unwrap();
        buffer.fill(0x5a);
        ns.write(Lba(0), buffer).await.unwrap();
        let read = ns.read(Lba(0), nvme.dma().alloc(4096).unwrap()).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 0x5a));
        assert_eq!(nvme.smart().await.unwrap().host_writes, 1);
        // A second queue of the same program.
        let spec = doorbell::client::QueueSpec::depth(4);
        let second = Nvme::claim(nvme.client(), spec).await.unwrap();
        assert_ne!(second.queue().id(), nvme.queue().id());
        // It is an operator, but the namespace is in use.
        let format = doorbell_nvme::NvmeAdmin::Format { nsid: 1, lbaf: 0 };
        let refused = nvme.admin(&format).await.unwrap_err();
        assert!(refused.to_string().contains("no I/O queue exists"), "{refused}");
        let client = nvme.client().clone();
        nvme.release().await.unwrap();
        second.release().await.unwrap();
        let done: NvmeReply = client.admin(&format).await.unwrap();
        assert_eq!(done, NvmeReply::Done);
    });
}

#[test]
fn what_cannot_be_opened_says_why() {
    pollster::block_on(async {
        for (spec, says) in [
            ("nvme", "names no device"),
            ("soft:floppy", "no software model 'floppy'"),
            ("soft:nvme,colour=red", "no such option"),
            ("ffff:ff:1f.7", "no such PCI function"),
        ] {
            let error = Nvme::open(spec).await.unwrap_err();
            assert!(matches!(error, NvmeError::Local(_)));
            let text = error.to_string();
            assert!(text.contains(says) && !text.contains('\n'), "{spec}: {text}");
        }
    });
}
