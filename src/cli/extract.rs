//! `orchwrap extract`: bytes in, events out, no PTY. Never starts the daemon.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::runner::packs;
use super::{Exit, wrap};
use crate::clock::{Timestamp, wall};
use crate::extract::cast::{Cast, Moment, is_gzip};
use crate::extract::event::{Draft, Event};
use crate::extract::{Extractor, Options};

/// Raw bytes have no times: this many count as [`PIECE_TIME`], about what a busy agent writes.
const PIECE_BYTES: usize = 4096;
const PIECE_TIME: Duration = Duration::from_millis(40);
/// Time that passes after the last byte, so that what was under way can settle.
const SETTLE: Duration = Duration::from_secs(2);

/// Read a recording or raw output and print its events, one JSON object a line
#[derive(Debug, Args)]
pub(super) struct ExtractArgs {
    /// Whose output it is (a pack: claude, codex, ...; default: generic)
    #[arg(long)]
    agent: Option<String>,
    /// What the bytes are; by default `cast` if the file begins like one, else `raw`
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Columns of the terminal, where the input does not tell
    #[arg(long, default_value_t = 120)]
    cols: u16,
    /// Rows of the terminal, where the input does not tell
    #[arg(long, default_value_t = 40)]
    rows: u16,
    /// The file; `-` or nothing is stdin
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// What the program wrote, byte for byte
    Raw,
    /// asciicast v2, compressed with gzip or not: times, input and resizes are honoured
    Cast,
    /// Plain lines
    Text,
}

pub(super) fn main(args: ExtractArgs) -> anyhow::Result<ExitCode> {
    let packs = packs();
    let pack = match &args.agent {
        Some(name) => packs.get(name).ok_or_else(|| wrap::unknown(&packs, name))?,
        None => packs.generic(),
    };
    let bytes = match args.file.as_deref().filter(|f| *f != "-") {
        Some(file) => fs_err::read(file)?,
        None => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("read stdin")?;
            bytes
        }
    };
    let looks_like_cast = bytes.starts_with(b"{\"version\"") || is_gzip(&bytes);
    let format = args.format.unwrap_or(if looks_like_cast { Format::Cast } else { Format::Raw });
    let cast = match format {
        Format::Cast => Cast::read(&bytes).context("this is no asciicast; try --format raw")?,
        Format::Raw => timed(&bytes, &args),
        Format::Text => timed(&with_returns(&bytes), &args),
    };
    let options = Options { cols: cast.cols, rows: cast.rows, reports: false };
    let mut extractor = Extractor::new(Arc::clone(pack), options);
    let began = wall();
    extractor.started_at(began);
    let mut printer = Printer { began, host: host(), seq: 0, out: std::io::stdout().lock(), failed: None };
    cast.replay_to(&mut extractor, |at, draft| printer.print(at, draft));
    match printer.failed.filter(|e| e.kind() != std::io::ErrorKind::BrokenPipe) {
        Some(e) => Err(e).context("write the events"),
        None => Ok(Exit::Ok.into()),
    }
}

/// Gives bytes a time.
fn timed(bytes: &[u8], args: &ExtractArgs) -> Cast {
    let mut at = Duration::ZERO;
    let mut moments: Vec<(Duration, Moment)> = Vec::new();
    for piece in bytes.chunks(PIECE_BYTES) {
        moments.push((at, Moment::Output(piece.to_vec())));
        at += PIECE_TIME;
    }
    moments.push((at + SETTLE, Moment::Output(Vec::new())));
    Cast { cols: args.cols, rows: args.rows, moments }
}

/// A terminal needs CR with each LF.
fn with_returns(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 32);
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

fn host() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

struct Printer<'a> {
    began: Timestamp,
    host: String,
    seq: u64,
    out: std::io::StdoutLock<'a>,
    failed: Option<std::io::Error>,
}

impl Printer<'_> {
    fn print(&mut self, at: Duration, draft: Draft) {
        if self.failed.is_some() {
            return;
        }
        self.seq += 1;
        let event = Event {
            id: None,
            seq: Some(self.seq),
            ts: self.began.checked_add(at).unwrap_or(self.began),
            t: Some(at.as_secs_f64()),
            host: self.host.clone(),
            session: None,
            run: None,
            attempt: None,
            body: draft.body,
            source: draft.source,
            rule: draft.rule,
            span: draft.span,
        };
        let line = crate::json::line(&event).expect("an event has string keys and finite numbers");
        self.failed = writeln!(self.out, "{line}").err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_text_gets_its_return_once() {
        assert_eq!(with_returns(b"a\nb\r\nc"), b"a\r\nb\r\nc");
    }
}
