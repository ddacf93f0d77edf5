//! `claude-transcript/1`: the lines Claude Code appends to `<session id>.jsonl`. The one channel that tells interruptions.

use serde_json::Value;

use super::claude_hooks::fail_reason;
use super::json::{list, number, owned, text};
use super::{Report, Sheet, content};
use crate::extract::event::{Body, Source};
use crate::extract::signal::Claim;

pub(super) fn decode(line: &Value) -> Result<Vec<Report>, String> {
    let mut sheet = Sheet::new(Source::Transcript);
    // A side chain is a subagent's conversation with itself.
    if line.get("isSidechain").and_then(Value::as_bool) == Some(true) {
        return Ok(Vec::new());
    }
    sheet.thread = owned(line, "/sessionId");
    sheet.turn = owned(line, "/promptId");
    match text(line, "/type") {
        Some("user") => user(line, &mut sheet),
        Some("assistant") => assistant(line, &mut sheet),
        Some("system") if text(line, "/subtype") == Some("turn_duration") => {
            sheet.say("claude.turn_duration", Claim::TurnDone { answer: None });
        }
        _ => {} // modes, snapshots, request logs
    }
    Ok(sheet.reports)
}

fn user(line: &Value, sheet: &mut Sheet) {
    if let Some(prompt) = text(line, "/message/content") {
        // Lines of other origins (commands, reminders) are no prompts.
        if text(line, "/origin/kind") == Some("human") {
            sheet.say("claude.transcript.prompt", Claim::PromptTaken { text: Some(prompt.to_owned()) });
        }
        return;
    }
    for part in list(line, "/message/content") {
        match text(part, "/type") {
            Some("tool_result") => tool_result(line, part, sheet),
            Some("text") if text(part, "/text").is_some_and(|t| t.starts_with("[Request interrupted by user")) => {
                sheet.say("claude.transcript.interrupted", Claim::Interrupted);
            }
            _ => {}
        }
    }
}

fn tool_result(line: &Value, part: &Value, sheet: &mut Sheet) {
    let decided_by_user = text(line, "/permissionDecision/source").is_some_and(|s| s.starts_with("user"));
    if let Some(answers) = line.pointer("/toolUseResult/answers").and_then(Value::as_object) {
        let answer = answers.values().filter_map(Value::as_str).collect::<Vec<_>>().join("\n");
        sheet.say("claude.transcript.answered", Claim::Answered { allowed: None, answer: Some(answer) });
    } else if text(line, "/toolDenialKind") == Some("user-rejected") {
        sheet.say("claude.transcript.refused", Claim::Answered { allowed: Some(false), answer: None });
    } else if decided_by_user {
        let allowed = text(line, "/permissionDecision/decision") == Some("accept");
        sheet.say("claude.transcript.decided", Claim::Answered { allowed: Some(allowed), answer: None });
    }
    let body = tool_finished(part, line.get("toolUseResult"));
    sheet.say("claude.transcript.tool_result", Claim::Content(Box::new(body)));
}

/// The end of a tool call from its `tool_result` block; `extra` is the agent's own structured result, where it adds one.
pub(super) fn tool_finished(part: &Value, extra: Option<&Value>) -> Body {
    let failed = part.get("is_error").and_then(Value::as_bool).unwrap_or(false);
    let output = match part.get("content") {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(parts)) => Some(parts.iter().filter_map(|p| text(p, "/text")).collect::<Vec<_>>().join("\n")),
        _ => None,
    };
    // `Exit code 3\n<output>` is how a failed command is told to the model.
    let told = output.as_deref().filter(|_| failed).and_then(|o| o.strip_prefix("Exit code "));
    let split = told.map(|t| t.split_once('\n').unwrap_or((t, "")));
    let code = split.and_then(|(code, _)| code.trim().parse().ok());
    let (exit_code, output) = match (code, split) {
        (Some(code), Some((_, rest))) => (Some(code), Some(rest.to_owned())),
        // A command that ran and did not fail has a result with its two streams.
        _ => (extra.filter(|e| !failed && e.get("stdout").is_some()).map(|_| 0), output),
    };
    content::tool_finished(owned(part, "/tool_use_id"), "", Some(!failed), exit_code, output)
}

