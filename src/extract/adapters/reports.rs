//! The reports of one run, taken together: several channels tell the same fact, some late, some of another thread.

use std::collections::VecDeque;

use serde_json::Value;

use super::{AdapterError, Report, reports_of};
use crate::extract::event::Body;
use crate::extract::signal::{Claim, Signal};

/// Turns whose end is remembered: a late report of an older one is not expected, and would be taken for a new one.
const ENDED: usize = 1024;

/// Tool calls under way that are remembered by id. Agents run a handful at a time.
const TOOLS: usize = 256;

/// Turns reports into claims, each fact once.
///
/// A turn begins and ends once under the agent's own id for it, whichever channel is first; a report of a conversation
/// that is not the run's is dropped, unless it asks something: a human must answer that whoever asks.
#[derive(Debug, Default)]
pub struct Reports {
    conversation: Option<String>,
    /// Turn under way.
    open: Option<String>,
    /// Other witnesses say that it is over: no report tells an interruption.
    at_rest: bool,
    ended: VecDeque<String>,
    /// Prompts of the open turn, with the adapter that told them.
    prompts: Vec<(String, Option<String>)>,
    /// Turn of the last transcript line that named one; those after it belong to it.
    transcript_turn: Option<String>,
    tools: VecDeque<(String, String)>,
    /// Last message of the open turn: the answer, where the end does not carry it.
    message: Option<String>,
}

impl Reports {
    /// The reports of a run that has made none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Turns one report of the protocol `adapter` into claims that are new.
    pub fn decode(&mut self, adapter: &str, payload: &Value) -> Result<Vec<Signal>, AdapterError> {
        let mut signals = Vec::new();
        for report in reports_of(adapter, payload)? {
            if self.is_left_by(&report) {
                // The user went to another conversation, so the turn under way was given up before.
                self.end(None);
                signals.push(Signal { source: report.source, rule: report.rule.to_owned(), claim: Claim::Interrupted });
            }
            signals.extend(self.pass(adapter, report).map(Report::into_signal));
        }
        Ok(signals)
    }

    /// Takes the news that no turn is under way, whoever told.
    pub fn rest(&mut self) {
        self.at_rest = true;
    }

    fn is_left_by(&self, report: &Report) -> bool {
        let Claim::Conversation { id, .. } = &report.claim else { return false };
        report.chosen && self.open.is_some() && !self.at_rest && self.conversation.as_ref().is_some_and(|c| c != id)
    }

    fn pass(&mut self, adapter: &str, mut report: Report) -> Option<Report> {
        if adapter.starts_with("claude-transcript/") {
            // Only a prompt's and a tool result's line name their turn, and lines come in order.
            match &report.turn {
                Some(turn) => self.transcript_turn = Some(turn.clone()),
                None => report.turn.clone_from(&self.transcript_turn),
            }
        }
        let asks = matches!(report.claim, Claim::Asked { .. });
        if let Claim::Conversation { id, .. } = &report.claim {
            // In mid-turn it can only be a helper's: the user cannot change conversations there.
            let other = self.conversation.as_ref().is_some_and(|c| c != id);
            if other && self.open.is_some() && !self.at_rest {
                return None;
            }
            if other {
                self.open = None;
                self.transcript_turn = None;
            }
            self.conversation = Some(id.clone());
            return Some(report);
        }
        let foreign = matches!((&report.thread, &self.conversation), (Some(t), Some(c)) if t != c);
        if foreign && !asks {
            return None;
        }
        self.at_rest &= !matches!(report.claim, Claim::PromptTaken { .. } | Claim::Working);
        // Who named the turn at its beginning names it at its end; this is no end of it (T3).
        let ends = matches!(report.claim, Claim::TurnDone { .. } | Claim::TurnFailed { .. } | Claim::Interrupted);
        let named_by_it = self.open.is_some() && self.prompts.iter().any(|(by, _)| by == adapter);
        if ends && report.turn.is_none() && named_by_it {
            return None;
        }
        let known_over = report.turn.as_ref().is_some_and(|t| self.ended.contains(t));
        match &mut report.claim {
            Claim::PromptTaken { text } => {
                if known_over {
                    return None;
                }
                if report.turn != self.open || report.turn.is_none() {
                    self.open.clone_from(&report.turn);
                    self.prompts.clear();
                    self.message = None;
                }
                // The same prompt told by two channels is one; told twice by one channel it is two (typed into a turn).
                if self.prompts.iter().any(|(by, told)| by != adapter && told == text) {
                    return None;
                }
                self.prompts.push((adapter.to_owned(), text.clone()));
            }
            Claim::Working if known_over => return None,
            Claim::Working if report.turn.is_some() && report.turn != self.open => {
                self.open.clone_from(&report.turn);
                self.prompts.clear();
                self.message = None;
            }
            Claim::TurnDone { answer } => {
                if known_over {
                    return None;
                }
                let last = self.message.take();
                if answer.is_none() {
                    *answer = last;
                }
                self.end(report.turn.take());
            }
            Claim::TurnFailed { .. } | Claim::Interrupted | Claim::Limit { .. } => {
                if known_over {
                    return None;
                }
                self.end(report.turn.take());
            }
            Claim::Content(body) => return self.content(body).then_some(report),
            _ => {}
        }
        Some(report)
    }

