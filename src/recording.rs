//! A recording on disk: a folder with `session.cast` (or `session.cast.gz`), `expect.json` with what truly happened, and
//! `reports.jsonl.gz` with what side channels told, where there were any.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::extract::cast::{Cast, CastError, Moment};
use crate::extract::score::{self, Fact, TruthError};

/// Names of the session's file, the compressed one first.
const CASTS: [&str; 2] = ["session.cast.gz", "session.cast"];

/// A recording and what is known about it.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Bytes, keys and resizes, with their times; reports are not in it.
    pub cast: Cast,
    /// What truly happened.
    pub truth: Vec<Fact>,
    /// What side channels told, in order; empty where there were none.
    pub reports: Vec<Report>,
}

/// What a side channel told, and when: a line of `reports.jsonl.gz`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Seconds of the recording.
    pub t: f64,
    /// The adapter that reads it.
    pub adapter: String,
    /// As it came.
    pub payload: Value,
}

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RecordingError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{}: {source}", file.display())]
    Cast { file: PathBuf, source: CastError },
    #[error("{}: {source}", file.display())]
    Truth { file: PathBuf, source: TruthError },
    #[error("{}:{line}: {source}", file.display())]
    Report { file: PathBuf, line: usize, source: serde_json::Error },
}

impl Recording {
    /// Reads the recording in folder `dir`.
    pub fn load(dir: &Path) -> Result<Self, RecordingError> {
        let file = CASTS.iter().map(|name| dir.join(name)).find(|f| f.exists()).unwrap_or_else(|| dir.join(CASTS[0]));
        let cast = Cast::read(&fs_err::read(&file)?).map_err(|source| RecordingError::Cast { file, source })?;
        let file = dir.join("expect.json");
        let truth = score::truth(&fs_err::read_to_string(&file)?);
        let truth = truth.map_err(|source| RecordingError::Truth { file, source })?;
        let file = dir.join("reports.jsonl.gz");
        let reports = if file.exists() { reports(&file)? } else { Vec::new() };
        Ok(Self { cast, truth, reports })
    }

    /// The session with its reports in their places.
    pub fn with_reports(&self) -> Cast {
        let reports = self.reports.iter().map(|r| {
            let at = Duration::try_from_secs_f64(r.t).unwrap_or_default();
            (at, Moment::Reported { adapter: r.adapter.clone(), payload: r.payload.clone() })
        });
        let mut cast = self.cast.clone();
        cast.moments.extend(reports);
        cast.moments.sort_by_key(|(at, _)| *at); // stable: what was written came before what was told of it
        cast
    }
}

fn reports(file: &Path) -> Result<Vec<Report>, RecordingError> {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(fs_err::File::open(file)?).read_to_string(&mut text)?;
    let line = |(n, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|source| RecordingError::Report {
            file: file.to_owned(),
            line: n + 1,
            source,
        })
    };
    text.lines().enumerate().map(line).collect()
}

/// Finds the folders under `root`, itself included, that hold a recording, in order of their names.
pub fn find(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs_err::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            }
        }
        if CASTS.iter().any(|name| dir.join(name).exists()) && dir.join("expect.json").exists() {
            found.push(dir);
        }
    }
    found.sort();
    Ok(found)
}
