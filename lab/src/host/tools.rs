//! Programs of others that proofs run inside a guest: those that are installed, or Debian's, unpacked into the cache.

use std::fs;
use std::path::Path;

use crate::error::{Result, unavailable};
use crate::host::cache;
use crate::host::debian::{Apt, Suite};
use crate::host::process::find_program;
use crate::protocol::Tool;

/// A program, and the package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The program.
    pub program: &'static str,
    /// Debian's package of it.
    pub package: &'static str,
}

/// A load that checks what it reads.
pub const FIO: Wanted = Wanted { program: "fio", package: "fio" };
/// What operators use on NVM Express controllers.
pub const NVME: Wanted = Wanted { program: "nvme", package: "nvme-cli" };

/// Where the program is, fetched if it is not installed.
///
/// # Errors
/// [`LabError::Unavailable`](crate::LabError::Unavailable) if it is not here and cannot be fetched.
pub fn find(wanted: Wanted) -> Result<Tool> {
    let Wanted { program, package } = wanted;
    if let Some(path) = find_program(program) {
        return Ok(Tool { name: program.to_owned(), path: text(&path), libraries: String::new() });
    }
    let folder = cache::folder()?.join(package);
    cache::keep(&folder, |work| {
        eprintln!("  fetching {program} from Debian's packages into {} (once)", folder.display());
        Apt::with(Suite::ThisMachine, package)?.unpack(package, |_| true, work, &[])
    })?;
    let places = ["usr/bin", "usr/sbin"].map(|place| folder.join(place).join(program));
    let Some(path) = places.iter().find(|path| path.is_file()) else {
        let folder = folder.display();
        return unavailable(format!(
            "there is no {program} in {folder}; delete it to fetch it anew"
        ));
    };
    Ok(Tool { name: program.to_owned(), path: text(path), libraries: libraries(&folder) })
}

/// Folders with libraries. Some packages keep theirs in a folder below the usual one, which the program is told of when
/// it is linked, for the place where it would be installed.
fn libraries(folder: &Path) -> String {
    let mut places = Vec::new();
    for place in ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"] {
        let place = folder.join(place);
        let below = fs::read_dir(&place).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut below: Vec<_> = below.filter(|path| path.is_dir()).collect();
        below.sort();
        places.push(place);
        places.extend(below);
    }
    places.iter().map(|place| text(place)).collect::<Vec<_>>().join(":")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
