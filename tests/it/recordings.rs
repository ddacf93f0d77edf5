//! Real sessions of real agents, replayed: what the extractor says against what is known to have happened.
//!
//! `tests/recordings/AGENT/VERSION/SCENARIO/` holds `session.cast.gz` and `expect.json`; adding a case is adding a folder.
//! The comparison is `orchwrap::extract::score`. Each is read twice: with all witnesses of the stream, and from the screen alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orchwrap::extract::cast::{Cast, Moment};
use orchwrap::extract::event::{Body, Draft, SessionState};
use orchwrap::extract::pattern::Packs;
use orchwrap::extract::score::{Fact, Kind, Score, told};
use orchwrap::extract::{Extractor, Options};
use orchwrap::recording::{self, Recording};
use serde_json::Value;

struct Case {
    name: String,
    pack: String,
    cast: Cast,
    truth: Vec<Fact>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings")
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> = recording::find(&root())
        .unwrap()
        .iter()
        .map(|dir| {
            let Recording { cast, truth, .. } = Recording::load(dir).unwrap_or_else(|e| panic!("{e}"));
            let name = dir.strip_prefix(root()).unwrap().display().to_string();
            // A folder is named for the product, a pack for its command.
            let agent = name.split('/').next().unwrap();
            let pack = agent.strip_suffix("-code").unwrap_or(agent).to_owned();
            Case { name, pack, cast, truth }
        })
        .collect();
    assert!(cases.len() > 110, "only {} recordings found", cases.len());
    cases
}

fn extractor(case: &Case, screen_only: bool) -> Extractor {
    let mut pack = Packs::builtin().get(&case.pack).unwrap().as_ref().clone();
    if screen_only {
        pack.adapters.clear();
    }
    let options = Options { cols: case.cast.cols, rows: case.cast.rows, reports: false };
    Extractor::new(Arc::new(pack), options)
}

/// The truth as far as the stream can tell it: code is exact only where the agent prints its source.
fn expected(case: &Case) -> Vec<Fact> {
    let exact = case.pack == "ollama";
    case.truth.iter().filter(|f| exact || f.what.kind() != Kind::Code).cloned().collect()
}

/// Each turn has one start and one end, in this order.
fn turns_are_whole(said: &[(Duration, Draft)]) -> bool {
    let mut open = false;
    for (_, d) in said {
        match d.body {
            Body::TurnStarted {} if open => return false,
            Body::TurnStarted {} => open = true,
            Body::TurnCompleted { .. } | Body::TurnFailed { .. } | Body::TurnInterrupted { .. } if !open => {
                return false;
            }
            Body::TurnCompleted { .. } | Body::TurnFailed { .. } | Body::TurnInterrupted { .. } => open = false,
            _ => {}
        }
    }
    !open
}

fn compare(screen_only: bool) {
    let mut wrong = Vec::new();
    for case in cases() {
        let said = case.cast.replay(&mut extractor(&case, screen_only));
        let score = Score::of(&expected(&case), &told(&said));
        if !score.is_perfect() {
            wrong.push(format!("{}:\n{score}", case.name));
        } else if !turns_are_whole(&said) {
            wrong.push(format!("{}: a turn without a start or an end", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} recordings are read wrongly:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn recorded_sessions_are_told_as_they_were_with_every_witness_of_the_stream() {
    compare(false);
}

#[test]
fn recorded_sessions_are_told_as_they_were_from_the_screen_alone() {
    compare(true);
}

#[test]
fn a_dialog_before_the_first_prompt_is_setup_and_names_what_it_wants() {
    let case = cases().into_iter().find(|c| c.name.ends_with("trust_dialog_no")).unwrap();
    let said = case.cast.replay(&mut extractor(&case, false));
    let setup = |d: &Draft| matches!(d.body, Body::State { state: SessionState::Setup, .. });
    assert!(said.iter().any(|(_, d)| setup(d)), "{said:?}");
    assert_eq!(story(&said), ["state: setup"]);
}

/// What was told, one word a fact.
fn story(said: &[(Duration, Draft)]) -> Vec<String> {
    told(said).iter().map(|f| f.what.to_string()).collect()
}

#[test]
fn recordings_are_stored_compressed_and_small() {
    let (mut dirs, mut bytes) = (vec![root()], 0);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            assert!(path.extension().is_none_or(|e| e != "cast"), "{}: gzip -9n it", path.display());
            bytes += path.metadata().unwrap().len();
        }
    }
    assert!(bytes < 10_000_000, "{bytes} bytes");
}

/// Cuts every chunk at pseudo-random places; the times stay.
fn shredded(cast: &Cast, mut seed: u64) -> Cast {
    let mut next = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + usize::try_from(seed >> 33).unwrap() % below
    };
    let mut moments = Vec::new();
    for (at, moment) in &cast.moments {
        match moment {
            Moment::Output(bytes) => {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(next(40).min(rest.len()));
                    moments.push((*at, Moment::Output(piece.to_vec())));
                    rest = after;
                }
            }
            other => moments.push((*at, other.clone())),
        }
    }
    Cast { moments, ..cast.clone() }
}

#[test]
fn f26_any_split_of_a_recording_gives_the_same_events() {
    // Byte by byte costs a second each: the ones with little output stand for all.
    let small =
        |c: &Case| c.cast.moments.iter().map(|(_, m)| matches!(m, Moment::Output(_)) as usize).sum::<usize>() < 150;
    for (n, case) in cases().iter().filter(|c| small(c)).enumerate() {
        let whole = case.cast.replay(&mut extractor(case, false));
        let split = shredded(&case.cast, n as u64).replay(&mut extractor(case, false));
        assert_eq!(whole, split, "{}", case.name);
    }
}

