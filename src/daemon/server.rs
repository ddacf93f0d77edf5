//! Answers `daemon.sock`: our own user only (T22), bounded in connections and line lengths (T28, F67).

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::Daemon;
use super::rpc::{Call, Hello, MAX_LINE_BYTES, PROTO, Reply, Request};
use super::service::{self, Sink};
use crate::ctl::Refusal;
use crate::extract::event::Event;

/// Connections at a time; one more waits to be accepted.
const MAX_CONNECTIONS: usize = 256;

/// How long a client may take for its first line.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// How long a client may leave our bytes unread before it is dropped.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// Accepts connections until dropped.
pub(super) async fn accept(daemon: Arc<Daemon>, listener: UnixListener) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) if crate::sock::peer_is_us(&stream) => {
                let daemon = daemon.clone();
                tokio::spawn(async move {
                    if let Err(e) = serve(daemon, stream).await {
                        tracing::debug!(error = %e, "connection ended");
                    }
                    drop(slot);
                });
            }
            Ok(_) => tracing::warn!("a connection of another user was refused"),
            // Out of descriptors (F63): the live connections go on, this one is tried again.
            Err(e) => {
                tracing::warn!(error = %e, "accept on daemon.sock");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn serve(daemon: Arc<Daemon>, stream: UnixStream) -> std::io::Result<()> {
    let peer = crate::sock::peer_pid(&stream);
    let (read, write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut out = Out { write, id: 0 };
    let hello =
        tokio::time::timeout(HELLO_PATIENCE, line(&mut read)).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    let Some(hello) = hello else { return Ok(()) };
    out.line(&Hello::ours(daemon.is_idle().await)).await?;
    match serde_json::from_slice::<Hello>(&hello) {
        Ok(theirs) if theirs.proto == PROTO => {}
        // They read our versions and say in their own words what to do.
        _ => return Ok(()),
    }
    while let Some(request) = line(&mut read).await? {
        let Request { id, call } = match serde_json::from_slice(&request) {
            Ok(request) => request,
            Err(e) => {
                let id = serde_json::from_slice::<Value>(&request).ok().and_then(|v| v["id"].as_u64()).unwrap_or(0);
                let message = format!("understand this request: {e}");
                out.line(&Reply {
                    id,
                    error: Some(Refusal { code: "bad_request".into(), message }),
                    ..Reply::default()
                })
                .await?;
                continue;
            }
        };
        out.id = id;
        let answer = match daemon.may_ask(peer, &call) {
            Err(refusal) => Err(refusal),
            Ok(()) => tokio::select! {
                answer = answer(&daemon, call, &mut out) => answer,
                () = hung_up(&mut read) => return Ok(()),
            },
        };
        let reply = match answer {
            Ok(result) => Reply { id, result: Some(result), ..Reply::default() },
            Err(refusal) => Reply { id, error: Some(refusal), ..Reply::default() },
        };
        out.line(&reply).await?;
    }
    Ok(())
}

/// Reads one line without its end; `None` at the end of the stream.
async fn line(read: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let n = read.take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line).await?;
    match line.pop_if(|b| *b == b'\n') {
        Some(_) => Ok(Some(line)),
        None if n == 0 => Ok(None),
        None if n > MAX_LINE_BYTES => Err(std::io::Error::other("the line is too long")),
        None => Ok(None),
    }
}

/// Returns once the client is gone; a request sent ahead of its turn stays where it is.
async fn hung_up(read: &mut (impl AsyncBufRead + Unpin)) {
    match read.fill_buf().await {
        Ok(buffered) if !buffered.is_empty() => std::future::pending().await,
        _ => {}
    }
}

/// The writing half of a connection.
pub(super) struct Out {
    write: OwnedWriteHalf,
    id: u64,
}

impl Out {
    async fn line(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(value).map_err(std::io::Error::other)?;
        line.push(b'\n');
        tokio::time::timeout(WRITE_PATIENCE, self.write.write_all(&line))
            .await
            .map_err(|_| std::io::ErrorKind::TimedOut)?
    }
}

impl Sink for Out {
    async fn item(&mut self, event: &Event) -> Result<(), Refusal> {
        let reply = Reply { id: self.id, item: Some(value(event)?), ..Reply::default() };
        self.line(&reply).await.map_err(|e| service::refuse("gone", e))
    }
}

fn value(result: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(result).map_err(|e| service::refuse("internal", e))
}

/// The one place that knows which function answers which call.
async fn answer(daemon: &Arc<Daemon>, call: Call, out: &mut Out) -> Result<Value, Refusal> {
    match call {
        Call::TaskAdd { tasks } => value(&daemon.add_tasks(tasks).await?),
        Call::TaskLs(query) => value(&daemon.tasks(query).await?),
        Call::TaskShow { id } => value(&daemon.task_view(id).await?),
        Call::TaskWhy { id } => value(&daemon.why(id).await?),
        Call::TaskWait(wanted) => value(&daemon.wait(wanted).await?),
        Call::TaskAnswer { id, text, hash } => value(&daemon.answer(id, text, hash).await?),
        Call::TaskVerb { ids, verb, note } => value(&daemon.say(ids, &verb, note).await?),
        Call::Events(query) => daemon.events(query, out).await,
        Call::Ls {} => value(&daemon.seats_view().await?),
        Call::PoolUp(asked) => value(&daemon.pool_up(asked).await?),
        Call::PoolDown { name } => value(&daemon.seats.pool_down(&name).await?),
        Call::PoolLs {} => value(&daemon.pools().await?),
        Call::PoolScale { name, size } => value(&daemon.pool_scale(&name, size).await?),
        Call::PoolRestart { name } => value(&daemon.pool_restart(&name).await?),
        Call::SessionStart(asked) => value(&daemon.session_start(asked).await?),
        Call::SessionStop { name } => value(&daemon.seats.session_stop(&name).await?),
        Call::SessionShow { name } => value(&daemon.session_view(&name).await?),
        Call::SessionSend { name, text } => value(&daemon.session_send(&name, &text).await?),
        Call::Status {} => value(&daemon.overview().await?),
        Call::Stop {} => {
            daemon.stop();
            Ok(Value::Null)
        }
        Call::Reload {} => daemon.reload().map(|()| Value::Null).map_err(|e| service::refuse("config", e)),
    }
}
