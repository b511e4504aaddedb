//! Which processes have device nodes open.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::Roots;
use super::function::Function;
use super::group::Group;
use super::nodes::Node;
use super::read::{PAGE, optional, printable};
use super::ready::vfio_nodes;

/// A process that has a device node open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Opener {
    /// Process id.
    pub pid: u32,
    /// The program's name, as the kernel has it.
    pub program: String,
    /// The node, below `/dev`.
    pub node: String,
}

/// What a look at all processes found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Scan {
    /// Who has one of the nodes open: each process and node once.
    pub openers: Vec<Opener>,
    /// Processes whose open files this user may not see.
    pub unseen: usize,
}

/// The processes that have one of a function's VFIO nodes open, so that they hold the function or
/// could.
#[must_use]
pub fn vfio_holders(roots: &Roots, function: &Function) -> Scan {
    openers(roots, &vfio_nodes(roots, function).into_iter().map(Node::named).collect::<Vec<_>>())
}

/// The processes that have a VFIO node of any function of a group open: one of them at a time can use
/// the group.
#[must_use]
pub fn group_holders(roots: &Roots, group: &Group) -> Scan {
    let functions = group.members.iter().filter_map(|member| member.name.parse().ok());
    let functions = functions.filter_map(|address| Function::read(roots, address).ok());
    let mut nodes: Vec<_> = functions.flat_map(|function| vfio_nodes(roots, &function)).collect();
    nodes.sort();
    nodes.dedup();
    openers(roots, &nodes.into_iter().map(Node::named).collect::<Vec<_>>())
}

/// The processes, other than this one, that have one of these nodes open.
pub(super) fn openers(roots: &Roots, nodes: &[Node]) -> Scan {
    let mut scan = Scan::default();
    let Ok(processes) = fs::read_dir(&roots.proc) else { return scan };
    if nodes.is_empty() {
        return scan;
    }
    for process in processes.filter_map(Result::ok) {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else { continue };
        match fs::read_dir(process.path().join("fd")) {
            Ok(files) => {
                let files = files.filter_map(Result::ok).map(|file| file.path());
                let open = files.filter_map(|file| node_of(roots, nodes, &file));
                let mut names: Vec<String> = open.collect();
                names.sort();
                names.dedup();
                let program = || {
                    let name = optional(&process.path().join("comm"), PAGE).ok().flatten();
                    printable(&name.unwrap_or_default())
                };
                scan.openers.extend(names.into_iter().map(|node| Opener {
                    pid,
                    program: program(),
                    node,
                }));
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => scan.unseen += 1,
            // It has ended.
            Err(_) => {}
        }
    }
    scan.openers.sort_by(|a, b| (a.pid, &a.node).cmp(&(b.pid, &b.node)));
    scan
}

fn node_of(roots: &Roots, nodes: &[Node], file: &Path) -> Option<String> {
    let target = fs::read_link(file).ok()?;
    nodes.iter().find(|node| node.is(&roots.dev, &target, file)).map(|node| node.name.clone())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    use super::super::testing::{FakeFunction, FakeMachine};
    use super::*;

    #[test]
    fn whoever_has_a_node_of_a_group_open_is_found() {
        let machine = FakeMachine::new().unwrap();
        for at in ["0000:01:00.0", "0000:01:00.1"] {
            machine.function(at.parse().unwrap(), &FakeFunction::nvme(7)).unwrap();
        }
        let own = machine.roots().function("0000:01:00.1".parse().unwrap());
        fs::create_dir_all(own.join("vfio-dev/vfio3")).unwrap();
        let real_dev = fs::canonicalize(&machine.roots().dev).unwrap();
        let roots = Roots { proc: "/proc".into(), dev: real_dev, ..machine.roots().clone() };
        fs::create_dir_all(roots.dev.join("vfio/devices")).unwrap();
        let group = Group::read(&roots, 7).unwrap();
        for node in ["vfio/7", "vfio/devices/vfio3"] {
            let open = File::create(roots.dev.join(node)).unwrap();
            let found = || {
                let scan = group_holders(&roots, &group);
                scan.openers.into_iter().map(|holder| (holder.pid, holder.program, holder.node))
            };
            assert_eq!(found().count(), 0, "not this process itself");
            let mut cat = Command::new("cat").stdin(Stdio::piped()).stderr(open).spawn().unwrap();
            let holder = (cat.id(), "cat".to_owned(), node.to_owned());
            assert_eq!(found().collect::<Vec<_>>(), [holder]);
            cat.kill().unwrap();
            cat.wait().unwrap();
            assert_eq!(found().count(), 0);
        }
    }
}
