//! `orchwrap patterns`: which packs are in force, whether a file can be used, how well a pack reads recordings.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Exit, ask, runner, text, wrap};
use crate::config::Dirs;
use crate::extract::pattern::{Mode, Origin, Pack, Packs};
use crate::extract::score::{Counts, Fact, Kind, Score, told};
use crate::extract::{Extractor, Options};
use crate::recording::{self, Recording};

/// Show packs, check a pack file, score a pack on recordings
#[derive(Debug, Args)]
pub(super) struct PatternsArgs {
    #[command(subcommand)]
    verb: PatternsVerb,
}

#[derive(Debug, Subcommand)]
enum PatternsVerb {
    /// List the packs in force and where they come from
    Ls {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Say whether pack files can be used, else what is wrong: file:line:column
    ///
    /// Without a file: those in ~/.config/orchwrap/patterns. Exit code 0: all can be used, 1: some cannot.
    Check {
        /// Pack files
        files: Vec<PathBuf>,
    },
    /// Read recordings with a pack and compare with what truly happened
    ///
    /// A recording is a folder with session.cast (or session.cast.gz) and expect.json; folders are searched for them.
    /// Exit code 0: everything found and nothing invented, 1: not so, 2: there is nothing to compare.
    Test {
        /// The pack: its id, or a file
        pack: String,
        /// Recordings, or folders of them
        #[arg(required = true)]
        recordings: Vec<PathBuf>,
        /// Leave out what the agent says about itself in the stream: rows alone
        #[arg(long)]
        screen_only: bool,
    },
}

pub(super) fn main(args: PatternsArgs) -> anyhow::Result<ExitCode> {
    Ok(match args.verb {
        PatternsVerb::Ls { json } => ls(json)?,
        PatternsVerb::Check { files } => check(files)?,
        PatternsVerb::Test { pack, recordings, screen_only } => test(&pack, &recordings, screen_only)?,
    }
    .into())
}

/// A line of `ls`.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    id: &'a str,
    version: u32,
    tested_versions: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    min_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_version: Option<&'a str>,
    /// `built-in`, or the file.
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    extends: Option<&'a str>,
    command: &'a str,
    adapters: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    oneshot: Option<&'a str>,
    rules: usize,
}

impl<'a> Listed<'a> {
    fn new(pack: &'a Pack, packs: &Packs) -> Self {
        Self {
            id: &pack.id,
            version: pack.version,
            tested_versions: &pack.tested_versions,
            min_version: pack.min_version.as_deref(),
            max_version: pack.max_version.as_deref(),
            from: match packs.origin(&pack.id) {
                Some(Origin::File(file)) => file.display().to_string(),
                Some(Origin::BuiltIn) | None => "built-in".to_owned(),
            },
            extends: pack.extends.as_deref(),
            command: &pack.launch.command,
            adapters: &pack.adapters,
            oneshot: pack.oneshot.as_ref().map(|o| o.adapter.as_deref().unwrap_or("text")),
            rules: pack.rules.len(),
        }
    }
}

fn ls(json: bool) -> anyhow::Result<Exit> {
    let packs = runner::packs();
    let listed: Vec<Listed<'_>> = packs.iter().map(|p| Listed::new(p, &packs)).collect();
    if json {
        listed.iter().try_for_each(ask::print_json)?;
        return Ok(Exit::Ok);
    }
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let mut rows = vec![["ID", "TESTED", "RULES", "FROM", "CHANNELS"].map(str::to_owned).to_vec()];
    for l in &listed {
        rows.push(vec![
            text::line(l.id, 24),
            or_dash(text::line(&l.tested_versions.join(" "), 32)),
            l.rules.to_string(),
            text::line(&l.from, 60),
            or_dash(text::safe(&l.adapters.iter().map(String::as_str).chain(l.oneshot).collect::<Vec<_>>().join(" "))),
        ]);
    }
    ask::print(&text::table(&rows))?;
    Ok(Exit::Ok)
}

