//! `orchwrap doctor`: looks at everything a run needs and says, line by line, what is fine and what to do.
//!
//! Starts nothing and changes nothing.

use std::fs;
use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::exit::Exit;
use crate::config::{self, Config, Dirs};
use crate::extract::adapters::parse_version as parse_agent_version;
use crate::extract::pattern::{Pack, Packs};
use crate::paths::StateDir;
use crate::tmux::command::parse_version;

/// Patience with a program asked for its version.
const PATIENCE: Duration = Duration::from_secs(5);

/// The oldest kernel that has what we use (pidfd with poll, close_range).
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Free space below which a journal may soon fail, in bytes.
const LITTLE_SPACE: u64 = 512 * 1024 * 1024;

/// How many runs, the newest first, are searched for what they told about their packs.
const RUNS_SEARCHED: usize = 50;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// Works, with something missing.
    Warn,
    /// Something a user asks for cannot work.
    Bad,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    level: Level,
    what: &'static str,
    found: String,
    /// What to do, where something is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    fix: String,
}

impl Check {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, what, found: found.into(), fix: String::new() }
    }

    fn warn(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warn, what, found: found.into(), fix: fix.into() }
    }

    fn bad(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Bad, what, found: found.into(), fix: fix.into() }
    }
}

/// Runs the verb; returns its exit code: 0, or 1 where something cannot work.
pub(crate) fn run(json: bool) -> anyhow::Result<Exit> {
    let checks = all();
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", crate::json::line(&checks)?)?;
    } else {
        for c in &checks {
            let mark = match c.level {
                Level::Ok => "ok  ",
                Level::Warn => "warn",
                Level::Bad => "BAD ",
            };
            writeln!(out, "{mark}  {:<10} {}", c.what, c.found)?;
            if !c.fix.is_empty() {
                writeln!(out, "                 -> {}", c.fix)?;
            }
        }
    }
    Ok(if checks.iter().any(|c| c.level == Level::Bad) { Exit::Failed } else { Exit::Ok })
}

fn all() -> Vec<Check> {
    let mut checks = vec![kernel(), terminal(), tmux("tmux"), git()];
    match Dirs::from_env() {
        Err(e) => checks.push(Check::bad("folders", e.to_string(), "set HOME")),
        Ok(dirs) => {
            checks.extend(state(&dirs.state));
            checks.push(config(&dirs));
            checks.extend(packs(&dirs));
            checks.extend(disagreements(&dirs.state));
        }
    }
    checks
}

fn kernel() -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST_KERNEL {
        Check::ok("kernel", format!("Linux {release}"))
    } else {
        Check::bad("kernel", format!("Linux {release}"), "5.10 or later is needed")
    }
}

fn terminal() -> Check {
    match std::env::var("TERM") {
        Ok(term) if term != "dumb" => Check::ok("terminal", format!("TERM={term}")),
        _ => Check::warn("terminal", "TERM is not set", "agents draw plainly or not at all; set TERM in your shell"),
    }
}

fn tmux(program: &str) -> Check {
    let install = "install tmux 3.2 or later (Debian: apt-get install tmux); without it pools need --terminal detached";
    match version(program, "-V") {
        None => Check::warn("tmux", "not found", install),
        Some(text) => match parse_version(&text) {
            Some(v) if v < (3, 2) => Check::bad("tmux", text, install),
            _ => Check::ok("tmux", text),
        },
    }
}

fn git() -> Check {
    match version("git", "--version") {
        Some(text) => Check::ok("git", text),
        None => Check::warn("git", "not found", "install git; without it tasks cannot ask for a branch"),
    }
}

fn state(root: &Path) -> Vec<Check> {
    let shown = root.display();
    let Ok(meta) = fs::metadata(root) else {
        return vec![Check::ok("state", format!("{shown} (made at the first run)"))];
    };
    let mut checks = Vec::new();
    let mode = meta.permissions().mode() & 0o777;
    checks.push(if meta.uid() != rustix::process::geteuid().as_raw() {
        Check::bad(
            "state",
            format!("{shown} belongs to user {}", meta.uid()),
            "use a folder of your own: ORCHWRAP_STATE_DIR",
        )
    } else if mode & 0o077 != 0 {
        Check::bad("state", format!("{shown} is open to others (mode {mode:o})"), format!("chmod 700 {shown}"))
    } else {
        Check::ok("state", shown.to_string())
    });
    checks.extend(damaged(root).into_iter().map(|file| {
        Check::warn(
            "queue",
            format!("was damaged once; kept as {}", file.display()),
            "tasks that it held say `restored`; remove the file when you have no more use for it",
        )
    }));
    if let Ok(fs) = rustix::fs::statvfs(root) {
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        checks.push(if free < LITTLE_SPACE {
            Check::warn("space", format!("{} MiB free", free >> 20), "free some space: journals and recordings need it")
        } else {
            Check::ok("space", format!("{} GiB free", free >> 30))
        });
    }
    checks
}

