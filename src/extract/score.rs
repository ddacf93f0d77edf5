//! Truth and events, compared: what was found, missed and invented, and how long after it happened it was told.
//!
//! Both sides are brought into one vocabulary, [`Fact`]s in order. The truth never comes from here: it is what the
//! model's server and the script that pressed the keys know, `expect.json` beside a recording.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::extract::event::{Body, Draft, FailReason, SessionState};

/// A type of fact that is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A dialog before the first prompt.
    Setup,
    /// A turn began.
    Started,
    /// It ended well.
    Completed,
    /// It failed, for this reason.
    Failed,
    /// It was interrupted.
    Interrupted,
    /// A permission was asked.
    PermissionAsked,
    /// It was given or refused.
    PermissionAnswered,
    /// A question was asked, with these options.
    QuestionAsked,
    /// It was answered.
    QuestionAnswered,
    /// A usage limit was reached.
    Limit,
    /// An exact code block.
    Code,
}

impl Kind {
    /// All, in the order of a report.
    pub const ALL: [Self; 11] = [
        Self::Started,
        Self::Completed,
        Self::Failed,
        Self::Interrupted,
        Self::PermissionAsked,
        Self::PermissionAnswered,
        Self::QuestionAsked,
        Self::QuestionAnswered,
        Self::Limit,
        Self::Setup,
        Self::Code,
    ];

    /// The type of the event that tells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Setup => "state: setup",
            Self::Started => "turn.started",
            Self::Completed => "turn.completed",
            Self::Failed => "turn.failed",
            Self::Interrupted => "turn.interrupted",
            Self::PermissionAsked => "permission.asked",
            Self::PermissionAnswered => "permission.answered",
            Self::QuestionAsked => "question.asked",
            Self::QuestionAnswered => "question.answered",
            Self::Limit => "limit.reached",
            Self::Code => "code.block",
        }
    }

    /// Whether it ends a turn.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Interrupted)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of the events of the same names")]
pub enum What {
    Setup,
    Started,
    Completed,
    Failed { reason: FailReason },
    Interrupted,
    PermissionAsked { text: String },
    PermissionAnswered { allowed: Option<bool> },
    QuestionAsked { text: String, options: Option<Vec<String>> },
    QuestionAnswered,
    Limit,
    Code { lang: Option<String>, text: String },
}

impl What {
    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Setup => Kind::Setup,
            Self::Started => Kind::Started,
            Self::Completed => Kind::Completed,
            Self::Failed { .. } => Kind::Failed,
            Self::Interrupted => Kind::Interrupted,
            Self::PermissionAsked { .. } => Kind::PermissionAsked,
            Self::PermissionAnswered { .. } => Kind::PermissionAnswered,
            Self::QuestionAsked { .. } => Kind::QuestionAsked,
            Self::QuestionAnswered => Kind::QuestionAnswered,
            Self::Limit => Kind::Limit,
            Self::Code { .. } => Kind::Code,
        }
    }

    /// Whether `told` is this truth: the type, and every word that the truth knows.
    fn is_told_by(&self, told: &Self) -> bool {
        match (self, told) {
            (Self::PermissionAsked { text: wanted }, Self::PermissionAsked { text }) => {
                squeezed(text).contains(&squeezed(wanted))
            }
            (Self::QuestionAsked { text: wanted, options: choices }, Self::QuestionAsked { text, options }) => {
                squeezed(text) == squeezed(wanted) && (choices.is_none() || choices == options)
            }
            (wanted, told) => wanted == told,
        }
    }
}

/// Text without its white space: a screen breaks lines where it likes.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().name())?;
        match self {
            Self::Failed { reason } => write!(f, " {}", serde_json::to_value(reason).unwrap_or_default()),
            Self::PermissionAsked { text } => write!(f, " {text:?}"),
            Self::PermissionAnswered { allowed: Some(allowed) } => write!(f, " allowed={allowed}"),
            Self::QuestionAsked { text, options } => write!(f, " {text:?} {options:?}"),
            Self::Code { lang, text } => write!(f, " {lang:?} {text:?}"),
            _ => Ok(()),
        }
    }
}

/// Something that happened, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What happened.
    pub what: What,
    /// When, in the recording's time; none where the truth does not tell.
    pub at: Option<Duration>,
}

