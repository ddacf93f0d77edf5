//! The recording of a run: `output.raw`, the agent's bytes, and `output.idx`, when they came. Off the I/O thread.
//!
//! An offset in `output.raw` is the offset in the run's output, for ever: what the cap takes away from the front becomes
//! a hole. The index is text, a line a record: `OFFSET SECONDS` for output, `OFFSET SECONDS COLSxROWS` for a size,
//! `missing FROM TO` for output that is not there.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FallocateFlags;

use crate::paths::{RunDir, StateDir};
use crate::pty::mask::Mask;
use crate::pty::rundir;
use crate::sock::create_private;

/// Bytes of output kept for a run, the latest ones.
pub const RUN_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// What is dropped at once when there is more: a whole number of file system blocks, and few `gap` events.
const DROP_BYTES: u64 = 4 * 1024 * 1024;
/// Written to the file at the latest when so much is waiting.
const BUFFER_BYTES: usize = 64 * 1024;
/// Chunks closer together than this share one line of the index.
const INDEX_EVERY: Duration = Duration::from_millis(5);
/// The index of a run stops growing here: a spinner that turns for a month must not fill the disk.
const INDEX_MAX_BYTES: u64 = 8 * 1024 * 1024;

/// The recorder of a run.
#[derive(Debug)]
pub struct Recorder {
    raw: File,
    index: File,
    mask: Mask,
    buffer: Vec<u8>,
    index_buffer: String,
    index_bytes: u64,
    /// Offset of the first byte that is kept. What is missing after it takes no room, and is counted all the same.
    start: u64,
    /// Offset of the first byte of `buffer`.
    written: u64,
    last_line: Option<Duration>,
    /// Tried again with the next bytes: what came in between is a gap.
    failed_from: Option<u64>,
}

/// Bytes of the output that are not in the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// First byte.
    pub from: u64,
    /// First byte that is there again.
    pub to: u64,
    /// `record_cap` or `record`.
    pub why: &'static str,
}

impl Recorder {
    /// Starts the recording of a run whose terminal has this size.
    pub fn create(dir: &RunDir, size: (u16, u16), mask: Mask) -> io::Result<Self> {
        let mut recorder = Self {
            // Written by offset: a file opened for appending would put everything at its end.
            raw: reopen_plain(&dir.output_raw())?,
            index: create_private(&dir.output_idx())?,
            mask,
            buffer: Vec::new(),
            index_buffer: String::new(),
            index_bytes: 0,
            start: 0,
            written: 0,
            last_line: None,
            failed_from: None,
        };
        recorder.resized(size.0, size.1, Duration::ZERO);
        Ok(recorder)
    }

    /// Takes output at its offset; returns what is missing since the last call, if anything.
    pub fn output(&mut self, bytes: &[u8], off: u64, now: Duration) -> Vec<Missing> {
        let mut missing = Vec::new();
        if off != self.end() {
            // The Observer itself was too far behind, and has said so: a hole of the same size keeps offsets right.
            missing.extend(self.write_out(true));
            self.note_missing(self.end(), off);
            self.written = off;
        }
        if self.index_bytes < INDEX_MAX_BYTES && self.last_line.is_none_or(|at| now >= at + INDEX_EVERY) {
            self.last_line = Some(now);
            self.line(format_args!("{off} {:.6}\n", now.as_secs_f64()));
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            missing.extend(self.write_out(false));
        }
        missing
    }

    /// Takes a new size of the terminal.
    pub fn resized(&mut self, cols: u16, rows: u16, now: Duration) {
        let end = self.end();
        self.line(format_args!("{end} {:.6} {cols}x{rows}\n", now.as_secs_f64()));
    }

    /// Writes what is waiting, all but the possible beginning of a secret: before the Observer goes to sleep.
    pub fn flush(&mut self) -> Vec<Missing> {
        self.write_out(false)
    }