/// Databases that were damaged and set aside.
fn damaged(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            name.split_once(".damaged-").is_some_and(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()))
        })
        .map(|e| e.path())
        .collect();
    files.sort();
    files
}

fn config(dirs: &Dirs) -> Check {
    let file = dirs.config.join("config.toml");
    match Config::load(dirs, config::vars()) {
        Err(e) => {
            Check::bad("config", e.to_string(), "correct that line; until then the last good configuration is used")
        }
        Ok(_) if file.exists() => Check::ok("config", file.display().to_string()),
        Ok(_) => Check::ok("config", format!("defaults (no {})", file.display())),
    }
}

fn packs(dirs: &Dirs) -> Vec<Check> {
    let (packs, errors) = Packs::load(&dirs.config.join("patterns"));
    let mut checks: Vec<Check> = errors
        .iter()
        .map(|e| Check::bad("pack", e.to_string(), "correct that line; until then the built-in pack is used"))
        .collect();
    checks.extend(packs.iter().filter(|p| !p.adapters.is_empty() || p.oneshot.is_some()).map(|p| agent(p)));
    checks
}

/// What runs told about rules that no longer fit their agent, each once.
fn disagreements(state: &Path) -> Vec<Check> {
    let journals = fs::read_dir(StateDir::new(state).runs()).into_iter().flatten().flatten();
    let mut newest: Vec<_> = journals
        .map(|run| run.path().join("events.ndjson"))
        .filter_map(|file| Some((fs::metadata(&file).ok()?.modified().ok()?, file)))
        .collect();
    newest.sort_by(|a, b| b.cmp(a));
    let mut told: Vec<String> = Vec::new();
    for (_, file) in newest.into_iter().take(RUNS_SEARCHED) {
        let Ok(lines) = fs::File::open(&file).map(|f| std::io::BufReader::new(f).lines()) else { continue };
        for line in lines.map_while(Result::ok).filter(|l| l.contains("witness_disagreement")) {
            let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            let Some(text) = event["data"]["text"].as_str() else { continue };
            let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
            if event["data"]["code"] == "witness_disagreement" && !told.contains(&text) {
                told.push(text);
            }
        }
    }
    let fix = "send a recording of it to orchwrap's makers, or write a pack that extends it (patterns/README.md)";
    told.into_iter().map(|text| Check::warn("pack", text, fix)).collect()
}

fn agent(pack: &Pack) -> Check {
    match find(&pack.launch.command) {
        None => Check::warn("agent", format!("{}: {} is not on PATH", pack.id, pack.launch.command), ""),
        Some(path) => {
            let version = version(&pack.launch.command, "--version").unwrap_or_else(|| "version unknown".into());
            let found = format!("{}: {} ({version})", pack.id, path.display());
            match parse_agent_version(&version) {
                Some(v) if !pack.is_for(v) => {
                    Check::warn("agent", found, "the pack is not for this version: orchwrap patterns ls --json")
                }
                Some(v) if pack.is_untested(v) => Check::warn(
                    "agent",
                    format!("{found}, newer than the pack was tested with"),
                    "its first turns are watched; where witnesses disagree it is told here",
                ),
                _ => Check::ok("agent", found),
            }
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

/// The first line that `program flag` prints, if it answers in time.
fn version(program: &str, flag: &str) -> Option<String> {
    let mut child = Command::new(find(program)?)
        .arg(flag)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let end = Instant::now() + PATIENCE;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // An agent's words reach a terminal here: nothing that a terminal would obey (T7).
    let line: String = text.lines().next()?.chars().filter(|c| !c.is_control()).take(120).collect();
    (!line.is_empty()).then_some(line)
}
