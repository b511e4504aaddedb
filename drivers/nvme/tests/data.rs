//! Data through the device, checked byte for byte, on every executor.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

mod common;

use common::{Rig, bytes, everywhere, pattern};
use doorbell_nvme::{Lba, Range};

#[test]
fn what_is_written_is_read_back() {
    for lba in [512, 4096] {
        let rig = Rig::new(&format!("ram=4M,lba={lba}"));
        everywhere(async || {
            let nvme = rig.nvme().await;
            let ns = nvme.namespace(1).unwrap();
            assert_eq!((ns.block_size(), ns.len_bytes()), (lba, 4 << 20));
            for (at, blocks) in [(0, 1), (1, 2), (7, 9), (ns.blocks() - 1, 1), (100, 8)] {
                let len = blocks * lba;
                let written = ns.write(Lba(at), pattern(&nvme, len, at)).await.unwrap();
                assert_eq!(&written[..], bytes(len, at), "a write leaves its buffer as it was");
                ns.flush().await.unwrap();
                let read = ns.read(Lba(at), nvme.dma().alloc(len).unwrap()).await.unwrap();
                assert_eq!(&read[..], bytes(len, at), "{blocks} blocks at {at}");
            }
            nvme.release().await.unwrap();
        });
    }
}

#[test]
fn long_requests_are_split_and_joined() {
    // 4096 << 1: eight KiB per command.
    for (options, lba) in [("ram=8M,mdts=1", 512), ("ram=8M,mdts=5,lba=4096", 4096)] {
        let rig = Rig::new(options);
        everywhere(async || {
            let nvme = rig.nvme().await;
            let ns = nvme.namespace(1).unwrap();
            let most = ns.max_transfer();
            assert_eq!(most, if lba == 512 { 8 << 10 } else { 128 << 10 });
            for len in [most - lba, most, most + lba, 3 * most, 10 * most + lba] {
                let seed = len as u64;
                ns.write(Lba(3), pattern(&nvme, len, seed)).await.unwrap();
                let read = ns.read(Lba(3), nvme.dma().alloc(len).unwrap()).await.unwrap();
                assert_eq!(&read[..], bytes(len, seed), "{len} bytes");
                let same = ns.compare(Lba(3), read).await.unwrap();
                assert_eq!(&same[..16], &bytes(len, seed)[..16]);
            }
            nvme.release().await.unwrap();
        });
    }
}

#[test]
fn the_longest_command_uses_a_whole_list_page() {
    // 4096 << 8 is one MiB: 256 entries of a list page; splitting at MDTS comes first.
    let rig = Rig::new("ram=8M,mdts=8");
    everywhere(async || {
        let nvme = rig.nvme_with(16 << 20, doorbell::client::QueueSpec::depth(4)).await;
        let ns = nvme.namespace(1).unwrap();
        assert_eq!(ns.max_transfer(), 1 << 20);
        let len = (2 << 20) + 4096;
        ns.write(Lba(0), pattern(&nvme, len, 5)).await.unwrap();
        let read = ns.read(Lba(0), nvme.dma().alloc(len).unwrap()).await.unwrap();
        assert!(read[..] == bytes(len, 5));
        nvme.release().await.unwrap();
    });
}

#[test]
fn byte_offsets_are_blocks() {
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        ns.write_at(1536, pattern(&nvme, 1024, 9)).await.unwrap();
        let read = ns.read(Lba(3), nvme.dma().alloc(1024).unwrap()).await.unwrap();
        assert_eq!(&read[..], bytes(1024, 9));
        let read = ns.read_at(2048, nvme.dma().alloc(512).unwrap()).await.unwrap();
        assert_eq!(&read[..], &bytes(1024, 9)[512..]);
    });
}

#[test]
fn compare_tells_a_difference() {
    let rig = Rig::new("ram=1M,mdts=1");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let len = 5 * ns.max_transfer();
        ns.write(Lba(0), pattern(&nvme, len, 1)).await.unwrap();
        ns.compare(Lba(0), pattern(&nvme, len, 1)).await.unwrap();
        let mut other = pattern(&nvme, len, 1);
        // In the fourth part, and in the last.
        let (fourth, last) = (3 * ns.max_transfer() + 700, len - 1);
        other[fourth] ^= 1;
        other[last] ^= 1;
        let failed = ns.compare(Lba(0), other).await.unwrap_err();
        assert!(failed.error.is_mismatch(), "{failed}");
        let part = failed.error.failed().unwrap();
        assert_eq!(part.lba, Some(Lba((3 * ns.max_transfer() / 512) as u64)));
        let buffer = failed.buffer.expect("the device is done with it");
        assert_eq!(buffer[fourth] ^ 1, bytes(len, 1)[fourth]);
    });
}

