//! Tasks as people read them.

use std::fmt::Write;

use crate::assign::score::Score;
use crate::cli::text;
use crate::clock::Timestamp;
use crate::daemon::service::{TaskView, Why, state_word};
use crate::extract::event::{Body, Event, GateSite};
use crate::queue::task::{Task, TaskState};

/// The rows of `task ls`.
pub(super) fn list(tasks: &[Task], now: Timestamp) -> String {
    let mut rows = vec![["ID", "STATE", "FOR", "SESSION", "PROMPT", "NOTE"].map(str::to_owned).to_vec()];
    for t in tasks {
        let note = t
            .waiting_for
            .as_ref()
            .map(|w| format!("waits for {w}"))
            .or_else(|| t.detail.clone())
            .or_else(|| t.reason.clone());
        rows.push(vec![
            t.id.to_string(),
            t.state.as_str().to_owned(),
            text::ago(t.changed, now),
            t.last_session.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            text::line(&t.spec.prompt, 50),
            note.map_or_else(String::new, |n| text::line(&n, 70)),
        ]);
    }
    text::table(&rows)
}

/// A heading of the form `name  value`, and lines below it indented alike.
fn field(out: &mut String, name: &str, value: &str) {
    let value = text::safe(value);
    let mut lines = value.trim_end().lines();
    let _ = writeln!(out, "{name:<10}{}", lines.next().unwrap_or_default());
    for line in lines {
        let _ = writeln!(out, "{:<10}{line}", "");
    }
}

/// What `task show` prints.
pub(super) fn view(view: &TaskView, now: Timestamp) -> String {
    let mut out = String::new();
    let TaskView { task, tries, asking, evidence } = view;
    let proof = task
        .proof
        .filter(|_| task.state == TaskState::Completed)
        .map_or(String::new(), |p| format!(" ({})", text::proof(p)));
    field(&mut out, "task", &task.id.to_string());
    field(&mut out, "state", &format!("{}{proof}, for {}", task.state.as_str(), text::ago(task.changed, now)));
    if let Some(reason) = &task.reason {
        field(&mut out, "reason", &task.detail.as_ref().map_or_else(|| reason.clone(), |d| format!("{reason}: {d}")));
    }
    if let Some(waits) = &task.waiting_for {
        field(&mut out, "waits for", waits);
    }
    if let Some(asked) = asking {
        let tool = asked.ask.tool.as_ref().map_or(String::new(), |t| format!("{t}: "));
        field(&mut out, "asks", &format!("{tool}{}", asked.ask.text));
        for (n, option) in asked.ask.options.iter().enumerate() {
            field(&mut out, "", &format!("{}. {option}", n + 1));
        }
        field(&mut out, "hash", &asked.ask.hash);
    }
    field(&mut out, "prompt", &task.spec.prompt);
    field(&mut out, "folder", &text::path(&task.spec.cwd));
    if let Some(branch) = &task.spec.branch {
        field(&mut out, "branch", branch);
    }
    if let Some(tree) = task.worktree.as_ref().filter(|t| **t != task.spec.cwd) {
        field(&mut out, "worktree", &text::path(tree));
    }
    if !task.spec.gates.is_empty() {
        field(&mut out, "gates", &task.spec.gates.join("\n"));
    }
    if let Some(ms) = task.duration_ms {
        field(&mut out, "duration", &text::millis(ms));
    }
    if let Some(answer) = &task.answer {
        field(&mut out, "answer", answer);
    }
    for t in tries {
        let a = &t.attempt;
        let outcome = a.outcome.map_or("live", |s| s.as_str());
        let why = a.detail.as_ref().or(a.reason.as_ref()).filter(|_| a.outcome != Some(TaskState::Completed));
        let reason = why.map_or(String::new(), |r| format!(": {}", text::line(r, 100)));
        let run = a.run.as_ref().map_or(String::new(), |r| format!(", run {r}"));
        let charged = if a.charged { "" } else { ", not charged" };
        field(&mut out, "attempt", &format!("{} in {}{run}, {outcome}{reason}{charged}", a.key.attempt, a.session));
        for gate in &t.gates {
            let verdict = match gate.passed {
                Some(true) => "passed",
                Some(false) => "failed",
                None => "not finished",
            };
            field(&mut out, "", &format!("gate {verdict}{}: {}", ran(&gate.on), gate.command));
        }
    }
    if !evidence.is_empty() {
        field(&mut out, "evidence", "");
        let width = text::columns();
        evidence.iter().for_each(|e| out.push_str(&event(e, now, width)));
    }
    out
}

