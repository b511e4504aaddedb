//! The kernel's own way: io_uring. A no-op shows what one system call, or a batch by one, costs;
//! `O_DIRECT` reads of an image file what the kernel's block layer and disk do with the same file
//! that a software controller serves.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use doorbell_bench::floors::{BLOCK, WORKING_SET};
use doorbell_bench::load::{self, Stop, Work};
use doorbell_bench::{Page, Series, clock};
use rustix::fs::OFlags;

mod ring;

use ring::Ring;

/// Batches between two readings of the clock.
const BATCHES: u32 = 64;

/// Nanoseconds of one no-op where `batch` of them (at most 4,096) go by one system call, for about
/// `time`.
///
/// # Errors
/// If the kernel gives no ring, or does not complete.
pub fn no_op_ns(batch: u32, time: Duration) -> Result<Vec<f64>> {
    let mut ring = Ring::new(batch, 0, None)?;
    let begin = Instant::now();
    let mut samples = Vec::new();
    loop {
        let sample = Instant::now();
        for _ in 0..BATCHES {
            for slot in 0..batch {
                ensure!(ring.no_op(slot), "the ring of no-ops is full");
            }
            ring.submit_and_wait(batch as usize)?;
            let mut done = 0;
            ring.reap(|_, result| done += u32::from(result == 0));
            ensure!(done == batch, "{done} of {batch} no-ops succeeded");
        }
        samples.push(clock::nanos(sample.elapsed()) as f64 / f64::from(BATCHES * batch));
        if begin.elapsed() >= time {
            return Ok(samples);
        }
    }
}

/// Writes an image of as many blocks as the floors read from, and puts it on the disk.
///
/// # Errors
/// If the file cannot be written.
pub fn make_image(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::create(path).context("creating an image")?;
    let mut page = Page::new();
    for block in 0..WORKING_SET {
        page.bytes_mut().fill(block as u8);
        file.write_all(page.bytes()).context("writing an image")?;
    }
    file.set_len(bytes.max((WORKING_SET * BLOCK) as u64)).context("sizing an image")?;
    file.sync_all().context("putting an image on the disk")
}

/// Reads of 4 KiB of a file past the page cache, by the kernel.
#[derive(Debug)]
pub struct Direct {
    ring: Ring,
    next: usize,
    page: Box<Page>,
}

impl Direct {
    /// Reads of `path` at `depth`.
    ///
    /// # Errors
    /// If the file system does not do `O_DIRECT` (a tmpfs does not), or there is no ring.
    pub fn open(path: &Path, depth: usize) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlags::DIRECT.bits() as i32);
        let file = options
            .open(path)
            .with_context(|| format!("{} cannot be opened with O_DIRECT", path.display()))?;
        let ring = Ring::new(u32::try_from(depth).context("depth")?, BLOCK, Some(file))?;
        Ok(Self { ring, next: 0, page: Page::new() })
    }

    /// One round at `depth`, after a warm-up of a tenth of it. Each completion is looked for by
    /// polling the ring, as the figures beside it do.
    ///
    /// # Errors
    /// A read that failed, or that nothing completes for seconds.
    pub fn round(&mut self, depth: usize, time: Duration) -> Result<Series> {
        load::run(self, depth, Stop::After(time / 10))?;
        load::run(self, depth, Stop::After(time))
    }
}

impl Work for Direct {
    fn start(&mut self, slot: usize) -> Result<u64> {
        self.next = (self.next + 1) % WORKING_SET;
        let at = (self.next * BLOCK) as u64;
        ensure!(self.ring.read(slot as u32, at)?, "slot {slot} is busy");
        Ok(BLOCK as u64)
    }

    fn flush(&mut self) {
        // What the kernel does not take now is submitted by the next call of `reap`.
        let _ = self.ring.submit();
    }

    fn reap(&mut self, done: &mut Vec<usize>) -> Result<()> {
        if self.ring.has_unsubmitted() {
            self.ring.submit()?;
        }
        let mut failed = None;
        let before = done.len();
        self.ring.reap(|slot, result| {
            if result != BLOCK as i32 {
                failed = Some(result);
            }
            done.push(slot as usize);
        });
        if let Some(result) = failed {
            bail!("a read by the kernel returned {result} instead of {BLOCK}");
        }
        for slot in done.iter().skip(before) {
            self.ring.copy_out(*slot as u32, self.page.bytes_mut())?;
            black_box(self.page.bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn no_ops_complete_in_batches_of_any_size() {
        for batch in [1, 32] {
            let samples = no_op_ns(batch, Duration::from_millis(5)).unwrap();
            assert!(!samples.is_empty() && samples.iter().all(|ns| *ns > 0.0), "{samples:?}");
        }
    }

    #[test]
    fn the_kernel_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        make_image(&path, 0).unwrap();
        // A tmpfs refuses: nothing to test there.
        let Ok(mut direct) = Direct::open(&path, 4) else { return };
        let series = load::run(&mut direct, 4, Stop::Operations(10)).unwrap();
        assert_eq!((series.operations(), series.bytes()), (10, 40960));
        // The last one that was started is block 10; with a depth of 4 it may not be the last one that
        // completed.
        let [first, .., last] = direct.page.bytes() else { panic!("a page") };
        assert!(first == last && (7..=10).contains(first), "{first} {last}");
        assert!(Direct::open(&folder.path().join("nowhere"), 4).is_err());
    }
}
