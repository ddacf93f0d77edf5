//! Looking at the database without changing it: with a store, or without one where no daemon runs (F45).

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::sessions::{self, Session};
use super::tasks::{self, TaskFilter};
use super::{Attempt, Store, StoreError, attempts, open, read_only};
use crate::clock::Timestamp;
use crate::queue::task::{Task, TaskState};

/// What can be looked at.
pub struct Look<'c> {
    conn: &'c Connection,
}

impl Look<'_> {
    /// Lists tasks.
    pub fn tasks(&self, filter: &TaskFilter) -> Result<Vec<Task>, StoreError> {
        tasks::list(self.conn, filter)
    }

    /// How many tasks are in each state that any task is in.
    pub fn count_tasks(&self) -> Result<Vec<(TaskState, u64)>, StoreError> {
        tasks::count(self.conn)
    }

    /// Every session, by name.
    pub fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        sessions::all(self.conn)
    }

    /// Every attempt that holds a session, with its task.
    pub fn live_attempts(&self) -> Result<Vec<(Attempt, Task)>, StoreError> {
        attempts::live(self.conn)
    }

    /// Providers that are parked, until when, and why.
    pub fn parked(&self) -> Result<Vec<(String, Timestamp, String)>, StoreError> {
        sessions::parked(self.conn)
    }
}

impl Store {
    /// Looks at one state of the database, off the async threads.
    pub async fn look<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Look<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.read(move |conn| f(&Look { conn })).await
    }
}

/// Looks at the database at `path`, which nobody needs to own; none where there is none. Nothing is created or repaired.
pub fn look<T>(path: &Path, f: impl FnOnce(&Look<'_>) -> Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::Open { path: path.to_owned(), why: e.to_string() }),
        Ok(_) => {}
    }
    let conn = open::reader(path)?;
    let conn = match open::readable(&conn, path) {
        // A log needs a file beside it even to be read. On a read-only disk there can be none, and where no log was left
        // the database is whole without.
        Err(StoreError::Open { .. } | StoreError::ReadOnly { .. }) if !open::has_log(path) => {
            let conn = Connection::open_with_flags(immutable(path), read_only() | OpenFlags::SQLITE_OPEN_URI)?;
            open::readable(&conn, path)?;
            conn
        }
        other => other.map(|()| conn)?,
    };
    f(&Look { conn: &conn }).map(Some)
}

/// The address of a database that does not change while it is read.
fn immutable(path: &Path) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    let encoded: String = path
        .as_os_str()
        .as_bytes()
        .iter()
        .map(|b| if plain(*b) { char::from(*b).to_string() } else { format!("%{b:02X}") })
        .collect();
    format!("file:{encoded}?immutable=1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::store::Options;

    #[test]
    fn an_address_keeps_every_byte_of_a_path() {
        assert_eq!(immutable(Path::new("/a b/50%?#/q.db")), "file:/a%20b/50%25%3F%23/q.db?immutable=1");
    }

    #[tokio::test]
    async fn f45_a_database_without_an_owner_is_read_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.db");
        assert!(look(&path, |_| Ok(())).unwrap().is_none());
        assert!(!path.exists());
        let spec = serde_json::from_value(serde_json::json!({ "prompt": "x", "cwd": "/src" })).unwrap();
        let store = Store::open_with(&path, Options { backup_every: None, ..Options::default() }).unwrap();
        store.add_task(spec).await.unwrap();
        store.backup().await.unwrap();
        let count = |look: &Look<'_>| look.count_tasks();
        // Beside its owner, and after it.
        assert_eq!(look(&path, count).unwrap(), Some(vec![(TaskState::Queued, 1)]));
        drop(store);
        assert_eq!(look(&path, count).unwrap(), Some(vec![(TaskState::Queued, 1)]));
        // As one without a log is read where no file can be made beside it.
        let whole = dir.path().join("q.db.bak");
        assert!(!open::has_log(&whole));
        let conn = Connection::open_with_flags(immutable(&whole), read_only() | OpenFlags::SQLITE_OPEN_URI).unwrap();
        assert_eq!(count(&Look { conn: &conn }).unwrap(), [(TaskState::Queued, 1)]);
    }

    #[test]
    fn f45_what_is_no_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.db");
        fs::write(&path, vec![7; 8192]).unwrap();
        let error = look(&path, |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("q.db") && !error.contains('\n'), "{error}");
        assert_eq!(fs::read(&path).unwrap(), vec![7; 8192]);
    }
}
