//! `codex-rollout/1`: the lines Codex appends to `sessions/<date>/rollout-<time>-<thread>.jsonl`.

use serde_json::Value;

use super::json::{list, number, owned, required, text};
use super::{Report, Sheet, content};
use crate::extract::event::{Body, FailReason, Source};
use crate::extract::signal::Claim;

pub(super) fn decode(line: &Value) -> Result<Vec<Report>, String> {
    let kind = required(line, "/type")?;
    let mut sheet = Sheet::new(Source::Transcript);
    sheet.thread = owned(line, "/payload/thread_id");
    sheet.turn = owned(line, "/payload/turn_id");
    match (kind, text(line, "/payload/type").unwrap_or_default()) {
        ("event_msg", "task_started") => sheet.say("codex.rollout.task_started", Claim::Working),
        ("event_msg", "item_completed") => item(line, &mut sheet),
        ("event_msg", "task_complete") => ended(line, &mut sheet),
        // A prompt typed into a running turn replaces it: the turn goes on under another id.
        ("event_msg", "turn_aborted") if text(line, "/payload/reason") != Some("replaced") => {
            sheet.say("codex.rollout.turn_aborted", Claim::Interrupted);
        }
        ("event_msg", "token_count") => {
            let at = "/payload/info/last_token_usage";
            if let Some(output) = number(line, &format!("{at}/output_tokens")) {
                let input_tokens = number(line, &format!("{at}/input_tokens"));
                let body = Body::Usage {
                    input_tokens,
                    output_tokens: Some(output),
                    cost_usd: None,
                    context_used_percent: None,
                };
                sheet.say("codex.rollout.token_count", Claim::Content(Box::new(body)));
            }
        }
        ("response_item", "function_call" | "custom_tool_call") => {
            let input = text(line, "/payload/arguments").map_or_else(
                || line.pointer("/payload/input").cloned(),
                |arguments| Some(serde_json::from_str(arguments).unwrap_or_else(|_| Value::from(arguments))),
            );
            let name = text(line, "/payload/name").unwrap_or("tool").to_owned();
            let body = Body::ToolStarted { id: owned(line, "/payload/call_id"), name, input, truncated: false };
            sheet.say("codex.rollout.call", Claim::Content(Box::new(body)));
        }
        ("response_item", "function_call_output" | "custom_tool_call_output") => {
            let body =
                content::tool_finished(owned(line, "/payload/call_id"), "", None, None, owned(line, "/payload/output"));
            sheet.say("codex.rollout.output", Claim::Content(Box::new(body)));
        }
        _ => {}
    }
    Ok(sheet.reports)
}

fn item(line: &Value, sheet: &mut Sheet) {
    let Some(item) = line.pointer("/payload/item") else { return };
    match text(item, "/type") {
        Some("UserMessage") => {
            let text = joined(item);
            sheet.say("codex.rollout.user_message", Claim::PromptTaken { text: Some(text) });
        }
        Some("AgentMessage") => sheet.say_text("codex.rollout.message", &joined(item)),
        Some("CommandExecution") => {
            let exit_code = item.get("exit_code").and_then(Value::as_i64).and_then(|c| i32::try_from(c).ok());
            let ok = exit_code.map(|c| c == 0).or_else(|| text(item, "/status").map(|s| s == "completed"));
            let body = content::tool_finished(owned(item, "/id"), "", ok, exit_code, owned(item, "/aggregated_output"));
            sheet.say("codex.rollout.command", Claim::Content(Box::new(body)));
        }
        _ => {}
    }
}

fn joined(item: &Value) -> String {
    list(item, "/content").iter().filter_map(|p| text(p, "/text")).collect::<Vec<_>>().join("\n")
}

fn ended(line: &Value, sheet: &mut Sheet) {
    let Some(error) = line.pointer("/payload/error").filter(|e| !e.is_null()) else {
        let answer = owned(line, "/payload/last_agent_message");
        sheet.say("codex.rollout.task_complete", Claim::TurnDone { answer });
        return;
    };
    let message = text(error, "/message").unwrap_or("the turn failed").to_owned();
    // Some kinds carry details: `{"http_connection_failed": {..}}`.
    let kind = match error.get("codex_error_info") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(Value::Object(map)) => map.keys().next().map_or("", String::as_str),
        _ => "",
    };
    sheet.say("codex.rollout.task_failed", Claim::TurnFailed { reason: fail_reason(kind, &message), message });
}

/// The type of a failure, from the agent's word for it, else from its message.
pub(super) fn fail_reason(kind: &str, message: &str) -> FailReason {
    let lower = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|w| lower.contains(w));
    match kind {
        "unauthorized" | "refresh_token_failed" | "env_var" => FailReason::Auth,
        "usage_limit_exceeded" | "usage_limit_reached" | "rate_limit_exceeded" => FailReason::RateLimit,
        "internal_server_error" | "server_overloaded" => FailReason::Server,
        "bad_request" | "invalid_request" | "context_window_exceeded" => FailReason::Request,
        _ if says(&["401", "403", "unauthorized", "api key", "environment variable"]) => FailReason::Auth,
        _ if says(&["429", "rate limit", "usage limit", "too many requests"]) => FailReason::RateLimit,
        _ if says(&["high demand", "500", "502", "503", "529", "overloaded"]) => FailReason::Server,
        "response_stream_disconnected" | "response_stream_failed" | "connection_failed" | "http_connection_failed" => {
            FailReason::Network
        }
        _ if says(&["stream disconnected", "connection", "network", "timed out"]) => FailReason::Network,
        _ => FailReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;

    #[test]
    fn commands_have_exit_codes_and_the_turn_its_answer() {
        let claims = samples::claims("codex-rollout/1", "codex/transcripts/tool_fail.jsonl");
        assert_eq!(
            claims,
            [
                "codex.rollout.task_started: working",
                "codex.rollout.user_message: prompt \"Run the tests.\"",
                "codex.rollout.message: message \"Running the tests.\"",
                "codex.rollout.call: tool exec_command call_item_mock_6",
                "codex.rollout.command: finished call_item_mock_6 ok=Some(false) code=Some(3) \"running 2 tests\\ntest_sub ... FAILED\\n\"",
                "codex.rollout.output: finished call_item_mock_6 ok=None code=None \"Chunk ID: 9d4abf\\nWall time: 0.0000 seconds\\nProcess exited with code 3\\nOriginal token count: 9\\nOutput:\\nrunning 2 tests\\ntest_sub ... FAILED\\n\"",
                "codex.rollout.token_count: usage Some(1000) Some(50)",
                "codex.rollout.message: message \"The tests failed: `test_sub` does not pass (exit code 3). I could not complete the task.\"",
                "codex.rollout.token_count: usage Some(1000) Some(50)",
                "codex.rollout.task_complete: done \"The tests failed: `test_sub` does not pass (exit code 3). I could not complete the task.\"",
            ]
        );
    }

    #[test]
    fn failure_and_interruption_are_told_here_and_nowhere_else() {
        let failed = samples::claims("codex-rollout/1", "codex/transcripts/err500.jsonl");
        assert!(failed.last().unwrap().starts_with("codex.rollout.task_failed: failed Server"), "{failed:#?}");
        let several = samples::claims("codex-rollout/1", "codex/transcripts/several.jsonl");
        assert!(several.contains(&"codex.rollout.turn_aborted: interrupted".to_owned()), "{several:#?}");
    }
}
