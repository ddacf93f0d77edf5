//! Compares what was recorded with the agents' ledger. Pure.

use std::path::Path;

use serde_json::Value;

use super::agent::{Entry, Fact};
use super::tasks::Planned;

/// What the command line says about a task.
pub(super) struct Told {
    /// `task show --json`.
    pub(super) shown: Value,
    /// `events --task`.
    pub(super) events: Vec<Value>,
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) id: i64,
    shows: &'static str,
    expected: &'static str,
    recorded: String,
    ledger: String,
    pub(super) good: bool,
    /// The first thing that is not as it should be.
    pub(super) why: String,
}

impl Row {
    /// The cells as they are printed.
    pub(super) fn cells(&self) -> [String; 6] {
        let mark = if self.good { "ok" } else { "WRONG" };
        [
            self.id.to_string(),
            self.shows.to_owned(),
            self.expected.to_owned(),
            self.recorded.clone(),
            self.ledger.clone(),
            mark.to_owned(),
        ]
    }
}

/// What the agents wrote down about a task.
#[derive(Debug, Default)]
struct Truth<'a> {
    received: Vec<&'a Entry>,
    answers: Vec<&'a str>,
    other_ends: usize,
    asked: usize,
    granted: usize,
    failed_commands: usize,
}

fn truth<'a>(task: &Planned, ledger: &'a [Entry]) -> Truth<'a> {
    let mut truth = Truth::default();
    for entry in ledger {
        if let Fact::Received { text, .. } = &entry.fact
            && text.contains(task.mark)
        {
            truth.received.push(entry);
        }
    }
    let mine = |e: &&Entry| truth.received.iter().any(|r| (r.pid, r.n) == (e.pid, e.n));
    for entry in ledger.iter().filter(mine) {
        match &entry.fact {
            Fact::Finished { answer } => truth.answers.push(answer),
            Fact::Failed { .. } | Fact::Limited { .. } | Fact::Interrupted | Fact::Crashed => truth.other_ends += 1,
            Fact::Asked { .. } => truth.asked += 1,
            Fact::Answered { choice } => truth.granted += usize::from(choice.is_some()),
            Fact::Ran { code, .. } => truth.failed_commands += usize::from(*code != 0),
            Fact::Received { .. } => {}
        }
    }
    truth
}

/// Judges one task.
pub(super) fn row(task: &Planned, told: &Told, ledger: &[Entry], root: &Path) -> Row {
    let truth = truth(task, ledger);
    let expected = &task.expected;
    let shown = &told.shown;
    let text = |key: &str| shown[key].as_str().unwrap_or_default();
    let count = |kind: &str| told.events.iter().filter(|e| e["type"] == kind).count();
    let attempts = shown["attempts"].as_u64().unwrap_or(0);
    let blocks: Vec<(&str, &str)> = told
        .events
        .iter()
        .filter(|e| e["type"] == "code.block" && e["data"]["exact"] == true)
        .map(|e| {
            (e["data"]["lang"].as_str().unwrap_or_default(), e["data"]["text"].as_str().unwrap_or_default().trim_end())
        })
        .collect();
    let granted =
        told.events.iter().filter(|e| e["type"] == "permission.answered" && e["data"]["allowed"] != false).count();
    let branch = truth.received.last().and_then(|e| e.branch.as_deref()).unwrap_or_default();
    let cwd = truth.received.last().map(|e| e.cwd.as_path()).unwrap_or(root);
    let tree = shown["worktree"].as_str().map_or(cwd, Path::new);
    let gates = usize::from(expected.proof == "gate");

    let checks = [
        (text("state") == "completed", format!("it is {} ({})", text("state"), text("reason"))),
        (text("proof") == expected.proof, format!("proved by {:?}, not by {}", text("proof"), expected.proof)),
        (attempts == expected.attempts, format!("{attempts} attempts recorded, {} expected", expected.attempts)),
        (
            truth.received.len() as u64 == attempts,
            format!("{} prompts arrived for {attempts} attempts", truth.received.len()),
        ),
        (first_text(&truth) == task.prompt, "another text than the prompt arrived".into()),
        (truth.answers.len() as u64 == attempts, format!("{} turns ended well in the ledger", truth.answers.len())),
        (truth.other_ends + truth.failed_commands == 0, "the ledger holds an end that was not recorded".into()),
        (truth.answers.last() == Some(&text("answer")), "the recorded answer is not the last one given".into()),
        (
            blocks == expected.blocks,
            format!("{} code blocks recorded, {} written", blocks.len(), expected.blocks.len()),
        ),
        (branch == expected.branch, format!("it ran on branch {branch:?}")),
        (same_place(tree, cwd), format!("recorded in {}, run in {}", tree.display(), cwd.display())),
        (truth.asked == usize::from(expected.asks), format!("{} questions in the ledger", truth.asked)),
        (count("permission.asked") == truth.asked, "permissions recorded as asked differ from the ledger".into()),
        (granted == truth.granted, "permissions recorded as granted differ from the ledger".into()),
        (count("turn.failed") + count("limit.reached") == 0, "a failure or limit was recorded that never was".into()),
        (count("gate.passed") == gates, format!("{} gates passed", count("gate.passed"))),
        (count("gate.failed") as u64 == attempts.saturating_sub(1), format!("{} gates failed", count("gate.failed"))),
    ];
    let wrong = checks.into_iter().find(|(good, _)| !good).map(|(_, why)| why);
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    Row {
        id: task.id,
        shows: task.shows,
        expected: expected.words,
        recorded: format!(
            "{} ({})",
            text("state"),
            if text("proof").is_empty() { text("reason") } else { text("proof") }
        ),
        ledger: format!("{} received, {} finished", plural(truth.received.len(), "prompt"), truth.answers.len()),
        good: wrong.is_none(),
        why: wrong.unwrap_or_default(),
    }
}

fn first_text<'a>(truth: &Truth<'a>) -> &'a str {
    match truth.received.first().map(|e| &e.fact) {
        Some(Fact::Received { text, .. }) => text,
        _ => "",
    }
}

fn same_place(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::super::tasks;
    use super::*;
    use serde_json::json;

    fn entry(n: u64, fact: Fact) -> Entry {
        Entry { at: jiff::Timestamp::UNIX_EPOCH, pid: 7, cwd: "/".into(), branch: Some("main".into()), n, fact }
    }

    fn case() -> (Planned, Told, Vec<Entry>) {
        let task = Planned { id: 5, ..tasks::all().pop().unwrap() };
        let received = Fact::Received { text: task.prompt.into(), sha256: String::new() };
        let ledger = vec![entry(1, received), entry(1, Fact::Finished { answer: "well".into() })];
        let shown = json!({"state": "completed", "proof": "report", "attempts": 1, "answer": "well", "worktree": "/"});
        (task, Told { shown, events: Vec::new() }, ledger)
    }

    #[test]
    fn a_record_that_equals_the_ledger_is_good() {
        let (task, told, ledger) = case();
        let row = row(&task, &told, &ledger, Path::new("/"));
        assert!(row.good, "{}", row.why);
    }

    #[test]
    fn a_second_arrival_or_another_answer_is_wrong() {
        let (task, told, mut ledger) = case();
        ledger.push(entry(2, ledger[0].fact.clone()));
        assert!(row(&task, &told, &ledger, Path::new("/")).why.contains("2 prompts arrived"));
        let (task, mut told, ledger) = case();
        told.shown["answer"] = json!("ill");
        assert!(row(&task, &told, &ledger, Path::new("/")).why.contains("answer"));
    }
}
