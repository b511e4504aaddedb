//! One client: a connection, a queue in the mode that is wanted, and loads on it.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result};
use doorbell::client::{Client, QueueSpec};
use doorbell::queues::SpinBudget;
use doorbell::tier::Tier;
use doorbell_bench::load::{self, Arrivals, Feed, Outcome, Wall, yield_once};
use doorbell_bench::page::Page;
use doorbell_bench::results::{Cpu, Mode};
use doorbell_bench::{cores, cpu};
use doorbell_nvme::{Namespace, Nvme};
use serde::{Deserialize, Serialize};
use tokio::task::{LocalSet, spawn_local};

use super::plan::Job;
use super::work::{Choice, Posting, buffers, once};
use crate::connect::connect_to;
use crate::registry;

/// Looks at the ring before a future of mode `spin` parks: tens of milliseconds, longer than any
/// operation that is worth spinning for. A queue that ends is noticed at the next spin.
const SPIN_LOOKS: u32 = 1 << 20;

/// Which device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Device {
    /// Behind a broker's socket.
    Served(PathBuf),
    /// Opened in this process.
    Inside(String),
}

/// What a client works with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) device: Device,
    pub(crate) namespace: u32,
    pub(crate) tier: Tier,
    pub(crate) depth: u16,
    pub(crate) arena: usize,
    /// In mode spin: by futures.
    pub(crate) futures: bool,
    /// Where it runs.
    pub(crate) core: Option<usize>,
    /// Its number, from 0: each client chooses other blocks and arrivals.
    pub(crate) index: u32,
}

/// What one client saw of one load. The device's CPU time is known here only if it is in this
/// process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) outcome: Outcome,
    pub(crate) cpu: Cpu,
}

/// A client.
pub(crate) struct Runner {
    setup: Setup,
    client: Client,
    queue: Option<(Mode, Rc<Nvme>)>,
}

impl Runner {
    /// Connects, and stays on its core from then on.
    ///
    /// # Errors
    /// If there is no such device or core.
    pub(crate) async fn connect(setup: Setup) -> Result<Self> {
        let client = match &setup.device {
            Device::Served(socket) => {
                // Before any thread is started: they all stay on the core.
                setup.core.map_or(Ok(()), cores::pin_to)?;
                connect_to(socket, setup.arena).await?
            }
            Device::Inside(spec) => {
                // The device's threads go where they like, and not on top of this one.
                let client = registry::open(spec, setup.arena).await?;
                setup.core.map_or(Ok(()), cores::pin_to)?;
                client
            }
        };
        Ok(Self { setup, client, queue: None })
    }

    /// The connection.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The queue for a mode: the budget of a queue is settled when it is claimed.
    async fn queue(&mut self, mode: Mode) -> Result<Rc<Nvme>> {
        match &self.queue {
            Some((had, nvme)) if *had == mode => return Ok(Rc::clone(nvme)),
            _ => self.release().await?,
        }
        let budget = match mode {
            Mode::Spin => SpinBudget::adaptive(SPIN_LOOKS),
            Mode::Hybrid => SpinBudget::default(),
            Mode::Interrupt => SpinBudget::adaptive(0),
        };
        let spec = QueueSpec::depth(u32::from(self.setup.depth));
        let spec = spec.at_least(self.setup.tier).spin(budget);
        let nvme = Rc::new(Nvme::claim(&self.client, spec).await?);
        self.queue = Some((mode, Rc::clone(&nvme)));
        Ok(nvme)
    }

    /// Gives the queue back.
    ///
    /// # Errors
    /// If the broker does not confirm.
    pub(crate) async fn release(&mut self) -> Result<()> {
        let Some((_, nvme)) = self.queue.take() else { return Ok(()) };
        // No task is left that shares it.
        match Rc::try_unwrap(nvme) {
            Ok(nvme) => Ok(nvme.release().await?),
            Err(shared) => {
                drop(shared);
                Ok(())
            }
        }
    }

    /// Checks that a load is possible, and claims its queue.
    ///
    /// # Errors
    /// If it is not.
    pub(crate) async fn check(&mut self, job: &Job) -> Result<()> {
        let nvme = self.queue(job.what.mode).await?;
        job.load.check(&nvme.namespace(self.setup.namespace)?)
    }

