//! `claude-stream-json/1`: the lines of `claude -p --output-format stream-json --verbose`.

use serde_json::Value;

use super::claude_transcript::{blocks, tool_finished, usage};
use super::json::{list, number, owned, required, text};
use super::{Report, Sheet};
use crate::extract::event::{FailReason, Source};
use crate::extract::signal::Claim;

pub(super) fn decode(line: &Value) -> Result<Vec<Report>, String> {
    let kind = required(line, "/type")?;
    let mut sheet = Sheet::new(Source::Transcript);
    sheet.thread = owned(line, "/session_id");
    // What a subagent says and does is inside a tool call.
    if line.get("parent_tool_use_id").is_some_and(|p| !p.is_null()) {
        return Ok(Vec::new());
    }
    match kind {
        "system" if text(line, "/subtype") == Some("init") => {
            let id = required(line, "/session_id")?.to_owned();
            sheet.say("claude.stream.init", Claim::Conversation { id, transcript: None });
            sheet.say("claude.stream.init", Claim::Working);
        }
        // An error's message comes again, typed, in the result.
        "assistant" if text(line, "/message/model") != Some("<synthetic>") => blocks(line, &mut sheet),
        "user" => {
            for part in list(line, "/message/content").iter().filter(|p| text(p, "/type") == Some("tool_result")) {
                let body = tool_finished(part, line.get("tool_use_result"));
                sheet.say("claude.stream.tool_result", Claim::Content(Box::new(body)));
            }
        }
        "result" => result(line, &mut sheet),
        _ => {} // retries, status, partial messages, hooks
    }
    Ok(sheet.reports)
}

/// The end. `subtype` says `success` even where the provider failed: `is_error` decides.
fn result(line: &Value, sheet: &mut Sheet) {
    sheet.say("claude.stream.usage", Claim::Content(Box::new(usage(line, "/usage"))));
    let failed = line.get("is_error").and_then(Value::as_bool).unwrap_or(true);
    let answer = owned(line, "/result");
    if !failed {
        sheet.say("claude.stream.result", Claim::TurnDone { answer });
        return;
    }
    let reason = match number(line, "/api_error_status") {
        Some(401 | 403) => FailReason::Auth,
        Some(429) => FailReason::RateLimit,
        Some(400..=499) => FailReason::Request,
        Some(500..) => FailReason::Server,
        _ if text(line, "/terminal_reason") == Some("api_error") => FailReason::Network,
        _ => FailReason::Other,
    };
    let message = answer.or_else(|| owned(line, "/subtype")).unwrap_or_default();
    sheet.say("claude.stream.result", Claim::TurnFailed { reason, message });
}

#[cfg(test)]
mod tests {
    use super::super::samples;

    #[test]
    fn a_result_completes_and_tools_have_codes() {
        let claims = samples::claims("claude-stream-json/1", "claude-code/headless/tool_fail.jsonl");
        assert_eq!(
            claims,
            [
                "claude.stream.init: conversation d17dd297",
                "claude.stream.init: working",
                "claude.message: message \"Running the tests.\"",
                "claude.tool_use: tool Bash toolu_mock_3",
                "claude.stream.tool_result: finished toolu_mock_3 ok=Some(false) code=Some(3) \"running 2 tests\\ntest_sub ... FAILED\"",
                "claude.message: message \"The tests failed: `test_sub` does not pass (exit code 3). I could not complete the task.\"",
                "claude.stream.usage: usage Some(2000) Some(100)",
                "claude.stream.result: done \"The tests failed: `test_sub` does not pass (exit code 3). I could not complete the task.\"",
            ]
        );
    }

    #[test]
    fn a_success_that_is_an_error_is_a_failure() {
        let claims = samples::claims("claude-stream-json/1", "claude-code/headless/err500.jsonl");
        assert!(
            claims.last().unwrap().starts_with("claude.stream.result: failed Server \"API Error: 500"),
            "{claims:#?}"
        );
        assert!(!claims.iter().any(|c| c.contains("message")), "{claims:#?}");
    }

    #[test]
    fn partial_messages_and_hook_lines_say_nothing_twice() {
        let claims = samples::claims("claude-stream-json/1", "claude-code/headless/partial.jsonl");
        assert_eq!(claims.iter().filter(|c| c.contains("message")).count(), 1, "{claims:#?}");
    }
}