fn assistant(line: &Value, sheet: &mut Sheet) {
    if line.get("isApiErrorMessage").and_then(Value::as_bool) == Some(true) {
        let message = list(line, "/message/content").iter().find_map(|p| owned(p, "/text")).unwrap_or_default();
        let reason = fail_reason(text(line, "/error").unwrap_or_default(), &message);
        sheet.say("claude.transcript.api_error", Claim::TurnFailed { reason, message });
        return;
    }
    blocks(line, sheet);
    if text(line, "/message/stop_reason") == Some("end_turn") {
        sheet.say("claude.transcript.usage", Claim::Content(Box::new(usage(line, "/message/usage"))));
    }
}

/// The content blocks of an assistant message.
pub(super) fn blocks(line: &Value, sheet: &mut Sheet) {
    for part in list(line, "/message/content") {
        match text(part, "/type") {
            Some("text") => sheet.say_text("claude.message", text(part, "/text").unwrap_or_default()),
            Some("tool_use") => {
                let name = text(part, "/name").unwrap_or("tool").to_owned();
                let body = Body::ToolStarted {
                    id: owned(part, "/id"),
                    name,
                    input: part.get("input").cloned(),
                    truncated: false,
                };
                sheet.say("claude.tool_use", Claim::Content(Box::new(body)));
            }
            _ => {}
        }
    }
}

/// Tokens, and money where `cost` is told.
pub(super) fn usage(line: &Value, at: &str) -> Body {
    Body::Usage {
        input_tokens: number(line, &format!("{at}/input_tokens")),
        output_tokens: number(line, &format!("{at}/output_tokens")),
        cost_usd: line.get("total_cost_usd").and_then(Value::as_f64),
        context_used_percent: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;

    #[test]
    fn a_failing_tool_has_its_exit_code_and_output() {
        assert_eq!(
            samples::claims("claude-transcript/1", "claude-code/transcripts/tool_fail.jsonl"),
            [
                "claude.transcript.prompt: prompt \"Run the tests.\"",
                "claude.message: message \"Running the tests.\"",
                "claude.tool_use: tool Bash toolu_mock_6",
                "claude.transcript.tool_result: finished toolu_mock_6 ok=Some(false) code=Some(3) \"running 2 tests\\ntest_sub ... FAILED\"",
                "claude.message: message \"The tests failed: `test_sub` does not pass (exit code 3). I could not complete the task.\"",
                "claude.transcript.usage: usage Some(1000) Some(50)",
                "claude.turn_duration: done -",
            ]
        );
    }

    #[test]
    fn a_permission_given_by_the_user_is_told_with_the_result() {
        let claims = samples::claims("claude-transcript/1", "claude-code/transcripts/permission_allow.jsonl");
        assert_eq!(claims[3], "claude.transcript.decided: answered allowed=Some(true) -");
        assert_eq!(
            claims[4],
            "claude.transcript.tool_result: finished toolu_mock_4 ok=Some(true) code=Some(0) \"created\""
        );
    }

    #[test]
    fn interruptions_and_refusals_are_told() {
        assert_eq!(
            samples::claims("claude-transcript/1", "claude-code/transcripts/refused_interrupted.jsonl"),
            [
                "claude.transcript.prompt: prompt \"Create approved.txt.\"",
                "claude.message: message \"I need to create a file.\"",
                "claude.tool_use: tool Bash toolu_mock_4",
                "claude.transcript.refused: answered allowed=Some(false) -",
                "claude.transcript.tool_result: finished toolu_mock_4 ok=Some(false) code=None \"The user doesn't want to proceed with this tool use. The tool use was rejected (eg. if it was a file edit, the new_string was NOT written to the file). STOP what you are doing and wait for the user to tell you how to proceed.\"",
                "claude.transcript.interrupted: interrupted",
            ]
        );
    }

    #[test]
    fn an_api_error_is_a_failed_turn() {
        let claims = samples::claims("claude-transcript/1", "claude-code/transcripts/err500.jsonl");
        assert!(claims[1].starts_with("claude.transcript.api_error: failed Server \"API Error: 500"), "{claims:#?}");
    }
}