/// `expect.json` is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TruthError(String);

/// Reads what truly happened from the text of an `expect.json`.
///
/// Its `events` say what the model's server and the script saw; that a turn begins with a prompt, that one typed in
/// mid-turn begins none unless a turn follows, and that a dialog before any prompt is no question of a turn follows.
pub fn truth(expect: &str) -> Result<Vec<Fact>, TruthError> {
    let expect: Value = serde_json::from_str(expect).map_err(|e| TruthError(e.to_string()))?;
    let events = expect["events"].as_array().ok_or_else(|| TruthError("expected a list `events`".to_owned()))?;
    let mut story = Story::default();
    for event in events {
        story.take(event)?;
    }
    Ok(story.facts)
}

#[derive(Default)]
struct Story {
    facts: Vec<Fact>,
    prompted: bool,
    open: bool,
    /// When the last turn ended: one that follows without a prompt of its own began there.
    ended: Option<Duration>,
}

impl Story {
    fn take(&mut self, event: &Value) -> Result<(), TruthError> {
        let text = |key: &str| event[key].as_str();
        let name = text("event").ok_or_else(|| TruthError(format!("expected a field `event` in {event}")))?;
        let at = event["t"].as_f64().and_then(|t| Duration::try_from_secs_f64(t).ok());
        let what = match name {
            "prompt_submitted" => {
                self.prompted = true;
                if !self.open {
                    self.open = true;
                    self.facts.push(Fact { what: What::Started, at });
                }
                return Ok(());
            }
            // By itself: what it left in the background is over, or a limit is.
            "turn_started" => {
                if !self.open {
                    self.open = true;
                    self.facts.push(Fact { what: What::Started, at });
                }
                return Ok(());
            }
            "turn_completed" => What::Completed,
            "interrupted" => What::Interrupted,
            "killed" => What::Failed { reason: FailReason::Exited },
            "turn_failed" => {
                let reason = text("reason").unwrap_or_default();
                if reason == "usage_limit" {
                    self.tell(What::Limit, at);
                }
                What::Failed { reason: fail_reason(reason)? }
            }
            "question_asked" if !self.prompted => {
                self.facts.push(Fact { what: What::Setup, at });
                return Ok(());
            }
            "question_answered" if !self.prompted => return Ok(()),
            "permission_requested" => {
                let words = text("command").or(text("file")).unwrap_or_default();
                What::PermissionAsked { text: words.to_owned() }
            }
            "permission_answered" => What::PermissionAnswered { allowed: Some(text("answer") == Some("allow")) },
            "question_asked" => What::QuestionAsked {
                text: text("question").unwrap_or_default().to_owned(),
                options: event["options"]
                    .as_array()
                    .map(|all| all.iter().filter_map(|o| o.as_str().map(str::to_owned)).collect()),
            },
            "question_answered" => What::QuestionAnswered,
            "code_block" => What::Code {
                lang: text("language").map(str::to_owned),
                text: text("text").unwrap_or_default().to_owned(),
            },
            // What tools did is told by reports; how the process ended by the wrapper.
            "tool_ran" | "process_exit" => return Ok(()),
            other => return Err(TruthError(format!("unknown event `{other}`"))),
        };
        self.tell(what, at);
        Ok(())
    }

    fn tell(&mut self, what: What, at: Option<Duration>) {
        if !self.open {
            self.open = true;
            self.facts.push(Fact { what: What::Started, at: self.ended });
        }
        if what.kind().is_end() {
            self.open = false;
            self.ended = at;
        }
        self.facts.push(Fact { what, at });
    }
}

fn fail_reason(word: &str) -> Result<FailReason, TruthError> {
    Ok(match word {
        "authentication" | "missing_api_key" => FailReason::Auth,
        "server_error" => FailReason::Server,
        "usage_limit" => FailReason::RateLimit,
        "connection_cut" => FailReason::Network,
        other => serde_json::from_value(Value::from(other))
            .map_err(|_| TruthError(format!("unknown reason of a failure `{other}`")))?,
    })
}

