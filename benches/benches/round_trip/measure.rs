//! The loops: floors and figures in turn.

use std::cell::RefCell;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use doorbell::client::{Client, QueueSpec};
use doorbell::dma::DmaBox;
use doorbell_bench::floors::{BLOCK, WORKING_SET};
use doorbell_bench::load::{self, Stop, Work};
use doorbell_bench::{Floor, Floors, Page, Placement, Series, clock};
use doorbell_nvme::{Lba, Namespace, Nvme};
use doorbell_queues::EntryStores;

use crate::in_thread::{self, Bench, Kind};

/// All rounds together, warm-ups not counted.
pub(crate) const TIME: Duration = Duration::from_secs(20);

const ROUNDS: u32 = 10;

/// Floors and figures of each round.
const SERIES: u32 = 12;

/// Turns of bus `soft` and bus `vfio-user` in one round.
const TURNS: u32 = 4;

/// The deepest queue that is measured.
pub(crate) const DEPTH: usize = 32;

/// Operations of one sample in one thread: so many that the two readings of the clock do not show.
const OPERATIONS: usize = 3200;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) floors: Floors,
    pub(crate) flush: Series,
    pub(crate) read_1: Series,
    pub(crate) flush_served: Served,
    pub(crate) read_1_served: Served,
    pub(crate) read_1_futures: Series,
    pub(crate) read_32: Series,
    /// Nanoseconds of each operation in one thread: the device alone, direct, as futures.
    pub(crate) ring: [f64; 3],
    /// What one reading of the clock costs, in nanoseconds.
    pub(crate) clock_ns: f64,
}

/// Measures on the core that the calling thread is pinned to.
pub(crate) async fn run(
    socket: &Path,
    behind_server: &Path,
    placement: Option<Placement>,
) -> Result<Measured> {
    let time = TIME / (ROUNDS * SERIES);
    let (nvme, served) = (claim(socket).await?, claim(behind_server).await?);
    let ns = nvme.namespace(1)?;
    let both = [(&nvme, ns), (&served, served.namespace(1)?)];
    let mut measured = Measured {
        floors: Floors::new()?,
        flush: Series::new()?,
        read_1: Series::new()?,
        flush_served: Served::new()?,
        read_1_served: Served::new()?,
        read_1_futures: Series::new()?,
        read_32: Series::new()?,
        ring: [0.0; 3],
        clock_ns: clock::reading_costs_ns(),
    };
    let mut ring = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        // Each floor right beside what is compared with it.
        measured.floors.shm.append(&Floor::Shm.measure(placement, time)?);
        measured.flush.append(&measured.flush_served.in_turn(both, Command::Flush, time)?);
        measured.floors.shm_4k.append(&Floor::Shm4k.measure(placement, time)?);
        measured.read_1.append(&measured.read_1_served.in_turn(both, Command::Read, time)?);
        measured.read_1_futures.append(&futures(&nvme, ns, time)?);
        measured.floors.uds.append(&Floor::Uds.measure(placement, time)?);
        measured.read_32.append(&direct(&nvme, ns, Command::Read, DEPTH, time)?);
        for (kind, samples) in
            [Kind::Device, Kind::Direct, Kind::Futures].into_iter().zip(&mut ring)
        {
            in_one_thread(kind, time, samples)?;
        }
    }
    measured.ring = ring.map(median);
    nvme.release().await?;
    served.release().await?;
    Ok(measured)
}

async fn claim(socket: &Path) -> Result<Nvme> {
    let client = Client::builder().arena_bytes(4 << 20).connect(socket).await?;
    Ok(Nvme::claim(&client, QueueSpec::depth(DEPTH as u32)).await?)
}

/// The same over bus `vfio-user`. The device is busy: it does not nap between two commands.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) series: Series,
    /// How many times as long as over bus `soft`, of each turn.
    ratios: Vec<f64>,
}

impl Served {
    fn new() -> Result<Self> {
        Ok(Self { series: Series::new()?, ratios: Vec::new() })
    }

    /// The median over the turns: what else the machine does changes from one to the next.
    pub(crate) fn ratio(&self) -> f64 {
        median(self.ratios.clone())
    }

