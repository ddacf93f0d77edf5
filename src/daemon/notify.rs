//! `[notify] command`: told once, for each thing that needs a human.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;

use super::Daemon;
use crate::clock::{self, Timestamp};
use crate::extract::event::{Body, Event};
use crate::queue::task::TaskState;

/// How long the command may take; then it is killed.
const LIMIT: Duration = Duration::from_secs(10);

/// Commands at a time; further ones wait.
const AT_ONCE: usize = 4;

/// How long one limit of a provider is told once, where nothing says when it ends.
const LIMIT_TOLD: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// Whether the event is one that a human should hear of.
fn needs_a_human(event: &Event) -> bool {
    match &event.body {
        Body::TaskState { state, .. } => {
            matches!(TaskState::parse(state), Some(TaskState::Asking | TaskState::Review))
        }
        // Within a task the state tells; here somebody else's prompt is concerned.
        Body::PermissionAsked(_) | Body::QuestionAsked(_) => event.attempt.is_none(),
        Body::LimitReached { .. } => true,
        _ => false,
    }
}

/// Runs the command for events from now on, until the daemon ends.
pub(super) async fn run(daemon: Arc<Daemon>) {
    let mut bus = daemon.bus.subscribe();
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut told: HashMap<String, Timestamp> = HashMap::new();
    loop {
        let event = match bus.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "some events were not looked at for notices");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let command = daemon.config().notify.command.clone();
        if command.is_empty() || !needs_a_human(&event) || already_told(&daemon, &event, &mut told) {
            continue;
        }
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        tokio::spawn(async move {
            if let Err(e) = tell(&command, &event).await {
                tracing::warn!(command = command[0], error = %e, "notify");
            }
            drop(slot);
        });
    }
}

/// A limit binds a provider: its other sessions run into the same one.
fn already_told(daemon: &Daemon, event: &Event, told: &mut HashMap<String, Timestamp>) -> bool {
    let Body::LimitReached { resets_at, .. } = &event.body else { return false };
    let pack = event.run.as_ref().and_then(|id| daemon.runs.get(id)).map(|run| run.spec.pack.clone());
    let provider = pack.and_then(|id| daemon.packs().get(&id).and_then(|p| p.provider.clone())).unwrap_or_default();
    let now = clock::wall();
    if told.get(&provider).is_some_and(|until| *until > now) {
        return true;
    }
    let until = resets_at.or_else(|| now.checked_add(LIMIT_TOLD).ok()).unwrap_or(now);
    told.insert(provider, until);
    false
}

async fn tell(command: &[String], event: &Event) -> std::io::Result<()> {
    let mut child = tokio::process::Command::new(&command[0])
        .args(&command[1..])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .process_group(0)
        .spawn()?;
    let mut line = serde_json::to_vec(event).map_err(std::io::Error::other)?;
    line.push(b'\n');
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read is as good as one that does.
            let _ = stdin.write_all(&line).await;
        }
        child.wait().await
    };
    match tokio::time::timeout(LIMIT, talk).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(std::io::Error::other(status.to_string())),
        Ok(Err(e)) => Err(e),
        Err(_) => Err(std::io::Error::other("it took longer than 10 seconds and was ended")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::event::{Ask, Source};
    use crate::ids::{AttemptKey, TaskId};

    fn event(body: Body, attempt: Option<AttemptKey>) -> Event {
        Event {
            id: Some(1),
            seq: None,
            ts: Timestamp::UNIX_EPOCH,
            t: None,
            host: "h".into(),
            session: None,
            run: None,
            attempt,
            body,
            source: Source::Daemon,
            rule: "x".into(),
            span: None,
        }
    }

    #[test]
    fn people_hear_of_questions_and_doubts_once() {
        let state = |s: &str| Body::TaskState { state: s.into(), was: "running".into(), reason: None };
        let ask = Ask { hash: "h".into(), tool: None, text: "may I?".into(), options: Vec::new(), exact: true };
        let key = AttemptKey { task: TaskId(1), attempt: 1, fence: 1 };
        assert!(needs_a_human(&event(state("asking"), Some(key))));
        assert!(needs_a_human(&event(state("review"), Some(key))));
        assert!(!needs_a_human(&event(state("completed"), Some(key))));
        assert!(!needs_a_human(&event(Body::PermissionAsked(ask.clone()), Some(key))), "the task's state tells");
        assert!(needs_a_human(&event(Body::PermissionAsked(ask), None)));
    }
}
