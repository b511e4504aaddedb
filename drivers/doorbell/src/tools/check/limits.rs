//! Memory that may be locked, huge pages, NUMA nodes.

use doorbell::pci::sysfs::{Roots, names, text};

use super::finding::{Finding, Part, State};

/// A client with an arena of 64 MiB, and what the driver itself maps.
const NEEDED: u64 = (64 + 2) << 20;

const LARGEST: usize = 1 << 16;

/// A limit of this process; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) soft: Option<u64>,
    pub(super) hard: Option<u64>,
}

impl Limit {
    pub(super) fn soft_text(&self) -> String {
        shown(self.soft)
    }

    pub(super) fn hard_text(&self) -> String {
        shown(self.hard)
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

pub(super) fn look(roots: &Roots) -> Vec<Finding> {
    vec![memlock(roots), huge_pages(roots), nodes(roots)]
}

/// A limit by its name in `/proc/self/limits`; the error is a line.
pub(super) fn of(roots: &Roots, name: &str) -> Result<Limit, String> {
    let path = roots.proc.join("self/limits");
    let table = text(&path, LARGEST).map_err(|error| error.to_string())?;
    let nonsense = || format!("{} has no '{name}'", path.display());
    let line = table.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(nonsense)?;
    let mut fields = line.split_whitespace().map(|field| match field {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    });
    match (fields.next().flatten(), fields.next().flatten()) {
        (Some(soft), Some(hard)) => Ok(Limit { soft, hard }),
        _ => Err(nonsense()),
    }
}

/// What the device may reach is locked in memory, and counts against the broker.
fn memlock(roots: &Roots) -> Finding {
    const WHAT: &str = "locked memory";
    if may_lock_all(roots) {
        return Finding::ok(Part::Vfio, WHAT, "no limit (CAP_IPC_LOCK)");
    }
    let limit = match of(roots, "Max locked memory") {
        Ok(limit) => limit,
        Err(error) => return Finding::new(Part::Vfio, WHAT, State::Warn, error),
    };
    let mib = |limit: Option<u64>| {
        limit.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
    };
    let found = format!("{}, of at most {}", mib(limit.soft), mib(limit.hard));
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= NEEDED);
    if enough(limit.soft) {
        return Finding::ok(Part::Vfio, WHAT, found);
    }
    let need = format!("one client with 64 MiB needs {} MiB", NEEDED >> 20);
    let todo = if enough(limit.hard) {
        format!("{need}: ulimit -l {}", shown(limit.hard.map(|bytes| bytes >> 10)))
    } else {
        format!(
            "{need}: a line '@doorbell - memlock unlimited' in /etc/security/limits.d/doorbell.conf \
             and a new login, or LimitMEMLOCK=infinity of the service"
        )
    };
    Finding::new(Part::Vfio, WHAT, State::Missing, found).todo(todo)
}

/// True if `CAP_IPC_LOCK` is effective and counts: outside of the first user namespace it does not.
fn may_lock_all(roots: &Roots) -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = text(&roots.proc.join("self/status"), LARGEST).unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    // A kernel without user namespaces has no such file.
    let map = text(&roots.proc.join("self/uid_map"), LARGEST);
    let whole = map.is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
        || !roots.proc.join("self/ns/user").exists();
    set >> CAP_IPC_LOCK & 1 == 1 && whole
}

fn huge_pages(roots: &Roots) -> Finding {
    const WHAT: &str = "huge pages";
    let table = text(&roots.proc.join("meminfo"), LARGEST).unwrap_or_default();
    let field = |name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let total = field("HugePages_Total:").unwrap_or(0);
    let kib = field("Hugepagesize:").unwrap_or(0);
    if total == 0 {
        return Finding::new(Part::Vfio, WHAT, State::Note, "none set aside; they are optional")
            .todo("sysctl vm.nr_hugepages=64: large arenas are then mapped faster");
    }
    let free = field("HugePages_Free:").unwrap_or(0);
    Finding::ok(Part::Vfio, WHAT, format!("{free} of {total} free, {kib} KiB each"))
}

fn nodes(roots: &Roots) -> Finding {
    let nodes = names(&roots.sys.join("devices/system/node")).unwrap_or_default();
    let number = |name: &String| {
        name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let count = nodes.iter().filter(|name| number(name)).count();
    let found = match count {
        0 | 1 => "one node: everything is near".to_owned(),
        _ => format!("{count} nodes: a broker's threads keep to the cores near its device"),
    };
    Finding::ok(Part::Vfio, "NUMA", found)
}
