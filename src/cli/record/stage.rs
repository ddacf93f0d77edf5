//! The stage: the agent under a PTY, its reports, the keys, and the clock that all of them share.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use crossbeam_channel::Receiver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};

use super::RecordArgs;
use super::log::Log;
use super::scenario::{Act, Key, Scenario, Step};
use super::terminal::Terminal;
use crate::clock::wall;
use crate::ctl::{Done, Request};
use crate::extract::pattern::Pack;
use crate::extract::{Extractor, Options};
use crate::ids::{Name, RunId};
use crate::paths::StateDir;
use crate::pty::ctl::{self, Asked, MAX_WAITING, Server};
use crate::pty::follow::Follower;
use crate::pty::journal::{Journal, Stamp};
use crate::pty::mask::Mask;
use crate::pty::{launch, rundir};
use crate::recording::Report;
use crate::run::{RunSpec, SPEC_VERSION, Seat};
use crate::term::modes::Sentry;

/// How long a step may wait for what it waits for.
const PATIENCE: Duration = Duration::from_secs(90);
/// The loop looks at everything at least this often.
const BEAT: Duration = Duration::from_millis(20);
/// Between two keys of a typed text, and before the Enter of a paste.
const KEY_GAP: Duration = Duration::from_millis(15);
const ENTER_GAP: Duration = Duration::from_millis(300);
/// An Enter that the model does not hear of for so long was lost: agents under load drop it.
const ENTER_LOST: Duration = Duration::from_secs(4);

/// What came of a play.
pub(super) struct Played {
    pub(super) size: (u16, u16),
    pub(super) term: String,
    pub(super) terminal: String,
    pub(super) moments: Vec<(f64, &'static str, String)>,
    pub(super) reports: Vec<Report>,
    pub(super) truth: Vec<Value>,
    pub(super) trouble: Vec<String>,
}

/// A running agent that is being recorded.
pub(super) struct Stage {
    started: Instant,
    master: File,
    child: Child,
    ended: Option<ExitStatus>,
    /// The agent closed its terminal.
    closed: bool,
    terminal: Terminal,
    sentry: Option<Sentry>,
    size: (u16, u16),
    extractor: Extractor,
    /// The beginning of a character whose rest has not come.
    carry: Vec<u8>,
    off: u64,
    token: String,
    asked: Receiver<Asked>,
    /// Bound as long as hooks may call.
    server: Option<Server<Asked>>,
    follow: Option<String>,
    follower: Option<Follower>,
    since: crate::clock::Timestamp,
    log: Log,
    played: Played,
    /// Requests and answers before the last `submit`: steps count from there.
    before: (usize, usize),
    /// Of the step that is being played.
    patience: Duration,
    /// The run's folder: hooks reach us through it.
    _state: tempfile::TempDir,
}

impl Stage {
    pub(super) fn start(
        pack: &Arc<Pack>,
        argv: &[String],
        scenario: &Scenario,
        args: &RecordArgs,
    ) -> anyhow::Result<Self> {
        let terminal = Terminal::find().context("read the settings of the terminal")?;
        let size = terminal.size().unwrap_or(args.size);
        let mut env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        if matches!(terminal, Terminal::Xterm { .. }) {
            env.retain(|(key, _)| key != "TERM" && key != "COLORTERM");
            env.extend([("TERM".into(), "xterm-256color".into()), ("COLORTERM".into(), "truecolor".into())]);
        }
        for (key, value) in &scenario.env {
            env.retain(|(known, _)| known != key.as_str());
            if !value.is_empty() {
                env.push((key.into(), value.into()));
            }
        }
        let state = tempfile::Builder::new().prefix("orchwrap-record-").tempdir()?;
        let spec = RunSpec {
            v: SPEC_VERSION,
            run: RunId::random(),
            session: Name::sanitized(&pack.id, "agent"),
            pool: None,
            agent: argv[0].clone(),
            pack: pack.id.clone(),
            argv: argv.to_vec(),
            cwd: std::env::current_dir()?,
            seat: Seat::Detached,
            size: Some(size),
            created: wall(),
            record: false,
            hooks: !args.no_hooks,
            status_reply: !args.no_status_reply,
            takes_tasks: false,
            attempt: None,
            resume: None,
        };
        let dir = rundir::create(&StateDir::new(state.path().join("state")), &spec, &env)?;
        let plan = launch::prepare(pack, &spec, &dir, &env)?;
        let journal = Journal::create(&dir.events(), Stamp::of(&spec), Mask::default())?;
        let (ask, asked) = crossbeam_channel::bounded(MAX_WAITING);
        let server = ctl::serve(&dir, journal.tail(), ask)?;
        env.extend(plan.env.iter().map(|(k, v)| (k.into(), v.into())));

        let (master, child) = spawn(&plan.argv, &env, size).with_context(|| format!("start {}", argv[0]))?;
        let (started, began) = (Instant::now(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?);
        let options = Options { cols: size.0, rows: size.1, reports: plan.reports };
        let term =
            env.iter().find(|(k, _)| k == "TERM").map_or_else(String::new, |(_, v)| v.to_string_lossy().into_owned());
        Ok(Self {
            started,
            master: master.into(),
            child,
            ended: None,
            closed: false,
            played: Played {
                size,
                term,
                terminal: terminal.name().to_owned(),
                moments: Vec::new(),
                reports: Vec::new(),
                truth: Vec::new(),
                trouble: Vec::new(),
            },
            terminal,
            sentry: (!args.no_status_reply).then(Sentry::new),
            size,
            extractor: Extractor::new(Arc::clone(pack), options),
            carry: Vec::new(),
            off: 0,
            token: std::fs::read_to_string(dir.token())?,
            asked,
            server: Some(server),
            follow: plan.follow.map(|rule| rule.adapter),
            follower: None,
            since: spec.created,
            log: Log::new(args.log.clone(), began.as_secs_f64()),
            before: (0, 0),
            patience: PATIENCE,
            _state: state,
        })
    }

    /// Plays the steps; what could not be done is trouble, and ends the play.
    pub(super) fn play(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            self.patience = step.timeout.map_or(PATIENCE, Duration::from_secs_f64);
            let at = self.step(&step.act)?;
            if let Some(truth) = &step.truth {
                self.is_true(at, truth.clone());
            }
        }
        Ok(())
    }

