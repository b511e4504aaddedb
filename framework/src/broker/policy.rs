//! Who may have what: the policy file.
//!
//! ```toml
//! # The first rule that matches the peer's user and this broker's device decides. Without one the
//! # peer is refused.
//!
//! [[rule]]
//! user = "backup"            # or: uid = 1000, gid = 100, any = true
//! device = "soft:nvme"       # `*` stands for any text; every device if left out
//! max_tier = "paged"         # may not ask for more isolation than this (it may be scarce)
//! queues = 4                 # queues at once; default 16
//! bytes = "256M"             # bytes of arenas; K, M, G, T are powers of 1024; default 1G
//! mappings = 16              # arenas; default 64
//! pollers = 4                # pollers that `status` shows; default 16
//!
//! [[rule]]
//! gid = 100
//! required_tier = "mediated" # never gets a grant that is isolated less than this
//!
//! [[rule]]
//! uid = 0
//! operator = true            # may revoke, and change the device for everyone
//! device_fd = true           # may be given the device's descriptor where nothing narrower exists
//! ```
//!
//! Limits are for one client process: its connections share them. Names of users are looked up in `/etc/passwd`; a peer's gid is its primary group.
//!
//! What it does not do: it cannot make a bus isolate more than it does. A rule with a required tier
//! that the bus does not offer refuses every claim.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::tier::Tier;

/// What one peer may have.
///
/// A bus that cannot hand out less than the device's own descriptor hands out much: its holder can
/// reset the device, rewrite its config space and its interrupts, and map all of its BARs. So that is a
/// right of its own, which a policy file must give by name. Without a file the broker's own user has it:
/// it could attach a debugger to the broker just as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Queues at once.
    pub queues: u32,
    /// Bytes of arenas.
    pub bytes: u64,
    /// Arenas.
    pub mappings: u32,
    /// Pollers of which the broker keeps what the client says.
    pub pollers: u32,
    /// It may not ask for more isolation than this.
    pub max_tier: Tier,
    /// It gets no grant that is isolated less than this.
    pub required_tier: Tier,
    /// It may be given the device's own descriptor where the bus has nothing narrower to hand out a
    /// doorbell with ([`crate::bus::Bus::exports_device_fd`]).
    pub device_fd: bool,
    /// It may revoke, and change the device for everyone.
    pub operator: bool,
}

impl Default for Rights {
    fn default() -> Self {
        Self {
            queues: 16,
            bytes: 1 << 30,
            mappings: 64,
            pollers: 16,
            max_tier: Tier::Isolated,
            required_tier: Tier::Cooperative,
            device_fd: false,
            operator: false,
        }
    }
}

/// Whom a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A user.
    Uid(u32),
    /// A primary group.
    Gid(u32),
    /// Everyone.
    Any,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whom it is for.
    pub subject: Subject,
    /// Which devices; `*` stands for any text.
    pub device: String,
    /// What it gives.
    pub rights: Rights,
}

/// Rules in order; the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    /// True if it came from a file: other users can be meant, so they must reach the socket.
    shared: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self::owner_only()
    }
}

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("policy {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A line of it is wrong.
    #[error("policy {}, line {line}: {why}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Spanned<FileRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    user: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    any: Option<bool>,
    device: Option<String>,
    queues: Option<u32>,
    bytes: Option<Bytes>,
    mappings: Option<u32>,
    pollers: Option<u32>,
    max_tier: Option<Tier>,
    required_tier: Option<Tier>,
    #[serde(default)]
    device_fd: bool,
    #[serde(default)]
    operator: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number of bytes such as 1048576 or \"256M\"")]
enum Bytes {
    Number(u64),
    Text(String),
}

impl Policy {
    /// The broker's own user only, as an operator. What a broker without a policy file has.
    #[must_use]
    pub fn owner_only() -> Self {
        let rights = Rights { operator: true, device_fd: true, ..Rights::default() };
        let subject = Subject::Uid(rustix::process::geteuid().as_raw());
        let rule = Rule { subject, device: "*".to_owned(), rights };
        Self { rules: vec![rule], shared: false }
    }

    /// These rules, in this order.
    #[must_use]
    pub fn from_rules(rules: Vec<Rule>) -> Self {
        Self { rules, shared: true }
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// [`PolicyError`] names file, line and what is wrong.
    pub fn load(file: impl AsRef<Path>) -> Result<Self, PolicyError> {
        let file = file.as_ref();
        let text = std::fs::read_to_string(file)
            .map_err(|source| PolicyError::Read { file: file.to_owned(), source })?;
        Self::parse(&text, file)
    }

    /// Reads the text of a policy file. `file` stands in errors.
    ///
    /// # Errors
    /// As [`Policy::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, PolicyError> {
        let wrong = |at: usize, why: String| PolicyError::Line {
            file: file.to_owned(),
            line: text.get(..at).unwrap_or(text).matches('\n').count() + 1,
            why,
        };
        let parsed: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(at, error.message().replace('\n', " "))
        })?;
        let mut users = None;
        let mut rules = Vec::new();
        for rule in parsed.rule {
            let at = rule.span().start;
            rules.push(resolve(rule.into_inner(), &mut users).map_err(|why| wrong(at, why))?);
        }
        Ok(Self { rules, shared: true })
    }

    /// What a peer may have of a device; `None` if nothing.
    #[must_use]
    pub fn rights(&self, uid: u32, gid: u32, device: &str) -> Option<Rights> {
        let matches = |rule: &&Rule| {
            let subject = match rule.subject {
                Subject::Uid(wanted) => wanted == uid,
                Subject::Gid(wanted) => wanted == gid,
                Subject::Any => true,
            };
            subject && glob(&rule.device, device)
        };
        self.rules.iter().find(matches).map(|rule| rule.rights)
    }

    /// True if other users than the broker's own may be meant.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared
    }
}

