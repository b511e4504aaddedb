//! Bounded reading of small text files, links and folders.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::SysfsError;

/// Bytes of the longest file of sysfs: a page.
pub(super) const PAGE: usize = 4096;
/// Entries of the largest folder that is read.
pub(super) const MOST_ENTRIES: usize = 1 << 16;

fn failed(path: &Path, error: io::Error) -> SysfsError {
    SysfsError::Read { path: path.to_owned(), error }
}

/// A text that stands in an error or on a terminal: one line, no control characters, not long.
#[must_use]
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 96;
    text.chars().take(LONGEST).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A file's text without the white space around it, of at most `limit` bytes.
///
/// # Errors
/// If it cannot be read, or is longer.
pub fn text(path: &Path, limit: usize) -> Result<String, SysfsError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| failed(path, error))?;
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(|error| failed(path, error))?;
    if bytes.len() > limit {
        return Err(SysfsError::TooMuch { path: path.to_owned(), limit, what: "bytes" });
    }
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The same; `None` if there is no such file.
///
/// # Errors
/// As [`text`].
pub fn optional(path: &Path, limit: usize) -> Result<Option<String>, SysfsError> {
    present(text(path, limit))
}

/// `None` instead of the error that says that a file is not there.
pub(super) fn present<T>(read: Result<T, SysfsError>) -> Result<Option<T>, SysfsError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The error for a text that does not parse.
pub(super) fn malformed(path: &Path, text: &str, what: &'static str) -> SysfsError {
    SysfsError::Malformed { path: path.to_owned(), text: printable(text), what }
}

/// A number with `0x` before it, no larger than `most`.
pub(super) fn hex(path: &Path, most: u32) -> Result<u32, SysfsError> {
    let text = text(path, PAGE)?;
    let digits = text.strip_prefix("0x").unwrap_or(&text);
    // A sign would be read as well.
    let number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = number.then(|| u32::from_str_radix(digits, 16).ok()).flatten();
    number
        .filter(|number| *number <= most)
        .ok_or_else(|| malformed(path, &text, "hexadecimal number of this size"))
}

/// What a symbolic link points to, its last part only; `None` if there is no link.
pub(super) fn link_name(path: &Path) -> Result<Option<String>, SysfsError> {
    let target = present(fs::read_link(path).map_err(|error| failed(path, error)))?;
    Ok(target.and_then(|to| to.file_name().map(|name| name.to_string_lossy().into_owned())))
}

/// The names in a folder, in order; none if there is no such folder.
///
/// # Errors
/// If it cannot be read, or has far too many.
pub fn names(folder: &Path) -> Result<Vec<String>, SysfsError> {
    let Some(entries) = present(fs::read_dir(folder).map_err(|error| failed(folder, error)))?
    else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(folder, error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
        if names.len() > MOST_ENTRIES {
            let path = folder.to_owned();
            return Err(SysfsError::TooMuch { path, limit: MOST_ENTRIES, what: "entries" });
        }
    }
    names.sort();
    Ok(names)
}

/// A path without symbolic links; `None` if it leads nowhere.
pub(super) fn real(path: &Path) -> Result<Option<PathBuf>, SysfsError> {
    present(fs::canonicalize(path).map_err(|error| failed(path, error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_or_no_number_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        fs::write(&file, vec![b'1'; PAGE + 1]).unwrap();
        assert!(matches!(text(&file, PAGE), Err(SysfsError::TooMuch { limit: PAGE, .. })));
        for bad in ["", "0x", "-1", "+1", "0x12345", "zz", "1\u{1b}[2J"] {
            fs::write(&file, bad).unwrap();
            let error = hex(&file, 0xffff).unwrap_err().to_string();
            assert!(error.contains("says '") && !error.contains('\u{1b}'), "{error}");
        }
        fs::write(&file, "0x1b36\n").unwrap();
        assert_eq!(hex(&file, 0xffff).unwrap(), 0x1b36);
    }

    #[test]
    fn what_is_not_there_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        assert_eq!(optional(&path, PAGE).unwrap(), None);
        assert_eq!(link_name(&path).unwrap(), None);
        assert!(names(&path).unwrap().is_empty());
        assert!(optional(folder.path(), PAGE).is_err(), "a folder is no file");
    }
}
