//! Reads, writes and the rest from one client, each compared byte by byte.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use doorbell::client::QueueSpec;
use doorbell::dma::DmaBox;
use doorbell::queues::SpinBudget;
use doorbell_nvme::{Lba, Namespace, Nvme, Range};

use super::{Part, claim, first};
use crate::dice::Dice;
use crate::plan::{Outcome, skip};
use crate::rig::Rig;

/// Bytes of the arena: two of the longest buffers, and the rings.
const ARENA: usize = 16 << 20;

fn buffer(nvme: &Nvme, data: &[u8]) -> Result<DmaBox<[u8]>> {
    let mut buffer = nvme.dma().alloc(data.len())?;
    buffer.copy_from_slice(data);
    Ok(buffer)
}

async fn write(nvme: &Nvme, ns: &Namespace<'_>, lba: u64, data: &[u8]) -> Result<()> {
    ns.write(Lba(lba), buffer(nvme, data)?).await?;
    Ok(())
}

async fn expect(nvme: &Nvme, ns: &Namespace<'_>, lba: u64, data: &[u8]) -> Result<()> {
    let mut read = nvme.dma().alloc(data.len())?;
    read.fill(0x5a);
    let read = ns.read(Lba(lba), read).await?;
    let differs = read.iter().zip(data).position(|(read, data)| read != data);
    ensure!(
        differs.is_none(),
        "{} bytes from LBA {lba}: byte {} is not what was written",
        data.len(),
        differs.unwrap_or_default()
    );
    Ok(())
}

pub(super) fn sizes(rig: &mut Rig) -> Result<Outcome> {
    let mut dice = Dice::new(rig.dice.roll());
    rig.block_on(async {
        let nvme = claim(rig, ARENA, QueueSpec::depth(8)).await?;
        let ns = first(&nvme)?;
        let (part, block, most) = (Part::of(&ns, 2)?, ns.block_size(), ns.max_transfer());
        let page = nvme.controller().page_size as usize;
        let room = part.blocks as usize * block - 2 * block;
        // One PRP entry, two, a list, the longest command, and requests of several commands.
        let mut sizes = vec![block, page, page + block, 2 * page, 2 * page + block, 5 * page];
        sizes.extend([most - block, most, most + block, 2 * most + page + block]);
        sizes.retain(|size| *size > 0 && *size <= room.min(ARENA / 4));
        for size in sizes {
            let size = size - size % block;
            let blocks = (size / block) as u64;
            let at = part.start + 1 + dice.below(part.blocks - 2 - blocks + 1);
            let data = dice.bytes(size);
            let (left, right) = (dice.bytes(block), dice.bytes(block));
            write(&nvme, &ns, at - 1, &left).await?;
            write(&nvme, &ns, at + blocks, &right).await?;
            write(&nvme, &ns, at, &data).await?;
            ns.flush().await?;
            expect(&nvme, &ns, at, &data).await?;
            expect(&nvme, &ns, at - 1, &left).await.context("the block before it")?;
            expect(&nvme, &ns, at + blocks, &right).await.context("the block after it")?;
        }
        nvme.release().await?;
        Ok(Outcome::Passed)
    })
}

pub(super) fn interrupts(rig: &mut Rig) -> Result<Outcome> {
    let mut dice = Dice::new(rig.dice.roll());
    rig.block_on(async {
        // No spinning: every wait that is not over at the first look parks until the interrupt.
        let spec = QueueSpec::depth(4).spin(SpinBudget::adaptive(0));
        let nvme = claim(rig, ARENA, spec).await?;
        let ns = first(&nvme)?;
        let part = Part::of(&ns, 2)?;
        for _ in 0..64 {
            let data = dice.bytes(ns.block_size());
            let at = part.start + dice.below(part.blocks);
            write(&nvme, &ns, at, &data).await?;
            expect(&nvme, &ns, at, &data).await?;
            ns.flush().await?;
        }
        nvme.release().await?;
        Ok(Outcome::Passed)
    })
}

