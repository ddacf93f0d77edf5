//! `codex-hooks/1`: what Codex writes to a hook's standard input.
//!
//! A failed turn fires no hook and tool results carry no exit code: both come from the rollout.

use serde_json::Value;

use super::json::{owned, required, text};
use super::{Report, Sheet, content};
use crate::extract::event::{AskKind, Source};
use crate::extract::signal::Claim;

pub(super) fn decode(payload: &Value) -> Result<Vec<Report>, String> {
    let event = required(payload, "/hook_event_name")?;
    let mut sheet = Sheet::new(Source::Hook);
    sheet.thread = owned(payload, "/session_id");
    sheet.turn = owned(payload, "/turn_id");
    match event {
        // At the first prompt, not at launch.
        "SessionStart" => {
            let id = required(payload, "/session_id")?.to_owned();
            let transcript = text(payload, "/transcript_path").map(Into::into);
            sheet.say("codex.session_start", Claim::Conversation { id, transcript });
        }
        "UserPromptSubmit" => {
            sheet.say("codex.prompt_submit", Claim::PromptTaken { text: owned(payload, "/prompt") });
        }
        "PermissionRequest" => {
            let tool = text(payload, "/tool_name").unwrap_or("a tool");
            let input = payload.get("tool_input").unwrap_or(&Value::Null);
            let claim = Claim::Asked {
                kind: AskKind::Permission,
                tool: Some(tool.to_owned()),
                text: content::wanted(tool, input),
                options: Vec::new(),
                exact: true,
            };
            sheet.say("codex.permission_request", claim);
        }
        "Stop" => sheet.say("codex.stop", Claim::TurnDone { answer: owned(payload, "/last_assistant_message") }),
        "Interrupt" => sheet.say("codex.interrupt", Claim::Interrupted),
        _ => {}
    }
    Ok(sheet.reports)
}

#[cfg(test)]
mod tests {
    use super::super::samples;

    #[test]
    fn prompt_permission_and_end_are_told() {
        assert_eq!(
            samples::claims("codex-hooks/1", "codex/hooks/perm.jsonl"),
            [
                "codex.session_start: conversation 01a1fb6b",
                "codex.prompt_submit: prompt \"Create the approval file.\"",
                "codex.permission_request: asked Permission Bash \"touch approved.txt && echo created\" []",
                "codex.stop: done \"The file `approved.txt` was handled as you decided.\"",
            ]
        );
    }

    #[test]
    fn an_interrupt_is_told() {
        let claims = samples::claims("codex-hooks/1", "codex/hooks/interrupt.jsonl");
        assert_eq!(claims.last().unwrap(), "codex.interrupt: interrupted");
    }
}