/// Where a gate ran, for people: ` on a fresh checkout of tree 1234567`.
fn ran(on: &GateSite) -> String {
    let tree = on.tree.as_ref().map_or(String::new(), |t| format!(" of tree {}", t.get(..10).unwrap_or(t)));
    let kept = match on.protected.as_slice() {
        [] => String::new(),
        kept => format!(", {} as it was before", kept.join(", ")),
    };
    match (on.ran.as_str(), &on.because) {
        (GateSite::FRESH, _) => format!(" on a fresh checkout{tree}{kept}"),
        (GateSite::IN_PLACE, Some(why)) => format!(" in place ({why})"),
        _ => String::new(),
    }
}

/// What `task why` prints.
pub(super) fn why(why: &Why) -> String {
    let mut out = String::new();
    let task = &why.task;
    let reason = task.detail.as_ref().or(task.reason.as_ref()).map_or(String::new(), |r| format!(": {r}"));
    field(&mut out, "task", &format!("{} is {}{reason}", task.id, task.state.as_str()));
    if let Some(waits) = &task.waiting_for {
        field(&mut out, "waits for", waits);
    }
    if let Some(attempt) = &why.attempt {
        field(
            &mut out,
            "attempt",
            &format!("{} in {}: {}", attempt.key.attempt, attempt.session, points(&attempt.score)),
        );
    }
    for step in &why.steps {
        field(&mut out, "step", &format!("{} {}", step.step, text::line(&step.data.to_string(), 120)));
    }
    if !why.candidates.is_empty() {
        let mut rows = vec![["SESSION", "STATE", "SCORE", "BUT"].map(str::to_owned).to_vec()];
        for c in &why.candidates {
            let but = c.but.as_deref().unwrap_or_default();
            let score = c.score.as_ref().map_or_else(|| "-".to_owned(), points);
            rows.push(vec![c.session.to_string(), state_word(c.state).to_owned(), score, text::line(but, 80)]);
        }
        out.push('\n');
        out.push_str(&text::table(&rows));
    }
    out
}

/// `38 = cwd 20 + branch 10 + ...`
fn points(score: &Score) -> String {
    let terms: Vec<_> = score.terms.iter().map(|t| format!("{} {}", t.term, t.points)).collect();
    if terms.is_empty() { score.total.to_string() } else { format!("{} = {}", score.total, terms.join(" + ")) }
}

/// One event on one line: time, session, type, what it says; as wide as the terminal, where it goes to one.
pub(super) fn event(e: &Event, now: Timestamp, width: Option<usize>) -> String {
    let session = e.session.as_ref().map_or("-", |s| s.as_str());
    let kind = e.body.kind();
    let line = format!("{}  {session:<8}  {:<19}  {}", text::clock(e.ts, now), text::safe(&kind), says(&e.body));
    format!("{}\n", text::cut(line.trim_end(), width.unwrap_or(200)))
}