fn resolve(rule: FileRule, users: &mut Option<BTreeMap<String, u32>>) -> Result<Rule, String> {
    let subject = match (rule.user, rule.uid, rule.gid, rule.any) {
        (Some(user), None, None, None) => {
            let users = users.get_or_insert_with(passwd);
            let uid = users.get(&user).ok_or(format!("/etc/passwd has no user '{user}'"))?;
            Subject::Uid(*uid)
        }
        (None, Some(uid), None, None) => Subject::Uid(uid),
        (None, None, Some(gid), None) => Subject::Gid(gid),
        (None, None, None, Some(true)) => Subject::Any,
        _ => return Err("a rule needs exactly one of user, uid, gid, any = true".to_owned()),
    };
    let default = Rights::default();
    let bytes = match rule.bytes {
        None => default.bytes,
        Some(Bytes::Number(bytes)) => bytes,
        Some(Bytes::Text(text)) => {
            bytes_of(&text).ok_or(format!("bytes = \"{text}\" is no size such as 256M"))?
        }
    };
    let rights = Rights {
        queues: rule.queues.unwrap_or(default.queues),
        bytes,
        mappings: rule.mappings.unwrap_or(default.mappings),
        pollers: rule.pollers.unwrap_or(default.pollers),
        max_tier: rule.max_tier.unwrap_or(default.max_tier),
        required_tier: rule.required_tier.unwrap_or(default.required_tier),
        device_fd: rule.device_fd,
        operator: rule.operator,
    };
    if rights.required_tier > rights.max_tier {
        return Err(format!(
            "required_tier {} is above max_tier {}",
            rights.required_tier, rights.max_tier
        ));
    }
    Ok(Rule { subject, device: rule.device.unwrap_or_else(|| "*".to_owned()), rights })
}

/// Users of `/etc/passwd`, passwd(5): name, password, uid, ...
fn passwd() -> BTreeMap<String, u32> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        Some((name, uid))
    };
    text.lines().filter_map(user).collect()
}

/// `256M` as bytes.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)? {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Matches `*` as any text. Linear per star: the first fit from the left is always good enough.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Policy, PolicyError> {
        Policy::parse(text, Path::new("p.toml"))
    }

    #[test]
    fn the_example_of_the_documentation_is_a_policy() {
        let text: String = include_str!("policy.rs")
            .lines()
            .skip_while(|line| *line != "//! ```toml")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| format!("{}\n", line.trim_start_matches("//!")))
            .collect();
        let policy = parse(&text).unwrap();
        assert_eq!(policy.rules.len(), 3);
        assert_eq!(policy.rules[0].rights.bytes, 256 << 20);
        assert_eq!(policy.rules[1].rights.required_tier, Tier::Mediated);
        let [backup, _, root] = [0, 1, 2].map(|i| policy.rules[i].rights);
        assert!(root.operator && root.device_fd);
        assert!(!backup.operator && !backup.device_fd);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = parse(
            "[[rule]]\nuid = 7\ndevice = \"soft:*\"\nqueues = 1\n\
             [[rule]]\ngid = 9\nqueues = 2\n[[rule]]\nuid = 7\nqueues = 3\n",
        )
        .unwrap();
        let queues = |uid, gid, device| policy.rights(uid, gid, device).map(|rights| rights.queues);
        assert_eq!(queues(7, 9, "soft:nvme"), Some(1));
        assert_eq!(queues(7, 9, "0000:01:00.0"), Some(2));
        assert_eq!(queues(7, 0, "0000:01:00.0"), Some(3));
        assert_eq!(queues(8, 0, "soft:nvme"), None);
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line, part) in [
            ("[[rule]]\nuid = 1\nquotas = 3\n", 3, "quotas"),
            ("[[rule]]\nuid = \"x\"\n", 2, "u32"),
            ("\n\n[[rule]]\ndevice = \"a\"\n", 3, "exactly one"),
            ("[[rule]]\nuid = 1\ngid = 1\n", 1, "exactly one"),
            ("[[rule]]\nuser = \"nobody-of-this-name\"\n", 1, "no user"),
            ("[[rule]]\nuid = 1\nbytes = \"12Q\"\n", 1, "12Q"),
            ("[[rule]]\nuid = 1\nmax_tier = \"best\"\n", 3, "best"),
            ("[[rule]]\nuid = 1\nmax_tier = \"paged\"\nrequired_tier = \"isolated\"\n", 1, "above"),
            ("[[rule]\n", 1, ""),
        ] {
            match parse(text).unwrap_err() {
                PolicyError::Line { line: at, why, .. } => {
                    assert_eq!(at, line, "{text}: {why}");
                    assert!(why.contains(part), "{why}");
                }
                PolicyError::Read { source, .. } => panic!("{source}"),
            }
        }
    }

    #[test]
    fn patterns_match_as_shells_do() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("soft:*", "soft:nvme", true),
            ("soft:*", "sof", false),
            ("*:01:*", "0000:01:00.0", true),
            ("a*a", "a", false),
            ("a*b*a", "abba", true),
            ("soft:nvme", "soft:nvme2", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }
}
