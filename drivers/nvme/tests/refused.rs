//! Requests that never reach the device, and what the device refuses: typed, and the buffer is back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

mod common;

use common::{Rig, everywhere, pattern};
use doorbell::client::QueueSpec;
use doorbell_nvme::spec::Status;
use doorbell_nvme::{BadRange, Lba, NvmeError, Range};

#[test]
fn bad_ranges_are_told_apart_and_give_the_buffer_back() {
    let rig = Rig::new("ram=1M,lba=4096");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let before = nvme.dma().stats().buffers;
        let cases = [
            (ns.read(Lba(0), pattern(&nvme, 4095, 0)), "no whole number of blocks of 4096 bytes"),
            (ns.write(Lba(0), pattern(&nvme, 512, 0)), "no whole number of blocks"),
            (ns.read_at(512, pattern(&nvme, 4096, 0)), "byte offset 512 is not at the start"),
            (ns.write_at(8191, pattern(&nvme, 4096, 0)), "byte offset 8191"),
            (ns.read(Lba(256), pattern(&nvme, 4096, 0)), "outside of a namespace of 256 blocks"),
            (ns.compare(Lba(255), pattern(&nvme, 8192, 0)), "2 blocks from LBA 255"),
            (ns.write(Lba(u64::MAX), pattern(&nvme, 4096, 0)), "LBA 18446744073709551615"),
        ];
        for (io, says) in cases {
            let failed = io.await.unwrap_err();
            assert!(failed.to_string().contains(says), "{failed} does not say '{says}'");
            assert!(failed.to_string().contains("device soft:nvme"), "{failed}");
            assert!(failed.error.bad_range().is_some());
            assert!(failed.buffer.is_some());
        }
        assert_eq!(nvme.queue().in_flight(), 0, "nothing reached the queue");
        assert_eq!(nvme.dma().stats().buffers, before);
        let empty = ns.write_zeroes(Lba(0), 0).await.unwrap_err();
        assert_eq!(empty.bad_range(), Some(BadRange::Empty));
        let long = ns.post_read(Lba(0), pattern(&nvme, 256 << 10, 0)).unwrap_err();
        assert!(matches!(long.error.bad_range(), Some(BadRange::TooLong { most: 131_072, .. })));
        assert!(long.buffer.is_some());
    });
}

#[test]
fn ranges_to_deallocate_are_checked_one_by_one() {
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let one = Range { lba: Lba(0), blocks: 1 };
        let bad = |ranges: Vec<Range>| async move {
            ns.deallocate(&ranges).await.unwrap_err().bad_range().unwrap()
        };
        assert!(matches!(bad(vec![]).await, BadRange::Ranges { ranges: 0, .. }));
        assert!(matches!(bad(vec![one; 257]).await, BadRange::Ranges { ranges: 257, .. }));
        let outside = Range { lba: Lba(2047), blocks: 2 };
        assert!(matches!(bad(vec![one, outside]).await, BadRange::OutOfRange { lba: 2047, .. }));
        assert_eq!(bad(vec![Range { lba: Lba(1), blocks: 0 }]).await, BadRange::Empty);
        ns.deallocate(&[one; 256]).await.unwrap();
    });
}

#[test]
fn namespaces_that_are_not_there() {
    let rig = Rig::new("ram=1M,ram=1M");
    everywhere(async || {
        let nvme = rig.nvme().await;
        for nsid in [0, 3, u32::MAX] {
            let error = nvme.namespace(nsid).unwrap_err();
            assert!(error.to_string().contains("there is none; there are 1, 2"), "{error}");
        }
    });
}

#[test]
fn what_the_device_says_is_an_error_with_its_place() {
    let rig = Rig::new("ram=1M,readonly=yes,mdts=1");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let failed = ns.write(Lba(5), pattern(&nvme, 512, 0)).await.unwrap_err();
        assert!(failed.buffer.is_some());
        let status = failed.error.status().unwrap();
        assert!(status.is(Status::NAMESPACE_WRITE_PROTECTED), "{status}");
        let text = failed.to_string();
        for part in
            ["device soft:nvme, queue ", "write 0x", "namespace 1", "LBA 5", "Write Protected"]
        {
            assert!(text.contains(part), "{text} does not say '{part}'");
        }
        // A request in parts: the lowest one that failed, and all of them awaited.
        let failed = ns.write(Lba(0), pattern(&nvme, 100 << 10, 0)).await.unwrap_err();
        assert_eq!(failed.error.failed().unwrap().lba, Some(Lba(0)));
        assert!(failed.buffer.is_some());
        assert_eq!(nvme.queue().in_flight(), 0);
        assert!(ns.write_zeroes(Lba(0), 1).await.unwrap_err().status().is_some());
    });
}

#[test]
fn an_error_of_io_is_an_error_like_any_other() {
    fn as_std(error: doorbell_nvme::IoError) -> Box<dyn std::error::Error + Send + Sync> {
        error.into()
    }
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let failed = async {
            ns.read(Lba(0), pattern(&nvme, 100, 0)).await?;
            Ok::<_, NvmeError>(())
        };
        assert!(matches!(failed.await, Err(NvmeError::BadRange { .. })));
        let failed = ns.read(Lba(0), pattern(&nvme, 100, 0)).await.unwrap_err();
        let text = failed.to_string();
        assert_eq!(as_std(failed).to_string(), text);
        assert!(!text.contains('\n'));
    });
}

#[test]
fn a_full_queue_gives_the_buffer_back_to_who_does_not_wait() {
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let nvme = rig.nvme_with(1 << 20, QueueSpec::depth(2)).await;
        let ns = nvme.namespace(1).unwrap();
        for at in 0..2 {
            ns.post_read(Lba(at), nvme.dma().alloc(512).unwrap()).unwrap();
        }
        let failed = ns.post_read(Lba(2), nvme.dma().alloc(512).unwrap()).unwrap_err();
        assert!(matches!(failed.error, NvmeError::Full(_)), "{failed}");
        assert!(failed.buffer.is_some());
        nvme.flush();
        let mut reaped = 0;
        while reaped < 2 {
            reaped += nvme.reap(2, |_| {}).unwrap();
        }
    });
}