pub(super) fn compare(rig: &mut Rig) -> Result<Outcome> {
    let mut dice = Dice::new(rig.dice.roll());
    rig.block_on(async {
        let nvme = claim(rig, ARENA, QueueSpec::depth(4)).await?;
        let ns = first(&nvme)?;
        if !nvme.controller().commands.compare {
            return skip("the controller has no Compare command");
        }
        let at = Part::of(&ns, 2)?.start;
        let mut data = dice.bytes(ns.block_size() * 3);
        write(&nvme, &ns, at, &data).await?;
        ns.compare(Lba(at), buffer(&nvme, &data)?).await?;
        let wrong = dice.below(data.len() as u64) as usize;
        data[wrong] ^= 1;
        let answer = ns.compare(Lba(at), buffer(&nvme, &data)?).await;
        let failed = answer.err().context("a difference in one bit was not found")?;
        ensure!(failed.error.is_mismatch(), "a difference in one bit: {failed}");
        nvme.release().await?;
        Ok(Outcome::Passed)
    })
}

pub(super) fn erase(rig: &mut Rig) -> Result<Outcome> {
    let mut dice = Dice::new(rig.dice.roll());
    rig.block_on(async {
        let nvme = claim(rig, ARENA, QueueSpec::depth(4)).await?;
        let ns = first(&nvme)?;
        let commands = nvme.controller().commands;
        if !commands.write_zeroes && !commands.dataset_management {
            return skip("the controller has neither Write Zeroes nor Dataset Management");
        }
        let (at, block) = (Part::of(&ns, 2)?.start, ns.block_size());
        let data = dice.bytes(16 * block);
        write(&nvme, &ns, at, &data).await?;
        if commands.write_zeroes {
            ns.write_zeroes(Lba(at + 4), 8).await?;
            expect(&nvme, &ns, at + 4, &vec![0; 8 * block]).await.context("write zeroes")?;
        }
        if commands.dataset_management {
            let range = |lba, blocks| Range { lba: Lba(at + lba), blocks };
            ns.deallocate(&[range(4, 2), range(8, 4)]).await?;
        }
        // What was not named stays, whatever deallocated blocks read as.
        expect(&nvme, &ns, at, &data[..4 * block]).await.context("the blocks before")?;
        expect(&nvme, &ns, at + 12, &data[12 * block..]).await.context("the blocks after")?;
        nvme.release().await?;
        Ok(Outcome::Passed)
    })
}

pub(super) fn image(rig: &mut Rig) -> Result<Outcome> {
    let Some(path) = rig.setup.image.clone() else {
        return skip("no --image was given");
    };
    let mut dice = Dice::new(rig.dice.roll());
    rig.block_on(async {
        let nvme = claim(rig, ARENA, QueueSpec::depth(4)).await?;
        let ns = first(&nvme)?;
        let (at, block) = (Part::of(&ns, 2)?.start, ns.block_size());
        let data = dice.bytes(64 * block);
        write(&nvme, &ns, at, &data).await?;
        ns.flush().await?;
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let mut there = vec![0; data.len()];
        file.read_exact_at(&mut there, at * block as u64).context("reading the image")?;
        ensure!(there == data, "the image holds something else at LBA {at}");
        nvme.release().await?;
        Ok(Outcome::Passed)
    })
}

pub(super) fn quiesce(rig: &mut Rig) -> Result<Outcome> {
    for _ in 0..8 {
        let in_flight = 1 + rig.dice.below(31);
        rig.block_on(async {
            let nvme = claim(rig, ARENA, QueueSpec::depth(31)).await?;
            let client = nvme.client().clone();
            {
                let ns = first(&nvme)?;
                let part = Part::of(&ns, 2)?;
                let blocks = (ns.max_transfer().min(64 << 10) / ns.block_size()) as u64;
                for number in 0..in_flight {
                    let buffer = nvme.dma().alloc(blocks as usize * ns.block_size())?;
                    ns.post_read(Lba(part.start + number % 4 * blocks), buffer)?;
                }
                nvme.flush();
            }
            // The commands are lost; their buffers are free when this returns.
            nvme.release().await?;
            let left = client.dma().stats().in_use;
            ensure!(left == 0, "{left} bytes of buffers did not come back");
            Ok(())
        })?;
    }
    Ok(Outcome::Passed)
}