    /// Writes everything: the run is over.
    pub fn finish(mut self) -> Vec<Missing> {
        self.write_out(true)
    }

    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        use std::fmt::Write as _;
        write!(self.index_buffer, "{text}").expect("a String takes everything");
    }

    fn note_missing(&mut self, from: u64, to: u64) {
        self.line(format_args!("missing {from} {to}\n"));
    }

    fn write_index(&mut self) {
        self.index_bytes += self.index_buffer.len() as u64;
        // An index line that the disk refuses costs only its time.
        self.index.write_all(self.index_buffer.as_bytes()).ok();
        self.index_buffer.clear();
    }

    fn write_out(&mut self, all: bool) -> Vec<Missing> {
        let missing: Vec<_> = self.write_bytes(all).into_iter().chain(self.drop_oldest()).collect();
        for Missing { from, to, .. } in &missing {
            self.note_missing(*from, *to);
        }
        self.write_index();
        missing
    }

    fn write_bytes(&mut self, all: bool) -> Option<Missing> {
        use std::os::unix::fs::FileExt;
        self.mask.cover(&mut self.buffer);
        let held = if all { 0 } else { self.mask.held(&self.buffer) };
        let ready = self.buffer.len() - held;
        if ready == 0 {
            return None;
        }
        let done = self.raw.write_all_at(&self.buffer[..ready], self.written);
        let from = self.written;
        self.buffer.drain(..ready);
        self.written += ready as u64;
        match done {
            Ok(()) => self.failed_from.take().map(|from_failed| Missing { from: from_failed, to: from, why: "record" }),
            Err(e) => {
                if self.failed_from.is_none() {
                    tracing::warn!(error = %e, "recording not writable");
                }
                self.failed_from.get_or_insert(from);
                None
            }
        }
    }

    fn drop_oldest(&mut self) -> Option<Missing> {
        let over = (self.written - self.start).checked_sub(RUN_MAX_BYTES).filter(|over| *over > 0)?;
        let from = self.start;
        // More than one piece where the Observer itself missed a lot.
        let drop = over.next_multiple_of(DROP_BYTES);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(e) = rustix::fs::fallocate(&self.raw, hole, from, drop) {
            // A file system without holes: the cap still holds, at the price of everything so far.
            tracing::warn!(error = %e, "recording dropped as a whole");
            self.raw.set_len(0).ok();
            self.start = self.written;
        } else {
            self.start += drop;
        }
        Some(Missing { from, to: self.start, why: "record_cap" })
    }
}

/// The stretches of a recording that hold what the program wrote, in order, and what lies between them.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    stretches: Vec<(u64, u64)>,
    missing: u64,
}

/// Looks up in the index what of the first `len` bytes is missing.
fn kept(dir: &RunDir, len: u64) -> io::Result<Kept> {
    let mut gaps = Vec::new();
    for line in BufReader::new(File::open(dir.output_idx())?).lines() {
        let line = line?;
        let Some((from, to)) = line.strip_prefix("missing ").and_then(|range| range.split_once(' ')) else { continue };
        // The tail of an index may be torn.
        let (Ok(from), Ok(to)) = (from.parse::<u64>(), to.parse::<u64>()) else { continue };
        gaps.push((from, to.min(len)));
    }
    gaps.sort_unstable();
    let (mut stretches, mut at, mut missing) = (Vec::new(), 0, 0);
    for (from, to) in gaps.into_iter().filter(|(from, to)| from < to) {
        if from > at {
            stretches.push((at, from));
        }
        missing += to.saturating_sub(from.max(at));
        at = at.max(to);
    }
    if at < len {
        stretches.push((at, len));
    }
    Ok(Kept { stretches, missing })
}

/// Writes what the program wrote and the recording holds. Returns how many bytes are missing in between.
pub fn write_raw(dir: &RunDir, out: &mut impl Write) -> io::Result<u64> {
    let mut raw = File::open(dir.output_raw())?;
    let Kept { stretches, missing } = kept(dir, raw.metadata()?.len())?;
    for (from, to) in stretches {
        raw.seek(SeekFrom::Start(from))?;
        io::copy(&mut (&mut raw).take(to - from), out)?;
    }
    Ok(missing)
}

