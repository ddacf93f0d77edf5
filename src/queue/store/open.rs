//! Opening: permissions, damage, backups, schema versions.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{M, Migrations};

use super::{StoreError, read_only, restored};
use crate::clock::{self, Timestamp};

/// Every schema so far, oldest first; a shipped one never changes.
const MIGRATIONS: &[M<'static>] =
    &[M::up(include_str!("../migrations/0001_start.sql")), M::up(include_str!("../migrations/0002_proof.sql"))];

/// How long to wait for another program that holds the file (F42).
const BUSY: Duration = Duration::from_secs(5);

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    dev: u64,
    ino: u64,
}

impl Identity {
    /// The file at `path` now.
    pub fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self { dev: meta.dev(), ino: meta.ino() })
    }
}

/// What a damaged database meant: the backup of that time is in use now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What was wrong.
    pub what: String,
    /// Where the damaged file was kept.
    pub kept: PathBuf,
    /// When the backup that took its place was made; what happened since is lost unless the journals tell.
    pub restored_from: Timestamp,
    /// Tasks that are held now, since nobody knows whether they were done since.
    pub held: u64,
}

pub(super) struct Opened {
    pub(super) conn: Connection,
    pub(super) identity: Identity,
    pub(super) damage: Option<Damage>,
}

pub(super) fn open(path: &Path) -> Result<Opened, StoreError> {
    let fresh = create_private(path)?;
    let (mut conn, damage) = if fresh {
        (connect(path)?, None)
    } else {
        match connect(path).and_then(|conn| sound(&conn).map(|()| conn)) {
            Ok(conn) => (conn, None),
            Err(e) => match damage_in(&e) {
                Some(what) => restore(path, what).map(|(conn, damage)| (conn, Some(damage)))?,
                None => return Err(e),
            },
        }
    };
    migrate(&mut conn, path, fresh)?;
    let identity = Identity::of(path).ok_or_else(|| StoreError::Gone { path: path.to_owned() })?;
    Ok(Opened { conn, identity, damage })
}

/// A sound connection to a database that was open before, after an error; damage is not repaired behind its users.
pub(super) fn reopen(path: &Path) -> Result<Connection, StoreError> {
    let conn = connect(path)?;
    sound(&conn)?;
    Ok(conn)
}

/// A connection that only reads.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    let conn = Connection::open_with_flags(path, read_only()).map_err(|e| failed(path, &e))?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// Checks that a connection can read the database, and that this program knows its schema.
pub(super) fn readable(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let found: i64 = conn
        .query_row("SELECT user_version FROM pragma_user_version, sqlite_master LIMIT 1", [], |r| r.get(0))
        .map_err(|e| match e {
            rusqlite::Error::QueryReturnedNoRows => {
                StoreError::Open { path: path.to_owned(), why: "it has no schema".to_owned() }
            }
            e => failed(path, &e),
        })?;
    let known = i64::try_from(MIGRATIONS.len()).expect("schemas are few");
    if found > known { Err(StoreError::Newer { path: path.to_owned(), found, known }) } else { Ok(()) }
}

/// Whether a log lies beside the database, with what is not in it yet.
pub(super) fn has_log(path: &Path) -> bool {
    fs::metadata(with_suffix(path, "-wal")).is_ok_and(|m| m.len() > 0)
}

/// Creates the file with mode 0600 whatever the umask, before SQLite does it its way (T21). True where it is empty.
fn create_private(path: &Path) -> Result<bool, StoreError> {
    let opened = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = opened.map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::ReadOnly { path: path.to_owned() }
        }
        _ => StoreError::Open { path: path.to_owned(), why: e.to_string() },
    })?;
    let why = |e: io::Error| StoreError::Open { path: path.to_owned(), why: e.to_string() };
    let meta = file.metadata().map_err(why)?;
    if meta.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(why)?;
    }
    // An emptied file beside a backup is damage, not a first start.
    Ok(meta.len() == 0 && !backup_of(path).exists())
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(|e| failed(path, &e))?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(128);
    let set = || -> rusqlite::Result<String> {
        let mode: String = conn.pragma_update_and_check(None, "journal_mode", "wal", |r| r.get(0))?;
        conn.pragma_update(None, "synchronous", "full")?;
        conn.pragma_update(None, "foreign_keys", true)?;
        conn.pragma_update(None, "temp_store", "memory")?;
        Ok(mode)
    };
    match set().map_err(|e| failed(path, &e))?.as_str() {
        "wal" => Ok(conn),
        // Network file systems have no shared memory (F48).
        other => Err(StoreError::Open {
            path: path.to_owned(),
            why: format!("its file system allows only journal mode {other}, not wal: use a local disk"),
        }),
    }
}

/// Marks an error as damage, to be told apart from every other one by [`damage_in`].
const DAMAGE: &str = "damaged: ";

fn failed(path: &Path, e: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseCorrupt, DatabaseLocked, DiskFull, NotADatabase, PermissionDenied, ReadOnly,
    };
    match e.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => StoreError::Open { path: path.to_owned(), why: format!("{DAMAGE}{e}") },
        Some(ReadOnly | PermissionDenied) => StoreError::ReadOnly { path: path.to_owned() },
        Some(DatabaseBusy | DatabaseLocked) => StoreError::Busy,
        Some(DiskFull) => StoreError::Full,
        Some(CannotOpen) | Some(_) | None => StoreError::Open { path: path.to_owned(), why: e.to_string() },
    }
}