/// Brings events into the vocabulary of the truth; what the truth says nothing about is left out.
pub fn told(said: &[(Duration, Draft)]) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut begun = false;
    for (at, draft) in said {
        let what = match &draft.body {
            // Before the first turn only: later ones (a login that expired) have no place in the recordings' truth yet.
            Body::State { state: SessionState::Setup, .. } if !begun => What::Setup,
            Body::TurnStarted {} => What::Started,
            Body::TurnCompleted { .. } => What::Completed,
            Body::TurnFailed { reason, .. } => What::Failed { reason: *reason },
            Body::TurnInterrupted { .. } => What::Interrupted,
            Body::PermissionAsked(ask) => What::PermissionAsked { text: ask.text.clone() },
            Body::PermissionAnswered { allowed, .. } => What::PermissionAnswered { allowed: *allowed },
            Body::QuestionAsked(ask) => {
                What::QuestionAsked { text: ask.text.clone(), options: Some(ask.options.clone()) }
            }
            Body::QuestionAnswered { .. } => What::QuestionAnswered,
            Body::LimitReached { .. } => What::Limit,
            Body::CodeBlock { lang, text, exact: true, .. } => What::Code { lang: lang.clone(), text: text.clone() },
            _ => continue,
        };
        begun |= what == What::Started;
        facts.push(Fact { what, at: Some(*at) });
    }
    facts
}

/// How well events tell the truth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Score {
    /// Truth and what told it.
    pub found: Vec<(Fact, Fact)>,
    /// Truth that nothing told.
    pub missed: Vec<Fact>,
    /// Told and not true, or not there.
    pub invented: Vec<Fact>,
}

impl Score {
    /// Compares in order: a fact told in the wrong place is missed in one and invented in the other.
    pub fn of(truth: &[Fact], told: &[Fact]) -> Self {
        // The longest common story, by its lengths from the end.
        let mut common = vec![vec![0u32; told.len() + 1]; truth.len() + 1];
        for (i, wanted) in truth.iter().enumerate().rev() {
            for (j, got) in told.iter().enumerate().rev() {
                common[i][j] = if wanted.what.is_told_by(&got.what) {
                    common[i + 1][j + 1] + 1
                } else {
                    common[i + 1][j].max(common[i][j + 1])
                };
            }
        }
        let mut score = Self::default();
        let (mut i, mut j) = (0, 0);
        while i < truth.len() || j < told.len() {
            if i < truth.len() && j < told.len() && truth[i].what.is_told_by(&told[j].what) {
                score.found.push((truth[i].clone(), told[j].clone()));
                (i, j) = (i + 1, j + 1);
            } else if j == told.len() || i < truth.len() && common[i + 1][j] >= common[i][j + 1] {
                score.missed.push(truth[i].clone());
                i += 1;
            } else {
                score.invented.push(told[j].clone());
                j += 1;
            }
        }
        score
    }

    /// Nothing missed, nothing invented.
    pub fn is_perfect(&self) -> bool {
        self.missed.is_empty() && self.invented.is_empty()
    }

    /// Found, missed and invented facts of `kind`.
    pub fn counts(&self, kind: Kind) -> Counts {
        let of = |facts: &[Fact]| facts.iter().filter(|f| f.what.kind() == kind).count();
        let found = self.found.iter().filter(|(f, _)| f.what.kind() == kind).count();
        Counts { found, missed: of(&self.missed), invented: of(&self.invented) }
    }

    /// How long after it happened each fact of `kind` was told, in seconds; below zero where the agent drew it before
    /// its model's server had noted the end of the answer.
    pub fn latencies(&self, kind: Kind) -> impl Iterator<Item = f64> {
        let of_kind = self.found.iter().filter(move |(truth, _)| truth.what.kind() == kind);
        of_kind.filter_map(|(truth, told)| Some(told.at?.as_secs_f64() - truth.at?.as_secs_f64()))
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |fact: &Fact| fact.at.map_or("?".to_owned(), |at| format!("{:.3}", at.as_secs_f64()));
        for fact in &self.missed {
            writeln!(f, "missed {} at {}", fact.what, at(fact))?;
        }
        for fact in &self.invented {
            writeln!(f, "invented {} at {}", fact.what, at(fact))?;
        }
        Ok(())
    }
}

/// A line of a table of precision and recall.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// True and told.
    pub found: usize,
    /// True and not told.
    pub missed: usize,
    /// Told and not true.
    pub invented: usize,
}

impl Counts {
    /// Of what was told, how much is true; 1 where nothing was told.
    pub fn precision(self) -> f64 {
        ratio(self.found, self.found + self.invented)
    }

