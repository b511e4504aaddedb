//! What a client asks for: [`QueueSpec`].

use std::time::Duration;

use doorbell_queues::SpinBudget;

use crate::tier::Tier;

/// A queue as a client wants it.
#[derive(Debug, Clone, Copy)]
pub struct QueueSpec {
    pub(crate) depth: u32,
    pub(crate) at_least: Tier,
    pub(crate) time_limit: Duration,
    pub(crate) spin: SpinBudget,
}

impl QueueSpec {
    /// A queue with `depth` commands in flight, 1 to 4,096; [`Tier::Cooperative`] will do; 30
    /// seconds per command; a spin budget that adapts.
    #[must_use]
    pub fn depth(depth: u32) -> Self {
        Self {
            depth,
            at_least: Tier::Cooperative,
            time_limit: Duration::from_secs(30),
            spin: SpinBudget::default(),
        }
    }

    /// The least isolation that will do.
    #[must_use]
    pub fn at_least(mut self, tier: Tier) -> Self {
        self.at_least = tier;
        self
    }

    /// How long a command may take. After that the broker is asked to abort it; after as long again,
    /// to end the queue, and every future gets an error.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// How long a future spins before it parks. A queue that is made on a [poller](crate::poll) does not
    /// spin: the poller does, for all of its queues.
    #[must_use]
    pub fn spin(mut self, budget: SpinBudget) -> Self {
        self.spin = budget;
        self
    }
}
