//! A scripted agent that behaves at its terminal like a recorded real one.
//!
//! It speaks the dialects that were recorded from real programs (screens, escape sequences, timing, side channels) and is
//! judged by the shipped packs: it has no marker, pack or channel that a real agent lacks. What it does for a prompt comes
//! from a script file or from plain words in the prompt; what it received and finished goes to a ledger of its own, which
//! nothing else in this crate opens for its decisions.

mod canvas;
mod claude;
mod codex;
mod headless;
mod keys;
mod ledger;
mod record;
mod repl;
mod reports;
mod script;
mod show;
mod tool;
mod tty;
mod tui;
mod turn;

use std::path::PathBuf;

use anyhow::{Context as _, bail};

pub use ledger::{Entry, Fact, Ledger};
pub use script::{Asked, End, Failure, Limit, Rule, Run, Script, Start, Step};

/// Names the ledger file to append to.
pub const LEDGER_ENV: &str = "FAKE_AGENT_LEDGER";
/// Names the script file to play.
pub const SCRIPT_ENV: &str = "FAKE_AGENT_SCRIPT";

/// Which recorded program it behaves like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// A full-screen agent with hooks that asks whether the terminal wants its status.
    Claude,
    /// A full-screen agent that always reports its status and calls a notify program.
    Codex,
    /// A line REPL that prints markdown as it arrives.
    Repl,
}

impl std::str::FromStr for Dialect {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> anyhow::Result<Self> {
        Ok(match s {
            "claude" => Self::Claude,
            "codex" => Self::Codex,
            "repl" => Self::Repl,
            other => bail!("no dialect {other:?}; there are claude, codex and repl"),
        })
    }
}

/// What every dialect is given.
#[derive(Debug)]
struct Setting {
    script: Script,
    ledger: Ledger,
    /// The arguments after `--`, as the agent would get them.
    args: Vec<String>,
    cwd: PathBuf,
}

/// Runs the agent until it leaves, and returns its exit code.
///
/// `args`: `--dialect D [--script FILE] [--ledger FILE] [-- the agent's own arguments]`.
pub fn main(args: &[String]) -> anyhow::Result<i32> {
    let mut dialect = None;
    let mut script = std::env::var_os(SCRIPT_ENV).map(PathBuf::from);
    let mut ledger = std::env::var_os(LEDGER_ENV).map(PathBuf::from);
    let mut words = args.iter();
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--dialect" => dialect = Some(value()?.parse::<Dialect>()?),
            "--script" => script = Some(value()?.into()),
            "--ledger" => ledger = Some(value()?.into()),
            "--" => {
                rest.extend(words.by_ref().cloned());
            }
            other => bail!("unknown option {other:?}; the agent's own arguments go after --"),
        }
    }
    let dialect = dialect.context("--dialect is missing: claude, codex or repl")?;
    let script = match script {
        Some(path) => Script::load(&path)?,
        None => Script::default(),
    };
    let cwd = std::env::current_dir().context("find the working directory")?;
    let setting = Setting { script, ledger: Ledger::open(ledger, &cwd)?, args: rest, cwd };
    match dialect {
        Dialect::Claude if headless::wanted_claude(&setting.args) => headless::claude(setting),
        Dialect::Codex if headless::wanted_codex(&setting.args) => headless::codex(setting),
        Dialect::Claude if asks_version(&setting.args) => {
            println!("2.1.329 (Claude Code)");
            Ok(0)
        }
        Dialect::Codex if asks_version(&setting.args) => {
            println!("codex-cli 0.169.0");
            Ok(0)
        }
        Dialect::Claude => {
            let face = claude::Claude::new(&setting);
            tui::run(setting, Box::new(face))
        }
        Dialect::Codex => {
            let face = codex::Codex::new(&setting);
            tui::run(setting, Box::new(face))
        }
        Dialect::Repl => repl::run(setting),
    }
}

fn asks_version(args: &[String]) -> bool {
    args.iter().any(|a| a == "--version" || a == "-V")
}

/// The value of the last `--name value` or `--name=value`: agents let the last one win.
fn last_flag<'a>(args: &'a [String], names: &[&str]) -> Option<&'a str> {
    let mut found = None;
    for (i, arg) in args.iter().enumerate() {
        for name in names {
            if arg == name {
                found = args.get(i + 1).map(String::as_str).or(found);
            } else if let Some(value) = arg.strip_prefix(name).and_then(|r| r.strip_prefix('=')) {
                found = Some(value);
            }
        }
    }
    found
}

/// The wall clock as these programs draw it.
fn clock(format: &str) -> String {
    jiff::Zoned::now().strftime(format).to_string()
}