/// What an event tells beyond its type.
fn says(body: &Body) -> String {
    let short = |hash: &str| hash.get(..8).unwrap_or(hash).to_owned();
    let one_line = |text: &str| text::line(text, 200);
    match body {
        Body::PromptIntent { hash, bytes } => format!("{bytes} bytes, {}", short(hash)),
        Body::PromptSent { hash, enters } if *enters > 1 => format!("{}, Enter {enters} times", short(hash)),
        Body::PromptSent { hash, .. } => short(hash),
        Body::PromptAccepted { hash, verdict, human } => {
            let by = if *human { "typed by a human, " } else { "" };
            let word = serde_json::to_value(verdict).unwrap_or_default();
            format!("{by}{} {}", hash.as_deref().map(short).unwrap_or_default(), word.as_str().unwrap_or_default())
        }
        Body::TurnCompleted { answer, duration_ms, .. } => {
            format!("{}  {}", text::millis(*duration_ms), one_line(answer.as_deref().unwrap_or_default()))
        }
        Body::TurnFailed { message, duration_ms, .. } => {
            format!("{}  {}", text::millis(*duration_ms), one_line(message))
        }
        Body::TurnInterrupted { duration_ms } => text::millis(*duration_ms),
        Body::GatePassed { command, duration_ms, .. } => {
            format!("{}  {}", text::millis(*duration_ms), one_line(command))
        }
        Body::GateFailed { command, code, duration_ms, .. } => {
            let code = code.map_or_else(|| "no exit".to_owned(), |c| format!("exit {c}"));
            format!("{}  {code}: {}", text::millis(*duration_ms), one_line(command))
        }
        Body::TaskState { state, was, reason } => {
            let reason = reason.as_ref().map_or(String::new(), |r| format!(" ({r})"));
            format!("{was} -> {state}{reason}")
        }
        Body::State { state, was } => format!("{} -> {}", state_word(*was), state_word(*state)),
        Body::PermissionAsked(ask) | Body::QuestionAsked(ask) => one_line(&ask.text),
        Body::PermissionAnswered { allowed, .. } => match allowed {
            Some(true) => "allowed".to_owned(),
            Some(false) => "refused".to_owned(),
            None => String::new(),
        },
        Body::ContextPrepared { cwd, branch, way, .. } => {
            let on = branch.as_ref().map_or(String::new(), |b| format!(" on {b}"));
            format!("{}{}, {}", text::path(cwd), text::safe(&on), text::safe(way))
        }
        Body::Message { text, .. } | Body::CodeBlock { text, .. } => one_line(text),
        other => {
            let data = serde_json::to_value(other).ok().map(|v| v["data"].clone());
            data.filter(|d| d.as_object().is_some_and(|o| !o.is_empty()))
                .map_or(String::new(), |d| one_line(&d.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TaskId;
    use crate::queue::task::{Proof, TaskSpec};

    fn task(id: i64, state: TaskState) -> Task {
        let spec: TaskSpec =
            serde_json::from_str(r#"{"prompt":"fix the\nfailing test","cwd":"/src/app","branch":"fix/x"}"#).unwrap();
        Task {
            id: TaskId(id),
            spec,
            state,
            reason: None,
            detail: None,
            waiting_for: None,
            fence: 0,
            attempts: 0,
            created: Timestamp::UNIX_EPOCH,
            changed: Timestamp::UNIX_EPOCH,
            due: None,
            answer: None,
            proof: None,
            duration_ms: None,
            worktree: None,
            last_session: None,
            last_run: None,
        }
    }

    #[test]
    fn a_listing_says_what_each_task_waits_for() {
        let now = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(65);
        let mut second = task(12, TaskState::Queued);
        second.waiting_for = Some("tree ~/src/app (task 3)".into());
        insta::assert_snapshot!(list(&[task(3, TaskState::Running), second], now), @r"
        ID  STATE    FOR    SESSION  PROMPT                NOTE
        3   running  1m 5s  -        fix the failing test
        12  queued   1m 5s  -        fix the failing test  waits for tree ~/src/app (task 3)
        ");
    }

    #[test]
    fn a_completed_task_says_what_that_rests_on() {
        let mut t = task(1, TaskState::Completed);
        t.proof = Some(Proof::Report);
        t.answer = Some("Done.\n\x1b]0;x\x07It works.".into());
        t.duration_ms = Some(65_000);
        let v = TaskView { task: t, tries: Vec::new(), asking: None, evidence: Vec::new() };
        insta::assert_snapshot!(view(&v, Timestamp::UNIX_EPOCH), @r"
        task      1
        state     completed (report, not checked: no gate), for 0s
        prompt    fix the
                  failing test
        folder    /src/app
        branch    fix/x
        duration  1m 5s
        answer    Done.
                  \x1b]0;x\x07It works.
        ");
    }
}
