//! What has to be done now and then: old runs, tasks and events go, and the database has a backup.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Daemon;
use crate::clock;
use crate::pty::record::{self, Keep};

const HOUR: Duration = Duration::from_secs(3600);

/// Rounds between two backups.
const BACKUP_EVERY: u32 = 24;

const DAY_SECS: u64 = 86_400;

/// Looks after the state folder, hourly, until the daemon ends.
pub(super) async fn run(daemon: Arc<Daemon>) {
    for round in 0u32.. {
        sweep(&daemon).await;
        // Opening the store made a backup; the next one is a day later.
        if round % BACKUP_EVERY == BACKUP_EVERY - 1
            && let Err(e) = daemon.store.backup().await
        {
            tracing::error!(error = %e, "back up the queue database");
        }
        tokio::select! {
            () = daemon.stopping() => return,
            () = tokio::time::sleep(HOUR) => {}
        }
    }
}

async fn sweep(daemon: &Daemon) {
    let keep = daemon.config().retention.clone();
    let age = |days: u32| Duration::from_secs(u64::from(days) * DAY_SECS);
    let (state, runs) = (
        daemon.state.clone(),
        Keep { record_bytes: keep.total_mib.saturating_mul(1024 * 1024), age: age(keep.runs_days) },
    );
    match tokio::task::spawn_blocking(move || record::sweep(&state, runs, SystemTime::now())).await {
        Ok(Ok(gone)) if gone.is_empty() => {}
        Ok(Ok(gone)) => tracing::info!(folders = gone.len(), "old runs swept"),
        Ok(Err(e)) => tracing::warn!(error = %e, "sweep old runs"),
        Err(e) => tracing::error!(error = %e, "sweep old runs"),
    }
    let before =
        jiff::SignedDuration::try_from(age(keep.tasks_days)).ok().and_then(|d| clock::wall().checked_sub(d).ok());
    let Some(before) = before else { return };
    match daemon.store.prune(before).await {
        Ok(pruned) => tracing::debug!(?pruned, "old tasks and events"),
        Err(e) => tracing::warn!(error = %e, "remove old tasks and events"),
    }
}
