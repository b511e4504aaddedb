//! Which core the client measures on and which one the device's process has.

use std::fs;

use anyhow::{Context, Result};
use doorbell::topology;
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

/// Two cores: one for the client, another for the device. A floor and a figure are only comparable
/// if both were measured on the same two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Where the client runs.
    pub client: usize,
    /// Where the device's side runs.
    pub device: usize,
}

impl Placement {
    /// Two physical cores near each other, of those this process may use; `None` if it may use only
    /// one, so that pinning would put both sides on top of each other.
    ///
    /// # Errors
    /// If the kernel does not say which cores this process may use.
    pub fn choose() -> Result<Option<Self>> {
        let allowed = allowed()?;
        Ok(choose_from(&allowed, siblings, near))
    }
}

/// The first core is the client's. Its own hardware threads are the last resort, and a core that
/// shares its last-level cache is better than one that does not.
fn choose_from(
    allowed: &[usize],
    siblings: impl Fn(usize) -> Vec<usize>,
    near: impl Fn(usize) -> Vec<usize>,
) -> Option<Placement> {
    let (&client, others) = allowed.split_first()?;
    let (siblings, near) = (siblings(client), near(client));
    let apart = |core: &&usize| !siblings.contains(core);
    let device = others
        .iter()
        .find(|core| apart(core) && near.contains(core))
        .or_else(|| others.iter().find(apart))
        .or_else(|| others.first())?;
    Some(Placement { client, device: *device })
}

/// The cores that this thread may run on.
fn allowed() -> Result<Vec<usize>> {
    let allowed = topology::allowed().context("asking which cores this process may use")?;
    Ok(allowed.iter().collect())
}

/// Keeps the calling thread, and every thread it starts from now on, on one core.
///
/// # Errors
/// If there is no such core, or this process may not use it.
pub fn pin_to(core: usize) -> Result<()> {
    topology::pin_thread(core)
        .with_context(|| format!("pinning to core {core}; is it one that this process may use?"))
}

/// Hardware threads of the same physical core; empty where sysfs does not say.
fn siblings(core: usize) -> Vec<usize> {
    read_list(&format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"))
}

/// Cores that share the last-level cache; empty where sysfs does not say.
fn near(core: usize) -> Vec<usize> {
    read_list(&format!("/sys/devices/system/cpu/cpu{core}/cache/index3/shared_cpu_list"))
}

fn read_list(path: &str) -> Vec<usize> {
    fs::read_to_string(path).map(|text| parse_list(&text)).unwrap_or_default()
}

/// Reads a kernel list of cores: `0-3,8,10-11`. What is not of that form is left out.
fn parse_list(text: &str) -> Vec<usize> {
    let number = |text: &str| text.trim().parse().ok().filter(|core| *core < CpuSet::MAX_CPU);
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        number(first).zip(number(last))
    };
    text.split(',').filter_map(range).flat_map(|(first, last)| first..=last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_the_kernel_writes_them() {
        assert_eq!(parse_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_list(""), [0; 0]);
        assert_eq!(parse_list("7"), [7]);
        assert_eq!(parse_list("x,1-,4"), [4]);
    }

    #[test]
    fn the_other_side_is_another_physical_core_in_the_same_cache() {
        let placed = |client, device| Some(Placement { client, device });
        let siblings = |core: usize| vec![core & !1, core | 1];
        assert_eq!(choose_from(&[0, 1, 2, 3, 4, 5], siblings, |_| vec![4, 5]), placed(0, 4));
        assert_eq!(choose_from(&[0, 1, 2, 3], siblings, |_| vec![]), placed(0, 2));
        assert_eq!(choose_from(&[6, 7], siblings, |_| vec![]), placed(6, 7));
        assert_eq!(choose_from(&[3], siblings, |_| vec![]), None);
    }

    #[test]
    fn a_core_that_is_not_there_is_an_error() {
        assert!(pin_to(CpuSet::MAX_CPU).is_err());
    }
}