    fn is_true(&mut self, at: f64, mut truth: Value) {
        truth["t"] = json!(at);
        self.played.truth.push(truth);
    }

    /// Does one thing; returns when it was true.
    fn step(&mut self, act: &Act) -> Result<f64, String> {
        match act {
            Act::Wait(state) => self.until(&format!("state {state:?}"), |s| s.extractor.view().state == *state)?,
            Act::Row(row) => self.until(&format!("row {row}"), |s| {
                let screen = s.extractor.screen();
                (0..screen.lines.len()).any(|n| row.is_match(&screen.lines[n]))
            })?,
            Act::Type(text) => {
                for key in text.chars() {
                    self.send(key.encode_utf8(&mut [0; 4]))?;
                    self.pass(KEY_GAP);
                }
            }
            Act::Paste(text) => self.paste(text)?,
            Act::Submit(text) => return self.submit(text),
            Act::Key(key) => {
                let at = self.now();
                self.send(key.bytes())?;
                return Ok(at);
            }
            Act::Resize(size) => self.resize(*size)?,
            Act::Sleep(seconds) => self.pass(Duration::from_secs_f64(*seconds)),
            Act::Asked(n) => {
                let n = self.before.0 + n;
                self.until(&format!("request {n}"), |s| s.log.asked.len() >= n)?;
                return Ok(self.log.asked[n - 1]);
            }
            Act::Answered(n) => {
                let n = self.before.1 + n;
                self.until(&format!("answer {n}"), |s| s.log.answered.len() >= n)?;
                return Ok(self.log.answered[n - 1]);
            }
            Act::LastAnswer => return self.log.answered.last().copied().ok_or_else(|| "no answer yet".to_owned()),
            Act::Quit => self.quit()?,
        }
        Ok(self.now())
    }

    fn paste(&mut self, text: &str) -> Result<(), String> {
        if self.extractor.view().bracketed_paste {
            self.send(&format!("\x1b[200~{text}\x1b[201~"))
        } else {
            self.send(text)
        }
    }

