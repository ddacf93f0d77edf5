//! `orchwrap record AGENT --scenario F`: plays a scenario against a real agent and keeps everything: bytes, keys, sizes,
//! reports, and what truly happened. Recordings are what detection is tested and scored on.
//!
//! The truth is written by the script (which key, when) and by the log of the model's server; what our own reading of
//! the screen says only decides when to go on, never what is true.

mod log;
mod scenario;
mod stage;
mod terminal;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::runner::packs;
use super::{Exit, wrap};
use crate::extract::adapters::decode;
use crate::recording::Report;
use scenario::Scenario;
use stage::{Played, Stage};

/// Play a scenario against an agent and keep the recording and what truly happened
#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// The steps: a TOML file, see tests/recordings/scenarios
    #[arg(long, value_name = "FILE")]
    scenario: PathBuf,
    /// Log of the model's server, one JSON object a line: the source of the truth
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// Folder for session.cast.gz, expect.json and reports.jsonl
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Size of the terminal that is played; inside a terminal, its own counts
    #[arg(long, value_name = "COLSxROWS", default_value = "120x40", value_parser = size)]
    size: (u16, u16),
    /// Inject no hooks: the recording has no reports
    #[arg(long)]
    no_hooks: bool,
    /// Leave the agent's status query (OSC 7501) unanswered
    #[arg(long)]
    no_status_reply: bool,
    /// The agent and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "AGENT")]
    command: Vec<OsString>,
}

/// Parses `80x24`.
fn size(text: &str) -> Result<(u16, u16), String> {
    let parsed = text.split_once('x').and_then(|(c, r)| Some((c.parse().ok()?, r.parse().ok()?)));
    parsed.filter(|(c, r)| *c > 0 && *r > 0).ok_or_else(|| "expected a size such as 80x24".to_owned())
}

pub(super) fn main(args: RecordArgs) -> anyhow::Result<ExitCode> {
    let packs = packs();
    let argv: Vec<String> = args
        .command
        .iter()
        .map(|word| word.to_str().map(str::to_owned).context("the command is not UTF-8"))
        .collect::<anyhow::Result<_>>()?;
    let pack = packs.for_command(&argv).ok_or_else(|| wrap::unknown(&packs, &argv[0]))?;
    let scenario = Scenario::parse(&fs_err::read_to_string(&args.scenario)?)
        .with_context(|| args.scenario.display().to_string())?;
    let mut stage = Stage::start(pack, &argv, &scenario, &args)?;
    let played = stage.play(&scenario.steps);
    let played = stage.finish(played)?;
    write(&args, &argv, &scenario, &played)?;
    if !played.trouble.is_empty() {
        bail!("the scenario did not play as written: {}", played.trouble.join("; "));
    }
    Ok(Exit::Ok.into())
}

/// Writes the folder of the recording; what did not play as written gets a name that nothing reads.
fn write(args: &RecordArgs, argv: &[String], scenario: &Scenario, played: &Played) -> anyhow::Result<()> {
    fs_err::create_dir_all(&args.out)?;
    let name =
        |name: &str| args.out.join(if played.trouble.is_empty() { name.to_owned() } else { format!("failed-{name}") });
    let mut cast = String::new();
    let (cols, rows) = played.size;
    cast += &format!("{}\n", json!({ "version": 2, "width": cols, "height": rows, "env": { "TERM": played.term } }));
    for (at, kind, text) in &played.moments {
        cast += &format!("{}\n", json!([at, kind, text]));
    }
    pack(&name("session.cast.gz"), cast.as_bytes())?;
    let expect = json!({
        "note": scenario.note, "size": format!("{cols}x{rows}"), "terminal": played.terminal,
        "command": argv, "events": played.truth,
    });
    fs_err::write(name("expect.json"), format!("{expect:#}\n"))?;
    // What says nothing is left out: session files hold the whole instructions of the agent's maker.
    let says = |r: &&Report| decode(&r.adapter, &r.payload).is_ok_and(|claims| !claims.is_empty());
    let reports: Vec<&Report> = played.reports.iter().filter(says).collect();
    if !reports.is_empty() {
        let lines: Vec<String> = reports.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        pack(&name("reports.jsonl.gz"), format!("{}\n", lines.join("\n")).as_bytes())?;
    }
    Ok(())
}

fn pack(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut packer = flate2::write::GzEncoder::new(File::create(path)?, flate2::Compression::best());
    packer.write_all(bytes)?;
    packer.finish().with_context(|| format!("write {}", path.display()))?;
    Ok(())
}
