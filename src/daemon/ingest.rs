//! Journals into the store: each line exactly once, whoever dies in between.
//!
//! While a run lives its control socket streams the lines; once it is dead the rest is read from the file. The store
//! keeps the cursor in the same transaction as the lines, so that being killed anywhere costs a second look, never a
//! second event.

use std::time::Duration;

use super::runs::LiveRun;
use crate::clock;
use crate::extract::event::{AskKind, Body, Event};
use crate::ids::RunId;
use crate::pty::journal::JournalReader;
use crate::pty::rundir;
use crate::queue::store::{EventFilter, Store, StoreError, Tx};

/// Lines that go into one transaction.
const BATCH: usize = 256;

/// How long after its folder was made a run without a journal counts as starting, not as dead.
const BIRTH: jiff::SignedDuration = jiff::SignedDuration::from_secs(15);

/// First and longest pause before something that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Reads the run's journal into the store until the run has ended and its `run.exited` is stored.
pub(super) async fn follow(store: &Store, run: &LiveRun) {
    let mut pause = RETRY.0;
    while let Err(e) = store.add_run(run.spec.clone()).await {
        tracing::error!(run = %run.id(), error = %e, "register the run");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
    if let Ok(status) = run.status().await {
        run.catch_up(&status);
    }
    loop {
        match live(store, run).await {
            Ok(true) => pause = RETRY.0,
            Ok(false) => {}
            Err(e) => tracing::warn!(run = %run.id(), error = %e, "ingest"),
        }
        if !rundir::is_alive(&run.dir) && !is_being_born(run) {
            match rest(store, run).await {
                Ok(()) => return,
                // Whatever it is, a disk or a database that was moved: without its end the run would hold its seat for ever.
                Err(e) => tracing::warn!(run = %run.id(), error = %e, "ingest the end of the journal"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Whether its wrapper may be about to take the lock: the folder comes first, the lock a moment later.
fn is_being_born(run: &LiveRun) -> bool {
    let empty = std::fs::metadata(run.dir.events()).map_or(true, |m| m.len() == 0);
    let age = clock::wall().duration_since(run.spec.created);
    empty && age.abs() < BIRTH
}

/// Streams from the control socket until it ends; whether anything came.
async fn live(store: &Store, run: &LiveRun) -> Result<bool, StoreError> {
    let from = store.cursor(run.id().clone()).await? + 1;
    let Ok(ctl) = run.ctl().await else { return Ok(false) };
    let Ok(mut events) = ctl.subscribe(from).await else { return Ok(false) };
    let mut any = false;
    loop {
        let first = match events.next().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(any),
            Err(e) => {
                tracing::debug!(run = %run.id(), error = %e, "subscription ended");
                return Ok(any);
            }
        };
        any = true;
        // What else is there already shares the transaction.
        let mut batch = vec![first];
        while batch.len() < BATCH {
            tokio::select! {
                biased;
                next = events.next() => match next {
                    Ok(Some(event)) => batch.push(event),
                    _ => break,
                },
                () = std::future::ready(()) => break,
            }
        }
        take(store, run, batch).await?;
    }
}

/// Reads what the file holds beyond the cursor, and records an end where the wrapper could not.
async fn rest(store: &Store, run: &LiveRun) -> Result<(), StoreError> {
    loop {
        let from = store.cursor(run.id().clone()).await? + 1;
        let path = run.dir.events();
        let read = tokio::task::spawn_blocking(move || read(&path, from)).await;
        let batch = read.expect("reading a journal does not panic").unwrap_or_else(|e| {
            tracing::warn!(run = %run.id(), error = %e, "read the journal of a dead run");
            Vec::new()
        });
        if batch.is_empty() {
            break;
        }
        take(store, run, batch).await?;
    }
    // A wrapper that was killed left no `run.exited`: the daemon's own event says so, once.
    let id = run.id().clone();
    store
        .write(move |tx| {
            tx.end_run(&id, "wrapper_lost", None, None)?;
            tx.close_asks(&id)
        })
        .await?;
    if run.seen().end.is_none() {
        let filter =
            EventFilter { run: Some(run.id().clone()), kinds: vec!["run.exited".into()], ..EventFilter::default() };
        run.publish(store.last_events(filter, 1).await?);
    }
    Ok(())
}

/// The next lines of a journal; one that cannot be read as an event is skipped with a word in the log.
fn read(path: &std::path::Path, from: u64) -> std::io::Result<Vec<Event>> {
    let mut reader = match JournalReader::open(path, from) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut batch = Vec::new();
    while batch.len() < BATCH {
        let Some(line) = reader.next_line()? else { break };
        match line.event() {
            Ok(event) => batch.push(event),
            Err(e) => tracing::warn!(path = %path.display(), seq = line.seq, error = %e, "journal line"),
        }
    }
    Ok(batch)
}

/// Stores a batch with what follows from it, in one transaction; then shows it to whoever watches the run.
async fn take(store: &Store, run: &LiveRun, batch: Vec<Event>) -> Result<(), StoreError> {
    patiently(|| {
        let (id, batch) = (run.id().clone(), batch.clone());
        store.write(move |tx| {
            tx.ingest(&id, batch.clone())?;
            batch.iter().try_for_each(|event| approvals(tx, &id, event))
        })
    })
    .await?;
    run.publish(batch);
    Ok(())
}

/// What a run asks stays open in the store until it is answered or no longer asked.
fn approvals(tx: &mut Tx<'_>, run: &RunId, event: &Event) -> Result<(), StoreError> {
    match &event.body {
        Body::PermissionAsked(ask) => tx.ask(run, event.attempt, AskKind::Permission, ask).map(drop),
        Body::QuestionAsked(ask) => tx.ask(run, event.attempt, AskKind::Question, ask).map(drop),
        Body::PermissionAnswered { .. }
        | Body::QuestionAnswered { .. }
        | Body::TurnStarted {}
        | Body::TurnCompleted { .. }
        | Body::TurnFailed { .. }
        | Body::TurnInterrupted { .. }
        | Body::RunExited { .. } => tx.close_asks(run),
        _ => Ok(()),
    }
}

/// Tries again for as long as the error passes by itself: a full disk or a locked database loses no line (F41, F42).
async fn patiently<T, F>(mut f: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = RETRY.0;
    loop {
        match f().await {
            Err(e) if e.is_retryable() => {
                tracing::warn!(error = %e, "store");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
            other => return other,
        }
    }
}
