//! What is mounted and what is swapped on, from procfs.

use super::Roots;
use super::error::SysfsError;
use super::nodes::Number;
use super::read::{optional, present, text};

/// Bytes of the largest table that is read: a machine with thousands of containers has a few MiB.
const LARGEST: usize = 64 << 20;

/// A line of `mountinfo` (Linux, Documentation/filesystems/proc.rst, 3.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The file system's device; an invented one for btrfs, overlayfs and the like.
    pub(super) number: Option<Number>,
    /// Where.
    pub(super) at: String,
    /// The file system's type.
    pub(super) kind: String,
    /// What it was mounted from: `/dev/sda1`, a tag, a name.
    pub(super) source: String,
}

/// The mounts that this process and the first one see. Other mount namespaces are not looked into:
/// the kernel's claim on the disk shows their mounts as well.
pub(super) fn mounts(roots: &Roots) -> Result<Vec<Mount>, SysfsError> {
    let mut all: Vec<Mount> =
        text(&roots.proc.join("self/mountinfo"), LARGEST)?.lines().filter_map(mount).collect();
    // Not everyone may read those of the first process.
    if let Ok(more) = text(&roots.proc.join("1/mountinfo"), LARGEST) {
        let more = more.lines().filter_map(mount).filter(|mount| !all.contains(mount));
        all.extend(more.collect::<Vec<_>>());
    }
    Ok(all)
}

fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let number = left.next()?.parse().ok();
    let at = unescape(left.nth(1)?);
    let mut right = right.split(' ');
    Some(Mount { number, at, kind: unescape(right.next()?), source: unescape(right.next()?) })
}

/// `\040` is a space: three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match digits {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// What is swapped on: paths of devices and files.
pub(super) fn swaps(roots: &Roots) -> Result<Vec<String>, SysfsError> {
    let table = present(optional(&roots.proc.join("swaps"), LARGEST))?.flatten();
    let table = table.unwrap_or_default();
    let paths = table.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    Ok(paths.map(unescape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_with_and_without_optional_fields() {
        let line = "36 35 259:1 / /mnt/my\\040disk rw,noatime master:1 - ext4 /dev/nvme0n1p1 rw";
        let read = mount(line).unwrap();
        assert_eq!(read.number, Some(Number { major: 259, minor: 1 }));
        assert_eq!((read.at.as_str(), read.source.as_str()), ("/mnt/my disk", "/dev/nvme0n1p1"));
        let read = mount("1 0 0:20 / / ro - 9p rootfs rw").unwrap();
        assert_eq!((read.kind.as_str(), read.source.as_str()), ("9p", "rootfs"));
        for nonsense in ["", " - ", "1 2 3", "1 2 3:4 / / - ", "1 2 x / / rw - y"] {
            assert_eq!(mount(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn escapes_are_undone_and_nonsense_is_kept() {
        assert_eq!(unescape("a\\040b\\011"), "a b\t");
        assert_eq!(unescape("a\\9\\"), "a\\9\\");
        assert_eq!(unescape("\\ä"), "\\ä");
    }
}
