//! Programs of others that proofs run inside a guest: those that are installed, or Debian's, unpacked into the cache.

use std::path::{Path, PathBuf};

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
    let libraries: Vec<_> = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|place| text(&folder.join(place)))
        .to_vec();
    Ok(Tool { name: program.to_owned(), path: text(path), libraries: libraries.join(":") })
}

fn text(path: &Path) -> String {
    PathBuf::from(path).display().to_string()
}
