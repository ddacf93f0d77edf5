//! The log of the model's server: when a turn's own requests came and when their answers had gone out.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Entry {
    /// Seconds since 1970.
    ts: f64,
    /// `asked` or `answered`.
    event: String,
    /// A turn's own request, rather than a title's or a summary's.
    main: bool,
}

/// What the log says so far; times are seconds of the recording.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// When the recording began, in seconds since 1970.
    began: f64,
    read: u64,
    pub(super) asked: Vec<f64>,
    pub(super) answered: Vec<f64>,
}

impl Log {
    pub(super) fn new(path: PathBuf, began: f64) -> Self {
        Self { path, began, read: 0, asked: Vec::new(), answered: Vec::new() }
    }

    /// Reads what came since the last time. A log that is not there yet is empty.
    pub(super) fn refresh(&mut self) {
        let Ok(mut file) = std::fs::File::open(&self.path) else { return };
        let mut text = String::new();
        if file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_string(&mut text)).is_err() {
            return;
        }
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        for entry in text[..whole].lines().filter_map(|l| serde_json::from_str::<Entry>(l).ok()).filter(|e| e.main) {
            let times = if entry.event == "asked" { &mut self.asked } else { &mut self.answered };
            times.push(((entry.ts - self.began) * 1e4).round() / 1e4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_turns_are_counted_once_their_line_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::new(path.clone(), 100.0);
        log.refresh();
        let first =
            "{\"ts\":101.5,\"event\":\"asked\",\"main\":true}\n{\"ts\":102,\"event\":\"asked\",\"main\":false}\n";
        std::fs::write(&path, format!("{first}{{\"ts\":103")).unwrap();
        log.refresh();
        assert_eq!((log.asked.clone(), log.answered.len()), (vec![1.5], 0));
        std::fs::write(&path, format!("{first}{{\"ts\":103,\"event\":\"answered\",\"main\":true}}\n")).unwrap();
        log.refresh();
        assert_eq!((log.asked.len(), log.answered.clone()), (1, vec![3.0]));
    }
}