    fn submit(&mut self, text: &str) -> Result<f64, String> {
        self.log.refresh();
        let before = self.log.asked.len();
        self.before = (before, self.log.answered.len());
        self.paste(text)?;
        for _ in 0..3 {
            self.pass(ENTER_GAP);
            let at = self.now();
            self.send(Key::Enter.bytes())?;
            let lost = Instant::now() + ENTER_LOST;
            while self.log.asked.len() == before && Instant::now() < lost && self.beat() {}
            if self.log.asked.len() > before {
                self.is_true(at, json!({ "event": "prompt_submitted", "text": text }));
                return Ok(at);
            }
        }
        Err("the prompt never reached the model".into())
    }

    fn quit(&mut self) -> Result<(), String> {
        for _ in 0..4 {
            for _ in 0..2 {
                self.send(Key::CtrlC.bytes())?;
                self.pass(Duration::from_millis(400));
            }
            let patience = Instant::now() + Duration::from_secs(4);
            while Instant::now() < patience && self.beat() {}
            if self.closed {
                return Ok(());
            }
        }
        Err("the agent does not leave".into())
    }

    /// Ends what is left and returns everything.
    pub(super) fn finish(mut self, played: Result<(), String>) -> anyhow::Result<Played> {
        self.played.trouble.extend(played.err());
        let group = rustix::process::Pid::from_child(&self.child);
        for signal in [rustix::process::Signal::HUP, rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
            let patience = Instant::now() + Duration::from_secs(3);
            while Instant::now() < patience && self.ended.is_none() {
                self.beat();
                self.ended = self.child.try_wait()?;
            }
            if self.ended.is_some() {
                break;
            }
            let _ = rustix::process::kill_process_group(group, signal);
        }
        if let Some(follower) = &self.follower {
            follower.stop();
        }
        self.beat();
        if let Some(server) = self.server.take() {
            drop(server); // its folder goes with us
        }
        let code = self.ended.map_or(-1, |e| e.code().unwrap_or_else(|| -e.signal().unwrap_or(0)));
        let at = self.now();
        self.is_true(at, json!({ "event": "process_exit", "code": code }));
        Ok(self.played)
    }

    // --- the loop

    fn now(&self) -> f64 {
        (self.started.elapsed().as_secs_f64() * 1e4).round() / 1e4
    }

    fn note(&mut self, kind: &'static str, text: String) {
        let at = self.now();
        self.played.moments.push((at, kind, text));
    }

