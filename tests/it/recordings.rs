//! Real sessions of real agents, replayed: what the extractor says against what is known to have happened.
//!
//! `tests/recordings/AGENT/VERSION/SCENARIO/` holds `session.cast` and `expect.json`; adding a case is adding a folder.
//! Each is read twice: with all witnesses of the stream, and from the screen alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orchwrap::extract::cast::{Cast, Moment};
use orchwrap::extract::event::{Body, Draft, FailReason, SessionState};
use orchwrap::extract::pattern::Packs;
use orchwrap::extract::{Extractor, Options};
use serde_json::Value;

/// What is known not to come out as recorded, and why. A case that begins to pass must be taken off the list.
const EXPECTED_MISSES: &[(&str, &str)] = &[(
    "trust_dialog_no",
    "the dialog stands before there is a session to ask anything: it is state `setup`, not a question of a turn",
)];

struct Case {
    name: String,
    pack: &'static str,
    cast: Cast,
    expect: Value,
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let agents = [("claude-code", "claude"), ("codex", "codex"), ("ollama", "ollama")];
    let mut cases = Vec::new();
    for (folder, pack) in agents {
        for version in subfolders(&root.join(folder)) {
            for scenario in subfolders(&version) {
                let Ok(text) = fs::read_to_string(scenario.join("session.cast")) else { continue };
                let cast = Cast::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", scenario.display()));
                let expect = serde_json::from_str(&fs::read_to_string(scenario.join("expect.json")).unwrap()).unwrap();
                let name = scenario.strip_prefix(&root).unwrap().display().to_string();
                cases.push(Case { name, pack, cast, expect });
            }
        }
    }
    assert!(cases.len() > 80, "only {} recordings found", cases.len());
    cases
}

fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    found.sort();
    found
}

fn extractor(case: &Case, screen_only: bool) -> Extractor {
    let mut pack = Packs::builtin().get(case.pack).unwrap().as_ref().clone();
    if screen_only {
        pack.adapters.clear();
    }
    let options = Options { cols: case.cast.cols, rows: case.cast.rows, reports: false };
    Extractor::new(Arc::new(pack), options)
}

/// The story of a recording, in words that both sides can be told in.
fn expected(case: &Case) -> Vec<String> {
    let exact_blocks = case.pack == "ollama";
    let events = case.expect["events"].as_array().unwrap().iter();
    events
        .filter_map(|e| {
            Some(match e["event"].as_str()? {
                "turn_completed" => "completed".into(),
                "interrupted" => "interrupted".into(),
                "killed" => "failed exited".into(),
                "turn_failed" => match e["reason"].as_str()? {
                    "authentication" | "missing_api_key" => "failed auth".into(),
                    "server_error" => "failed server".into(),
                    "usage_limit" => "failed limit".into(),
                    "connection_cut" => "failed network".into(),
                    other => format!("failed {other}"),
                },
                "permission_requested" => "permission".into(),
                "permission_answered" => format!("allowed {}", e["answer"] == "allow"),
                "question_asked" => format!("question {} {}", e["question"], e["options"]),
                "question_answered" => "answered".into(),
                "code_block" if exact_blocks => format!("block {} {}", e["language"], e["text"]),
                _ => return None,
            })
        })
        .collect()
}

fn told(said: &[(Duration, Draft)]) -> Vec<String> {
    let mut limited = false;
    said.iter()
        .filter_map(|(_, d)| {
            Some(match &d.body {
                Body::TurnCompleted { .. } => "completed".into(),
                Body::TurnInterrupted { .. } => "interrupted".into(),
                Body::LimitReached { .. } => {
                    limited = true;
                    return None;
                }
                Body::TurnFailed { reason, .. } if std::mem::take(&mut limited) => {
                    assert_eq!(*reason, FailReason::RateLimit);
                    "failed limit".into()
                }
                Body::TurnFailed { reason, .. } => {
                    format!("failed {}", serde_json::to_value(reason).unwrap().as_str().unwrap())
                }
                Body::PermissionAsked(_) => "permission".into(),
                Body::PermissionAnswered { allowed, .. } => format!("allowed {}", allowed.unwrap_or(true)),
                Body::QuestionAsked(ask) => {
                    format!("question {} {}", Value::from(ask.text.clone()), Value::from(ask.options.clone()))
                }
                Body::QuestionAnswered { .. } => "answered".into(),
                Body::CodeBlock { lang, text, exact: true, .. } => {
                    format!("block {} {}", Value::from(lang.clone()), Value::from(text.clone()))
                }
                _ => return None,
            })
        })
        .collect()
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
        let (want, got) = (expected(&case), told(&said));
        let missed = want != got || !turns_are_whole(&said);
        let listed = EXPECTED_MISSES.iter().any(|(name, _)| case.name.ends_with(name));
        match (missed, listed) {
            (true, false) => wrong.push(format!("{}:\n  expected {want:?}\n  told     {got:?}", case.name)),
            (false, true) => wrong.push(format!("{}: passes now; take it off the list", case.name)),
            _ => {}
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
    assert!(told(&said).is_empty());
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
    assert_eq!(told(&said), ["completed"]);
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
    let cast = Cast::parse(&fs::read_to_string(hooks.join(format!("{name}.cast"))).unwrap()).unwrap();
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
    told(&said).into_iter().filter(|s| !s.starts_with("block")).collect()
}

#[test]
fn reports_and_the_stream_together_tell_one_story() {
    assert_eq!(story_of("claude", "perm"), ["permission", "allowed true", "completed"]);
    assert_eq!(story_of("claude", "toolfail"), ["completed"]);
    assert_eq!(story_of("claude", "err500"), ["failed server"]);
    assert_eq!(story_of("claude", "interrupt"), ["interrupted"]);
    let question = story_of("claude", "question");
    assert!(question[0].starts_with("question") && question[1..] == ["answered", "completed"], "{question:?}");
    assert_eq!(story_of("codex", "perm"), ["permission", "allowed true", "completed"]);
    assert_eq!(story_of("codex", "toolfail"), ["completed"]);
    assert_eq!(story_of("codex", "interrupt"), ["interrupted"]);
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