fn damage_in(e: &StoreError) -> Option<String> {
    match e {
        StoreError::Open { why, .. } => why.strip_prefix(DAMAGE).map(str::to_owned),
        _ => None,
    }
}

/// Checks the pages, and that there is a schema.
fn sound(conn: &Connection) -> Result<(), StoreError> {
    let path = PathBuf::from(conn.path().unwrap_or_default());
    let check = || -> rusqlite::Result<Option<String>> {
        let said: String = conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
        if said != "ok" {
            return Ok(Some(said));
        }
        let version: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
        let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_master", [], |r| r.get(0))?;
        // A first start that was killed before its schema was in leaves an empty file and no backup.
        let unborn = tables == 0 && !backup_of(&path).exists();
        Ok((version == 0 && !unborn).then(|| "it has no schema".to_owned()))
    };
    match check().map_err(|e| failed(&path, &e))? {
        None => Ok(()),
        Some(what) => Err(StoreError::Open { path, why: format!("{DAMAGE}{what}") }),
    }
}

/// Brings the schema up to date in one transaction, with a backup first (F49).
fn migrate(conn: &mut Connection, path: &Path, fresh: bool) -> Result<(), StoreError> {
    let found: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    let known = i64::try_from(MIGRATIONS.len()).expect("schemas are few");
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    if found < known && !fresh {
        backup(conn, path)?;
    }
    Migrations::from_slice(MIGRATIONS)
        .to_latest(conn)
        .map_err(|e| StoreError::Open { path: path.to_owned(), why: e.to_string() })
}

fn backup_of(path: &Path) -> PathBuf {
    with_suffix(path, ".bak")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// One backup at a time: two would write one temporary file.
static BACKING_UP: Mutex<()> = Mutex::new(());

/// Copies the database to `<path>.bak` by way of a temporary file, so that a crash leaves the older backup.
pub(super) fn backup(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let why = |e: io::Error| StoreError::Open { path: backup_of(path), why: e.to_string() };
    let part = with_suffix(path, ".bak.part");
    let _one = BACKING_UP.lock().unwrap_or_else(PoisonError::into_inner);
    match fs::remove_file(&part) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(why(e)),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(why)?;
    {
        let mut to = Connection::open(&part)?;
        // In one step, hence from one snapshot: between two steps a busy queue would make it start over.
        Backup::new(conn, &mut to)?.run_to_completion(i32::MAX, Duration::ZERO, None)?;
        // A plain file without a log beside it.
        to.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
    }
    fs::rename(&part, backup_of(path)).map_err(why)
}

/// Backs up now, and then `every` so often until `closed` is: on a thread and a connection of its own, so that a large
/// queue does not delay anybody.
pub(super) fn back_up_regularly(path: PathBuf, every: Duration, closed: Receiver<()>) {
    let work = move || {
        loop {
            if let Err(e) = reader(&path).and_then(|conn| backup(&conn, &path)) {
                tracing::warn!(path = %path.display(), error = %e, "no backup of the queue database");
            }
            if closed.recv_timeout(every) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    };
    let started = std::thread::Builder::new().name("store-backup".to_owned()).spawn(work);
    drop(started.expect("a thread can be started when the daemon starts"));
}

/// Sets the damaged file aside (never removes it) and puts the backup in its place.
fn restore(path: &Path, what: String) -> Result<(Connection, Damage), StoreError> {
    let why = |e: io::Error| StoreError::Open { path: path.to_owned(), why: e.to_string() };
    let kept =
        (1..).map(|n| with_suffix(path, &format!(".damaged-{n}"))).find(|p| !p.exists()).expect("some number is free");
    let from = backup_of(path);
    let good = reader(&from).and_then(|conn| sound(&conn)).is_ok();
    if !good {
        // The file stays where it is, so that the next start refuses as well and never begins empty.
        fs::copy(path, &kept).map_err(why)?;
        return Err(StoreError::Corrupt { path: path.to_owned(), what, kept });
    }
    let restored_from = fs::metadata(&from).and_then(|m| m.modified()).map_err(why)?;
    let restored_from = Timestamp::try_from(restored_from).unwrap_or(Timestamp::UNIX_EPOCH);
    for suffix in ["-wal", "-shm"] {
        match fs::rename(with_suffix(path, suffix), with_suffix(&kept, suffix)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(why(e)),
            _ => {}
        }
    }
    fs::rename(path, &kept).map_err(why)?;
    let part = with_suffix(path, ".restore");
    fs::copy(&from, &part).map_err(why)?;
    let held = restored::hold_all(&mut Connection::open(&part)?, restored_from, clock::wall())?;
    fs::File::open(&part).and_then(|f| f.sync_all()).map_err(why)?;
    fs::rename(&part, path).map_err(why)?;
    tracing::error!(path = %path.display(), kept = %kept.display(), what, "queue database was damaged; backup restored");
    Ok((connect(path)?, Damage { what, kept, restored_from, held }))
}
