//! Real sessions of real agents, replayed: what the extractor says against what is known to have happened.
//!
//! `tests/recordings/AGENT/VERSION/SCENARIO/` holds `session.cast.gz` and `expect.json`; adding a case is adding a folder.
//! The comparison is `orchwrap::extract::score`. Each is read with
//! fewer and fewer witnesses; the figures are those of `docs/ACCURACY.md`.

#[path = "../support/accuracy/mod.rs"]
mod accuracy;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use accuracy::{Case, Table, Witnesses, cases, retime, root};
use orchwrap::extract::cast::{Cast, Moment};
use orchwrap::extract::event::{Body, Draft, SessionState};
use orchwrap::extract::pattern::Packs;
use orchwrap::extract::score::told;
use orchwrap::extract::{Extractor, Options};
use serde_json::Value;

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

/// Every recording is told as it was, or stands in `docs/ACCURACY.md` with its reason; and the figures there hold.
fn compare(witnesses: Witnesses) {
    let (mut wrong, mut table) = (Vec::new(), Table::default());
    for case in cases() {
        let Some(cast) = case.seen_by(witnesses) else { continue };
        let said = cast.replay(&mut case.extractor(witnesses));
        let score = case.score(&said);
        table.add(&case.agent, witnesses.name(), &score);
        match (score.is_perfect(), case.known(witnesses)) {
            (false, None) => wrong.push(format!("{}:\n{score}", case.name)),
            (true, Some(_)) => wrong.push(format!("{}: comes out right now; take it off the list", case.name)),
            _ if !turns_are_whole(&said) => wrong.push(format!("{}: a turn without a start or an end", case.name)),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} recordings are read wrongly:\n{}", wrong.len(), wrong.join("\n"));
    let stated = stated(witnesses);
    assert!(!stated.is_empty(), "docs/ACCURACY.md says nothing about `{}`: run ./x accuracy", witnesses.name());
    for ((agent, event), (precision, recall)) in stated {
        let cell = table.cells.iter().find(|((a, _, kind), _)| *a == agent && kind.name() == event);
        let (_, cell) = cell.unwrap_or_else(|| panic!("{agent}: no {event} is told any more"));
        let (p, r) = (cell.counts.precision(), cell.counts.recall());
        // The file has three decimals.
        assert!(p + 5e-4 >= precision && r + 5e-4 >= recall, "{agent} {event}: {p} {r}, stated {precision} {recall}");
    }
}

/// Precision and recall as the table of `docs/ACCURACY.md` states them, by agent and event.
fn stated(witnesses: Witnesses) -> Vec<((String, String), (f64, f64))> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ACCURACY.md");
    let text = fs::read_to_string(file).unwrap();
    let table = text.split("\n## ").find(|part| part.starts_with("orchwrap\n")).unwrap();
    let rows = table.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    rows.filter(|cells| cells.get(2) == Some(&witnesses.name()))
        .map(|cells| {
            let figure = |n: usize| cells[n].parse().unwrap();
            ((cells[1].to_owned(), cells[3].to_owned()), (figure(7), figure(8)))
        })
        .collect()
}

#[test]
fn recorded_sessions_are_told_as_they_were_with_every_witness() {
    compare(Witnesses::All);
}

#[test]
fn recorded_sessions_are_told_as_they_were_with_every_witness_of_the_stream() {
    compare(Witnesses::Stream);
}

#[test]
fn recorded_sessions_are_told_as_they_were_from_what_a_person_sees() {
    compare(Witnesses::Screen);
}

#[test]
fn recorded_sessions_are_told_as_they_were_from_the_screen_alone() {
    compare(Witnesses::Rows);
}

fn case_of(found: impl Fn(&Case) -> bool) -> Case {
    cases().into_iter().find(found).unwrap()
}

#[test]
fn a_dialog_before_the_first_prompt_is_setup_and_names_what_it_wants() {
    let case = case_of(|c| c.name.ends_with("trust_dialog_no"));
    let said = case.recording.cast.replay(&mut case.extractor(Witnesses::Stream));
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

#[test]
fn f26_any_split_of_a_recording_gives_the_same_events() {
    // Byte by byte costs a second each: the ones with little output stand for all.
    let outputs = |cast: &Cast| cast.moments.iter().filter(|(_, m)| matches!(m, Moment::Output(_))).count();
    for (n, case) in cases().iter().filter(|c| outputs(&c.recording.cast) < 150).enumerate() {
        let cast = &case.recording.cast;
        let whole = cast.replay(&mut case.extractor(Witnesses::Stream));
        let split = retime::shredded(cast, n as u64).replay(&mut case.extractor(Witnesses::Stream));
        assert_eq!(whole, split, "{}", case.name);
    }
}

#[test]
fn t1_a_line_agent_that_prints_status_reports_and_titles_moves_nothing() {
    let case = case_of(|c| c.agent == "ollama" && c.name.ends_with("forge"));
    let said = case.recording.cast.replay(&mut case.extractor(Witnesses::Stream));
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
            Moment::Reported { .. } => unreachable!("these reports stand beside the recording"),
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

/// The recordings that hold reports, with all of them in their places.
fn reported() -> impl Iterator<Item = (Case, Cast)> {
    let cases: Vec<Case> = cases().into_iter().filter(|c| !c.recording.reports.is_empty()).collect();
    assert!(cases.len() > 20, "only {} recordings hold reports", cases.len());
    cases.into_iter().map(|case| {
        let cast = case.recording.with_reports();
        (case, cast)
    })
}

fn told_of(case: &Case, cast: &Cast) -> Vec<(Duration, Draft)> {
    cast.replay(&mut case.extractor(Witnesses::All))
}

#[test]
fn reports_of_other_conversations_change_nothing() {
    for (case, cast) in reported() {
        let (alone, among) = (told_of(&case, &cast), told_of(&case, &retime::echoed_elsewhere(&cast)));
        let story = |said: &[(Duration, Draft)]| said.iter().map(|(_, d)| d.body.clone()).collect::<Vec<_>>();
        assert_eq!(story(&alone), story(&among), "{}", case.name);
    }
}
