//! Identifiers: who is who, with one grammar each.
//!
//! Every id that ends up in a path, a tmux argument or a query is one of these types, so that no other text ever does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not a valid identifier, and what a valid one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct BadId {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// One process of a session under one PTY: 12 characters of `[a-z0-9]`, also the name of its folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    const LEN: usize = 12;
    /// No `l`, `o`, `i` or `u`: ids are read aloud and typed.
    const ALPHABET: &'static [u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

    /// Returns a fresh random id (60 bits).
    pub fn random() -> Self {
        let mut bytes = [0u8; Self::LEN];
        getrandom::fill(&mut bytes).expect("the kernel's random source answers on every supported kernel");
        Self(bytes.iter().map(|b| char::from(Self::ALPHABET[usize::from(b % 32)])).collect())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunId {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        if s.len() == Self::LEN && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            Ok(Self(s.to_owned()))
        } else {
            Err(BadId { what: "run id", text: s.to_owned(), rule: "12 characters of a-z and 0-9" })
        }
    }
}

/// The name of a session or a pool: what people type, and what events carry.
///
/// Grammar: 1 to 64 of `[A-Za-z0-9._@-]`, first one alphanumeric. No slash (it names no path), no colon or space
/// (tmux and shells give them a meaning).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    const MAX: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the nearest valid name to `text`, or `fallback` where nothing of it can stay.
    pub fn sanitized(text: &str, fallback: &str) -> Self {
        let kept: String = text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._@-".contains(c) { c } else { '-' })
            .skip_while(|c| !c.is_ascii_alphanumeric())
            .take(Self::MAX)
            .collect();
        Self(if kept.is_empty() { fallback.to_owned() } else { kept })
    }
}

impl FromStr for Name {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        let good = (1..=Self::MAX).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@-".contains(&b));
        if good {
            Ok(Self(s.to_owned()))
        } else {
            Err(BadId {
                what: "name",
                text: s.to_owned(),
                rule: "1 to 64 of letters, digits and . _ @ -, beginning with a letter or digit",
            })
        }
    }
}

macro_rules! text_id {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl TryFrom<String> for $t {
            type Error = BadId;
            fn try_from(s: String) -> Result<Self, BadId> {
                s.parse()
            }
        }
        impl From<$t> for String {
            fn from(id: $t) -> String {
                id.0
            }
        }
    )*};
}
text_id!(RunId, Name);

/// A task: a small integer, given in the order of submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub i64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TaskId {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        match s.trim_start_matches('#').parse() {
            Ok(n) if n > 0 => Ok(Self(n)),
            _ => Err(BadId {
                what: "task id",
                text: s.to_owned(),
                rule: "a whole number above 0, as printed by `task add`",
            }),
        }
    }
}

/// The attempt of a task that a prompt belongs to, with the fence that proves the right to act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttemptKey {
    /// The task.
    pub task: TaskId,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Grows with every claim of the task; a write with an older fence changes nothing.
    pub fence: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_run_ids_parse_and_differ() {
        let (a, b) = (RunId::random(), RunId::random());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<RunId>(), Ok(a));
    }

    #[test]
    fn names_that_mean_something_to_a_path_or_tmux_are_refused() {
        for bad in ["", "a/b", "a:b", "-x", "a b", "..", "é"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        for good in ["opus-1", "claude@src", "a.b_c"] {
            assert!(good.parse::<Name>().is_ok(), "{good:?}");
        }
        assert_eq!(Name::sanitized("../my dir", "x").as_str(), "my-dir");
    }
}
