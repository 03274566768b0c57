use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};

use super::{Options, fault};
use crate::TxError;

/// Marks the file as ours (`PRAGMA application_id`): "Claw".
const APPLICATION_ID: i64 = 0x436c_6177;
/// How long a write waits for another process (a backup tool, `doctor`) that holds the file's write lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Prepared statements kept per connection; there are about a dozen.
const STATEMENTS_MAX: usize = 24;

/// Each step is run once, in one transaction with its number. Steps only add; a released step never changes.
const STEPS: [&str; 1] = ["
CREATE TABLE fence(unit TEXT NOT NULL PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT NOT NULL, incarnation INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE doc(unit TEXT NOT NULL, tbl TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, version INTEGER NOT NULL,
  PRIMARY KEY(unit, tbl, key)) STRICT, WITHOUT ROWID;
CREATE TABLE journal(unit TEXT NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL, event TEXT NOT NULL,
  PRIMARY KEY(unit, stream, seq)) STRICT, WITHOUT ROWID;
"];

/// Opens the connection that writes. The first call of a store also checks and migrates.
pub(super) fn open_writer(path: &Path, options: &Options) -> Result<Connection, TxError> {
    let explain = |err: rusqlite::Error| fault::explain(path, &err, false);
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(explain)?;
    conn.busy_timeout(LOCK_WAIT).map_err(explain)?;
    refuse_strangers(&conn, path)?;
    let mode: String = conn.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).map_err(explain)?;
    if mode != "wal" {
        let why = format!("its journal mode stays {mode}; write-ahead logging needs a local disk");
        return Err(TxError::ReadOnly { path: path.display().to_string(), why });
    }
    // Checkpoints are ours to time, see the writer. `fullfsync` matters on macOS, where fsync alone is not durable.
    let pages = options.cache_kib_writer;
    conn.execute_batch(&format!(
        "PRAGMA synchronous=FULL; PRAGMA fullfsync=1; PRAGMA checkpoint_fullfsync=1; PRAGMA cache_size=-{pages}; PRAGMA temp_store=MEMORY;
         PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit=16777216; PRAGMA foreign_keys=0; PRAGMA trusted_schema=0;"
    ))
    .map_err(explain)?;
    // SQLite ignores a pragma it does not understand; durability is not left to that.
    let synchronous: i64 = conn.query_row("PRAGMA synchronous", [], |row| row.get(0)).map_err(explain)?;
    if synchronous < 2 {
        return Err(TxError::ReadOnly { path: path.display().to_string(), why: "SQLite does not sync each commit here".into() });
    }
    if let Some(pages) = options.pages_max {
        conn.query_row(&format!("PRAGMA max_page_count={pages}"), [], |row| row.get::<_, i64>(0)).map_err(explain)?;
    }
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(conn)
}

/// Opens a connection that only reads. Needs a writer that is open.
pub(super) fn open_reader(path: &Path, options: &Options) -> Result<Connection, TxError> {
    let explain = |err: rusqlite::Error| fault::explain(path, &err, false);
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(explain)?;
    conn.busy_timeout(LOCK_WAIT).map_err(explain)?;
    conn.execute_batch(&format!("PRAGMA cache_size=-{}; PRAGMA temp_store=MEMORY;", options.cache_kib_reader)).map_err(explain)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(conn)
}

/// Makes the file with mode 0600 where it is not there, and takes rights away from others where it is.
pub(super) fn prepare_file(path: &Path) -> Result<(), TxError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let outcome = options.open(path).and_then(|file| {
        restrict(&file)?;
        sync_folder(path)
    });
    outcome.map_err(|err| explain_io(path, &err))
}

#[cfg(unix)]
fn restrict(file: &File) -> io::Result<()> {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 == 0 { Ok(()) } else { file.set_permissions(Permissions::from_mode(0o600)) }
}

#[cfg(not(unix))]
fn restrict(_file: &File) -> io::Result<()> {
    Ok(())
}

