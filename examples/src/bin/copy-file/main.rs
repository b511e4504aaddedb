//! Copies a file onto an NVMe device and back, with file operations and device commands overlapped
//! in one thread: tokio-uring reads and writes the file, straight from and to DMA buffers.
//!
//! Run it: `cargo run --release -p doorbell-examples --bin copy-file [-- FILE]`
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that shows what it does")]

mod options;

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use doorbell::dma::DmaBox;
use doorbell_nvme::Nvme;
use tokio_uring::buf::{BoundedBuf, IoBuf};
use tokio_uring::fs::File;

use options::{Asked, Options};

/// Bytes of one buffer, and of one file operation.
const CHUNK: usize = 128 << 10;

fn main() -> ExitCode {
    let done = match options::parse(std::env::args().skip(1)) {
        Ok(Asked::Help) => {
            print!("{}", options::HELP);
            Ok(())
        }
        Ok(Asked::Copy(options)) => run(&options),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("copy-file: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    let source = match &options.file {
        Some(file) => file.clone(),
        None => {
            let made = folder.path().join("made-up");
            fs::write(&made, made_up(32 << 20)).context("writing a file to copy")?;
            made
        }
    };
    let found = fs::metadata(&source)
        .with_context(|| format!("no file to copy at '{}'", source.display()))?;
    ensure!(found.is_file(), "'{}' is no regular file", source.display());
    let len = found.len();
    ensure!(len > 0, "'{}' is empty: there is nothing to copy", source.display());
    let target = folder.path().join("copied-back");
    let (there, back) = tokio_uring::start(copy(&source, &target, len, options))?;
    // Like with like: the page cache at both ends, and nobody waits for a disk.
    let plain = folder.path().join("plain");
    let began = Instant::now();
    fs::copy(&source, &plain).context("copying the file without a device")?;
    let direct = began.elapsed();

    println!("copied {len} bytes onto {} and back: the same bytes", options.device);
    println!("{} buffers of {CHUNK} bytes in flight, one thread", options.buffers);
    println!("  file to device   {}", rate(len, there));
    println!("  device to file   {}", rate(len, back));
    println!("  file to file     {} (std::fs::copy)", rate(len, direct));
    println!("Files stay in the page cache: nothing was synced to a disk, here or there.");
    Ok(())
}

fn rate(len: u64, took: Duration) -> String {
    format!("{:8.1} MB/s", len as f64 / took.as_secs_f64().max(1e-9) / 1e6)
}

/// Bytes that tell their place.
fn made_up(len: usize) -> Vec<u8> {
    (0..len / 8)
        .flat_map(|at| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

/// What the tasks of one copy share.
struct Copy {
    nvme: Nvme,
    nsid: u32,
    file: File,
    len: u64,
    /// The next chunk that nobody has taken.
    next: Cell<u64>,
    /// Of each chunk as it was read from the file.
    sums: RefCell<Vec<Option<u64>>>,
}

impl Copy {
    /// Takes a chunk: its number, and how many bytes of the file it holds.
    fn take(&self) -> Option<(u64, usize)> {
        let chunk = self.next.get();
        let left = self.len.checked_sub(chunk * CHUNK as u64).filter(|left| *left > 0)?;
        self.next.set(chunk + 1);
        Some((chunk, left.min(CHUNK as u64) as usize))
    }

    /// File to device, one chunk after the other; other tasks do the same meanwhile.
    async fn there(&self) -> Result<()> {
        let ns = self.nvme.namespace(self.nsid)?;
        let mut buffer = self.nvme.dma().alloc(CHUNK)?;
        while let Some((chunk, len)) = self.take() {
            let offset = chunk * CHUNK as u64;
            buffer = read_full(&self.file, buffer, offset, len).await?;
            buffer[len..].fill(0);
            if let Some(sum) = self.sums.borrow_mut().get_mut(chunk as usize) {
                *sum = Some(checksum(&buffer[..len]));
            }
            buffer = ns.write_at(offset, buffer).await?;
        }
        Ok(())
    }

    /// Device to file.
    async fn back(&self) -> Result<()> {
        let ns = self.nvme.namespace(self.nsid)?;
        let mut buffer = self.nvme.dma().alloc(CHUNK)?;
        while let Some((chunk, len)) = self.take() {
            let offset = chunk * CHUNK as u64;
            buffer = ns.read_at(offset, buffer).await?;
            let expected = self.sums.borrow().get(chunk as usize).copied().flatten();
            ensure!(
                expected == Some(checksum(&buffer[..len])),
                "the device gave back other bytes than it was given, at offset {offset}"
            );
            let (written, part) = self.file.write_all_at(buffer.slice(..len), offset).await;
            written.with_context(|| format!("writing the copy at offset {offset}"))?;
            buffer = part.into_inner();
        }
        Ok(())
    }
}

/// Reads exactly `len` bytes at `offset`.
async fn read_full(
    file: &File,
    mut buffer: DmaBox<[u8]>,
    offset: u64,
    len: usize,
) -> Result<DmaBox<[u8]>> {
    let mut filled = 0;
    while filled < len {
        let at = offset + filled as u64;
        let (read, part) = file.read_at(buffer.slice(filled..len), at).await;
        buffer = part.into_inner();
        match read.with_context(|| format!("reading the file at offset {at}"))? {
            0 => bail!("the file became shorter while it was copied"),
            read => filled += read,
        }
    }
    Ok(buffer)
}

/// FNV-1a over words of eight bytes: quick, and enough to see a mistake. No defence against anyone.
fn checksum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
    let sum = words.by_ref().fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        mix(sum, word.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
    });
    words.remainder().iter().fold(sum, |sum, byte| mix(sum, (*byte).into()))
}

/// There and back; how long each way took.
async fn copy(
    source: &Path,
    target: &Path,
    len: u64,
    options: &Options,
) -> Result<(Duration, Duration)> {
    let chunks = len.div_ceil(CHUNK as u64);
    let device = options.device_for(chunks * CHUNK as u64);
    let nvme = Nvme::open(&device).await.with_context(|| format!("opening '{device}'"))?;
    let nsid = nvme.namespaces().last().map_or(1, |namespace| namespace.nsid);
    let room = nvme.namespace(nsid)?.len_bytes();
    ensure!(
        chunks * CHUNK as u64 <= room,
        "the file has {len} bytes, and namespace {nsid} of '{device}' room for {room}"
    );
    let opened = |name: &Path| format!("opening '{}'", name.display());
    let file = File::open(source).await.with_context(|| opened(source))?;
    let sums = RefCell::new(vec![None; chunks as usize]);
    let there = Copy { nvme, nsid, file, len, next: Cell::new(0), sums };

    let (there, written) = all(there, options.buffers, true).await?;
    there.nvme.namespace(nsid)?.flush().await?;
    let Copy { nvme, file, sums, .. } = there;
    file.close().await?;
    let file = File::create(target).await.with_context(|| opened(target))?;
    let back = Copy { nvme, nsid, file, len, next: Cell::new(0), sums };
    let (back, read) = all(back, options.buffers, false).await?;
    back.file.close().await?;
    Ok((written, read))
}

/// Runs as many tasks as there are buffers until all chunks are copied.
async fn all(copy: Copy, tasks: usize, there: bool) -> Result<(Copy, Duration)> {
    let copy = Rc::new(copy);
    let began = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let copy = Rc::clone(&copy);
            tokio_uring::spawn(
                async move { if there { copy.there().await } else { copy.back().await } },
            )
        })
        .collect();
    for task in tasks {
        task.await.context("a task of the copy failed")??;
    }
    let took = began.elapsed();
    let copy = Rc::into_inner(copy).context("a task of the copy still runs")?;
    Ok((copy, took))
}

/// What is asserted of the buffers at compile time: they go to tokio-uring as they are.
const _: fn() = || {
    fn buffer<T: IoBuf>() {}
    buffer::<DmaBox<[u8]>>();
};
