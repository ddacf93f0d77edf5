//! `orchwrap demo`: two sessions, five tasks, and a table that compares what was recorded with what truly happened.
//!
//! Everything goes through the command line that a user has. The agents are scripted (see [`agent`]) and keep a ledger
//! of their own; the demo passes only if every recorded result equals it.

pub mod agent;
mod judge;
mod stage;
mod tasks;

use std::collections::HashSet;
use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use judge::{Row, Told};
use stage::Stage;
use tasks::Planned;

/// The demo gives up after this time.
const LIMIT: Duration = Duration::from_secs(60);
/// How often the list of tasks is read even if no event came.
const LOOK: Duration = Duration::from_secs(1);
/// The pool of the demo.
const POOL: &str = "demo";

/// How the demo is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Sessions without tmux, even if it is installed.
    pub no_tmux: bool,
    /// Leave the folder for a look.
    pub keep: bool,
}

/// What wakes the demo up.
enum News {
    /// A line of `orchwrap events -f`.
    Event(Value),
    /// Ctrl-C.
    Quit,
}

/// Runs the demo; true if every recorded result equals the ledger.
pub fn run(options: Options) -> anyhow::Result<bool> {
    let began = Instant::now();
    let mut stage = Stage::build(options)?;
    let (tell, news) = channel();
    watch_for_quit(tell.clone());
    let progress = Progress { began, on: std::io::stdout().is_terminal() };
    let result = play(&mut stage, &progress, tell, &news);
    if let Err(e) = &result {
        progress.say(&format!("stopped: {e:#}"));
    }
    progress.say("taking the pool down");
    stage.strike();
    let rows = result?;
    print_table(&rows, began.elapsed())?;
    if options.keep {
        eprintln!("left for a look: {}", stage.root().display());
    }
    Ok(rows.iter().all(|r| r.good))
}

fn play(stage: &mut Stage, progress: &Progress, tell: Sender<News>, news: &Receiver<News>) -> anyhow::Result<Vec<Row>> {
    progress.say(&format!(
        "a repository, two scripted agents and a pool ({}) in {}",
        stage.seats(),
        stage.root().display()
    ));
    stage.pool_up(POOL)?;
    stage.follow_events(move |event| tell.send(News::Event(event)).is_ok())?;
    let mut planned = tasks::all();
    for task in &mut planned {
        let id = stage.add(POOL, task)?;
        task.id = id;
        progress.say(&format!("task {id} added: {}", task.shows));
    }
    let deadline = Instant::now() + LIMIT;
    let mut over = vec![false; planned.len()];
    let mut answered = HashSet::new();
    while over.contains(&false) {
        if Instant::now() >= deadline {
            bail!("the tasks did not end within {} s; see {}", LIMIT.as_secs(), stage.keep().display());
        }
        match news.recv_timeout(LOOK) {
            Ok(News::Quit) => bail!("interrupted"),
            Ok(News::Event(event)) => report(progress, &event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("nobody tells events any more"),
        }
        for (task, over) in planned.iter().zip(&mut over).filter(|(_, over)| !**over) {
            let shown = stage.show(task.id)?;
            match shown["state"].as_str().unwrap_or_default() {
                "asking" => answer(stage, progress, task, &mut answered)?,
                "completed" | "failed" | "cancelled" | "timed_out" | "review" => *over = true,
                _ => {}
            }
        }
    }
    let ledger = stage.ledger()?;
    planned
        .iter()
        .map(|task| {
            let told = Told { shown: stage.show(task.id)?, events: stage.events(task.id)? };
            Ok(judge::row(task, &told, &ledger, stage.root()))
        })
        .collect()
}

/// Answers for the human, as a human would: after reading what is asked.
///
/// Once for each thing asked: the task stays `asking` until its agent has gone on.
fn answer(stage: &Stage, progress: &Progress, task: &Planned, answered: &mut HashSet<String>) -> anyhow::Result<()> {
    let events = stage.events(task.id)?;
    let asked = events.iter().rev().find(|e| e["type"] == "permission.asked").context("nothing is asked")?;
    if !answered.insert(asked["data"]["hash"].as_str().unwrap_or_default().to_owned()) {
        return Ok(());
    }
    let text = asked["data"]["text"].as_str().unwrap_or_default();
    progress.say(&format!("task {} asks: {}; answering yes", task.id, text.lines().next().unwrap_or_default()));
    stage.answer(task.id, "yes")
}

/// One line for an event worth one.
fn report(progress: &Progress, event: &Value) {
    let (Some(kind), Some(task)) = (event["type"].as_str(), event["task"].as_i64()) else { return };
    let data = &event["data"];
    let text = |v: &Value| {
        v.as_str().unwrap_or_default().lines().next().unwrap_or_default().chars().take(60).collect::<String>()
    };
    let line = match kind {
        "task.state" => {
            let reason = data["reason"].as_str().map(|r| format!(" ({r})")).unwrap_or_default();
            format!("{}{reason}", text(&data["state"]))
        }
        "context.prepared" => {
            let place = std::path::Path::new(data["cwd"].as_str().unwrap_or_default());
            let end: std::path::PathBuf =
                place.components().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect();
            format!("context proved: {} on {}", end.display(), text(&data["branch"]))
        }
        "code.block" => format!("code block: {}", data["lang"].as_str().unwrap_or("plain")),
        "gate.failed" | "gate.passed" => format!("{}: {}", kind.replace('.', " "), text(&data["command"])),
        _ => return,
    };
    progress.say(&format!("task {task} {line}"));
}

/// Lines with the time; nothing where nobody looks.
struct Progress {
    began: Instant,
    on: bool,
}

impl Progress {
    fn say(&self, line: &str) {
        if self.on {
            println!("{:5.1}s  {line}", self.began.elapsed().as_secs_f64());
        }
    }
}

/// Turns Ctrl-C into news, so that everything is taken down.
fn watch_for_quit(tell: Sender<News>) {
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            let _ = tell.send(News::Quit);
        }
    });
}

fn print_table(rows: &[Row], took: Duration) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let head = ["task", "shows", "expected", "recorded", "ledger", ""];
    let cells: Vec<[String; 6]> = rows.iter().map(Row::cells).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|i| cells.iter().map(|r| r[i].chars().count()).chain([head[i].len()]).max().unwrap_or(0))
        .collect();
    let mut line = |cells: &[&str]| {
        let row: String = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}  ")).collect();
        writeln!(out, "{}", row.trim_end())
    };
    line(&head)?;
    for row in &cells {
        line(&row.each_ref().map(String::as_str))?;
    }
    let good = rows.iter().filter(|r| r.good).count();
    writeln!(
        out,
        "{good} of {} recorded results equal the agents' ledger, in {:.1} s",
        rows.len(),
        took.as_secs_f64()
    )?;
    for row in rows.iter().filter(|r| !r.good) {
        writeln!(out, "task {}: {}", row.id, row.why)?;
    }
    Ok(())
}
