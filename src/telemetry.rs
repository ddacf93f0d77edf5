//! Logs: one file a day below the state folder, nothing on the terminal.
//!
//! Text from agents may end up in a log line, so control characters are written as `\xNN` and long lines are cut (T30).

use std::io::{self, Write};
use std::path::Path;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_appender::rolling::{Builder, InitError, Rotation};
use tracing_subscriber::EnvFilter;

/// Longest log line, in bytes.
const MAX_LINE_BYTES: usize = 8192;

/// Days of logs that are kept.
const KEEP_FILES: usize = 7;

/// Sends this process's log to `<dir>/<name>.<date>.log`; the guard writes out the rest when dropped.
///
/// `ORCHWRAP_LOG` chooses what is logged, as `RUST_LOG` does elsewhere; default `info`.
pub fn to_file(dir: &Path, name: &str) -> Result<WorkerGuard, InitError> {
    let file = Builder::new()
        .rotation(Rotation::DAILY)
        .filename_prefix(name)
        .filename_suffix("log")
        .max_log_files(KEEP_FILES)
        .build(dir)?;
    let (writer, guard) = tracing_appender::non_blocking(file);
    let filter = EnvFilter::try_from_env("ORCHWRAP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter(filter)
        .with_writer(move || Escaped(writer.clone()))
        .finish();
    // A second call in one process (tests) keeps the first log.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(guard)
}

/// Passes lines on without control characters.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write_all(escape(buf).as_bytes())?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Makes one line of a log record; the subscriber hands over one record a write.
fn escape(record: &[u8]) -> String {
    let text = String::from_utf8_lossy(record);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if line.len() >= MAX_LINE_BYTES {
            line.push_str(" [cut]");
            break;
        }
        if c.is_control() {
            line.push_str(&format!("\\x{:02x}", u32::from(c)));
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t30_a_record_is_one_line_without_controls() {
        assert_eq!(escape(b"a\nINFO forged\x1b[31m\xc2\x9b\n"), "a\\x0aINFO forged\\x1b[31m\\x9b\n");
        assert!(escape(&[b'x'; 100_000]).len() < 9000);
    }
}
