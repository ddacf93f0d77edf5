//! `codex-exec-json/1`: the lines of `codex exec --json`.

use serde_json::Value;

use super::codex_rollout::fail_reason;
use super::json::{number, owned, required, text};
use super::{Report, Sheet, content};
use crate::extract::event::{Body, Source};
use crate::extract::signal::Claim;

pub(super) fn decode(line: &Value) -> Result<Vec<Report>, String> {
    let mut sheet = Sheet::new(Source::Transcript);
    match required(line, "/type")? {
        "thread.started" => {
            let id = required(line, "/thread_id")?.to_owned();
            sheet.say("codex.exec.thread", Claim::Conversation { id, transcript: None });
        }
        "turn.started" => sheet.say("codex.exec.turn", Claim::Working),
        "item.started" if text(line, "/item/type") == Some("command_execution") => {
            let input = line.pointer("/item/command").map(|c| serde_json::json!({ "command": c }));
            let body =
                Body::ToolStarted { id: owned(line, "/item/id"), name: "command".to_owned(), input, truncated: false };
            sheet.say("codex.exec.command", Claim::Content(Box::new(body)));
        }
        "item.completed" => match text(line, "/item/type") {
            Some("agent_message") => {
                sheet.say_text("codex.exec.message", text(line, "/item/text").unwrap_or_default());
            }
            Some("command_execution") => {
                let code = line.pointer("/item/exit_code").and_then(Value::as_i64).and_then(|c| i32::try_from(c).ok());
                let output = owned(line, "/item/aggregated_output");
                let body =
                    content::tool_finished(owned(line, "/item/id"), "command", code.map(|c| c == 0), code, output);
                sheet.say("codex.exec.command", Claim::Content(Box::new(body)));
            }
            _ => {} // an item of type `error` may be a mere warning
        },
        "turn.completed" => {
            let body = Body::Usage {
                input_tokens: number(line, "/usage/input_tokens"),
                output_tokens: number(line, "/usage/output_tokens"),
                cost_usd: None,
                context_used_percent: None,
            };
            sheet.say("codex.exec.usage", Claim::Content(Box::new(body)));
            sheet.say("codex.exec.completed", Claim::TurnDone { answer: None });
        }
        "turn.failed" => {
            let message = text(line, "/error/message").unwrap_or("the turn failed").to_owned();
            sheet.say("codex.exec.failed", Claim::TurnFailed { reason: fail_reason("", &message), message });
        }
        _ => {} // `error` is also each "Reconnecting.."
    }
    Ok(sheet.reports)
}

#[cfg(test)]
mod tests {
    use super::super::samples;

    #[test]
    fn reconnecting_is_no_failure_and_the_end_is_one() {
        let claims = samples::claims("codex-exec-json/1", "codex/headless/cut.jsonl");
        assert_eq!(claims.len(), 3, "{claims:#?}");
        assert!(claims[2].starts_with("codex.exec.failed: failed Network"), "{claims:#?}");
        let claims = samples::claims("codex-exec-json/1", "codex/headless/err500.jsonl");
        assert!(claims[2].starts_with("codex.exec.failed: failed Server"), "{claims:#?}");
    }

    #[test]
    fn commands_have_exit_codes() {
        let claims = samples::claims("codex-exec-json/1", "codex/headless/tool_fail.jsonl");
        assert!(
            claims.contains(
                &"codex.exec.command: finished item_2 ok=Some(false) code=Some(3) \"running 2 tests\\ntest_sub ... FAILED\\n\""
                    .to_owned()
            ),
            "{claims:#?}"
        );
    }
}