fn reopen_plain(path: &Path) -> io::Result<File> {
    drop(create_private(path)?);
    File::options().read(true).write(true).open(path)
}

/// Writes the recording of a run as asciicast v2, for any player. Returns how many bytes are missing in between.
pub fn write_cast(dir: &RunDir, out: &mut impl Write) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let index = BufReader::new(File::open(dir.output_idx())?);
    let raw = File::open(dir.output_raw())?;
    let len = raw.metadata()?.len();
    let Kept { stretches, missing } = kept(dir, len)?;
    let mut stretches = stretches.into_iter().peekable();
    let mut at = 0;
    let mut header = false;
    let mut time = 0.0;
    let mut carry = Vec::new();
    let mut upto = |to: u64, time: f64, out: &mut dyn Write| -> io::Result<()> {
        while let Some(&(from, end)) = stretches.peek() {
            at = at.max(from);
            let end = end.min(to);
            if at >= end {
                if at >= to {
                    break;
                }
                stretches.next();
                continue;
            }
            let mut chunk = vec![0; usize::try_from((end - at).min(BUFFER_BYTES as u64)).expect("64 KiB fit")];
            raw.read_exact_at(&mut chunk, at)?;
            at += chunk.len() as u64;
            let text = whole_characters(&mut carry, chunk);
            if !text.is_empty() {
                writeln!(out, "{}", serde_json::json!([time, "o", text]))?;
            }
        }
        Ok(())
    };
    for line in index.lines() {
        let line = line?;
        let mut words = line.split(' ');
        let (Some(off), Some(seconds)) = (words.next(), words.next()) else { continue };
        // The tail of an index may be torn.
        let (Ok(off), Ok(seconds)) = (off.parse::<u64>(), seconds.parse::<f64>()) else { continue };
        let size =
            words.next().and_then(|s| s.split_once('x')).and_then(|(c, r)| Some((c.parse().ok()?, r.parse().ok()?)));
        if let Some((cols, rows)) = size.filter(|_| !header) {
            let (cols, rows): (u16, u16) = (cols, rows);
            writeln!(out, "{}", serde_json::json!({"version": 2, "width": cols, "height": rows}))?;
            header = true;
        }
        upto(off.min(len), time, out)?;
        time = seconds;
        if let Some((cols, rows)) = size.filter(|_| seconds > 0.0) {
            let (cols, rows): (u16, u16) = (cols, rows);
            writeln!(out, "{}", serde_json::json!([seconds, "r", format!("{cols}x{rows}")]))?;
        }
    }
    upto(len, time, out)?;
    Ok(missing)
}

/// The text of `carry` and `chunk` up to the last whole character; the rest of one stays in `carry`.
fn whole_characters(carry: &mut Vec<u8>, chunk: Vec<u8>) -> String {
    carry.extend(chunk);
    let cut = match std::str::from_utf8(carry) {
        Err(e) if e.error_len().is_none() => e.valid_up_to(),
        _ => carry.len(),
    };
    let rest = carry.split_off(cut);
    String::from_utf8_lossy(&std::mem::replace(carry, rest)).into_owned()
}

/// How much is kept of finished runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// All recordings together.
    pub record_bytes: u64,
    /// Age at which a finished run is removed.
    pub age: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { record_bytes: 2 * 1024 * 1024 * 1024, age: Duration::from_secs(14 * 24 * 3600) }
    }
}

