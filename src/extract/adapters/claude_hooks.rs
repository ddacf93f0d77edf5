//! `claude-hooks/1`: what Claude Code writes to a hook's standard input.
//!
//! Hooks tell the edges of a turn. What happens inside one (messages, tools, interruptions) comes from the transcript,
//! in order and whole; hooks are processes of their own and may overtake one another.

use serde_json::Value;

use super::json::{list, owned, required, text};
use super::{Report, Sheet, content};
use crate::extract::event::{AskKind, FailReason, Source};
use crate::extract::signal::Claim;

pub(super) fn decode(payload: &Value) -> Result<Vec<Report>, String> {
    let event = required(payload, "/hook_event_name")?;
    let mut sheet = Sheet::new(Source::Hook);
    sheet.thread = owned(payload, "/session_id");
    sheet.turn = owned(payload, "/prompt_id");
    // Inside a subagent the edges are the subagent's; what it asks is still asked of the user.
    let sub = payload.get("agent_id").is_some();
    match event {
        "SessionStart" => {
            let id = required(payload, "/session_id")?.to_owned();
            let transcript = text(payload, "/transcript_path").map(Into::into);
            sheet.say("claude.session_start", Claim::Conversation { id, transcript });
            let chosen = matches!(text(payload, "/source"), Some("clear" | "resume"));
            sheet.reports.iter_mut().for_each(|report| report.chosen = chosen);
        }
        "UserPromptSubmit" if !sub => {
            sheet.say("claude.prompt_submit", Claim::PromptTaken { text: owned(payload, "/prompt") });
        }
        "PermissionRequest" => sheet.say("claude.permission_request", asked(payload)),
        "Stop" if !sub => {
            sheet.say("claude.stop", Claim::TurnDone { answer: owned(payload, "/last_assistant_message") });
        }
        "StopFailure" if !sub => {
            let message = text(payload, "/last_assistant_message").unwrap_or("the turn failed").to_owned();
            let reason = fail_reason(text(payload, "/error").unwrap_or_default(), &message);
            sheet.say("claude.stop_failure", Claim::TurnFailed { reason, message });
        }
        "Notification" if text(payload, "/notification_type") == Some("idle_prompt") => {
            sheet.say("claude.idle_prompt", Claim::Idle);
        }
        _ => {} // events that say nothing about a turn, and those of newer versions
    }
    Ok(sheet.reports)
}

/// A permission request; a multiple-choice question comes under the same name.
fn asked(payload: &Value) -> Claim {
    let tool = text(payload, "/tool_name").unwrap_or("a tool");
    let questions = list(payload, "/tool_input/questions");
    if let (Some(first), "AskUserQuestion") = (questions.first(), tool) {
        let text = questions.iter().filter_map(|q| text(q, "/question")).collect::<Vec<_>>().join("\n");
        let options = list(first, "/options").iter().filter_map(|o| owned(o, "/label")).collect();
        return Claim::Asked { kind: AskKind::Question, tool: None, text, options, exact: true };
    }
    let input = payload.get("tool_input").unwrap_or(&Value::Null);
    Claim::Asked {
        kind: AskKind::Permission,
        tool: Some(tool.to_owned()),
        text: content::wanted(tool, input),
        options: Vec::new(),
        exact: true,
    }
}

/// The type of a failure, from the agent's word for it (`server_error`, `authentication_failed`, ..) and its message.
pub(super) fn fail_reason(word: &str, message: &str) -> FailReason {
    // A broken connection is told as a server error.
    let broken = ["ECONN", "ENOTFOUND", "ETIMEDOUT", "Connection error", "Connection dropped", "fetch failed"];
    match word {
        _ if broken.iter().any(|w| message.contains(w)) => FailReason::Network,
        "authentication_failed" | "oauth_org_not_allowed" | "billing_error" => FailReason::Auth,
        "rate_limit" => FailReason::RateLimit,
        "server_error" | "overloaded" => FailReason::Server,
        "invalid_request" | "model_not_found" | "max_output_tokens" => FailReason::Request,
        _ => FailReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;

    #[test]
    fn a_permission_is_asked_in_full_and_the_answer_is_exact() {
        assert_eq!(
            samples::claims("claude-hooks/1", "claude-code/hooks/perm.jsonl"),
            [
                "claude.session_start: conversation 90469dc7",
                "claude.prompt_submit: prompt \"Create approved.txt.\"",
                "claude.permission_request: asked Permission Bash \"touch approved.txt && echo created\" []",
                "claude.stop: done \"The file `approved.txt` was handled as you decided.\"",
            ]
        );
    }

    #[test]
    fn a_question_comes_with_its_choices() {
        let claims = samples::claims("claude-hooks/1", "claude-code/hooks/question.jsonl");
        assert!(
            claims.contains(
                &"claude.permission_request: asked Question - \"Which database should the demo use?\" [\"SQLite\", \"PostgreSQL\"]"
                    .to_owned()
            ),
            "{claims:#?}"
        );
    }

    #[test]
    fn a_failed_turn_is_typed_and_an_interrupted_one_is_silent() {
        let failed = samples::claims("claude-hooks/1", "claude-code/hooks/err500.jsonl");
        assert!(failed[2].starts_with("claude.stop_failure: failed Server \"API Error: 500 Internal server error."));
        let interrupted = samples::claims("claude-hooks/1", "claude-code/hooks/interrupt.jsonl");
        assert_eq!(interrupted.len(), 2, "{interrupted:#?}");
    }
}
