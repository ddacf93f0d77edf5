//! `POST /v1/messages`, streamed and not.

use std::collections::HashMap;
use std::io;

use serde_json::{Value, json};

use super::http::Reply;
use super::scenario::{Item, call};
use super::{Ask, content_text};

pub(super) fn answer(body: &Value, reply: &Reply<'_>) -> io::Result<()> {
    let list = |key: &str| body.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let tools: HashMap<String, Value> = list("tools")
        .iter()
        .filter_map(|t| Some((t.get("name")?.as_str()?.to_owned(), t.get("input_schema").cloned().unwrap_or_default())))
        .collect();
    let schema = body.pointer("/output_config/format/schema").or_else(|| body.pointer("/output_format/schema"));
    let (mut prompts, mut step) = (Vec::new(), 0);
    for message in list("messages").iter().filter(|m| m["role"] == "user") {
        let results = message["content"]
            .as_array()
            .map_or(0, |parts| parts.iter().filter(|p| p["type"] == "tool_result").count());
        if results > 0 {
            step += results;
            continue;
        }
        let text = without_reminders(&content_text(&message["content"]));
        if !text.is_empty() {
            prompts.push(text);
            step = 0;
        }
    }
    let probe = body.get("max_tokens").and_then(Value::as_u64).is_some_and(|n| n <= 1);
    let main = !tools.is_empty() && schema.is_none() && !probe;
    let whole = body.to_string();
    let conversation = body.pointer("/metadata/user_id").and_then(Value::as_str).unwrap_or("-").to_owned();
    let (number, items) =
        reply.shared.decide(Ask { dialect: "anthropic", main, conversation, prompts, step, tools: &tools, schema });
    if let Some(Item::Error { status, kind, message, headers, .. }) = items.first() {
        let error = json!({ "type": "error", "error": { "type": kind, "message": message }, "request_id": "req_mock" });
        reply.json(*status, headers, &error)?;
        reply.shared.answered(number);
        return Ok(());
    }
    let cwd = working_directory(&whole);
    let mut blocks = Vec::new();
    for item in items {
        match &item {
            Item::Text { .. } => blocks.push((item, None)),
            _ => {
                if let Some(tool) = call(&tools, &item, &cwd) {
                    blocks.push((item, Some(tool)));
                }
            }
        }
    }
    let stop = if blocks.iter().any(|(_, tool)| tool.is_some()) { "tool_use" } else { "end_turn" };
    let id = reply.shared.id("msg");
    let model = body.get("model").cloned().unwrap_or_default();
    let usage = |output: u64| json!({ "input_tokens": 1000, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": output });
    let message = |content: Vec<Value>, stop: Option<&str>, output: u64| {
        json!({ "id": id, "type": "message", "role": "assistant", "model": model, "content": content,
                "stop_reason": stop, "stop_sequence": null, "usage": usage(output) })
    };
    if body.get("stream") != Some(&Value::Bool(true)) {
        let content = blocks
            .iter()
            .map(|(item, tool)| match (item, tool) {
                (_, Some((name, input))) => {
                    json!({ "type": "tool_use", "id": reply.shared.id("toolu"), "name": name, "input": input })
                }
                (Item::Text { text, .. }, None) => json!({ "type": "text", "text": text }),
                _ => Value::Null,
            })
            .collect();
        // A scenario that cuts the stream cuts this one as well.
        for (item, _) in blocks.iter().filter(|(i, _)| matches!(i, Item::Text { cut: Some(_), .. })) {
            reply.pieces(item, |_| Ok(()))?;
        }
        reply.json(200, &[], &message(content, Some(stop), 50))?;
        reply.shared.answered(number);
        return Ok(());
    }
    reply.start_stream("text/event-stream")?;
    reply.event(&json!({ "type": "message_start", "message": message(Vec::new(), None, 1) }))?;
    for (index, (item, tool)) in blocks.iter().enumerate() {
        let delta = |delta: Value| json!({ "type": "content_block_delta", "index": index, "delta": delta });
        let start = |block: Value| json!({ "type": "content_block_start", "index": index, "content_block": block });
        match tool {
            None => {
                reply.event(&start(json!({ "type": "text", "text": "" })))?;
                reply.pieces(item, |piece| reply.event(&delta(json!({ "type": "text_delta", "text": piece }))))?;
            }
            Some((name, input)) => {
                let id = reply.shared.id("toolu");
                reply.event(&start(json!({ "type": "tool_use", "id": id, "name": name, "input": {} })))?;
                reply.event(&delta(json!({ "type": "input_json_delta", "partial_json": input.to_string() })))?;
            }
        }
        reply.event(&json!({ "type": "content_block_stop", "index": index }))?;
    }
    let delta = json!({ "stop_reason": stop, "stop_sequence": null });
    reply.event(&json!({ "type": "message_delta", "delta": delta, "usage": { "output_tokens": 50 } }))?;
    reply.event(&json!({ "type": "message_stop" }))?;
    reply.end_stream()?;
    reply.shared.answered(number);
    Ok(())
}

/// The agent's own additions are no prompt.
fn without_reminders(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, tail)) = rest.split_once("<system-reminder>") {
        kept.push_str(before);
        rest = tail.split_once("</system-reminder>").map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    kept.trim().to_owned()
}

/// The agent tells the model where it is.
fn working_directory(body: &str) -> String {
    let found = body.split_once("working directory: ").map(|(_, tail)| tail);
    found.and_then(|t| t.split(['\\', '\n', '"']).next()).unwrap_or("/tmp").trim().to_owned()
}
