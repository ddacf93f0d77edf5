//! From a spec to a running wrapper: folder, lock, launch, Observer; then the I/O loop until the agent has ended.
//!
//! Two ways lead here: `orchwrap <agent>` in a person's terminal, and `__run <folder>` for panes and the daemon. Both
//! are called from a process without other threads, and return when the run is over.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::extract::event::{Body, Draft, Source};
use crate::extract::pattern::{Pack, Packs};
use crate::paths::{RunDir, StateDir};
use crate::pty::journal::{Journal, Stamp};
use crate::pty::mask::Mask;
use crate::pty::rundir::{self, RunDirError};
use crate::pty::session::{SessionCtx, observe};
use crate::pty::{Ended, Launch, StartError, journal, launch, record, run};
use crate::run::{RunSpec, Seat};

/// Set for the agent: the id of its run. A wrap inside a wrap sees it and passes through.
pub const RUN_VAR: &str = "ORCHWRAP_RUN";
/// Set for the agent: the folder of its run, for hooks.
pub const RUN_DIR_VAR: &str = "ORCHWRAP_RUN_DIR";

/// What a terminal supplies, and nobody else may: taken from the pane, not from the person who started the pool.
const TERMINAL_VARS: [&str; 6] = ["TERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "COLORTERM", "TMUX", "TMUX_PANE"];
/// A terminal that nobody looks at can do what every agent knows.
const DETACHED_TERM: [(&str, &str); 2] = [("TERM", "xterm-256color"), ("COLORTERM", "truecolor")];
/// Size where nothing tells one.
const UNKNOWN_SIZE: (u16, u16) = (80, 24);
const DETACHED_SIZE: (u16, u16) = (120, 40);

/// Why a run did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Its folder cannot be used.
    #[error(transparent)]
    Dir(#[from] RunDirError),
    /// The pack it names is not there.
    #[error("no pack is called {0}: see orchwrap patterns ls")]
    Pack(String),
    /// Its prompt cannot be read.
    #[error("read {}: {source}", path.display())]
    Prompt {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The agent did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A wrap in a person's terminal.
#[derive(Debug)]
pub struct InPlace {
    /// How it is launched; `argv` is for people where [`InPlace::argv`] is not UTF-8.
    pub spec: RunSpec,
    /// The command, exactly.
    pub argv: Vec<OsString>,
    /// Its environment.
    pub env: Vec<(OsString, OsString)>,
    /// What is known about the agent.
    pub pack: Arc<Pack>,
    /// Where events are copied to.
    pub events: Vec<File>,
    /// Where the recording is copied to at the end: asciicast v2 if the name ends in `.cast`, else the bytes.
    pub export: Option<(PathBuf, File)>,
}

/// Whether we run inside a wrap already: then a wrap passes through. A tmux server or an editor that was started in a wrap
/// keeps its environment when the run is over: then nobody sees our output, and we do wrap.
pub fn is_inside_a_wrap() -> bool {
    let given = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    given(RUN_VAR).is_some() && given(RUN_DIR_VAR).is_none_or(|dir| rundir::is_alive(&RunDir::at(PathBuf::from(dir))))
}

/// Wraps a command where a person typed it. Whatever is wrong with our own state, the command runs; what that costs is
/// said once on stderr before it starts.
pub fn in_place(state: Option<&StateDir>, wrap: InPlace) -> Result<Ended, StartError> {
    let InPlace { spec, argv, env, pack, events, export } = wrap;
    let made = state.map(|state| {
        let dir = rundir::create_unsynced(state, &spec, &[])?;
        std::fs::remove_file(dir.env()).ok(); // the environment is our own, and in nobody's way
        let lock = rundir::lock(&dir)?;
        Ok::<_, RunDirError>((dir, lock))
    });
    let (dir, _lock) = match made {
        Some(Ok((dir, lock))) => (Some(dir), Some(lock)),
        Some(Err(e)) => {
            eprintln!("orchwrap: {e}: this run is not recorded and takes no prompts");
            (None, None)
        }
        None => {
            eprintln!("orchwrap: no state folder (HOME is not set): this run is not recorded and takes no prompts");
            (None, None)
        }
    };
    let ended = go(Parts { spec, argv, env, pack, dir: dir.clone(), sinks: events, stdin: None })?;
    if let (Some(dir), Some((path, file))) = (&dir, export) {
        match copy_recording(dir, &path, file) {
            Ok(0) => {}
            Ok(missing) => eprintln!(
                "orchwrap: {} holds the latest output only, {missing} bytes of it are missing: see the gap events of run {}",
                path.display(),
                dir.path().file_name().unwrap_or_default().display()
            ),
            Err(e) => eprintln!("orchwrap: the recording was not written to {}: {e}", path.display()),
        }
    }
    Ok(ended)
}

/// Runs what a run folder describes: what panes and the daemon start.
pub fn from_folder(dir: &RunDir, packs: &Packs) -> Result<Ended, RunError> {
    let spec = rundir::read_spec(dir)?;
    let _lock = rundir::lock(dir)?;
    let pack = packs.get(&spec.pack).cloned().ok_or_else(|| RunError::Pack(spec.pack.clone()))?;
    let mut env = rundir::take_env(dir)?;
    terminal_env(spec.seat, &mut env);
    let stdin = match spec.seat {
        Seat::Oneshot => {
            let path = dir.prompt();
            Some(File::open(&path).map_err(|source| RunError::Prompt { path, source })?)
        }
        _ => None,
    };
    let argv = spec.argv.iter().map(OsString::from).collect();
    Ok(go(Parts { spec, argv, env, pack, dir: Some(dir.clone()), sinks: Vec::new(), stdin })?)
}

fn terminal_env(seat: Seat, env: &mut Vec<(OsString, OsString)>) {
    match seat {
        Seat::Pane => {
            env.retain(|(key, _)| !TERMINAL_VARS.iter().any(|v| key == v));
            env.extend(TERMINAL_VARS.iter().filter_map(|v| Some((OsString::from(v), std::env::var_os(v)?))));
        }
        Seat::Detached => {
            env.retain(|(key, _)| !TERMINAL_VARS.iter().any(|v| key == v));
            env.extend(DETACHED_TERM.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))));
        }
        Seat::Direct | Seat::Oneshot => {}
    }
}

