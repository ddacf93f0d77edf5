//! `POST /v1/responses`, streamed.

use std::collections::HashMap;
use std::io;

use serde_json::{Value, json};

use super::http::Reply;
use super::scenario::{Item, call};
use super::{Ask, content_text};

pub(super) fn answer(body: &Value, reply: &Reply<'_>) -> io::Result<()> {
    let mut tools = HashMap::new();
    collect(body.get("tools"), &mut tools);
    let schema = body.pointer("/text/format/schema");
    let (mut prompts, mut step) = (Vec::new(), 0);
    for item in body.get("input").and_then(Value::as_array).into_iter().flatten() {
        if item["type"].as_str().is_some_and(|t| t.ends_with("_output")) {
            step += 1;
        } else if item["role"] == "user" {
            let text = content_text(&item["content"]);
            // What the agent itself tells of its surroundings is no prompt.
            if !text.trim_start().starts_with('<') && !text.trim().is_empty() {
                prompts.push(text);
                step = 0;
            }
        }
    }
    let main = !tools.is_empty() && schema.is_none();
    let conversation = body.get("prompt_cache_key").and_then(Value::as_str).unwrap_or("-").to_owned();
    let (number, items) =
        reply.shared.decide(Ask { dialect: "responses", main, conversation, prompts, step, tools: &tools, schema });
    if let Some(Item::Error { status, message, code, headers, extra, .. }) = items.first() {
        let mut error = json!({ "message": message, "type": code, "param": null, "code": code });
        if let (Some(error), Some(extra)) = (error.as_object_mut(), extra.as_object()) {
            error.extend(extra.clone());
        }
        reply.json(*status, headers, &json!({ "error": error }))?;
        reply.shared.answered(number);
        return Ok(());
    }
    let id = reply.shared.id("resp");
    let model = body.get("model").cloned().unwrap_or_default();
    let response = |status: &str, output: &[Value]| json!({ "id": id, "object": "response", "created_at": 0, "model": model, "status": status, "output": output });
    let mut sequence = 0;
    let mut event = |mut data: Value| {
        data["sequence_number"] = json!(sequence);
        sequence += 1;
        reply.event(&data)
    };
    reply.start_stream("text/event-stream")?;
    event(json!({ "type": "response.created", "response": response("in_progress", &[]) }))?;
    let mut output = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let item_id = reply.shared.id("item");
        let full = if let Item::Text { text, .. } = item {
            let part = json!({ "type": "output_text", "text": "", "annotations": [] });
            event(json!({ "type": "response.output_item.added", "output_index": index, "item":
                { "type": "message", "id": item_id, "role": "assistant", "status": "in_progress", "content": [] } }))?;
            event(
                json!({ "type": "response.content_part.added", "item_id": item_id, "output_index": index, "content_index": 0, "part": part }),
            )?;
            reply.pieces(item, |piece| {
                event(json!({ "type": "response.output_text.delta", "item_id": item_id, "output_index": index, "content_index": 0, "delta": piece }))
            })?;
            event(
                json!({ "type": "response.output_text.done", "item_id": item_id, "output_index": index, "content_index": 0, "text": text }),
            )?;
            json!({ "type": "message", "id": item_id, "role": "assistant", "status": "completed",
                    "content": [{ "type": "output_text", "text": text, "annotations": [] }] })
        } else {
            let Some((name, arguments)) = call(&tools, item, ".") else { continue };
            let call_id = format!("call_{item_id}");
            let full = if tools[&name].get("__custom").is_some() {
                json!({ "type": "custom_tool_call", "id": item_id, "call_id": call_id, "name": name, "input": arguments["input"], "status": "completed" })
            } else {
                json!({ "type": "function_call", "id": item_id, "call_id": call_id, "name": name, "arguments": arguments.to_string(), "status": "completed" })
            };
            let mut added = full.clone();
            if added.get("arguments").is_some() {
                added["arguments"] = json!("");
            }
            event(json!({ "type": "response.output_item.added", "output_index": index, "item": added }))?;
            full
        };
        event(json!({ "type": "response.output_item.done", "output_index": index, "item": full }))?;
        output.push(full);
    }
    let mut done = response("completed", &output);
    done["usage"] = json!({ "input_tokens": 1000, "input_tokens_details": { "cached_tokens": 0 }, "output_tokens": 50,
        "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 1050 });
    event(json!({ "type": "response.completed", "response": done }))?;
    reply.end_stream()?;
    reply.shared.answered(number);
    Ok(())
}

/// Tools by name, those inside a namespace too.
fn collect(list: Option<&Value>, tools: &mut HashMap<String, Value>) {
    for tool in list.and_then(Value::as_array).into_iter().flatten() {
        if tool["type"] == "namespace" {
            collect(tool.get("tools"), tools);
            continue;
        }
        let Some(name) = tool["name"].as_str().or_else(|| tool["type"].as_str()) else { continue };
        let parameters = if tool["type"] == "custom" {
            json!({ "__custom": true })
        } else {
            tool.get("parameters").cloned().unwrap_or_default()
        };
        tools.insert(name.to_owned(), parameters);
    }
}
