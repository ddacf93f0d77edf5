//! asciicast v2: a recording with its times, fed to an [`Extractor`] as the run was.

use std::io::Read as _;
use std::time::Duration;

use serde_json::Value;

use crate::extract::Extractor;
use crate::extract::event::Draft;

/// A line that is not asciicast.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct CastError {
    /// From 1.
    pub line: usize,
    /// What was expected.
    pub why: String,
}

/// The most that a compressed recording may unpack to: no recording comes near it, and memory stays ours.
const MAX_CAST_BYTES: u64 = 1 << 30;

/// What happened at a time of the recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// The program wrote.
    Output(Vec<u8>),
    /// Somebody typed.
    Input(Vec<u8>),
    /// The terminal has a new size.
    Resized(u16, u16),
    /// A side channel told something; never in the file itself, see [`crate::recording`].
    Reported {
        /// The adapter that reads it.
        adapter: String,
        /// As it came.
        payload: Value,
    },
}

/// A recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cast {
    /// Columns at the start.
    pub cols: u16,
    /// Rows at the start.
    pub rows: u16,
    /// What happened, in order.
    pub moments: Vec<(Duration, Moment)>,
}

impl Cast {
    /// Reads a recording, compressed with gzip or not.
    pub fn read(bytes: &[u8]) -> Result<Self, CastError> {
        let fault = |why: String| CastError { line: 1, why };
        let mut unpacked = Vec::new();
        let bytes = if is_gzip(bytes) {
            let mut unpacker = flate2::read::MultiGzDecoder::new(bytes).take(MAX_CAST_BYTES);
            unpacker.read_to_end(&mut unpacked).map_err(|e| fault(format!("damaged gzip: {e}")))?;
            unpacked.as_slice()
        } else {
            bytes
        };
        let text = std::str::from_utf8(bytes).map_err(|e| fault(format!("not UTF-8, so no asciicast: {e}")))?;
        Self::parse(text)
    }

    /// Parses a recording; markers and kinds of events that are not known are skipped.
    pub fn parse(text: &str) -> Result<Self, CastError> {
        let mut lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
        let fault = |n: usize, why: &str| CastError { line: n + 1, why: why.to_owned() };
        let (n, first) = lines.next().ok_or_else(|| fault(0, "empty: expected the header of an asciicast v2"))?;
        let header: Value = serde_json::from_str(first).map_err(|e| fault(n, &e.to_string()))?;
        let size = |key: &str| header[key].as_u64().and_then(|v| u16::try_from(v).ok());
        let (Some(cols), Some(rows), Some(2)) = (size("width"), size("height"), header["version"].as_u64()) else {
            return Err(fault(n, "expected the header of an asciicast v2: version 2, width and height"));
        };
        let mut moments = Vec::new();
        for (n, line) in lines {
            let (t, kind, data): (f64, String, String) =
                serde_json::from_str(line).map_err(|_| fault(n, "expected [time, \"o\", \"text\"]"))?;
            let at = Duration::try_from_secs_f64(t).map_err(|_| fault(n, "expected a time above 0"))?;
            let moment = match kind.as_str() {
                "o" => Moment::Output(data.into_bytes()),
                "i" => Moment::Input(data.into_bytes()),
                "r" => match data.split_once('x').map(|(c, r)| (c.parse(), r.parse())) {
                    Some((Ok(c), Ok(r))) => Moment::Resized(c, r),
                    _ => return Err(fault(n, "expected a size such as \"80x24\"")),
                },
                _ => continue,
            };
            moments.push((at, moment));
        }
        Ok(Self { cols, rows, moments })
    }

    /// Feeds the recording to `extractor` in its own time; returns what it said and when.
    pub fn replay(&self, extractor: &mut Extractor) -> Vec<(Duration, Draft)> {
        let mut said = Vec::new();
        self.replay_to(extractor, |at, draft| said.push((at, draft)));
        said
    }

    /// Feeds the recording to `extractor` in its own time; `said` gets each event as it is made.
    pub fn replay_to(&self, extractor: &mut Extractor, mut said: impl FnMut(Duration, Draft)) {
        let (mut off, mut end) = (0, Duration::ZERO);
        for (at, moment) in &self.moments {
            advance(extractor, *at, &mut said);
            match moment {
                Moment::Output(bytes) => {
                    extractor.feed(bytes, off, *at);
                    off += bytes.len() as u64;
                }
                Moment::Input(bytes) => extractor.typed(bytes, *at),
                Moment::Resized(cols, rows) => extractor.resize(*cols, *rows, *at),
                // What cannot be read is nothing: so it is in a run.
                Moment::Reported { adapter, payload } => drop(extractor.report(adapter, payload, *at)),
            }
            extractor.drain().into_iter().for_each(|d| said(*at, d));
            end = *at;
        }
        extractor.exited(None, end);
        extractor.drain().into_iter().for_each(|d| said(end, d));
    }
}

/// Whether `bytes` begin like a gzip file.
pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Lets the time pass until just before `to`, stopping wherever the extractor wants to be woken.
pub(crate) fn advance(extractor: &mut Extractor, to: Duration, said: &mut impl FnMut(Duration, Draft)) {
    while let Some(due) = extractor.deadline().filter(|due| *due < to) {
        extractor.tick(due);
        extractor.drain().into_iter().for_each(|d| said(due, d));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_skipped_and_faults_have_a_line() {
        let cast =
            Cast::parse("{\"version\":2,\"width\":80,\"height\":24}\n[0.5,\"m\",\"x\"]\n[1.0,\"o\",\"hi\"]\n").unwrap();
        assert_eq!(cast.moments, [(Duration::from_secs(1), Moment::Output(b"hi".to_vec()))]);
        assert_eq!(Cast::parse("{\"version\":2,\"width\":80,\"height\":24}\n[1]").unwrap_err().line, 2);
        assert!(Cast::parse("{}").is_err());
    }

    #[test]
    fn a_compressed_recording_is_the_same_and_a_damaged_one_an_error() {
        let text = "{\"version\":2,\"width\":80,\"height\":24}\n[1.0,\"o\",\"hi\"]\n";
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packer, text.as_bytes()).unwrap();
        let packed = packer.finish().unwrap();
        assert_eq!(Cast::read(&packed), Cast::parse(text));
        assert_eq!(Cast::read(text.as_bytes()), Cast::parse(text));
        assert!(Cast::read(&packed[..packed.len() - 9]).unwrap_err().why.contains("gzip"));
    }
}
