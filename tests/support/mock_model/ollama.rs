//! `/api/chat`, `/api/generate` and what the client asks around them.

use std::collections::HashMap;
use std::io;

use serde_json::{Value, json};

use super::Ask;
use super::http::Reply;
use super::scenario::Item;

fn model() -> Value {
    json!({ "name": "mock-model:latest", "model": "mock-model:latest", "modified_at": "2026-01-01T00:00:00Z", "size": 1000,
        "digest": "0".repeat(64), "details": { "parent_model": "", "format": "gguf", "family": "mock", "families": ["mock"],
        "parameter_size": "1B", "quantization_level": "Q4_0" } })
}

pub(super) fn get(path: &str, reply: &Reply<'_>) -> io::Result<()> {
    match path {
        "/api/tags" => reply.json(200, &[], &json!({ "models": [model()] })),
        "/api/version" => reply.json(200, &[], &json!({ "version": "0.0.0-mock" })),
        "/api/ps" => reply.json(200, &[], &json!({ "models": [] })),
        _ => reply.not_found(),
    }
}

pub(super) fn post(path: &str, body: &Value, reply: &Reply<'_>) -> io::Result<()> {
    match path {
        "/api/chat" | "/api/generate" => answer(path == "/api/chat", body, reply),
        "/api/show" if body["model"] == "missing" => {
            reply.json(404, &[], &json!({ "error": "model 'missing' not found" }))
        }
        "/api/show" => reply.json(200, &[], &json!({ "modelfile": "FROM mock", "parameters": "", "template": "{{ .Prompt }}",
            "details": model()["details"], "model_info": { "general.architecture": "mock", "mock.context_length": 8192 },
            "capabilities": ["completion"] })),
        "/api/me" => reply.json(401, &[], &json!({ "error": "unauthorized" })),
        "/api/pull" => reply.json(500, &[], &json!({ "error": "pull model manifest: file does not exist" })),
        _ => reply.not_found(),
    }
}

fn answer(chat: bool, body: &Value, reply: &Reply<'_>) -> io::Result<()> {
    let prompts: Vec<String> = if chat {
        let messages = body.get("messages").and_then(Value::as_array).into_iter().flatten();
        messages.filter(|m| m["role"] == "user").filter_map(|m| m["content"].as_str().map(str::to_owned)).collect()
    } else {
        body["prompt"].as_str().filter(|p| !p.is_empty()).map(str::to_owned).into_iter().collect()
    };
    let line = |text: &str, done: bool| {
        let mut value = json!({ "model": body["model"], "created_at": "2026-01-01T00:00:00Z", "done": done });
        if chat {
            value["message"] = json!({ "role": "assistant", "content": text });
        } else {
            value["response"] = json!(text);
        }
        if done {
            value["done_reason"] = json!(if prompts.is_empty() { "load" } else { "stop" });
            value["eval_count"] = json!(50);
        }
        value
    };
    if prompts.is_empty() {
        return reply.json(200, &[], &line("", true)); // the model is to be loaded
    }
    let ask = Ask {
        dialect: "ollama",
        main: true,
        conversation: "ollama".into(),
        prompts: prompts.clone(),
        step: 0,
        tools: &HashMap::new(),
        schema: None,
    };
    let (number, items) = reply.shared.decide(ask);
    if let Some(Item::Error { status, message, headers, .. }) = items.first() {
        reply.json(*status, headers, &json!({ "error": message }))?;
    } else if body.get("stream") == Some(&Value::Bool(false)) {
        let text: String =
            items.iter().map(|i| if let Item::Text { text, .. } = i { text.as_str() } else { "" }).collect();
        reply.json(200, &[], &line(&text, true))?;
    } else {
        reply.start_stream("application/x-ndjson")?;
        for item in &items {
            reply.pieces(item, |piece| reply.chunk(&format!("{}\n", line(piece, false))))?;
        }
        reply.chunk(&format!("{}\n", line("", true)))?;
        reply.end_stream()?;
    }
    reply.shared.answered(number);
    Ok(())
}