/// Removes finished runs past their age, then recordings, oldest first, until the rest fits. Live runs are left alone.
/// Returns the folders that are gone and those that lost their recording.
pub fn sweep(state: &StateDir, keep: Keep, now: SystemTime) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::fs::MetadataExt;
    let mut touched = Vec::new();
    let mut recordings = Vec::new();
    let runs = match std::fs::read_dir(state.runs()) {
        Ok(runs) => runs,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(touched),
        Err(e) => return Err(e),
    };
    for entry in runs {
        let dir = RunDir::at(entry?.path());
        let changed = [dir.events(), dir.spec()].iter().find_map(|f| f.metadata().ok()?.modified().ok());
        let Some(changed) = changed else { continue };
        let is_live = rundir::is_alive(&dir);
        if !is_live && now.duration_since(changed).unwrap_or_default() > keep.age {
            std::fs::remove_dir_all(dir.path())?;
            touched.push(dir.path().to_owned());
        } else if let Ok(meta) = dir.output_raw().metadata() {
            // Blocks, not length: holes cost nothing.
            recordings.push((changed, meta.blocks() * 512, is_live, dir));
        }
    }
    let mut total: u64 = recordings.iter().map(|(_, bytes, ..)| bytes).sum();
    recordings.sort_by_key(|(changed, ..)| *changed);
    for (_, bytes, is_live, dir) in recordings {
        if total <= keep.record_bytes {
            break;
        }
        if is_live {
            continue;
        }
        std::fs::remove_file(dir.output_raw())?;
        std::fs::remove_file(dir.output_idx()).ok();
        total -= bytes;
        touched.push(dir.path().to_owned());
    }
    Ok(touched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn t19_a_secret_split_between_chunks_and_flushes_is_covered_and_offsets_stay() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::at(root.path());
        let mut r = Recorder::create(&dir, (80, 24), Mask::of(vec![b"sk-12345678".to_vec()])).unwrap();
        let mut off = 0;
        for part in ["a sk-1", "2345", "678 b sk-123", " end sk-"] {
            r.output(part.as_bytes(), off, ms(off));
            off += part.len() as u64;
            r.flush();
        }
        assert_eq!(std::fs::read(dir.output_raw()).unwrap(), b"a *********** b sk-123 end ");
        r.finish();
        assert_eq!(std::fs::read(dir.output_raw()).unwrap(), b"a *********** b sk-123 end sk-");
    }

    #[test]
    fn f24_the_recording_keeps_the_latest_bytes_at_their_offsets_and_says_what_it_dropped() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::at(root.path());
        let mut r = Recorder::create(&dir, (80, 24), Mask::default()).unwrap();
        let chunk = vec![b'x'; 1 << 20];
        let mut missing = Vec::new();
        for n in 0..80u64 {
            missing.extend(r.output(&chunk, n << 20, ms(n)));
        }
        r.finish();
        let meta = dir.output_raw().metadata().unwrap();
        assert_eq!(meta.len(), 80 << 20);
        assert!(meta.blocks() * 512 <= RUN_MAX_BYTES + DROP_BYTES, "{}", meta.blocks());
        assert_eq!(missing[0], Missing { from: 0, to: DROP_BYTES, why: "record_cap" });
        assert!(missing.windows(2).all(|w| w[0].to == w[1].from), "{missing:?}");
    }

    #[test]
    fn f41_a_disk_that_is_full_for_a_while_leaves_a_gap_that_is_told() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::at(root.path());
        let mut r = Recorder::create(&dir, (80, 24), Mask::default()).unwrap();
        r.output(b"one", 0, ms(0));
        r.flush();
        let disk = std::mem::replace(&mut r.raw, File::options().write(true).open("/dev/full").unwrap());
        r.output(b"two", 3, ms(1));
        assert_eq!(r.flush(), []);
        r.raw = disk;
        r.output(b"three", 6, ms(2));
        assert_eq!(r.flush(), [Missing { from: 3, to: 6, why: "record" }]);
        assert_eq!(std::fs::read(dir.output_raw()).unwrap(), b"one\0\0\0three");
    }

    #[test]
    fn f24_the_cap_holds_for_output_that_comes_in_small_pieces() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::at(root.path());
        let mut r = Recorder::create(&dir, (80, 24), Mask::default()).unwrap();
        let piece = vec![b'x'; 32 * 1024];
        let mut missing = Vec::new();
        let mut off = 0;
        while off < RUN_MAX_BYTES + 2 * DROP_BYTES {
            missing.extend(r.output(&piece, off, ms(off)));
            missing.extend(r.flush());
            off += piece.len() as u64;
        }
        assert!(dir.output_raw().metadata().unwrap().blocks() * 512 <= RUN_MAX_BYTES + DROP_BYTES);
        assert_eq!(missing.iter().map(|m| m.to - m.from).sum::<u64>(), 2 * DROP_BYTES, "{missing:?}");
    }

    #[test]
    fn what_is_missing_is_not_in_the_copy_of_a_recording() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::at(root.path());
        let mut r = Recorder::create(&dir, (80, 24), Mask::default()).unwrap();
        r.output(b"one", 0, ms(1000));
        r.output(b"two", 100_000, ms(2000));
        r.output(b"three", RUN_MAX_BYTES + 2 * DROP_BYTES, ms(3000));
        r.output(b"\0four", RUN_MAX_BYTES + 2 * DROP_BYTES + 6, ms(4000));
        r.finish();
        let mut raw = Vec::new();
        let missing = write_raw(&dir, &mut raw).unwrap();
        assert_eq!(raw, b"three\0four");
        assert_eq!(missing, RUN_MAX_BYTES + 2 * DROP_BYTES + 1);
        let mut cast = Vec::new();
        assert_eq!(write_cast(&dir, &mut cast).unwrap(), missing);
        let lines: Vec<_> = std::str::from_utf8(&cast).unwrap().lines().skip(1).map(str::to_owned).collect();
        assert_eq!(lines, [r#"[3.0,"o","three"]"#, r#"[4.0,"o","\u0000four"]"#]);
    }

    #[test]
    fn a_recording_becomes_a_cast_with_sizes_and_whole_characters() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::at(root.path());
        let mut r = Recorder::create(&dir, (80, 24), Mask::default()).unwrap();
        r.output(b"h\xc3", 0, ms(100));
        r.output(b"\xa9!", 2, ms(200));
        r.resized(100, 30, ms(300));
        r.output(b"\x1b[m", 4, ms(400));
        r.finish();
        let mut cast = Vec::new();
        write_cast(&dir, &mut cast).unwrap();
        let text = String::from_utf8(cast).unwrap();
        assert_eq!(
            text,
            "{\"height\":24,\"version\":2,\"width\":80}\n[0.1,\"o\",\"h\"]\n[0.2,\"o\",\"é!\"]\n[0.3,\"r\",\"100x30\"]\n[0.4,\"o\",\"\\u001b[m\"]\n"
        );
    }

    #[test]
    fn the_sweep_removes_old_runs_and_the_oldest_recordings_but_no_live_run() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::new(root.path().join("s"));
        let make = || {
            let spec = rundir::tests::spec();
            let dir = rundir::create(&state, &spec, &[]).unwrap();
            std::fs::write(dir.output_raw(), vec![1; 1 << 20]).unwrap();
            std::fs::write(dir.output_idx(), "").unwrap();
            dir
        };
        let (live, first, second) = (make(), make(), make());
        let _held = rundir::lock(&live).unwrap();
        let early = SystemTime::now() - Duration::from_secs(3600);
        File::open(first.spec()).unwrap().set_modified(early).unwrap();
        let keep = Keep { record_bytes: 2 << 20, age: Duration::from_secs(24 * 3600) };
        sweep(&state, keep, SystemTime::now()).unwrap();
        assert!(live.output_raw().exists() && second.output_raw().exists() && !first.output_raw().exists());
        let later = SystemTime::now() + Duration::from_secs(48 * 3600);
        let gone = sweep(&state, keep, later).unwrap();
        assert_eq!(gone.len(), 2);
        assert!(live.path().exists() && !first.path().exists() && !second.path().exists());
    }
}
