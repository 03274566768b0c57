//! The SQLite databases of OpenClaw since 2026.7: opened for reading only, never through their own write-ahead log.
//!
//! A database whose log is empty is opened as a file that does not change, which takes no locks and makes no files
//! beside it. One with a log is copied with it into a folder of its own first, because reading a log means writing
//! its index; the copy is removed afterwards.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, types::ValueRef};

use super::lines::{BEGINNING_BYTES, Extent, LINE_BYTES_MAX};

/// The newest schemas we have seen: shared and per agent.
const SCHEMA_KNOWN: [(&str, i64); 2] = [("global", 18), ("agent", 23)];

/// A database of the original.
pub struct Database {
    connection: Mutex<Connection>,
    /// Names of things to know: a schema newer than the known one.
    pub notice: Option<String>,
    copy: Option<PathBuf>,
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(copy) = &self.copy {
            let _ = fs::remove_dir_all(copy);
        }
    }
}

impl Database {
    /// Opens a database. `scratch` is a folder that may be made for a copy.
    ///
    /// # Errors
    /// When it cannot be read or is no database of the original.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self, String> {
        let log = path.with_file_name(format!("{}-wal", path.file_name().unwrap_or_default().to_string_lossy()));
        let (file, copy) = if fs::metadata(&log).is_ok_and(|meta| meta.len() > 0) {
            let copied = copy_pair(path, &log, scratch).map_err(|e| format!("it has a write-ahead log and could not be copied: {e}"))?;
            (copied, Some(scratch.to_owned()))
        } else {
            (path.to_owned(), None)
        };
        let opened = if copy.is_some() {
            Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        } else {
            let uri = format!("file:{}?mode=ro&immutable=1", escape(&file));
            Connection::open_with_flags(uri, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        };
        let connection = match opened {
            Ok(connection) => connection,
            Err(err) => {
                if let Some(copy) = &copy {
                    let _ = fs::remove_dir_all(copy);
                }
                return Err(err.to_string());
            }
        };
        let mut database = Self { connection: Mutex::new(connection), notice: None, copy };
        database.notice = database.check()?;
        Ok(database)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<Option<String>, String> {
        let found: Option<(String, i64)> = self
            .lock()
            .query_row("select role, schema_version from schema_meta where meta_key = 'primary'", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(|e| format!("it is not a database of OpenClaw, or damaged: {e}"))?;
        let Some((role, version)) = found else { return Err("it is not a database of OpenClaw: schema_meta has no row".into()) };
        let known = SCHEMA_KNOWN.iter().find(|(name, _)| *name == role).map_or(0, |(_, version)| *version);
        Ok((version > known).then(|| format!("it has schema {version}, the newest known one is {known}; what has the known form is read")))
    }

    /// True when there is such a table.
    pub fn has(&self, table: &str) -> bool {
        self.lock().query_row("select 1 from sqlite_master where type = 'table' and name = ?1", [table], |_| Ok(())).is_ok()
    }

    /// How many rows a table has; 0 when it is not there.
    pub fn count(&self, table: &'static str) -> u64 {
        if !self.has(table) {
            return 0;
        }
        self.lock().query_row(&format!("select count(*) from {table}"), [], |row| row.get::<_, i64>(0)).map_or(0, |n| u64::try_from(n).unwrap_or(0))
    }

    /// Rows of a query.
    ///
    /// # Errors
    /// When a table or column is missing, or the file is damaged.
    pub fn rows<T>(&self, sql: &str, mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>, String> {
        let connection = self.lock();
        let mut statement = connection.prepare(sql).map_err(|e| e.to_string())?;
        let rows = statement.query_map([], |row| read(row)).map_err(|e| e.to_string())?;
        rows.collect::<Result<_, _>>().map_err(|e| e.to_string())
    }

    /// Hands the transcript lines of a session to `each`, in order.
    ///
    /// # Errors
    /// When the database is damaged.
    pub fn events(&self, session: &str, each: &mut dyn FnMut(u64, &[u8], Extent)) -> Result<(), String> {
        let connection = self.lock();
        let mut statement =
            connection.prepare("select seq, event_json, event_zstd from transcript_events where session_id = ?1 order by seq").map_err(|e| e.to_string())?;
        let mut rows = statement.query([session]).map_err(|e| e.to_string())?;
        while let Some(row) = rows.next().map_err(|e| e.to_string())? {
            let seq = row.get::<_, i64>(0).map_or(0, |n| u64::try_from(n).unwrap_or(0));
            match plain(row) {
                Some(line) if line.len() > LINE_BYTES_MAX => each(seq, &line[..BEGINNING_BYTES], Extent::Beginning),
                Some(line) => each(seq, &line, Extent::Whole),
                None => each(seq, b"", Extent::Unreadable),
            }
        }
        Ok(())
    }

    /// One line of [`Self::events`].
    ///
    /// # Errors
    /// When the database is damaged.
    pub fn event(&self, session: &str, seq: u64) -> Result<Vec<u8>, String> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("select seq, event_json, event_zstd from transcript_events where session_id = ?1 and seq = ?2")
            .map_err(|e| e.to_string())?;
        let seq = i64::try_from(seq).unwrap_or(i64::MAX);
        let line = statement.query_row(rusqlite::params![session, seq], |row| Ok(plain(row))).map_err(|e| e.to_string())?;
        line.ok_or_else(|| "its compressed form cannot be read".into())
    }
}

/// The text of an event, unpacked where it is compressed.
fn plain(row: &Row<'_>) -> Option<Vec<u8>> {
    if let Ok(ValueRef::Text(text)) = row.get_ref(1) {
        return Some(text.to_vec());
    }
    let Ok(ValueRef::Blob(packed)) = row.get_ref(2) else { return None };
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed).ok()?;
    let mut out = Vec::new();
    // One byte more than allowed tells that it is too long; a small blob may claim to hold anything.
    let bound = LINE_BYTES_MAX as u64 + 1;
    decoder.take(bound).read_to_end(&mut out).ok()?;
    Some(out)
}

fn copy_pair(path: &Path, log: &Path, scratch: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    if scratch.exists() {
        fs::remove_dir_all(scratch)?;
    }
    fs::DirBuilder::new().mode(0o700).create(scratch)?;
    let copied = (|| {
        let to = scratch.join("copy.sqlite");
        fs::copy(path, &to)?;
        fs::copy(log, scratch.join("copy.sqlite-wal"))?;
        Ok(to)
    })();
    if copied.is_err() {
        let _ = fs::remove_dir_all(scratch);
    }
    copied
}

/// A path as part of a `file:` address.
fn escape(path: &Path) -> String {
    let mut out = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'%' | b'?' | b'#' => out.push_str(&format!("%{byte:02x}")),
            0x80.. => out.push_str(&format!("%{byte:02x}")),
            _ => out.push(char::from(*byte)),
        }
    }
    out
}
