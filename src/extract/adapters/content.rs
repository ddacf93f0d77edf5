//! What reports say about the inside of a turn, as the events they become.

use serde_json::Value;

use crate::extract::event::{Body, MAX_TEXT_BYTES, capped};

/// Returns the event of one message; the machine finds the code blocks in it.
pub(super) fn message(text: &str) -> Option<Body> {
    if text.trim().is_empty() {
        return None;
    }
    let (text, truncated) = capped(text.to_owned(), MAX_TEXT_BYTES);
    Some(Body::Message { text, exact: true, truncated })
}

/// Returns the end of a tool call.
pub(super) fn tool_finished(
    id: Option<String>,
    name: &str,
    ok: Option<bool>,
    exit_code: Option<i32>,
    output: Option<String>,
) -> Body {
    let (output, truncated) = match output.map(|o| capped(o, MAX_TEXT_BYTES)) {
        Some((output, truncated)) => (Some(output), truncated),
        None => (None, false),
    };
    Body::ToolFinished { id, name: name.to_owned(), ok, exit_code, output, truncated }
}

/// Returns what a permission request is about, in full: the command where there is one, else the tool and its input.
pub(super) fn wanted(tool: &str, input: &Value) -> String {
    match input.get("command").and_then(Value::as_str) {
        Some(command) => command.to_owned(),
        None => format!("{tool} {input}"),
    }
}