    /// Measures over both buses for `time` each, in turns. Returns the figures of bus `soft`.
    fn in_turn(
        &mut self,
        [soft, served]: [(&Nvme, Namespace<'_>); 2],
        command: Command,
        time: Duration,
    ) -> Result<Series> {
        let mut all = Series::new()?;
        let measure = |(nvme, ns)| direct(nvme, ns, command, 1, time / TURNS);
        for turn in 0..TURNS {
            // Each is the first as often as the other.
            let (one, other) = if turn.is_multiple_of(2) {
                let one = measure(soft)?;
                (one, measure(served)?)
            } else {
                let other = measure(served)?;
                (measure(soft)?, other)
            };
            self.ratios.push(other.midmean_ns() / one.midmean_ns());
            all.append(&one);
            self.series.append(&other);
        }
        Ok(all)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Flush,
    Read,
}

/// The blocks that are read, in turn: as many and as close together as those of the floor, or the
/// two would measure different levels of the cache.
#[derive(Debug)]
struct Places {
    next: usize,
    blocks_each: u64,
}

impl Places {
    fn of(ns: Namespace<'_>) -> Result<Self> {
        ensure!(BLOCK.is_multiple_of(ns.block_size()), "blocks of {} bytes", ns.block_size());
        Ok(Self { next: 0, blocks_each: (BLOCK / ns.block_size()) as u64 })
    }

    #[inline]
    fn next(&mut self) -> Lba {
        self.next = (self.next + 1) % WORKING_SET;
        Lba(self.next as u64 * self.blocks_each)
    }
}

/// A closed loop's commands by `post` and `reap`.
struct Posting<'n> {
    nvme: &'n Nvme,
    ns: Namespace<'n>,
    command: Command,
    places: Places,
    /// The buffer of each slot while it is not in flight.
    buffers: Vec<Option<DmaBox<[u8]>>>,
    /// The slot of each tag in flight.
    slots: Vec<u16>,
    page: Box<Page>,
}

impl Work for Posting<'_> {
    #[inline]
    fn start(&mut self, slot: usize) -> Result<u64> {
        let (tag, bytes) = match self.command {
            Command::Flush => (self.ns.post_flush()?, 0),
            Command::Read => {
                let buffer = self.buffers[slot].take().context("a slot was started twice")?;
                (self.ns.post_read(self.places.next(), buffer)?, BLOCK as u64)
            }
        };
        self.slots[usize::from(tag.0)] = slot as u16;
        Ok(bytes)
    }

    #[inline]
    fn flush(&mut self) {
        self.nvme.flush();
    }

    #[inline]
    fn reap(&mut self, done: &mut Vec<usize>) -> Result<()> {
        let Self { nvme, buffers, slots, page, .. } = self;
        let mut failed = None;
        nvme.reap(usize::MAX, |completed| {
            let slot = usize::from(slots[usize::from(completed.tag.0)]);
            if !completed.status.is_success() {
                failed.get_or_insert(completed.status);
            }
            if let Some(buffer) = completed.buffer {
                page.take(&buffer);
                buffers[slot] = Some(buffer);
            }
            done.push(slot);
        })?;
        match failed {
            None => Ok(()),
            Some(status) => bail!("{}: {:?} failed: {status}", nvme.queue().name(), self.command),
        }
    }
}

/// One round by `post` and `reap`, after a warm-up of a tenth of it: as the floors have.
fn direct(
    nvme: &Nvme,
    ns: Namespace<'_>,
    command: Command,
    depth: usize,
    time: Duration,
) -> Result<Series> {
    let mut work = Posting {
        nvme,
        ns,
        command,
        places: Places::of(ns)?,
        buffers: (0..depth).map(|_| buffer(nvme).map(Some)).collect::<Result<_>>()?,
        slots: vec![0; 1 << 16],
        page: Page::new(),
    };
    load::run(&mut work, depth, Stop::After(time / 10))?;
    load::run(&mut work, depth, Stop::After(time))
}

/// One round of reads at depth 1 as futures, after the same warm-up.
fn futures(nvme: &Nvme, ns: Namespace<'_>, time: Duration) -> Result<Series> {
    let page = RefCell::new(Page::new());
    let mut places = Places::of(ns)?;
    let mut round = |time| {
        load::run_futures(vec![buffer(nvme)?], Stop::After(time), BLOCK as u64, |buffer| {
            let (lba, page) = (places.next(), &page);
            async move {
                let buffer = ns.read(lba, buffer).await?;
                page.borrow_mut().take(&buffer);
                Ok(buffer)
            }
        })
    };
    round(time / 10)?;
    round(time)
}

/// A page-aligned buffer whose memory was touched.
fn buffer(nvme: &Nvme) -> Result<DmaBox<[u8]>> {
    let mut buffer = nvme.dma().alloc(BLOCK)?;
    buffer.fill(0xa5);
    Ok(buffer)
}

/// One round of submit plus complete at depth 32 with the device in this same thread: adds
/// nanoseconds per operation to `samples`.
fn in_one_thread(kind: Kind, time: Duration, samples: &mut Vec<f64>) -> Result<()> {
    let (queue, mut side) =
        in_thread::queue(EntryStores::Plain).map_err(|error| anyhow!("{error}"))?;
    let mut bench = Bench::new(&queue, DEPTH);
    // Once around the rings, so that all of their memory was touched.
    for _ in 0..256 / DEPTH {
        bench.batch(&mut side, Kind::Direct);
    }
    let (begin, warm_up) = (Instant::now(), time / 10);
    while begin.elapsed() < warm_up + time {
        let sample = Instant::now();
        for _ in 0..OPERATIONS / DEPTH {
            bench.batch(&mut side, kind);
        }
        let ns = clock::nanos(sample.elapsed()) as f64 / OPERATIONS as f64;
        if sample.duration_since(begin) >= warm_up {
            samples.push(ns);
        }
    }
    ensure!(bench.failed() == 0, "{} commands in one thread failed", bench.failed());
    black_box(side.sum());
    Ok(())
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