struct Parts {
    spec: RunSpec,
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    pack: Arc<Pack>,
    dir: Option<RunDir>,
    sinks: Vec<File>,
    stdin: Option<File>,
}

fn go(parts: Parts) -> Result<Ended, StartError> {
    let Parts { spec, mut argv, mut env, pack, dir, sinks, stdin } = parts;
    let mut notes = Vec::new();
    // Arguments that are no text pass unchanged; nothing is planned around them.
    let is_text = argv.iter().all(|arg| arg.to_str().is_some());
    let plan = dir.as_ref().filter(|_| is_text).and_then(|dir| {
        launch::prepare(&pack, &spec, dir, &env).inspect_err(|e| notes.push(format!("launched as given: {e}"))).ok()
    });
    let (mut reports, mut follow, mut conversation, mut version) = (false, None, None, None);
    if let Some(plan) = plan {
        argv = plan.argv.into_iter().map(OsString::from).collect();
        for (key, value) in plan.env {
            set(&mut env, &key, value.into());
        }
        (reports, follow, conversation, version) = (plan.reports, plan.follow, plan.conversation, plan.version);
        notes.extend(plan.notes);
    }
    set(&mut env, RUN_VAR, spec.run.as_str().into());
    let mut token = String::new();
    if let Some(dir) = &dir {
        set(&mut env, RUN_DIR_VAR, dir.path().into());
        token = std::fs::read_to_string(dir.token()).unwrap_or_default();
    }
    let mask = Mask::of_env(&env).and(token.as_bytes());
    let launch = Launch {
        argv,
        cwd: spec.cwd.clone(),
        env,
        seat: spec.seat,
        size: spec.size,
        status_reply: spec.status_reply,
        stdin,
    };
    let size = size(&spec);
    let (failed_dir, failed_spec) = (dir.clone(), spec.clone());
    let failed_sinks: Vec<_> = sinks.iter().filter_map(|sink| sink.try_clone().ok()).collect();
    let one_prompt = match spec.seat {
        Seat::Oneshot => pack.oneshot.as_ref().is_some_and(|o| o.adapter.is_none()),
        Seat::Direct => pack.takes_one_prompt(&spec.argv, !io::stdin().is_terminal()),
        Seat::Pane | Seat::Detached => pack.takes_one_prompt(&spec.argv, false),
    };
    let ctx = SessionCtx {
        spec,
        dir,
        pack,
        mask,
        token,
        reports,
        follow,
        conversation,
        version,
        one_prompt,
        notes,
        size,
        sinks,
    };
    run(launch, observe(ctx)).inspect_err(|e| {
        journal_start_failed(failed_dir.as_ref(), &failed_spec, failed_sinks, e).ok();
    })
}

