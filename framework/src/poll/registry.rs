//! [`Pollers`]: the pollers of a program, by NUMA node.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use doorbell_queues::SpinBudget;

use super::poller::{PollError, Poller};
use crate::pci::Address;
use crate::topology::{self, CpuSet, Topology};
use crate::wire::DeviceInfo;

/// How pollers are made: [`Pollers::builder`].
#[derive(Debug, Clone)]
pub struct PollersBuilder {
    per_node: usize,
    spin: SpinBudget,
    name: String,
    topology: Option<Topology>,
}

impl PollersBuilder {
    /// At most so many pollers near a node (1 at least, which is the default). More are started only
    /// when all that there are have something to do.
    #[must_use]
    pub fn per_node(mut self, pollers: usize) -> Self {
        self.per_node = pollers.max(1);
        self
    }

    /// Turns in vain after which a poller sleeps. The default is four times that of a queue, as one
    /// thread polls for many.
    #[must_use]
    pub fn spin(mut self, budget: SpinBudget) -> Self {
        self.spin = budget;
        self
    }

    /// What the pollers' names begin with, cut at eight characters; `doorbell` by default. The rest is
    /// the node and a number: `doorbell-n2-0`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.chars().take(8).collect();
        self
    }

    /// The machine, if it is known already; else it is read.
    #[must_use]
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// The registry. No thread is started before it is needed.
    #[must_use]
    pub fn build(self) -> Pollers {
        let topology = self.topology.unwrap_or_else(Topology::load_with_devices);
        let allowed = topology::allowed().unwrap_or_else(|error| {
            tracing::warn!(%error, "the processors that may be used are not known");
            topology.cpus().clone()
        });
        let registry = Registry {
            per_node: self.per_node,
            spin: self.spin,
            name: self.name,
            topology,
            allowed,
            started: Mutex::default(),
        };
        Pollers { registry: Arc::new(registry) }
    }
}

/// The pollers of a program: started when they are first needed, found by the node of a device. Cheap
/// to clone.
#[derive(Debug, Clone)]
pub struct Pollers {
    registry: Arc<Registry>,
}

#[derive(Debug)]
struct Registry {
    per_node: usize,
    spin: SpinBudget,
    name: String,
    topology: Topology,
    /// The processors of this process.
    allowed: CpuSet,
    started: Mutex<Vec<Poller>>,
}

impl Pollers {
    /// One poller per node, unless said otherwise.
    #[must_use]
    pub fn builder() -> PollersBuilder {
        PollersBuilder {
            per_node: 1,
            spin: SpinBudget::adaptive(4_000),
            name: "doorbell".to_owned(),
            topology: None,
        }
    }

    /// The least loaded poller of a node, by tasks and queues. It is started if there is none, or if all
    /// have something to do and the node may have more. It runs on the processor of the node with the
    /// fewest pollers (see [`Topology::choose`]).
    ///
    /// For an unknown node, or one that this machine does not have, any processor will do.
    ///
    /// # Errors
    /// [`PollError`]: the thread cannot be started. A thread that cannot be pinned, or whose memory
    /// cannot be bound, works all the same: see [`Placement::trouble`](super::Placement::trouble).
    pub fn near(&self, numa_node: Option<u32>) -> Result<Poller, PollError> {
        let registry = &*self.registry;
        let node = numa_node.filter(|node| registry.topology.nodes().any(|known| known == *node));
        let started = &mut *registry.started();
        started.retain(|poller| !poller.has_ended());
        let of_node = started.iter().filter(|poller| poller.placement().node == node);
        let count = of_node.clone().count();
        let least = of_node.min_by_key(|poller| poller.load()).cloned();
        let poller = match least {
            Some(poller) if poller.load().0 == 0 || count >= registry.per_node => poller,
            _ => registry.start(started, node, count)?,
        };
        poller.core.given.fetch_add(1, Ordering::Relaxed);
        Ok(poller)
    }

    /// The least loaded poller near a device. Where its broker does not know the device's node, this
    /// machine's topology is asked.
    ///
    /// # Errors
    /// As [`Pollers::near`].
    pub fn near_device(&self, device: &DeviceInfo) -> Result<Poller, PollError> {
        let of_address = |address: Address| self.registry.topology.device_node(&address);
        let node = device.numa_node.or_else(|| device.name.parse().ok().and_then(of_address));
        self.near(node)
    }

    /// The pollers that were started and have not ended.
    #[must_use]
    pub fn list(&self) -> Vec<Poller> {
        let started = self.registry.started();
        started.iter().filter(|poller| !poller.has_ended()).cloned().collect()
    }
}

impl Registry {
    fn started(&self) -> MutexGuard<'_, Vec<Poller>> {
        // No code that holds the lock panics half-way through a change.
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(
        &self,
        started: &mut Vec<Poller>,
        node: Option<u32>,
        number: usize,
    ) -> Result<Poller, PollError> {
        let load = |cpu: usize| {
            let here =
                |poller: &&Poller| poller.placement().cpu.map(|cpu| cpu as usize) == Some(cpu);
            started.iter().filter(here).count() as u32
        };
        let cpu = self.topology.choose(node, &self.allowed, load);
        let cpu = Some(cpu.ok_or(PollError::NoCpu { node })?);
        let place = node.map_or_else(|| "any".to_owned(), |node| format!("n{node}"));
        let name = format!("{}-{place}-{number}", self.name);
        let poller = Poller::start(&name, cpu, node, self.spin)?;
        tracing::info!(poller = name, placement = ?poller.placement(), "poller");
        started.push(poller.clone());
        Ok(poller)
    }
}
