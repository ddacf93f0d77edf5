//! `codex-notify/1`: the JSON Codex gives its notify program as last argument. Told on success only, and also for the
//! hidden thread that makes up a title.

use serde_json::Value;

use super::json::{list, owned, required};
use super::{Report, Sheet};
use crate::extract::event::Source;
use crate::extract::signal::Claim;

/// How the hidden thread's prompt begins.
const TITLE_PROMPT: &str = "Generate a concise, single-line task title";

pub(super) fn decode(payload: &Value) -> Result<Vec<Report>, String> {
    let mut sheet = Sheet::new(Source::Notify);
    if required(payload, "/type")? != "agent-turn-complete" {
        return Ok(Vec::new());
    }
    let hidden = list(payload, "/input-messages")
        .first()
        .and_then(Value::as_str)
        .is_some_and(|m| m.trim_start().starts_with(TITLE_PROMPT));
    if !hidden {
        sheet.thread = owned(payload, "/thread-id");
        sheet.turn = owned(payload, "/turn-id");
        sheet.say("codex.notify", Claim::TurnDone { answer: owned(payload, "/last-assistant-message") });
    }
    Ok(sheet.reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_title_thread_is_not_the_users_turn() {
        let told = |message: &str| {
            let payload = serde_json::json!({
                "type": "agent-turn-complete", "thread-id": "t", "turn-id": "u", "cwd": "/tmp/demo", "client": "codex-tui",
                "input-messages": [message], "last-assistant-message": "Done."
            });
            decode(&payload).unwrap().len()
        };
        assert_eq!(told("What does add do?"), 1);
        assert_eq!(told("Generate a concise, single-line task title for this"), 0);
    }
}