fn set(env: &mut Vec<(OsString, OsString)>, key: &str, value: OsString) {
    env.retain(|(k, _)| k != OsStr::new(key));
    env.push((key.into(), value));
}

/// The run never began: its journal says so, and why.
fn journal_start_failed(dir: Option<&RunDir>, spec: &RunSpec, sinks: Vec<File>, error: &StartError) -> io::Result<()> {
    let (stamp, mask) = (Stamp::of(spec), Mask::default());
    let mut journal = match dir {
        Some(dir) => Journal::create(&dir.events(), stamp, mask)?,
        None => Journal::in_memory(stamp, mask)?,
    };
    let draft = |body, rule: &str| Draft { body, source: Source::Exit, rule: rule.into(), span: None };
    let source = std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default();
    let note = Body::Note { code: "start_failed".into(), text: format!("{error}{source}") };
    let exited = Body::RunExited { code: None, signal: None, reason: "start_failed".into() };
    for (body, rule) in [(note, "run.note"), (exited, "run.exited")] {
        journal.append(draft(body, rule), spec.attempt, Duration::ZERO);
    }
    journal.close(Duration::ZERO);
    for mut sink in sinks {
        journal::follow(&journal.tail(), journal.reader(1)?, &mut sink, None)?;
    }
    Ok(())
}

/// Size of the terminal at the start.
fn size(spec: &RunSpec) -> (u16, u16) {
    let fallback = if spec.seat == Seat::Detached { DETACHED_SIZE } else { UNKNOWN_SIZE };
    let ours = || {
        let streams: [&dyn std::os::fd::AsFd; 3] = [&io::stdin(), &io::stdout(), &io::stderr()];
        streams.iter().find_map(|fd| rustix::termios::tcgetwinsize(fd).ok()).map(|w| (w.ws_col, w.ws_row))
    };
    let asked = if spec.seat == Seat::Detached { spec.size } else { ours() };
    asked.filter(|(cols, rows)| *cols > 0 && *rows > 0).unwrap_or(fallback)
}

/// Copies the recording over what `file` held before; returns how many bytes of output it lacks.
fn copy_recording(dir: &RunDir, path: &Path, mut file: File) -> io::Result<u64> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    if path.extension().is_some_and(|x| x == "cast") {
        let mut out = io::BufWriter::new(file);
        let missing = record::write_cast(dir, &mut out)?;
        out.flush()?;
        Ok(missing)
    } else {
        record::write_raw(dir, &mut file)
    }
}

/// Opens where `--events` copies to: a file, `fd:N`, or `-` for standard output where that is no terminal; the agent's
/// own output then goes to standard error.
pub fn open_events(target: &str) -> Result<File, String> {
    if target == "-" {
        if io::stdout().is_terminal() {
            return Err(
                "events and the agent cannot share the terminal: write --events FILE, or --events fd:3 3>FILE".into()
            );
        }
        let file =
            rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3).map_err(|e| format!("keep standard output: {e}"))?;
        rustix::stdio::dup2_stdout(io::stderr())
            .map_err(|e| format!("join the agent's output with standard error: {e}"))?;
        return Ok(file.into());
    }
    if let Some(number) = target.strip_prefix("fd:") {
        let fd = number.parse().ok().filter(|n| *n > 2).ok_or("fd:N wants the number of an open descriptor above 2")?;
        return crate::linux::inherited(fd).map(File::from).map_err(|e| format!("use descriptor {fd}: {e}"));
    }
    File::options().create(true).append(true).mode(0o600).open(target).map_err(|e| format!("open {target}: {e}"))
}

/// Opens where the recording is copied to at the end of the run. What it held stays until then: the command may not even
/// start.
pub fn open_export(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}
