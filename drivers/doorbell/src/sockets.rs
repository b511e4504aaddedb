//! Where brokers' sockets lie, and which one is meant.

use std::env;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cli::Target;

const SYSTEM: &str = "/run/doorbell";

/// The folders in which sockets are made and looked for, the first that can be written first: the
/// system's, and this user's.
fn folders() -> Vec<PathBuf> {
    vec![PathBuf::from(SYSTEM), user_folder()]
}

/// `$XDG_RUNTIME_DIR/doorbell`, or a folder in the one for temporary files that carries the user's
/// id. What it is worth is checked when it is used: see [`make_private`].
fn user_folder() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => Path::new(&folder).join("doorbell"),
        None => {
            let uid = rustix::process::geteuid().as_raw();
            env::temp_dir().join(format!("doorbell-{uid}"))
        }
    }
}

/// Where a broker for the device `name` listens if it is not told: the folder is made if needed.
///
/// # Errors
/// If no folder can be used.
pub(crate) fn place_for(name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        bail!("'{name}' cannot be a device's short name; use letters and digits: --name nvme0");
    }
    let file = format!("{name}.sock");
    // Anyone may look for a socket in the system's folder: the policy decides about clients.
    let system = Path::new(SYSTEM);
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(system);
    if made.is_ok() && rustix::fs::access(system, rustix::fs::Access::WRITE_OK).is_ok() {
        return Ok(system.join(file));
    }
    let folder = user_folder();
    make_private(&folder)?;
    Ok(folder.join(file))
}

/// The first of `model0`, `model1`, ... that no broker uses here.
pub(crate) fn free_name(model: &str) -> String {
    let taken: Vec<String> = all().iter().map(|path| short_name(path)).collect();
    let names = (0..).map(|number| format!("{model}{number}"));
    // There are more numbers than sockets.
    names.into_iter().find(|name| !taken.contains(name)).unwrap_or_else(|| model.to_owned())
}

/// Makes a folder of this user's, or makes sure that it is one: in a shared folder for temporary
/// files anyone could have put it there.
fn make_private(folder: &Path) -> Result<()> {
    let shown = folder.display();
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make the folder {shown}; use --socket PATH"))
        }
        _ => {
            let metadata = fs::symlink_metadata(folder)
                .with_context(|| format!("cannot look at the folder {shown}"))?;
            let mine = metadata.uid() == rustix::process::geteuid().as_raw();
            if !metadata.is_dir() || !mine || metadata.mode() & 0o022 != 0 {
                bail!("{shown} is not a folder that only this user can write; use --socket PATH");
            }
            Ok(())
        }
    }
}

/// Every socket in the usual folders, in order of name.
pub(crate) fn all() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = folders().iter().flat_map(|folder| sockets_in(folder)).collect();
    found.sort();
    found
}

fn sockets_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .collect()
}

/// The socket that is meant.
///
/// # Errors
/// If none is named and there is not exactly one, or none has that name: the error lists what there
/// is.
pub(crate) fn find(target: &Target) -> Result<PathBuf> {
    choose(target, &all())
}

fn choose(target: &Target, found: &[PathBuf]) -> Result<PathBuf> {
    if let Some(socket) = &target.socket {
        return Ok(socket.clone());
    }
    let names = || {
        let names: Vec<_> = found.iter().map(|path| short_name(path)).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    if let Some(device) = &target.device {
        return found.iter().find(|path| short_name(path) == *device).cloned().with_context(|| {
            format!("no broker serves a device '{device}' here (there is: {}); name its socket with --socket PATH", names())
        });
    }
    match found {
        [only] => Ok(only.clone()),
        [] => bail!(
            "no broker is running in the usual folders; start one with `doorbell serve SPEC`, or \
             name its socket with --socket PATH"
        ),
        _ => bail!("several brokers are running ({}); choose one with --device NAME", names()),
    }
}

/// The device's short name: the socket's without its extension.
pub(crate) fn short_name(socket: &Path) -> String {
    socket.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(socket: Option<&str>, device: Option<&str>) -> Target {
        Target { socket: socket.map(PathBuf::from), device: device.map(str::to_owned) }
    }

    #[test]
    fn one_broker_needs_no_name() {
        let one = [PathBuf::from("/run/doorbell/nvme0.sock")];
        assert_eq!(choose(&target(None, None), &one).unwrap(), one[0]);
        assert_eq!(choose(&target(Some("/x"), None), &one).unwrap(), Path::new("/x"));
    }

    #[test]
    fn otherwise_the_error_says_which_there_are() {
        let two = [PathBuf::from("/run/doorbell/a.sock"), PathBuf::from("/run/doorbell/b.sock")];
        assert_eq!(choose(&target(None, Some("b")), &two).unwrap(), two[1]);
        let error = |target, found: &[PathBuf]| choose(&target, found).unwrap_err().to_string();
        assert!(error(target(None, None), &two).contains("(a, b)"));
        assert!(error(target(None, Some("c")), &two).contains("'c'"));
        assert!(error(target(None, None), &[]).contains("doorbell serve"));
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        for bad in ["", ".", "..", "a/b", "../x"] {
            assert!(place_for(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("doorbell");
        make_private(&inner).unwrap();
        make_private(&inner).unwrap();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&inner, permissions).unwrap();
        assert!(make_private(&inner).is_err());
        std::os::unix::fs::symlink(folder.path(), folder.path().join("link")).unwrap();
        assert!(make_private(&folder.path().join("link")).is_err());
    }
}
