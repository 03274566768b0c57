//! One gateway per state folder: a lock of the operating system, which ends with its process, and a note that says
//! who holds it.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use clawstead_terms::Millis;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const LOCK_FILE: &str = "gateway.lock";
const NOTE_FILE: &str = "gateway.lock.json";

/// Who uses a state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// The port it listens on.
    pub port: u16,
    /// The config file it was started with.
    pub config_path: PathBuf,
    /// When it started.
    pub started_at_ms: Millis,
}

/// Why a state folder could not be taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// A living process has it.
    #[error("{0}")]
    Held(HeldBy),
    /// The lock file cannot be made.
    #[error("{path} cannot be locked: {why}", path = path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        why: io::Error,
    },
}

/// A living process that holds a state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBy {
    /// The folder.
    pub folder: PathBuf,
    /// What its note says; `None` in the instant before it is written.
    pub holder: Option<Holder>,
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is in use by ", self.folder.display())?;
        match &self.holder {
            Some(holder) => write!(
                f,
                "the gateway with pid {}, port {}, config {}: use that one, stop it (`openclaw gateway stop` or `kill {}`), or set another OPENCLAW_STATE_DIR",
                holder.pid,
                holder.port,
                holder.config_path.display(),
                holder.pid
            ),
            None => f.write_str("another gateway: stop it, or set another OPENCLAW_STATE_DIR"),
        }
    }
}

/// A state folder that is ours until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct StateDirLock {
    note: PathBuf,
    // The lock lives as long as the open file.
    _file: File,
}

impl StateDirLock {
    /// Takes a folder, which must exist. What a dead process left behind does not block.
    ///
    /// # Errors
    /// [`LockError::Held`] with the living holder, [`LockError::Io`] when the folder cannot be written.
    pub fn acquire(folder: &Path, holder: &Holder) -> Result<Self, LockError> {
        let path = folder.join(LOCK_FILE);
        let io = |why| LockError::Io { path: path.clone(), why };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held(HeldBy { folder: folder.into(), holder: Self::holder(folder) }));
            }
            Err(TryLockError::Error(why)) => return Err(io(why)),
        }
        let note = folder.join(NOTE_FILE);
        // Beside and renamed, so that a reader never sees half a note.
        let part = folder.join(format!("{NOTE_FILE}.part"));
        let text = serde_json::to_string_pretty(holder).map_err(|err| io(err.into()))?;
        fs::write(&part, text + "\n").and_then(|()| fs::rename(&part, &note)).map_err(io)?;
        Ok(Self { note, _file: file })
    }

    /// What the note in a folder says; the process it names may be dead.
    #[must_use]
    pub fn holder(folder: &Path) -> Option<Holder> {
        serde_json::from_slice(&fs::read(folder.join(NOTE_FILE)).ok()?).ok()
    }
}

impl Drop for StateDirLock {
    fn drop(&mut self) {
        // The lock file itself stays: removing it would let two processes lock two files of one name.
        let _ = fs::remove_file(&self.note);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clawstead_terms::Millis;

    use super::{Holder, LockError, StateDirLock};

    #[test]
    fn one_holder_at_a_time_and_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let me = Holder { pid: 4711, port: 18789, config_path: "/etc/openclaw.json".into(), started_at_ms: Millis(5) };
        let lock = StateDirLock::acquire(folder.path(), &me).unwrap();
        let Err(LockError::Held(held)) = StateDirLock::acquire(folder.path(), &Holder { pid: 1, ..me.clone() }) else { panic!("two holders") };
        assert_eq!(held.holder.as_ref(), Some(&me));
        let text = held.to_string();
        for part in ["4711", "18789", "/etc/openclaw.json", "OPENCLAW_STATE_DIR"] {
            assert!(text.contains(part), "{text}");
        }
        drop(lock);
        // What a killed process leaves behind: both files, no lock.
        fs::write(folder.path().join("gateway.lock.json"), serde_json::to_string(&me).unwrap()).unwrap();
        let again = StateDirLock::acquire(folder.path(), &Holder { pid: 2, ..me }).unwrap();
        assert_eq!(StateDirLock::holder(folder.path()).unwrap().pid, 2);
        drop(again);
        assert_eq!(StateDirLock::holder(folder.path()), None);
    }
}
