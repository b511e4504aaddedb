//! What stands behind a socket's path: `vfio-user:PATH[,KEY=VALUE...]`.
//!
//! A path may contain commas and equals signs. So options are taken from the end of the text, and
//! only those that are known here; what is left is the path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What of the regions is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Every area that the server offers. A server that makes its file smaller later takes doorbells
    /// away from their holders, whose queues end with an error.
    Offered,
    /// Only areas of files that cannot be made smaller (memfds sealed with `F_SEAL_SHRINK`); the rest
    /// is reached by messages.
    Sealed,
    /// None: doorbells and registers are reached by messages.
    Nothing,
}

/// How to reach a device server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its socket.
    pub path: PathBuf,
    /// How long it may take to answer a request. `timeout=SECONDS`, 5 if not said.
    pub timeout: Duration,
    /// What is mapped. `map=offered` (if not said), `map=sealed`, `map=none`.
    pub mapping: Mapping,
}

const TIMEOUT: Duration = Duration::from_secs(5);

impl Options {
    /// Nothing but a path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), timeout: TIMEOUT, mapping: Mapping::Offered }
    }

    /// Reads `PATH[,KEY=VALUE...]`. A socket whose name ends like an option is named by a link.
    ///
    /// # Errors
    /// One line: a known option with a value that it does not have.
    pub fn parse(text: &Path) -> Result<Self, String> {
        let mut options = Self::new("");
        let mut path = text.as_os_str().as_bytes();
        let (mut timeout, mut mapping) = (None, None);
        while let Some(comma) = path.iter().rposition(|byte| *byte == b',') {
            let Some((before, option)) = path.split_at_checked(comma) else { break };
            let option = String::from_utf8_lossy(option.get(1..).unwrap_or_default());
            if option.contains('/') {
                // It names a file below a folder whose name has a comma.
                break;
            }
            // The last one counts, and it is met first.
            match option.split_once('=') {
                // No option's value has a slash: this is the end of a path.
                Some((_, value)) if value.contains('/') => break,
                Some(("timeout", value)) => {
                    timeout = timeout.or(Some(seconds(value)?));
                }
                Some(("map", value)) => mapping = mapping.or(Some(mapping_of(value)?)),
                _ => break,
            }
            path = before;
        }
        options.path = PathBuf::from(OsStr::from_bytes(path));
        options.timeout = timeout.unwrap_or(options.timeout);
        options.mapping = mapping.unwrap_or(options.mapping);
        Ok(options)
    }
}

fn seconds(value: &str) -> Result<Duration, String> {
    let seconds = value.parse().ok().filter(|seconds| (0.001..=3600.0).contains(seconds));
    let problem = || format!("timeout={value} is no number of seconds from 0.001 to 3600");
    seconds.map(Duration::from_secs_f64).ok_or_else(problem)
}

fn mapping_of(value: &str) -> Result<Mapping, String> {
    match value {
        "offered" => Ok(Mapping::Offered),
        "sealed" => Ok(Mapping::Sealed),
        "none" => Ok(Mapping::Nothing),
        _ => Err(format!("map={value} is none of offered, sealed, none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(Path::new(text))
    }

    #[test]
    fn options_are_taken_from_the_end_and_paths_keep_their_commas() {
        assert_eq!(parse("/run/x.sock").unwrap(), Options::new("/run/x.sock"));
        for path in ["/a,b", "/a,b=c,d", "/a,map=none/x", "/a,timeout=x/y,z=1"] {
            assert_eq!(parse(path).unwrap(), Options::new(path));
        }
        let wanted = Options {
            timeout: Duration::from_millis(500),
            mapping: Mapping::Nothing,
            ..Options::new("/a,b=c")
        };
        assert_eq!(parse("/a,b=c,map=none,timeout=0.5").unwrap(), wanted);
        assert_eq!(parse("/a,b=c,timeout=9,timeout=0.5,map=none").unwrap(), wanted);
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for text in ["/x,timeout=", "/x,timeout=0", "/x,timeout=-1", "/x,timeout=inf", "/x,map=all"]
        {
            assert!(parse(text).unwrap_err().contains('='), "{text}");
        }
    }
}