#[test]
fn zeroes_are_written_without_data() {
    let rig = Rig::new("ram=64M");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        ns.write(Lba(0), pattern(&nvme, 8192, 1)).await.unwrap();
        // More blocks than one command can name.
        let end = ns.blocks() - 8;
        ns.write(Lba(end), pattern(&nvme, 4096, 2)).await.unwrap();
        ns.write_zeroes(Lba(4), ns.blocks() - 4).await.unwrap();
        let read = ns.read(Lba(0), nvme.dma().alloc(8192).unwrap()).await.unwrap();
        assert_eq!(&read[..2048], &bytes(8192, 1)[..2048]);
        assert!(read[2048..].iter().all(|byte| *byte == 0));
        let read = ns.read(Lba(end), nvme.dma().alloc(4096).unwrap()).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 0));
    });
}

#[test]
fn deallocated_blocks_read_as_the_controller_says() {
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        ns.write(Lba(0), pattern(&nvme, 64 << 10, 3)).await.unwrap();
        let ranges = [Range { lba: Lba(1), blocks: 2 }, Range { lba: Lba(64), blocks: 64 }];
        ns.deallocate(&ranges).await.unwrap();
        let read = ns.read(Lba(0), nvme.dma().alloc(64 << 10).unwrap()).await.unwrap();
        let mut expected = bytes(64 << 10, 3);
        if ns.info().deallocated_reads_zero {
            expected[512..1536].fill(0);
            expected[64 * 512..].fill(0);
            assert!(read[..] == expected);
        }
        assert_eq!(read[..512], expected[..512]);
        assert_eq!(read[1536..64 * 512], expected[1536..64 * 512]);
    });
}

#[test]
fn namespaces_are_apart() {
    let rig = Rig::new("ram=1M,ram=2M");
    everywhere(async || {
        let nvme = rig.nvme().await;
        assert_eq!(nvme.namespaces().len(), 2);
        let (one, two) = (nvme.namespace(1).unwrap(), nvme.namespace(2).unwrap());
        assert_eq!((one.len_bytes(), two.len_bytes()), (1 << 20, 2 << 20));
        one.write(Lba(5), pattern(&nvme, 512, 1)).await.unwrap();
        two.write(Lba(5), pattern(&nvme, 512, 2)).await.unwrap();
        let read = one.read(Lba(5), nvme.dma().alloc(512).unwrap()).await.unwrap();
        assert_eq!(&read[..], bytes(512, 1));
        let read = two.read(Lba(5), read).await.unwrap();
        assert_eq!(&read[..], bytes(512, 2));
    });
}

#[test]
fn clients_are_apart_and_see_the_same_blocks() {
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let (one, two) = (rig.nvme().await, rig.nvme().await);
        assert_ne!(one.queue().name(), two.queue().name());
        let (ns, other) = (one.namespace(1).unwrap(), two.namespace(1).unwrap());
        ns.write(Lba(9), pattern(&one, 4096, 7)).await.unwrap();
        let read = other.read(Lba(9), two.dma().alloc(4096).unwrap()).await.unwrap();
        assert_eq!(&read[..], bytes(4096, 7));
    });
}

#[test]
fn an_image_keeps_what_was_flushed() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let rig = Rig::new(&format!("image={}", image.path().display()));
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        ns.write(Lba(8), pattern(&nvme, 4096, 4)).await.unwrap();
        ns.write_through(Lba(16), pattern(&nvme, 512, 5)).await.unwrap();
        ns.flush().await.unwrap();
        let file = std::fs::read(image.path()).unwrap();
        assert_eq!(file[4096..8192], bytes(4096, 4));
        assert_eq!(file[8192..8704], bytes(512, 5));
    });
}

#[test]
fn the_loop_without_futures_moves_the_same_data() {
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let mut written = 0;
        let (mut done, mut buffers) = (0, Vec::new());
        while done < 64 {
            while written < 64
                && let Ok(_tag) = ns.post_write(Lba(written * 8), pattern(&nvme, 4096, written))
            {
                written += 1;
            }
            nvme.flush();
            done += nvme.reap(8, |c| assert!(c.status.is_success() && c.buffer.is_some())).unwrap();
        }
        for at in 0..8 {
            ns.post_read(Lba(at * 8), nvme.dma().alloc(4096).unwrap()).unwrap();
        }
        nvme.flush();
        while buffers.len() < 8 {
            nvme.reap(usize::MAX, |c| buffers.push((c.tag, c.buffer.unwrap()))).unwrap();
        }
        for seed in 0..8 {
            assert!(buffers.iter().any(|(_, buffer)| buffer[..] == bytes(4096, seed)));
        }
        ns.post_flush().unwrap();
        nvme.flush();
        while nvme.reap(1, |c| assert!(c.status.is_success())).unwrap() == 0 {
            std::hint::spin_loop();
        }
    });
}
