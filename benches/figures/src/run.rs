//! One run: floors, peers and figures in turn, so that what else the machine does falls on all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorbell_bench::floors::memcpy;
use doorbell_bench::{Floor, Placement, Series, clock, cores};
use doorbell_nvme::Nvme;

use crate::cases::{self, Cost};
use crate::contention::{Contended, Contender};
use crate::figures::{Device, Figure, Figures, Floors, QueuesPerPoller, Ring, Scaling, Wait};
use crate::in_thread::Kind;
use crate::nvme::{self, Command, DEPTH};
use crate::peers::{self, Direct};
use crate::served::{self, Served};
use crate::wake::{self, Mode};
use crate::{median, queues_per_poller, rings};

/// Each figure is measured so often, one after the other.
const ROUNDS: u32 = 5;

/// What takes a share of each round.
const SHARES: u32 = 29;

/// Bytes of the image that the kernel and a software controller both read.
const IMAGE_BYTES: u64 = 16 << 20;

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long it measures, start and end of processes not counted.
    pub time: Duration,
    /// The program that counts instructions; without one they are not counted.
    pub instructions: Option<PathBuf>,
    /// Where the image is made: a file system on a disk.
    pub folder: PathBuf,
}

/// What one line of the table is made from.
#[derive(Debug)]
pub struct Taken {
    name: &'static str,
    series: Series,
    samples: Vec<f64>,
    failed: bool,
}

impl Taken {
    fn new(name: &'static str) -> Result<Self> {
        Ok(Self { name, series: Series::new()?, samples: Vec::new(), failed: false })
    }

    /// Measures once more, unless that has failed before. Why it failed is said once.
    fn add(&mut self, measure: impl FnOnce(&mut Self) -> Result<()>) {
        if !self.failed
            && let Err(error) = measure(self)
        {
            tell(&format!("{}: {error:#}", self.name));
            self.failed = true;
        }
    }

    fn add_series(&mut self, measure: impl FnOnce() -> Result<Series>) {
        self.add(|taken| {
            taken.series.append(&measure()?);
            Ok(())
        });
    }

    fn add_samples(&mut self, measure: impl FnOnce() -> Result<Vec<f64>>) {
        self.add(|taken| {
            taken.samples.extend(measure()?);
            Ok(())
        });
    }

    /// The median: of the latencies, or of the samples.
    #[must_use]
    pub fn ns(&self) -> Figure {
        let ns = if self.samples.is_empty() {
            self.series.quantile_ns(0.5) as f64
        } else {
            median(self.samples.clone())
        };
        (!self.failed && ns > 0.0).then_some(rounded(ns))
    }

    /// Millions of operations per second.
    #[must_use]
    pub fn mops(&self) -> Figure {
        let rate = self.series.latency().iops / 1e6;
        (!self.failed && rate > 0.0).then_some(rounded(rate))
    }
}