    /// Lets everything happen until `done`; an agent that ends first, or too long a wait, is trouble.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        while !done(self) {
            if !self.beat() {
                return Err(format!("the agent ended before {what}"));
            }
            if Instant::now() > deadline {
                let screen = self.extractor.screen().lines.join("\n");
                return Err(format!("no {what} in {} s; the screen:\n{}", self.patience.as_secs(), screen.trim_end()));
            }
        }
        Ok(())
    }

    fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && self.beat() {}
    }

    /// One round: output, keys, reports, sizes, the log, the time. False once the agent closed its terminal.
    fn beat(&mut self) -> bool {
        let stdin = io::stdin();
        let (mut output, mut keys) = (false, false);
        {
            let mut fds = vec![PollFd::new(&self.master, PollFlags::IN)];
            let from = self.terminal.keys(&stdin);
            fds.extend(from.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
            let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(BEAT.subsec_nanos()) };
            let _ = poll(if self.closed { &mut fds[1..] } else { &mut fds }, Some(&patience));
            output |= !self.closed && !fds[0].revents().is_empty();
            keys |= fds.get(1).is_some_and(|fd| fd.revents().contains(PollFlags::IN));
        }
        if output {
            let mut chunk = vec![0; 64 * 1024];
            match self.master.read(&mut chunk) {
                Ok(n) if n > 0 => self.wrote(&chunk[..n]),
                _ => self.closed = true, // EIO: nobody holds the other end any more
            }
        }
        if keys {
            let mut chunk = vec![0; 4096];
            if let Ok(n) = rustix::io::read(stdin.as_fd(), &mut chunk) {
                let text = String::from_utf8_lossy(&chunk[..n]).into_owned();
                let _ = self.send(&text);
            }
        }
        if let Some(size) = self.terminal.size().filter(|size| *size != self.size) {
            self.resized(size);
        }
        self.reports();
        self.log.refresh();
        let now = self.started.elapsed();
        self.extractor.tick(now);
        self.extractor.drain();
        !self.closed
    }

    fn wrote(&mut self, chunk: &[u8]) {
        self.carry.extend_from_slice(chunk);
        let cut = match std::str::from_utf8(&self.carry) {
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            _ => self.carry.len(),
        };
        let rest = self.carry.split_off(cut);
        let text = String::from_utf8_lossy(&std::mem::replace(&mut self.carry, rest)).into_owned();
        if !text.is_empty() {
            self.note("o", text);
        }
        let answers = self.terminal.answers(chunk, self.sentry.as_mut(), self.size);
        if !answers.is_empty() {
            let _ = self.send(&String::from_utf8_lossy(&answers));
        }
        if matches!(self.terminal, Terminal::Outer { .. }) {
            let mut out = io::stdout().lock();
            let _ = out.write_all(chunk).and_then(|()| out.flush());
        }
        self.extractor.feed(chunk, self.off, self.started.elapsed());
        self.off += chunk.len() as u64;
    }

    fn send(&mut self, text: &str) -> Result<(), String> {
        self.note("i", text.to_owned());
        self.extractor.typed(text.as_bytes(), self.started.elapsed());
        self.master.write_all(text.as_bytes()).map_err(|e| format!("write to the agent: {e}"))
    }

    fn resize(&mut self, size: (u16, u16)) -> Result<(), String> {
        match &self.terminal {
            Terminal::Xterm { .. } => self.resized(size),
            Terminal::Outer { .. } => {
                let pane = std::env::var("TMUX_PANE").map_err(|_| "a resize needs a tmux pane".to_owned())?;
                let (cols, rows) = (size.0.to_string(), size.1.to_string());
                let resized = Command::new("tmux")
                    .args(["resize-window", "-t", &pane, "-x", &cols, "-y", &rows])
                    .stdout(Stdio::null())
                    .status();
                if !resized.is_ok_and(|s| s.success()) {
                    return Err("tmux does not resize its window".into());
                }
                self.until("new size", |s| s.size == size)?;
            }
        }
        Ok(())
    }

    fn resized(&mut self, (cols, rows): (u16, u16)) {
        self.note("r", format!("{cols}x{rows}"));
        self.size = (cols, rows);
        let _ = tcsetwinsize(&self.master, winsize((cols, rows)));
        self.extractor.resize(cols, rows, self.started.elapsed());
    }

    /// Takes what hooks told and what the session file holds.
    fn reports(&mut self) {
        while let Ok(asked) = self.asked.try_recv() {
            let (request, answer) = asked.split();
            match request {
                Request::Report(report) if report.token.trim_end() == self.token.trim_end() => {
                    self.report(report.adapter, report.payload);
                    answer.ok(&Done {});
                }
                _ => answer.refuse("bad_request", "a recording takes reports of its own run only"),
            }
        }
        let Some(adapter) = self.follow.clone() else { return };
        if self.follower.is_none()
            && let Some(path) = self.extractor.view().transcript
        {
            self.follower = Follower::start(&path, self.since).ok();
        }
        let lines: Vec<Value> = self.follower.iter().flat_map(|f| f.lines().try_iter()).collect();
        for line in lines {
            self.report(adapter.clone(), line);
        }
    }

    fn report(&mut self, adapter: String, payload: Value) {
        // A recorder takes what comes; whether it can be read is the tests' to say.
        let _ = self.extractor.report(&adapter, &payload, self.started.elapsed());
        self.played.reports.push(Report { t: self.now(), adapter, payload });
    }
}

fn winsize((cols, rows): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Starts the agent as leader of a session with a terminal of its own.
fn spawn(argv: &[String], env: &[(OsString, OsString)], size: (u16, u16)) -> anyhow::Result<(OwnedFd, Child)> {
    let pair = nix::pty::openpty(None, None)?;
    tcsetwinsize(&pair.master, winsize(size))?;
    let slave = pair.slave;
    rustix::io::ioctl_fionbio(&pair.master, false)?;
    rustix::io::fcntl_setfd(&pair.master, rustix::io::FdFlags::CLOEXEC)?;
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).env_clear().envs(env.iter().map(|(k, v)| (k, v)));
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    // SAFETY: both calls are async-signal-safe and touch no memory of ours.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
    // The command's copies of the terminal's end go with it: once the agent is gone, reading ends.
    Ok((pair.master, command.spawn()?))
}