    /// Of what is true, how much was told; 1 where there was nothing to tell.
    pub fn recall(self) -> f64 {
        ratio(self.found, self.found + self.missed)
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.found += other.found;
        self.missed += other.missed;
        self.invented += other.invented;
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of events in recordings")]
fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(words: &str) -> Vec<Fact> {
        let what = |w: &str| match w {
            "start" => What::Started,
            "done" => What::Completed,
            "stop" => What::Interrupted,
            "auth" => What::Failed { reason: FailReason::Auth },
            "net" => What::Failed { reason: FailReason::Network },
            other => What::PermissionAsked { text: other.to_owned() },
        };
        let at = |n: usize| Some(Duration::from_millis(100 * n as u64));
        words.split(' ').enumerate().map(|(n, w)| Fact { what: what(w), at: at(n) }).collect()
    }

    fn counts(truth: &str, told: &str) -> (usize, usize, usize) {
        let score = Score::of(&facts(truth), &facts(told));
        (score.found.len(), score.missed.len(), score.invented.len())
    }

    #[test]
    fn a_story_told_as_it_was_is_perfect() {
        assert_eq!(counts("start done start auth", "start done start auth"), (4, 0, 0));
    }

    #[test]
    fn what_is_left_out_is_missed_and_what_is_added_invented() {
        assert_eq!(counts("start done start done", "start done"), (2, 2, 0));
        assert_eq!(counts("start done", "start done start stop"), (2, 0, 2));
    }

    #[test]
    fn the_wrong_order_the_wrong_end_and_the_wrong_reason_are_both() {
        assert_eq!(counts("start done stop", "start stop done"), (2, 1, 1));
        assert_eq!(counts("start done", "start stop"), (1, 1, 1));
        assert_eq!(counts("start auth", "start net"), (1, 1, 1));
    }

    #[test]
    fn a_permission_is_found_where_its_command_stands_in_what_was_told() {
        assert_eq!(counts("touch", "approve:touch"), (1, 0, 0));
        assert_eq!(counts("touch", "rm"), (0, 1, 1));
    }

    #[test]
    fn precision_and_recall_count_what_they_should() {
        let score = Score::of(&facts("start done start done"), &facts("start done done"));
        let done = score.counts(Kind::Completed);
        assert_eq!(done, Counts { found: 2, missed: 0, invented: 0 });
        let start = score.counts(Kind::Started);
        assert!((start.recall() - 0.5).abs() < 1e-9 && (start.precision() - 1.0).abs() < 1e-9);
        let late: Vec<f64> = score.latencies(Kind::Completed).collect();
        assert!((late[1] + 0.1).abs() < 1e-9, "{late:?}");
    }

    fn story(events: &str) -> Vec<String> {
        let text = format!("{{\"events\":[{events}]}}");
        truth(&text).unwrap().iter().map(|f| format!("{} {:?}", f.what, f.at.map(|at| at.as_secs()))).collect()
    }

    #[test]
    fn a_prompt_in_mid_turn_begins_a_turn_only_if_one_follows() {
        let (first, second) = (r#"{"t":1,"event":"prompt_submitted"}"#, r#"{"t":2,"event":"prompt_submitted"}"#);
        let end = |t: u32| format!(r#"{{"t":{t},"event":"turn_completed"}}"#);
        let steered = story(&[first, second, &end(5)].join(","));
        assert_eq!(steered, ["turn.started Some(1)", "turn.completed Some(5)"]);
        let queued = story(&[first, second, &end(5), &end(9)].join(","));
        assert_eq!(queued[2..], ["turn.started Some(5)", "turn.completed Some(9)"]);
    }

    #[test]
    fn a_dialog_before_the_first_prompt_is_setup() {
        let asked = r#"{"t":1,"event":"question_asked","question":"Trust?"}"#;
        assert_eq!(story(asked), ["state: setup Some(1)"]);
    }

    #[test]
    fn a_truth_that_is_not_understood_is_an_error() {
        for wrong in
            ["{}", r#"{"events":[{"event":"danced"}]}"#, r#"{"events":[{"event":"turn_failed","reason":"x"}]}"#]
        {
            assert!(truth(wrong).is_err(), "{wrong}");
        }
    }
}
