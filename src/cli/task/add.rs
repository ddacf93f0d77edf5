//! `orchwrap task add`: turns flags, or lines of a batch, into submissions.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value};

use crate::cli::{Exit, ask, when};
use crate::clock;
use crate::config::{Config, Period};
use crate::daemon::rpc::{Call, Submission};
use crate::daemon::service::Added;
use crate::ids::{Name, TaskId};
use crate::queue::task::{PromptKind, TaskSpec, Timeouts, TreeRule};

/// Longest file or stdin read as one prompt or batch.
const MAX_INPUT_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// What to do, in words; `-` reads it from stdin
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_hyphen_values = true)]
    text: Option<String>,
    /// Read the prompt (or the batch) from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// One task a line, each a JSON object with the fields that `task show --json` prints
    #[arg(long)]
    batch: bool,
    /// Folder it concerns; default: here
    #[arg(short = 'C', long = "dir", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Branch to work on; default: the one where the folder stands
    #[arg(long)]
    branch: Option<String>,
    /// What a missing branch is made from; default: HEAD of the folder
    #[arg(long, value_name = "REV", requires = "branch")]
    base: Option<String>,
    /// Always in a working tree of its own
    #[arg(long, conflicts_with_all = ["shared", "in_place"])]
    isolate: bool,
    /// Even while another task works in the same tree
    #[arg(long, conflicts_with = "in_place")]
    shared: bool,
    /// Switch the checkout in the folder to the branch, when it is clean
    #[arg(long)]
    in_place: bool,
    /// A variable for the agent's environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = env_entry)]
    env: Vec<(String, String)>,
    /// A shell line to run first; the agent gets the environment it leaves; may be repeated
    #[arg(long, value_name = "LINE")]
    prereq: Vec<String>,
    /// A shell line that must pass before the task is completed; may be repeated
    #[arg(long, value_name = "LINE")]
    gate: Vec<String>,
    /// Run the gates where the agent worked, not on a fresh checkout
    #[arg(long, requires = "gate")]
    gate_in_place: bool,
    /// Agent that should do it
    #[arg(long)]
    agent: Option<String>,
    /// Pool that should do it
    #[arg(long)]
    pool: Option<Name>,
    /// Session that should do it
    #[arg(long)]
    session: Option<Name>,
    /// Higher goes first; default 0
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i64>,
    /// Only after these tasks are completed, comma-separated
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    after: Vec<TaskId>,
    /// Not before this time: 10m, or a time
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// Tries at the most
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// Longest time from sending the prompt to the end of the work, waiting for you not counted
    #[arg(long, value_name = "TIME")]
    timeout: Option<Period>,
    /// Longest time for each gate
    #[arg(long, value_name = "TIME")]
    gate_timeout: Option<Period>,
    /// Longest time for preparing folder, branch and environment
    #[arg(long, value_name = "TIME")]
    prepare_timeout: Option<Period>,
    /// The prompt may be sent again where it is not certain that it arrived
    #[arg(long)]
    idempotent: bool,
    /// A second submission with the same key is the same task
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Go on in the conversation of this task
    #[arg(long = "continue", value_name = "ID")]
    continue_task: Option<TaskId>,
    /// What the screen shows is enough to call it completed
    #[arg(long)]
    accept_output: bool,
    /// Keep it from being started until `task release`
    #[arg(long)]
    hold: bool,
    /// A word to find it by; may be repeated
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// The text is a command of the agent (it begins with / ! # or """)
    #[arg(long, conflicts_with = "literal")]
    as_command: bool,
    /// The text only looks like a command of the agent
    #[arg(long)]
    literal: bool,
    /// Print one JSON object a task instead of the id
    #[arg(long)]
    json: bool,
}

fn env_entry(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).ok_or_else(|| "write it as NAME=VALUE".to_owned())
}