fn check(files: Vec<PathBuf>) -> anyhow::Result<Exit> {
    let folder = Dirs::from_env().ok().map(|dirs| dirs.config.join("patterns"));
    let (packs, errors) = folder.as_deref().map_or_else(|| (Packs::builtin(), Vec::new()), Packs::load);
    let mut out = String::new();
    let mut faults = 0;
    if files.is_empty() {
        for pack in packs.iter().filter(|p| matches!(packs.origin(&p.id), Some(Origin::File(_)))) {
            let _ = writeln!(out, "{}: {} can be used", Listed::new(pack, &packs).from, pack.id);
        }
        for e in &errors {
            let _ = writeln!(out, "{}", text::safe(&e.to_string()));
        }
        faults = errors.len();
        if out.is_empty() {
            let where_from = folder.as_deref().unwrap_or(Path::new("~/.config/orchwrap/patterns"));
            eprintln!("orchwrap: no pack files in {}: the built-in packs are in force", where_from.display());
        }
    }
    for file in files {
        let content = fs_err::read_to_string(&file)?;
        let found = packs.faults(&in_force(&file, folder.as_deref()), &content);
        if found.is_empty() {
            let _ = writeln!(out, "{}: can be used", file.display());
        }
        for mut fault in found {
            faults += 1;
            fault.file.clone_from(&file);
            let _ = writeln!(out, "{}", text::safe(&fault.to_string()));
        }
    }
    ask::print(&out)?;
    Ok(if faults == 0 { Exit::Ok } else { Exit::Failed })
}

/// The file's path as it is known where it is in force.
fn in_force(file: &Path, folder: Option<&Path>) -> PathBuf {
    let real = |p: &Path| fs_err::canonicalize(p).ok();
    match (file.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }), folder, file.file_name()) {
        (Some(parent), Some(folder), Some(name)) if real(parent).is_some() && real(parent) == real(folder) => {
            folder.join(name)
        }
        _ => file.to_owned(),
    }
}

fn test(pack: &str, recordings: &[PathBuf], screen_only: bool) -> anyhow::Result<Exit> {
    let mut pack = Arc::clone(&the_pack(pack)?);
    if screen_only {
        let mut blind = pack.as_ref().clone();
        blind.adapters.clear();
        pack = Arc::new(blind);
    }
    let mut dirs = Vec::new();
    for root in recordings {
        let found = recording::find(root).with_context(|| format!("look for recordings in {}", root.display()))?;
        dirs.extend(found);
    }
    if dirs.is_empty() {
        eprintln!("orchwrap: no recordings there: expected folders with session.cast (or .gz) and expect.json");
        return Ok(Exit::Usage);
    }
    let (mut out, mut bad) = (String::new(), 0);
    let mut sums = [Counts::default(); Kind::ALL.len()];
    for dir in &dirs {
        let Recording { cast, truth, .. } = Recording::load(dir)?;
        let options = Options { cols: cast.cols, rows: cast.rows, reports: false };
        let said = cast.replay(&mut Extractor::new(Arc::clone(&pack), options));
        let score = Score::of(&tellable(&pack, truth), &told(&said));
        for (sum, kind) in sums.iter_mut().zip(Kind::ALL) {
            *sum += score.counts(kind);
        }
        let word = if score.is_perfect() { "ok " } else { "BAD" };
        let _ = writeln!(out, "{word} {}: {} found", dir.display(), score.found.len());
        if !score.is_perfect() {
            bad += 1;
            for line in score.to_string().lines() {
                let _ = writeln!(out, "    {}", text::safe(line));
            }
        }
    }
    let mut rows = vec![["EVENT", "FOUND", "MISSED", "INVENTED", "PRECISION", "RECALL"].map(str::to_owned).to_vec()];
    for (sum, kind) in sums.iter().zip(Kind::ALL).filter(|(s, _)| s.found + s.missed + s.invented > 0) {
        let mut row = vec![kind.name().to_owned()];
        row.extend([sum.found, sum.missed, sum.invented].map(|n| n.to_string()));
        row.extend([sum.precision(), sum.recall()].map(|r| format!("{r:.2}")));
        rows.push(row);
    }
    ask::print(&format!("{out}\n{}", text::table(&rows)))?;
    Ok(if bad == 0 { Exit::Ok } else { Exit::Failed })
}

/// The truth as far as the stream can tell it: code is exact only where the agent prints its source.
fn tellable(pack: &Pack, truth: Vec<Fact>) -> Vec<Fact> {
    truth.into_iter().filter(|f| pack.mode == Mode::Line || f.what.kind() != Kind::Code).collect()
}

/// The pack of that id, or the one in that file.
fn the_pack(name: &str) -> anyhow::Result<Arc<Pack>> {
    let mut packs = runner::packs();
    if let Some(pack) = packs.get(name) {
        return Ok(Arc::clone(pack));
    }
    let file = Path::new(name);
    if !file.is_file() {
        return Err(wrap::unknown(&packs, name));
    }
    let before: Vec<String> = packs.iter().map(|p| p.id.clone()).collect();
    if let Some(fault) =
        packs.put_files(vec![(file.to_owned(), fs_err::read_to_string(file)?)], None).into_iter().next()
    {
        bail!("{fault}");
    }
    let new =
        packs.iter().find(|p| packs.origin(&p.id) == Some(&Origin::File(file.to_owned())) || !before.contains(&p.id));
    new.cloned().context("the file makes no pack")
}
