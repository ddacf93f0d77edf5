//! The agent's own account of what it received and finished: appended, synced, one JSON object a line.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at: jiff::Timestamp,
    /// The agent's process.
    pub pid: u32,
    /// Where it works.
    pub cwd: PathBuf,
    /// The branch checked out there, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Number of the prompt within this process, from 1.
    pub n: u64,
    /// What happened.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What happened to a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// It was submitted, with exactly this text.
    Received {
        /// The text.
        text: String,
        /// Its SHA-256, in hexadecimal.
        sha256: String,
    },
    /// The agent asked something.
    Asked {
        /// What.
        text: String,
    },
    /// The user answered.
    Answered {
        /// The choice; none for a refusal.
        choice: Option<String>,
    },
    /// A command was run.
    Ran {
        /// The command.
        command: String,
        /// Its exit code; 128 plus the signal where it was killed.
        code: i32,
    },
    /// The turn ended well.
    Finished {
        /// The last message.
        answer: String,
    },
    /// The turn failed.
    Failed {
        /// In the agent's words.
        message: String,
    },
    /// A usage limit stopped it.
    Limited {
        /// When it ends, in the agent's words.
        resets: String,
    },
    /// The user interrupted it.
    Interrupted,
    /// The agent ends itself by script.
    Crashed,
}

/// The file, or nothing where none was asked for.
#[derive(Debug)]
pub struct Ledger {
    file: Option<File>,
    cwd: PathBuf,
}

impl Ledger {
    /// Opens the ledger for appending.
    pub fn open(path: Option<PathBuf>, cwd: &Path) -> anyhow::Result<Self> {
        let file = match path {
            Some(path) => Some(File::options().append(true).create(true).open(path)?),
            None => None,
        };
        Ok(Self { file, cwd: cwd.to_owned() })
    }

    /// Reads a ledger; a torn last line is left out.
    pub fn read(path: &Path) -> std::io::Result<Vec<Entry>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e),
        };
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Writes a line down for good: it is on the disk when this returns.
    pub fn note(&mut self, n: u64, fact: Fact) {
        let Some(file) = &mut self.file else { return };
        let entry = Entry {
            at: jiff::Timestamp::now(),
            pid: std::process::id(),
            branch: branch(&self.cwd),
            cwd: self.cwd.clone(),
            n,
            fact,
        };
        let mut line = serde_json::to_vec(&entry).expect("plain values always serialise");
        line.push(b'\n');
        // One write, so that several agents can share a ledger; a ledger that cannot be kept must not go unnoticed.
        file.write_all(&line).and_then(|()| file.sync_data()).expect("the ledger can be written");
    }

    /// Writes down a received prompt.
    pub fn received(&mut self, n: u64, text: &str) {
        let sha256 = sha2::Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        self.note(n, Fact::Received { text: text.to_owned(), sha256 });
    }
}

/// The checked-out branch of `cwd`, read the way a stranger would: git's own command.
fn branch(cwd: &Path) -> Option<String> {
    let output = std::process::Command::new("git")
        .args(["symbolic-ref", "--short", "-q", "HEAD"])
        .current_dir(cwd)
        .stdin(std::process::Stdio::null())
        .output()
        .ok()?;
    let name = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let mut ledger = Ledger::open(Some(path.clone()), dir.path()).unwrap();
        ledger.received(1, "do it");
        ledger.note(1, Fact::Finished { answer: "did".into() });
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"{\"at\":").unwrap();
        let read = Ledger::read(&path).unwrap();
        assert_eq!(read.len(), 2);
        assert!(matches!(&read[0].fact, Fact::Received { text, sha256 } if text == "do it" && sha256.len() == 64));
        assert_eq!(read[1].fact, Fact::Finished { answer: "did".into() });
    }
}
