//! Random requests against a model: a vector of bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

mod common;

use common::{Rig, bytes, pattern};
use doorbell::client::QueueSpec;
use doorbell_nvme::{Io, Lba, Namespace, Nvme, Range};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const BLOCKS: u64 = 512;

#[derive(Debug, Clone)]
enum Step {
    Write { lba: u64, blocks: u64, seed: u64 },
    Zeroes { lba: u64, blocks: u64 },
    Deallocate { lba: u64, blocks: u64 },
    Compare { lba: u64, blocks: u64, flip: bool },
    Reads(Vec<(u64, u64)>),
    Dropped { lba: u64, blocks: u64 },
    Flush,
}

fn extent() -> impl Strategy<Value = (u64, u64)> {
    // Now and then longer than one command (16 blocks), now and then out of range.
    (0..BLOCKS, 1u64..80)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (extent(), any::<u64>())
            .prop_map(|((lba, blocks), seed)| Step::Write { lba, blocks, seed }),
        1 => extent().prop_map(|(lba, blocks)| Step::Zeroes { lba, blocks }),
        1 => extent().prop_map(|(lba, blocks)| Step::Deallocate { lba, blocks }),
        2 => (extent(), any::<bool>())
            .prop_map(|((lba, blocks), flip)| Step::Compare { lba, blocks, flip }),
        3 => prop::collection::vec(extent(), 1..12).prop_map(Step::Reads),
        1 => extent().prop_map(|(lba, blocks)| Step::Dropped { lba, blocks }),
        1 => Just(Step::Flush),
    ]
}

struct Checked<'n> {
    nvme: &'n Nvme,
    ns: Namespace<'n>,
    model: &'n mut [u8],
}

impl<'n> Checked<'n> {
    fn of(&mut self, lba: u64, blocks: u64) -> Option<&mut [u8]> {
        let size = self.ns.block_size();
        self.model.get_mut(lba as usize * size..(lba + blocks) as usize * size)
    }

    fn read(&self, lba: u64, blocks: u64) -> Io<'n> {
        let len = blocks as usize * self.ns.block_size();
        self.ns.read(Lba(lba), self.nvme.dma().alloc(len).unwrap())
    }

    async fn step(&mut self, step: Step) {
        let size = self.ns.block_size();
        match step {
            Step::Write { lba, blocks, seed } => {
                let len = blocks as usize * size;
                let result = self.ns.write(Lba(lba), pattern(self.nvme, len, seed)).await;
                match self.of(lba, blocks) {
                    Some(expected) => {
                        result.unwrap();
                        expected.copy_from_slice(&bytes(len, seed));
                    }
                    None => assert!(result.unwrap_err().error.bad_range().is_some()),
                }
            }
            Step::Zeroes { lba, blocks } => {
                let result = self.ns.write_zeroes(Lba(lba), blocks).await;
                match self.of(lba, blocks) {
                    Some(expected) => {
                        result.unwrap();
                        expected.fill(0);
                    }
                    None => assert!(result.unwrap_err().bad_range().is_some()),
                }
            }
            Step::Deallocate { lba, blocks } => {
                let range = Range { lba: Lba(lba), blocks: blocks as u32 };
                let result = self.ns.deallocate(&[range]).await;
                let zero = self.ns.info().deallocated_reads_zero;
                match self.of(lba, blocks) {
                    Some(expected) => {
                        result.unwrap();
                        assert!(zero, "the software controller's blocks read as zeros then");
                        expected.fill(0);
                    }
                    None => assert!(result.unwrap_err().bad_range().is_some()),
                }
            }
            Step::Compare { lba, blocks, flip } => self.compare(lba, blocks, flip).await,
            Step::Reads(extents) => {
                let reads: Vec<_> = extents.iter().map(|&(lba, n)| self.read(lba, n)).collect();
                for (io, (lba, blocks)) in reads.into_iter().zip(extents) {
                    match (io.await, self.of(lba, blocks)) {
                        (Ok(buffer), Some(expected)) => assert!(buffer[..] == *expected),
                        (Err(failed), None) => assert!(failed.error.bad_range().is_some()),
                        (result, _) => panic!("{lba}+{blocks}: {result:?}"),
                    }
                }
            }
            Step::Dropped { lba, blocks } => drop(self.read(lba, blocks)),
            Step::Flush => self.ns.flush().await.unwrap(),
        }
    }

    async fn compare(&mut self, lba: u64, blocks: u64, flip: bool) {
        let len = blocks as usize * self.ns.block_size();
        let mut buffer = self.nvme.dma().alloc(len).unwrap();
        let ns = self.ns;
        let Some(expected) = self.of(lba, blocks) else {
            assert!(ns.compare(Lba(lba), buffer).await.unwrap_err().error.bad_range().is_some());
            return;
        };
        buffer.copy_from_slice(expected);
        buffer[len / 2] ^= u8::from(flip);
        match ns.compare(Lba(lba), buffer).await {
            Ok(_) => assert!(!flip),
            Err(failed) => assert!(flip && failed.error.is_mismatch(), "{failed}"),
        }
    }
}

fn against_model(options: &str, cases: u32) {
    let rig = Rig::new(options);
    let nvme = pollster::block_on(rig.nvme_with(32 << 20, QueueSpec::depth(7)));
    let ns = nvme.namespace(1).unwrap();
    assert_eq!(ns.blocks(), BLOCKS);
    let mut model = vec![0; ns.len_bytes() as usize];
    pollster::block_on(ns.write_zeroes(Lba(0), BLOCKS)).unwrap();
    let model = std::cell::RefCell::new(&mut model[..]);
    let steps = prop::collection::vec(step(), 1..40);
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
        .run(&steps, |steps| {
            let model = &mut *model.borrow_mut();
            let mut checked = Checked { nvme: &nvme, ns, model };
            pollster::block_on(async {
                for step in steps {
                    checked.step(step).await;
                }
            });
            Ok(())
        })
        .unwrap();
}

#[test]
fn blocks_of_512_bytes() {
    against_model("ram=256K,mdts=1", 128);
}

#[test]
fn blocks_of_4096_bytes() {
    against_model("ram=2M,lba=4096,mdts=4", 64);
}

#[test]
fn in_a_file() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(BLOCKS * 512).unwrap();
    against_model(&format!("image={},mdts=1", image.path().display()), 32);
}