/// A new name in a folder is durable only when the folder is synced.
#[cfg(unix)]
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
pub(super) fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn explain_io(path: &Path, err: &io::Error) -> TxError {
    let path = path.display().to_string();
    match err.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => TxError::Full { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            TxError::ReadOnly { path, why: format!("{err}; the gateway's user must own the file and its folder") }
        }
        io::ErrorKind::NotFound => TxError::ReadOnly { path, why: format!("{err}; the folder must exist") },
        _ => TxError::Away { path, why: err.to_string(), maybe: false },
    }
}

fn refuse_strangers(conn: &Connection, path: &Path) -> Result<(), TxError> {
    let explain = |err: rusqlite::Error| fault::explain(path, &err, false);
    let id: i64 = conn.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(explain)?;
    let things: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(explain)?;
    if id == APPLICATION_ID || (id == 0 && things == 0) {
        return Ok(());
    }
    Err(TxError::Invalid { what: path.display().to_string(), why: "it is a database of another program; give the gateway a state folder of its own".into() })
}

/// Brings an older or empty file up to date; refuses a newer one.
pub(super) fn migrate(conn: &mut Connection, path: &Path) -> Result<(), TxError> {
    let explain = |err: rusqlite::Error| fault::explain(path, &err, false);
    let known = STEPS.len() as u64;
    let version = |conn: &Connection| -> rusqlite::Result<u64> {
        let there: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema WHERE type='table' AND name='schema_version'", [], |row| row.get(0))?;
        if there == 0 { Ok(0) } else { conn.query_row("SELECT version FROM schema_version", [], |row| row.get::<_, i64>(0)).map(crate::rules::unsigned) }
    };
    let found = version(conn).map_err(explain)?;
    if found == known {
        return Ok(());
    }
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(explain)?;
    // Again under the lock: another process may have migrated meanwhile.
    let found = version(&tx).map_err(explain)?;
    if found > known {
        return Err(TxError::Schema { path: path.display().to_string(), found, known });
    }
    if found == 0 {
        tx.execute_batch(&format!(
            "PRAGMA application_id={APPLICATION_ID}; CREATE TABLE schema_version(version INTEGER NOT NULL) STRICT; INSERT INTO schema_version VALUES(0);"
        ))
        .map_err(explain)?;
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        tx.execute_batch(step).map_err(explain)?;
    }
    tx.execute("UPDATE schema_version SET version=?1", [crate::rules::signed(known)]).map_err(explain)?;
    tx.commit().map_err(explain)
}

/// SQLite removes the write-ahead log when it closes in order; a log with content means it did not.
pub(super) fn was_killed(path: &Path) -> bool {
    std::fs::metadata(beside(path, "-wal")).is_ok_and(|meta| meta.len() > 0)
}

/// Looks for damaged pages for at most `limit`; a file too large for that is looked at as far as time allows.
pub(super) fn check(conn: &Connection, path: &Path, limit: Duration) -> Result<(), TxError> {
    const STEPS_BETWEEN_LOOKS: i32 = 10_000;
    let explain = |err: rusqlite::Error| fault::explain(path, &err, false);
    let end = Instant::now() + limit;
    conn.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || Instant::now() >= end)).map_err(explain)?;
    let outcome = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    conn.progress_handler(0, None::<fn() -> bool>).map_err(explain)?;
    match outcome {
        Ok(word) if word == "ok" => Ok(()),
        Ok(why) => Err(TxError::Corrupt { path: path.display().to_string(), why: format!("{}; {}", why.replace('\n', " "), fault::WAY_OUT) }),
        Err(err) if err.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) => {
            tracing::info!(path = %path.display(), "the state file is too large to check all of it at start; `openclaw doctor` does");
            Ok(())
        }
        Err(err) => Err(explain(err)),
    }
}

/// A file that lies beside another and shares its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