/// More digits than these say nothing.
fn rounded(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

macro_rules! lines {
    ($($(#[$doc:meta])* $field:ident: $name:literal,)*) => {
        /// Everything that was measured, by what it is.
        #[derive(Debug)]
        pub struct Lines {
            $($(#[$doc])* pub $field: Taken,)*
        }

        impl Lines {
            fn new() -> Result<Self> {
                Ok(Self { $($field: Taken::new($name)?,)* })
            }
        }
    };
}

lines! {
    /// [`Floor::Shm`].
    shm: "shared-memory ping-pong",
    /// [`Floor::Shm4k`].
    shm_4k: "shared-memory ping-pong with 4 KiB",
    /// [`Floor::Uds`].
    uds: "Unix-socket ping-pong",
    /// [`memcpy`].
    memcpy: "memcpy of 4 KiB",
    /// io_uring no-op, one by one.
    no_op_1: "io_uring no-op",
    /// io_uring no-ops in batches.
    no_op_32: "io_uring no-ops in batches",
    /// The in-thread device alone.
    ring_device: "device in the thread",
    /// By callback.
    ring_direct: "submit and complete by callback",
    /// As futures.
    ring_futures: "submit and complete as futures",
    /// A flush at depth 1.
    flush_1: "flush at depth 1",
    /// Flushes at depth 32.
    flush_32: "flushes at depth 32",
    /// A read at depth 1.
    read_1: "read of 4 KiB at depth 1",
    /// The same as a future.
    read_1_future: "read of 4 KiB as a future",
    /// Reads at depth 32.
    read_32: "reads of 4 KiB at depth 32",
    /// Reads of the image by the software controller.
    image_1: "read of an image at depth 1",
    /// At depth 32.
    image_32: "reads of an image at depth 32",
    /// Reads of the image by the kernel.
    kernel_1: "O_DIRECT read by the kernel at depth 1",
    /// At depth 32.
    kernel_32: "O_DIRECT reads by the kernel at depth 32",
    /// [`Mode::Eventfd`].
    wake_eventfd: "eventfd to task",
    /// [`Mode::Interrupt`].
    wake_interrupt: "interrupt to task",
    /// [`Mode::Hybrid`].
    wake_hybrid: "completion to spinning task",
}

/// A run's outcome.
#[derive(Debug)]
pub struct Measured {
    /// Where it ran.
    pub placement: Option<Placement>,
    /// What one reading of the clock costs, in nanoseconds: it is in each single latency.
    pub clock_ns: f64,
    /// Latencies and throughput.
    pub lines: Lines,
    /// Contenders with a flush after each 32 commands, and after each one.
    pub contended: Vec<(Contender, [Option<Contended>; 2])>,
    /// Nanoseconds per operation over commands in flight.
    pub scaling: Option<Vec<Scaling>>,
    /// Nanoseconds per operation over queues of one poller.
    pub queues_per_poller: Option<Vec<QueuesPerPoller>>,
    /// Interrupts that a device sent to a task within its spin budget, and its commands.
    pub hybrid_signals: (u64, u64),
    /// Instructions by case, if they were counted.
    pub instructions: Option<BTreeMap<String, Cost>>,
    /// Allocations per operation.
    pub allocations: Figure,
}

/// Commands between two flushes of a contender.
pub const BATCHES: [usize; 2] = [DEPTH, 1];

/// Standard error is where progress and problems go.
#[allow(clippy::print_stderr, reason = "progress of a program that takes minutes")]
fn tell(what: &str) {
    eprintln!("{what}");
}

/// Measures everything. The calling thread stays on the client's core.
///
/// # Errors
/// If not even processes can be started and pinned. A figure that cannot be had is none, and why is
/// said on standard error.
pub fn run(options: &Options) -> Result<Measured> {
    let placement = Placement::choose()?;
    let instructions = options.instructions.as_deref().and_then(|program| {
        tell("counting instructions");
        let counted = count_instructions(program);
        counted.map_err(|error| tell(&format!("instructions: {error:#}"))).ok()
    });
    let image = tempfile::Builder::new()
        .prefix("doorbell-figures-")
        .tempdir_in(&options.folder)
        .context("making a folder for the image")?;
    let image = image.path().join("image");
    peers::make_image(&image, IMAGE_BYTES)?;
    // The device's processes come first: what this thread starts later stays on its core.
    let ram = Served::start(served::DEVICE, placement)?;
    let file = Served::start(&format!("soft:nvme,image={}", image.display()), placement)?;
    if let Some(cores) = placement {
        cores::pin_to(cores.client)?;
    }
    let each = options.time / (ROUNDS * SHARES);
    let (nvme, on_file) = pollster::block_on(async {
        anyhow::Ok((nvme::claim(ram.socket()).await?, nvme::claim(file.socket()).await?))
    })?;
    let mut measured = Measured {
        placement,
        clock_ns: clock::reading_costs_ns(),
        lines: Lines::new()?,
        contended: Vec::new(),
        scaling: None,
        queues_per_poller: None,
        hybrid_signals: (0, 0),
        instructions,
        allocations: None,
    };
    for round in 1..=ROUNDS {
        tell(&format!("measuring, round {round} of {ROUNDS}"));
        between_processes(&mut measured.lines, &nvme, placement, each);
        of_a_file(&mut measured.lines, &on_file, &image, each);
        in_one_process(&mut measured, placement, each);
    }
    tell("measuring many producers, and many commands in flight");
    measured.contended = contention(placement, ROUNDS * each / 2);
    let scaling = rings::scaling(3 * ROUNDS * each, ROUNDS);
    measured.scaling = or_tell("scaling", scaling).map(|points| {
        let point = |(in_flight, ns)| Scaling { in_flight, ns_per_op: rounded(ns) };
        points.into_iter().map(point).collect()
    });
    let pollers = queues_per_poller::measure(3 * ROUNDS * each, ROUNDS);
    measured.queues_per_poller = or_tell("queues on one poller", pollers).map(|points| {
        let point = |(queues, ns)| QueuesPerPoller { queues, ns_per_op: rounded(ns) };
        points.into_iter().map(point).collect()
    });
    let allocations = [Kind::Direct, Kind::Futures]
        .into_iter()
        .map(|kind| rings::allocations_per_op(kind, DEPTH, 6400))
        .try_fold(0.0, |most, each| anyhow::Ok(each?.max(most)));
    measured.allocations = or_tell("allocations", allocations);
    pollster::block_on(async {
        nvme.release().await?;
        on_file.release().await
    })?;
    ram.stop()?;
    file.stop()?;
    Ok(measured)
}

fn or_tell<T>(what: &str, measured: Result<T>) -> Option<T> {
    measured.map_err(|error| tell(&format!("{what}: {error:#}"))).ok()
}

/// Each floor right beside what is compared with it.
fn between_processes(lines: &mut Lines, nvme: &Nvme, placement: Option<Placement>, time: Duration) {
    let loop_of = |command, depth| nvme::direct(nvme, nvme.namespace(1)?, command, depth, time);
    lines.shm.add_series(|| Floor::Shm.measure(placement, time));
    lines.flush_1.add_series(|| loop_of(Command::Flush, 1));
    lines.flush_32.add_series(|| loop_of(Command::Flush, DEPTH));
    lines.shm_4k.add_series(|| Floor::Shm4k.measure(placement, time));
    lines.read_1.add_series(|| loop_of(Command::Read, 1));
    lines.read_1_future.add_series(|| nvme::futures(nvme, nvme.namespace(1)?, time));
    lines.memcpy.add_samples(|| Ok(memcpy::copy_ns(time)));
    lines.read_32.add_series(|| loop_of(Command::Read, DEPTH));
    lines.uds.add_series(|| Floor::Uds.measure(placement, time));
}

/// The same file by a software controller and by the kernel.
fn of_a_file(lines: &mut Lines, nvme: &Nvme, image: &Path, time: Duration) {
    let reads = |depth| nvme::direct(nvme, nvme.namespace(1)?, Command::Read, depth, time);
    lines.image_1.add_series(|| reads(1));
    lines.kernel_1.add_series(|| Direct::open(image, 1)?.round(1, time));
    lines.image_32.add_series(|| reads(DEPTH));
    lines.kernel_32.add_series(|| Direct::open(image, DEPTH)?.round(DEPTH, time));
    lines.no_op_1.add_samples(|| peers::no_op_ns(1, time));
    lines.no_op_32.add_samples(|| peers::no_op_ns(DEPTH as u32, time));
}

fn in_one_process(measured: &mut Measured, placement: Option<Placement>, time: Duration) {
    let lines = &mut measured.lines;
    for (kind, taken) in [
        (Kind::Device, &mut lines.ring_device),
        (Kind::Direct, &mut lines.ring_direct),
        (Kind::Futures, &mut lines.ring_futures),
    ] {
        taken.add(|taken| rings::in_one_thread(kind, DEPTH, time, &mut taken.samples));
    }
    let mut signals = (0, 0);
    for (mode, taken) in [
        (Mode::Eventfd, &mut lines.wake_eventfd),
        (Mode::Interrupt, &mut lines.wake_interrupt),
        (Mode::Hybrid, &mut lines.wake_hybrid),
    ] {
        taken.add(|taken| {
            let wakes = wake::measure(mode, placement, time)?;
            taken.series.append(&wakes.latencies);
            signals = (wakes.signals, wakes.latencies.operations());
            Ok(())
        });
    }
    measured.hybrid_signals.0 += signals.0;
    measured.hybrid_signals.1 += signals.1;
}

fn contention(
    placement: Option<Placement>,
    time: Duration,
) -> Vec<(Contender, [Option<Contended>; 2])> {
    let Some(Placement { client, device }) = placement else {
        tell("contention: two producers cannot overlap on one core");
        return Vec::new();
    };
    let on = [Some(client), Some(device)];
    let one = |contender: Contender| {
        let measure = |batch| {
            let contended = contender.measure(&on, batch, time);
            or_tell(contender.label(), contended)
        };
        (contender, BATCHES.map(measure))
    };
    Contender::ALL.into_iter().map(one).collect()
}

/// What the other program counts, as it prints it.
fn count_instructions(program: &Path) -> Result<BTreeMap<String, Cost>> {
    let output = Program::new(program)
        .arg("--json")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    ensure!(output.status.success(), "{} ended with {}", program.display(), output.status);
    serde_json::from_slice(&output.stdout).context("reading what it counted")
}

impl Measured {
    /// What a contender cost with a flush after each `BATCHES[batch]` commands.
    #[must_use]
    pub fn contended(&self, wanted: Contender, batch: usize) -> Option<Contended> {
        let (_, by_batch) = self.contended.iter().find(|(contender, _)| *contender == wanted)?;
        *by_batch.get(batch)?
    }

    /// Instructions of a case.
    #[must_use]
    pub fn instructions(&self, case: &str) -> Figure {
        Some(self.instructions.as_ref()?.get(case)?.instructions)
    }

    /// The object for programs.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let Lines { shm, shm_4k, uds, memcpy, .. } = &self.lines;
        let contended = |contender| self.contended(contender, 0)?.ns.map(rounded);
        Figures {
            floors: Floors {
                shm_ns: shm.ns(),
                shm_4k_ns: shm_4k.ns(),
                uds_ns: uds.ns(),
                memcpy_4k_ns: memcpy.ns(),
            },
            ring: Ring {
                direct_qd32_ns: self.lines.ring_direct.ns(),
                async_qd32_ns: self.lines.ring_futures.ns(),
                instructions_per_op: self.instructions(cases::SUBMIT_COMPLETE).map(rounded),
                allocations_per_op: self.allocations,
                shared_2p_ns: contended(Contender::Shared),
                mutex_2p_ns: contended(Contender::Mutex),
                fetch_add_2p_ns: contended(Contender::FetchAdd),
            },
            device: Device {
                nodata_qd1_ns: self.lines.flush_1.ns(),
                read4k_qd1_ns: self.lines.read_1.ns(),
                nodata_qd32_mops: self.lines.flush_32.mops(),
                read4k_qd32_mops: self.lines.read_32.mops(),
            },
            wait: Wait {
                eventfd_floor_ns: self.lines.wake_eventfd.ns(),
                interrupt_ns: self.lines.wake_interrupt.ns(),
                hybrid_ns: self.lines.wake_hybrid.ns(),
            },
            scaling: self.scaling.clone(),
            queues_per_poller: self.queues_per_poller.clone(),
        }
    }
}