#[test]
fn t1_a_line_agent_that_prints_status_reports_and_titles_moves_nothing() {
    let case = cases().into_iter().find(|c| c.name.starts_with("ollama") && c.name.ends_with("forge")).unwrap();
    let said = case.cast.replay(&mut extractor(&case, false));
    assert_eq!(story(&said), ["turn.started", "turn.completed"]);
}

/// What hooks reported in a recorded session, with the adapter's name, fed in between its output.
///
/// The two clocks are brought together where a prompt is sent: its report comes some 150 ms after Enter.
fn with_reports(agent: &str, name: &str) -> (Vec<(Duration, Draft)>, Extractor) {
    let (folder, pack, adapter) = match agent {
        "claude" => ("claude-code", "claude", "claude-hooks/1"),
        _ => ("codex", "codex", "codex-hooks/1"),
    };
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(folder).join("hooks");
    let cast = Cast::read(&fs::read(hooks.join(format!("{name}.cast.gz"))).unwrap()).unwrap();
    let reports: Vec<Value> = fs::read_to_string(hooks.join(format!("{name}.jsonl")))
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let enter = cast.moments.iter().find(|(_, m)| *m == Moment::Input(b"\r".to_vec())).unwrap().0.as_secs_f64();
    let prompt = reports.iter().find(|r| r["arg"] == "UserPromptSubmit").unwrap()["t"].as_f64().unwrap();
    let mut reports = reports
        .into_iter()
        .map(|r| (Duration::from_secs_f64((r["t"].as_f64().unwrap() - prompt + enter + 0.15).max(0.0)), r))
        .peekable();
    let pack = Arc::clone(Packs::builtin().get(pack).unwrap());
    let mut extractor = Extractor::new(pack, Options { cols: cast.cols, rows: cast.rows, reports: true });
    let (mut said, mut off) = (Vec::new(), 0);
    for (at, moment) in &cast.moments {
        loop {
            let report = reports.peek().map(|(t, _)| *t).filter(|t| t <= at);
            let due = extractor.deadline().filter(|d| d <= at);
            match (report, due) {
                (Some(r), d) if d.is_none_or(|d| r <= d) => {
                    let (t, report) = reports.next().unwrap();
                    // The status line is not a hook.
                    if report["arg"] != "statusLine" {
                        extractor.report(adapter, &report["stdin"], t).unwrap();
                    }
                }
                (_, Some(d)) => extractor.tick(d),
                (_, None) => break,
            }
            said.extend(extractor.drain().into_iter().map(|d| (*at, d)));
        }
        match moment {
            Moment::Output(bytes) => {
                extractor.feed(bytes, off, *at);
                off += bytes.len() as u64;
            }
            Moment::Input(bytes) => extractor.typed(bytes, *at),
            Moment::Resized(cols, rows) => extractor.resize(*cols, *rows, *at),
        }
        said.extend(extractor.drain().into_iter().map(|d| (*at, d)));
    }
    (said, extractor)
}

fn story_of(agent: &str, name: &str) -> Vec<String> {
    let (said, _) = with_reports(agent, name);
    assert!(turns_are_whole(&said), "{agent} {name}: {said:#?}");
    story(&said).into_iter().filter(|s| !s.starts_with("code.block")).collect()
}

#[test]
fn reports_and_the_stream_together_tell_one_story() {
    let asked = |story: &[String], what: &str| assert!(story[1].starts_with(what), "{story:?}");
    let permitted = story_of("claude", "perm");
    asked(&permitted, "permission.asked");
    assert_eq!(permitted[2..], ["permission.answered allowed=true", "turn.completed"]);
    assert_eq!(story_of("claude", "toolfail"), ["turn.started", "turn.completed"]);
    assert_eq!(story_of("claude", "err500"), ["turn.started", "turn.failed \"server\""]);
    assert_eq!(story_of("claude", "interrupt"), ["turn.started", "turn.interrupted"]);
    let question = story_of("claude", "question");
    asked(&question, "question.asked");
    assert_eq!(question[2..], ["question.answered", "turn.completed"]);
    let permitted = story_of("codex", "perm");
    asked(&permitted, "permission.asked");
    assert_eq!(permitted[2..], ["permission.answered allowed=true", "turn.completed"]);
    assert_eq!(story_of("codex", "toolfail"), ["turn.started", "turn.completed"]);
    assert_eq!(story_of("codex", "interrupt"), ["turn.started", "turn.interrupted"]);
}

#[test]
fn an_answer_and_what_is_asked_are_exact_where_reports_tell() {
    for agent in ["claude", "codex"] {
        let (said, _) = with_reports(agent, "perm");
        let asked = said.iter().find_map(|(_, d)| match &d.body {
            Body::PermissionAsked(ask) => Some(ask.clone()),
            _ => None,
        });
        let asked = asked.unwrap();
        assert!(asked.exact && asked.text.contains("touch approved.txt") && asked.options.len() >= 3, "{asked:?}");
        let answer = said.iter().find_map(|(_, d)| match &d.body {
            Body::TurnCompleted { answer, .. } => Some(answer.clone()),
            _ => None,
        });
        // The backticks are the proof that it is the source and not what the screen makes of it.
        let answer = answer.flatten();
        assert_eq!(answer.as_deref(), Some("The file `approved.txt` was handled as you decided."), "{agent}");
    }
}
