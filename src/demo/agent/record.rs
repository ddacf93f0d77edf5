//! Session files as the real agents append them: only the lines that tell something.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// A session file; nothing is written where its folder cannot be made.
#[derive(Debug)]
pub(super) struct Transcript {
    path: PathBuf,
    file: Option<File>,
    session: String,
    cwd: PathBuf,
}

impl Transcript {
    /// The transcript of a conversation of the claude dialect.
    pub(super) fn claude(session: &str, cwd: &Path) -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let folder: String =
            cwd.to_string_lossy().chars().map(|c| if c == '/' || c == '.' { '-' } else { c }).collect();
        let path = home.join(".claude/projects").join(folder).join(format!("{session}.jsonl"));
        Self { path, file: None, session: session.to_owned(), cwd: cwd.to_owned() }
    }

    /// The rollout of a thread of the codex dialect.
    pub(super) fn codex(thread: &str, cwd: &Path) -> Self {
        let home = std::env::var_os("CODEX_HOME").map(PathBuf::from);
        let home =
            home.unwrap_or_else(|| std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default().join(".codex"));
        let day = super::clock("%Y/%m/%d");
        let name = format!("rollout-{}-{thread}.jsonl", super::clock("%Y-%m-%dT%H-%M-%S"));
        Self {
            path: home.join("sessions").join(day).join(name),
            file: None,
            session: thread.to_owned(),
            cwd: cwd.to_owned(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line as it is.
    fn line(&mut self, value: &Value) {
        if self.file.is_none() {
            let open = |path: &Path| {
                path.parent().map(std::fs::create_dir_all).transpose()?;
                File::options().append(true).create(true).open(path)
            };
            self.file = open(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(format!("{value}\n").as_bytes());
        }
    }

    fn claude_line(&mut self, kind: &str, more: Value) {
        let mut value = json!({
            "type": kind,
            "uuid": uuid::Uuid::new_v4().to_string(),
            "timestamp": jiff::Timestamp::now(),
            "cwd": self.cwd,
            "sessionId": self.session,
            "version": "2.1.329",
        });
        if let (Some(all), Value::Object(more)) = (value.as_object_mut(), more) {
            all.extend(more);
        }
        self.line(&value);
    }

    pub(super) fn prompt(&mut self, prompt_id: &str, text: &str) {
        self.claude_line("user", json!({"promptId": prompt_id, "message": {"role": "user", "content": text}}));
    }

    pub(super) fn said(&mut self, text: &str, stop: &str) {
        let message = json!({"type": "message", "role": "assistant", "model": "claude-opus-5-5",
            "content": [{"type": "text", "text": text}], "stop_reason": stop});
        self.claude_line("assistant", json!({"message": message}));
    }

    pub(super) fn ended(&mut self) {
        self.claude_line("system", json!({"subtype": "turn_duration"}));
    }

    pub(super) fn failed(&mut self, status: u16, text: &str) {
        let message = json!({"role": "assistant", "model": "<synthetic>", "content": [{"type": "text", "text": text}]});
        self.claude_line("assistant", json!({"isApiErrorMessage": true, "apiErrorStatus": status, "message": message}));
    }

    pub(super) fn interrupted(&mut self, prompt_id: &str) {
        let content = json!([{"type": "text", "text": "[Request interrupted by user]"}]);
        self.claude_line(
            "user",
            json!({"interruptedMessageId": prompt_id, "message": {"role": "user", "content": content}}),
        );
    }

    /// Appends a rollout line.
    pub(super) fn rollout(&mut self, kind: &str, payload: Value) {
        let value = json!({"timestamp": jiff::Timestamp::now(), "type": kind, "payload": payload});
        self.line(&value);
    }
}