pub(super) fn main(args: AddArgs) -> anyhow::Result<ExitCode> {
    let config = ask::config(&ask::dirs()?)?;
    let cwd = folder(args.dir.as_deref())?;
    let tasks = match submissions(&args, &config, cwd) {
        Ok(tasks) => tasks,
        Err(e) => {
            eprintln!("orchwrap: {e:#}");
            return Ok(Exit::Usage.into());
        }
    };
    let many = tasks.len() > 1;
    let added: Vec<Added> = {
        // Each one is looked at: its folder, its branch.
        let more = std::time::Duration::from_millis(100) * u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        ask::daemon()?.call_long(Call::TaskAdd { tasks }, more)?
    };
    for task in &added {
        if args.json {
            ask::print_json(task)?;
        } else {
            ask::print(&format!("{}\n", task.id))?;
        }
        if !many {
            let waits = task.waiting_for.as_ref().map_or(String::new(), |w| format!(", waiting for {w}"));
            eprintln!("task {} is {}{waits}", task.id, task.state.as_str());
            task.notes.iter().for_each(|note| eprintln!("{}", crate::cli::text::safe(note)));
        }
    }
    Ok(Exit::Ok.into())
}

/// The folder, absolute. It is not resolved further: the user's own name for it is what is shown.
fn folder(dir: Option<&Path>) -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("the current folder is gone: choose one with -C")?;
    let joined = here.join(dir.unwrap_or(Path::new("")));
    // `a/../b` and `.` are for people; the queue compares folders as text.
    let mut clean = PathBuf::new();
    for part in joined.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    Ok(clean)
}

fn submissions(args: &AddArgs, config: &Config, cwd: PathBuf) -> anyhow::Result<Vec<Submission>> {
    let text = match (&args.file, args.text.as_deref()) {
        (Some(file), _) if file.as_os_str() != "-" => {
            read(std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?)
                .with_context(|| format!("read {}", file.display()))?
        }
        (Some(_), _) | (None, Some("-")) => read(std::io::stdin().lock()).context("read stdin")?,
        (None, text) => text.unwrap_or_default().to_owned(),
    };
    let spec = spec(args, config, cwd)?;
    if args.batch {
        return batch(&text, &spec, args.branch.is_none());
    }
    let spec = TaskSpec { prompt: text.trim_end_matches('\n').to_owned(), ..spec };
    Ok(vec![Submission { branch_here: spec.branch.is_none(), spec, typed: true }])
}

