//! How well a grant is isolated from the other clients of its device.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The isolation that a grant really has, in ascending order. A client asks for a minimum and gets
/// that or a refusal; an operator sees the tier of each grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// A raw queue in a shared address space: the client could ring another's doorbell and name
    /// another's IOVA. For clients that trust each other.
    Cooperative,
    /// A BAR slice of its own, revocable; the address space is still shared.
    Paged,
    /// No BAR: a poller validates entries from shared memory and builds the real ones.
    Mediated,
    /// An SR-IOV virtual function or a PASID of its own: enforced by hardware.
    Isolated,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cooperative => "cooperative",
            Self::Paged => "paged",
            Self::Mediated => "mediated",
            Self::Isolated => "isolated",
        })
    }
}

/// A word that names no tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no tier; there are cooperative, paged, mediated, isolated")]
pub struct UnknownTier(pub String);

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Ok(match word {
            "cooperative" => Self::Cooperative,
            "paged" => Self::Paged,
            "mediated" => Self::Mediated,
            "isolated" => Self::Isolated,
            _ => return Err(UnknownTier(word.to_owned())),
        })
    }
}