    fn end(&mut self, turn: Option<String>) {
        self.open = None;
        self.prompts.clear();
        self.message = None;
        if let Some(turn) = turn {
            if self.ended.len() == ENDED {
                self.ended.pop_front();
            }
            self.ended.push_back(turn);
        }
    }

    /// Notes messages and tools; names a tool's end; says whether the content is new.
    fn content(&mut self, body: &mut Body) -> bool {
        match body {
            Body::Message { text, .. } => self.message = Some(text.clone()),
            Body::ToolStarted { id: Some(id), name, .. } => {
                if self.tools.len() == TOOLS {
                    self.tools.pop_front();
                }
                self.tools.push_back((id.clone(), name.clone()));
            }
            Body::ToolFinished { id: Some(id), name, .. } => {
                match self.tools.iter().position(|(known, _)| known == id) {
                    Some(at) => {
                        let (_, started) = self.tools.remove(at).expect("the position was just found");
                        *name = started;
                    }
                    // Its end was told already, with more in it.
                    None => return !name.is_empty(),
                }
            }
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples;
    use super::*;

    fn all(reports: &mut Reports, adapter: &str, payload: Value) -> Vec<String> {
        reports.decode(adapter, &payload).unwrap().into_iter().map(|s| samples::line(&s)).collect()
    }

    fn hook(event: &str, turn: &str, extra: Value) -> Value {
        let mut payload = json!({ "hook_event_name": event, "session_id": "s", "prompt_id": turn });
        payload.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        payload
    }

    #[test]
    fn one_fact_of_two_channels_is_told_once_in_either_order() {
        let stop = hook("Stop", "p1", json!({ "last_assistant_message": "Done." }));
        let prompt = hook("UserPromptSubmit", "p1", json!({ "prompt": "go" }));
        let line_prompt = json!({ "type": "user", "promptId": "p1", "sessionId": "s", "origin": { "kind": "human" }, "message": { "content": "go" } });
        let line_end = json!({ "type": "system", "subtype": "turn_duration", "sessionId": "s" });
        for hooks_first in [true, false] {
            let mut r = Reports::new();
            let mut told = Vec::new();
            for (h, l) in [(&prompt, &line_prompt), (&stop, &line_end)] {
                let pair = [("claude-hooks/1", h), ("claude-transcript/1", l)];
                let order = if hooks_first { [0, 1] } else { [1, 0] };
                told.extend(order.into_iter().flat_map(|i| all(&mut r, pair[i].0, pair[i].1.clone())));
            }
            assert_eq!(told.len(), 2, "{told:?}");
        }
    }

    #[test]
    fn a_late_end_of_the_last_turn_does_not_end_the_next() {
        let mut r = Reports::new();
        all(
            &mut r,
            "codex-hooks/1",
            json!({ "hook_event_name": "UserPromptSubmit", "session_id": "s", "turn_id": "a", "prompt": "1" }),
        );
        all(
            &mut r,
            "codex-hooks/1",
            json!({ "hook_event_name": "Stop", "session_id": "s", "turn_id": "a", "last_assistant_message": "x" }),
        );
        all(
            &mut r,
            "codex-hooks/1",
            json!({ "hook_event_name": "UserPromptSubmit", "session_id": "s", "turn_id": "b", "prompt": "2" }),
        );
        let late = json!({ "type": "event_msg", "payload": { "type": "task_complete", "turn_id": "a", "last_agent_message": "x" } });
        assert_eq!(all(&mut r, "codex-rollout/1", late), [""; 0]);
        let failed = json!({ "type": "event_msg", "payload": { "type": "task_complete", "turn_id": "b", "error": { "message": "boom" } } });
        assert_eq!(all(&mut r, "codex-rollout/1", failed).len(), 1);
    }

    #[test]
    fn t03_a_replayed_end_ends_no_other_turn() {
        let mut r = Reports::new();
        let prompt = |turn: &str| hook("UserPromptSubmit", turn, json!({ "prompt": turn }));
        let stop = |turn: &str| hook("Stop", turn, json!({ "last_assistant_message": turn }));
        let old = stop("t0");
        for n in 0..500 {
            all(&mut r, "claude-hooks/1", prompt(&format!("t{n}")));
            all(&mut r, "claude-hooks/1", stop(&format!("t{n}")));
        }
        assert_eq!(all(&mut r, "claude-hooks/1", old.clone()), [""; 0], "between turns");
        all(&mut r, "claude-hooks/1", prompt("now"));
        assert_eq!(all(&mut r, "claude-hooks/1", old), [""; 0], "within one");
        let nameless = json!({ "hook_event_name": "Stop", "session_id": "s", "last_assistant_message": "x" });
        assert_eq!(all(&mut r, "claude-hooks/1", nameless), [""; 0]);
        assert_eq!(all(&mut r, "claude-hooks/1", stop("now")).len(), 1);
        // An agent that names no turns is believed.
        let mut r = Reports::new();
        let bare = |event: &str| json!({ "hook_event_name": event, "session_id": "s", "prompt": "p" });
        all(&mut r, "claude-hooks/1", bare("UserPromptSubmit"));
        assert_eq!(all(&mut r, "claude-hooks/1", bare("Stop")).len(), 1);
    }

    #[test]
    fn another_thread_is_not_heard_unless_it_asks() {
        let mut r = Reports::new();
        all(&mut r, "codex-hooks/1", json!({ "hook_event_name": "SessionStart", "session_id": "mine" }));
        let stop = json!({ "hook_event_name": "Stop", "session_id": "other", "turn_id": "t" });
        assert_eq!(all(&mut r, "codex-hooks/1", stop), [""; 0]);
        let notify =
            json!({ "type": "agent-turn-complete", "thread-id": "other", "turn-id": "u", "input-messages": ["x"] });
        assert_eq!(all(&mut r, "codex-notify/1", notify), [""; 0]);
        let ask = json!({ "hook_event_name": "PermissionRequest", "session_id": "other", "tool_name": "Bash", "tool_input": { "command": "rm x" } });
        assert_eq!(all(&mut r, "codex-hooks/1", ask).len(), 1);
    }

    #[test]
    fn a_conversation_that_the_user_goes_to_is_heard_though_no_report_ended_the_turn() {
        let start =
            |id: &str, source: &str| json!({ "hook_event_name": "SessionStart", "session_id": id, "source": source });
        let prompt = |id: &str, turn: &str| json!({ "hook_event_name": "UserPromptSubmit", "session_id": id, "prompt_id": turn, "prompt": "x" });
        let begun = || {
            let mut r = Reports::new();
            all(&mut r, "claude-hooks/1", start("a", "startup"));
            all(&mut r, "claude-hooks/1", prompt("a", "p1"));
            r
        };
        // Escape, then /clear.
        let mut r = begun();
        let told = all(&mut r, "claude-hooks/1", start("b", "clear"));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("interrupted") && told[1].contains("conversation"), "{told:?}");
        assert_eq!(all(&mut r, "claude-hooks/1", prompt("b", "p2")).len(), 1);
        // The screen told of the end.
        let mut r = begun();
        r.rest();
        assert_eq!(all(&mut r, "claude-hooks/1", start("b", "startup")).len(), 1);
        assert_eq!(all(&mut r, "claude-hooks/1", prompt("b", "p2")).len(), 1);
        // A helper's.
        let mut r = begun();
        assert_eq!(all(&mut r, "claude-hooks/1", start("b", "startup")), [""; 0]);
    }

    #[test]
    fn a_tools_end_has_its_name_and_comes_once() {
        let mut told = Vec::new();
        let mut r = Reports::new();
        for payload in samples::payloads("codex/transcripts/tool_fail.jsonl") {
            told.extend(all(&mut r, "codex-rollout/1", payload));
        }
        let finished: Vec<_> = told.iter().filter(|t| t.contains("finished")).collect();
        assert_eq!(finished.len(), 1, "{told:#?}");
    }

    #[test]
    fn the_last_message_is_the_answer_where_the_end_has_none() {
        let mut r = Reports::new();
        let mut told = Vec::new();
        for payload in samples::payloads("codex/headless/plain.jsonl") {
            told.extend(all(&mut r, "codex-exec-json/1", payload));
        }
        assert!(told.last().unwrap().starts_with("codex.exec.completed: done \"The `add` function"), "{told:#?}");
    }

    #[test]
    fn a_prompt_typed_into_a_running_turn_is_a_prompt_of_its_own() {
        let mut r = Reports::new();
        let prompt = |text: &str| json!({ "hook_event_name": "UserPromptSubmit", "session_id": "s", "turn_id": "a", "prompt": text });
        assert_eq!(all(&mut r, "codex-hooks/1", prompt("1")).len(), 1);
        assert_eq!(all(&mut r, "codex-hooks/1", prompt("2")).len(), 1);
    }
}