fn read(from: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(MAX_INPUT_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_INPUT_BYTES {
        bail!("it is longer than {MAX_INPUT_BYTES} bytes");
    }
    Ok(text)
}

/// What the flags say: the whole task but its prompt, and the defaults of each line of a batch.
fn spec(args: &AddArgs, config: &Config, cwd: PathBuf) -> anyhow::Result<TaskSpec> {
    let mut timeouts = Timeouts::from(&config.timeouts);
    timeouts.hard_ms = args.timeout.map_or(timeouts.hard_ms, Period::as_millis);
    timeouts.gate_ms = args.gate_timeout.map_or(timeouts.gate_ms, Period::as_millis);
    timeouts.prepare_ms = args.prepare_timeout.map_or(timeouts.prepare_ms, Period::as_millis);
    let not_before = args
        .not_before
        .as_deref()
        .map(|t| when::parse(t, clock::wall(), false))
        .transpose()
        .map_err(anyhow::Error::msg)?;
    Ok(TaskSpec {
        prompt: String::new(),
        kind: match (args.as_command, args.literal) {
            (true, _) => PromptKind::Command,
            (_, true) => PromptKind::Literal,
            _ => PromptKind::Text,
        },
        cwd,
        branch: args.branch.clone(),
        base: args.base.clone(),
        base_sha: None,
        tree: match (args.isolate, args.shared, args.in_place) {
            (true, ..) => TreeRule::Isolate,
            (_, true, _) => TreeRule::Shared,
            (.., true) => TreeRule::InPlace,
            _ => TreeRule::Auto,
        },
        env: args.env.iter().cloned().collect::<BTreeMap<_, _>>(),
        prereqs: args.prereq.clone(),
        gates: args.gate.clone(),
        gate_in_place: args.gate_in_place,
        gate_rules: None,
        agent: args.agent.clone(),
        pool: args.pool.clone(),
        session: args.session.clone(),
        priority: args.priority.unwrap_or(0),
        deps: args.after.clone(),
        not_before,
        max_attempts: args.attempts.unwrap_or(config.queue.attempts),
        timeouts,
        idempotent: args.idempotent,
        idempotency_key: args.key.clone(),
        continue_task: args.continue_task,
        accept_output: args.accept_output,
        hold: args.hold,
        labels: args.labels.clone(),
    })
}

/// Reads a batch: each line's fields over what the flags say.
fn batch(text: &str, defaults: &TaskSpec, branch_here: bool) -> anyhow::Result<Vec<Submission>> {
    let Value::Object(defaults_map) = serde_json::to_value(defaults)? else { unreachable!("a struct is an object") };
    let mut tasks = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = || format!("line {}", n + 1);
        let fields: Map<String, Value> = serde_json::from_str(line).with_context(at)?;
        let own_branch = fields.get("branch").is_some_and(|b| !b.is_null());
        let mut whole = defaults_map.clone();
        whole.extend(fields);
        let mut spec: TaskSpec = serde_json::from_value(Value::Object(whole)).with_context(at)?;
        spec.cwd = defaults.cwd.join(&spec.cwd);
        // What a file says is not what the user typed: the stricter rules for its environment hold (T18).
        tasks.push(Submission { spec, typed: false, branch_here: branch_here && !own_branch });
    }
    if tasks.is_empty() {
        bail!("the batch holds no task");
    }
    Ok(tasks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: AddArgs,
    }

    fn parse(line: &[&str]) -> anyhow::Result<Vec<Submission>> {
        let args = Line::try_parse_from(std::iter::once(&"add").chain(line))?.args;
        submissions(&args, &Config::default(), folder(args.dir.as_deref())?)
    }

    #[test]
    fn flags_become_a_task() {
        let tasks = parse(&[
            "fix it",
            "-C",
            "/src/app",
            "--branch",
            "fix/x",
            "--env",
            "RUST_LOG=debug",
            "--prereq",
            ". venv/bin/activate",
            "--gate",
            "cargo test -q",
            "--priority",
            "-2",
            "--after",
            "1,2",
            "--timeout",
            "30m",
        ])
        .unwrap();
        let spec = &tasks[0].spec;
        assert_eq!((spec.prompt.as_str(), spec.cwd.to_str().unwrap()), ("fix it", "/src/app"));
        assert_eq!(spec.branch.as_deref(), Some("fix/x"));
        assert_eq!(spec.env["RUST_LOG"], "debug");
        assert_eq!((spec.priority, spec.timeouts.hard_ms, spec.max_attempts), (-2, 1_800_000, 3));
        assert_eq!(spec.deps, [TaskId(1), TaskId(2)]);
        assert!(tasks[0].typed && !tasks[0].branch_here);
    }

    #[test]
    fn folders_are_absolute_and_plain() {
        assert_eq!(folder(Some(Path::new("/a/./b/../c"))).unwrap(), Path::new("/a/c"));
        assert!(folder(None).unwrap().is_absolute());
    }

    #[test]
    fn a_batch_takes_the_flags_as_defaults_and_names_the_bad_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("b");
        std::fs::write(&file, "{\"prompt\":\"a\"}\n\n{\"prompt\":\"b\",\"priority\":9,\"branch\":\"x\"}\n").unwrap();
        let file = file.to_str().unwrap();
        let tasks = parse(&["--file", file, "--batch", "--priority", "5"]).unwrap();
        assert_eq!(tasks.iter().map(|t| t.spec.priority).collect::<Vec<_>>(), [5, 9]);
        assert_eq!(tasks.iter().map(|t| (t.typed, t.branch_here)).collect::<Vec<_>>(), [(false, true), (false, false)]);
        std::fs::write(file, "{\"prompt\":\"a\"}\n{\"promt\":\"b\"}\n").unwrap();
        assert!(
            format!("{:#}", parse(&["--file", file, "--batch"]).unwrap_err())
                .starts_with("line 2: unknown field `promt`")
        );
    }
}
