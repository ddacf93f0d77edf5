//! Recorded payloads of the real agents, and a short form of claims to compare with.

use std::path::Path;

use serde_json::Value;

use super::decode;
use crate::extract::event::Body;
use crate::extract::signal::{Claim, Signal};

/// The payloads of a recording: one a line, for hooks inside an envelope with the time and the hook's name.
pub(super) fn payloads(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|v| v.get("arg").is_none_or(|arg| arg != "statusLine"))
        .map(|mut v| v.get_mut("stdin").map(Value::take).unwrap_or(v))
        .collect()
}

/// What the adapter makes of a recording, one line a claim.
pub(super) fn claims(adapter: &str, file: &str) -> Vec<String> {
    payloads(file).iter().flat_map(|p| decode(adapter, p).unwrap()).map(|s| line(&s)).collect()
}

/// A claim in one line.
pub(super) fn line(signal: &Signal) -> String {
    let or_dash = |t: &Option<String>| t.as_ref().map_or("-".to_owned(), |t| format!("{t:?}"));
    let what = match &signal.claim {
        Claim::Conversation { id, .. } => format!("conversation {}", &id[..id.len().min(8)]),
        Claim::PromptTaken { text } => format!("prompt {}", or_dash(text)),
        Claim::TurnDone { answer } => format!("done {}", or_dash(answer)),
        Claim::TurnFailed { reason, message } => format!("failed {reason:?} {message:?}"),
        Claim::Asked { kind, tool, text, options, .. } => {
            format!("asked {kind:?} {} {text:?} {options:?}", tool.as_deref().unwrap_or("-"))
        }
        Claim::Answered { allowed, answer } => format!("answered allowed={allowed:?} {}", or_dash(answer)),
        Claim::Content(body) => match body.as_ref() {
            Body::Message { text, .. } => format!("message {text:?}"),
            Body::CodeBlock { lang, text, .. } => format!("code {lang:?} {text:?}"),
            Body::ToolStarted { id, name, .. } => format!("tool {name} {}", id.as_deref().unwrap_or("-")),
            Body::ToolFinished { id, ok, exit_code, output, .. } => {
                format!("finished {} ok={ok:?} code={exit_code:?} {}", id.as_deref().unwrap_or("-"), or_dash(output))
            }
            Body::Usage { input_tokens: Some(i), output_tokens: Some(o), .. } => format!("usage Some({i}) Some({o})"),
            other => format!("{other:?}"),
        },
        other => format!("{other:?}").to_lowercase(),
    };
    format!("{}: {what}", signal.rule)
}