    /// Runs a load.
    ///
    /// # Errors
    /// If the load is not possible, or an operation fails.
    pub(crate) async fn run(&mut self, job: &Job) -> Result<Part> {
        self.check(job).await?;
        let nvme = self.queue(job.what.mode).await?;
        if job.what.mode != Mode::Spin {
            return self.tasks(nvme, job).await;
        }
        let ns = nvme.namespace(self.setup.namespace)?;
        let depth = job.what.depth as usize;
        if self.setup.futures {
            return self.futures(&nvme, ns, job);
        }
        let mut work = Posting::new(&nvme, ns, job.load, depth, self.seed(job))?;
        let meter = Meter::start(&self.setup.device);
        let outcome = match self.arrivals(job) {
            Some(arrivals) => load::run_open(&mut work, depth, arrivals, job.stop, &Wall::start())?,
            None => Outcome::closed(load::run(&mut work, depth, job.stop)?),
        };
        Ok(Part { outcome, cpu: meter.stop() })
    }

    fn seed(&self, job: &Job) -> u64 {
        job.seed.wrapping_mul(0x0001_0000_01b3).wrapping_add(u64::from(self.setup.index))
    }

    fn arrivals(&self, job: &Job) -> Option<Arrivals> {
        job.rate().map(|(rate, pattern)| Arrivals::new(rate, pattern, self.seed(job)))
    }

    fn futures(&self, nvme: &Nvme, ns: Namespace<'_>, job: &Job) -> Result<Part> {
        let page = RefCell::new(Page::new());
        let mut choice = Choice::new(job.load, &ns, self.seed(job));
        let buffers = buffers(nvme, job.load, job.what.depth as usize)?;
        let meter = Meter::start(&self.setup.device);
        let series = load::run_futures(buffers, job.stop, job.load.bytes_each(), |buffer| {
            once(ns, choice.next(), buffer, &page)
        })?;
        Ok(Part { outcome: Outcome::closed(series), cpu: meter.stop() })
    }

    /// One task of the runtime for each operation in flight.
    async fn tasks(&self, nvme: Rc<Nvme>, job: &Job) -> Result<Part> {
        let ns = nvme.namespace(self.setup.namespace)?;
        let choice = Rc::new(RefCell::new(Choice::new(job.load, &ns, self.seed(job))));
        let buffers = buffers(&nvme, job.load, job.what.depth as usize)?;
        let page = Rc::new(RefCell::new(Page::new()));
        let (namespace, alone) = (self.setup.namespace, buffers.len() == 1);
        let bytes = job.load.bytes_each();
        let meter = Meter::start(&self.setup.device);
        let feed = Rc::new(match self.arrivals(job) {
            Some(arrivals) => Feed::open(arrivals, job.stop)?,
            None => Feed::closed(job.stop)?,
        });
        let task = |mut buffer| {
            let (nvme, choice) = (Rc::clone(&nvme), Rc::clone(&choice));
            let (page, feed) = (Rc::clone(&page), Rc::clone(&feed));
            async move {
                let ns = nvme.namespace(namespace)?;
                while let Some(ticket) = feed.next().await? {
                    let command = choice.borrow_mut().next();
                    buffer = once(ns, command, buffer, &page).await?;
                    feed.done(ticket, bytes);
                    if !alone {
                        // While it spins a task takes the completions of others, who wait for it.
                        yield_once().await;
                    }
                }
                anyhow::Ok(())
            }
        };
        let set = LocalSet::new();
        let all = set.run_until(async {
            let tasks: Vec<_> = buffers.into_iter().map(|one| spawn_local(task(one))).collect();
            for task in tasks {
                task.await.context("a task of the benchmark")??;
            }
            anyhow::Ok(())
        });
        all.await?;
        let cpu = meter.stop();
        drop(set);
        let feed = Rc::into_inner(feed).context("a task of the benchmark is left")?;
        Ok(Part { outcome: feed.finish(), cpu })
    }
}

/// CPU time since a moment.
struct Meter {
    inside: bool,
    thread: u64,
    process: u64,
}

impl Meter {
    fn start(device: &Device) -> Self {
        let inside = matches!(device, Device::Inside(_));
        Self { inside, thread: cpu::of_thread(), process: cpu::of_process() }
    }

    /// Of a device in this process everything but this thread is the device's.
    fn stop(self) -> Cpu {
        let thread = cpu::of_thread().saturating_sub(self.thread);
        let process = cpu::of_process().saturating_sub(self.process);
        if self.inside {
            Cpu { client_ns: thread, device_ns: Some(process.saturating_sub(thread)) }
        } else {
            Cpu { client_ns: process, device_ns: None }
        }
    }
}
