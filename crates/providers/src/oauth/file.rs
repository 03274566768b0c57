//! `auth-profiles.json` of an agent: read, and changed under a lock that other processes see.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::Tokens;

/// Its name in an agent's folder.
pub const AUTH_FILE: &str = "auth-profiles.json";

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub enum AuthFileError {
    /// From the disk.
    #[error("{path}: {err}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// The cause.
        err: std::io::Error,
    },
    /// It holds something else. It is left alone.
    #[error("{path} is not valid JSON (line {line}); mend it or move it away")]
    Garbage {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
    },
}

/// The profiles of one agent. All methods block for the disk.
#[derive(Clone, Debug)]
pub struct AuthFile {
    path: PathBuf,
}

/// Held while the file changes; other processes wait. Ends when dropped, or with the process.
#[derive(Debug)]
pub struct AuthLock {
    _file: fs::File,
}

impl AuthFile {
    /// The file of an agent's folder.
    #[must_use]
    pub fn of(agent_dir: &Path) -> Self {
        Self { path: agent_dir.join(AUTH_FILE) }
    }

    /// At this path.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds; an empty store when there is no file.
    ///
    /// # Errors
    /// When it cannot be read or is no JSON.
    pub fn read(&self) -> Result<Value, AuthFileError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(json!({"version": 1, "profiles": {}})),
            Err(err) => return Err(self.disk(err)),
        };
        let mut store: Value = serde_json::from_slice(&text).map_err(|err| AuthFileError::Garbage { path: self.path.clone(), line: err.line() })?;
        if !store.is_object() {
            return Err(AuthFileError::Garbage { path: self.path.clone(), line: 1 });
        }
        if !store["profiles"].is_object() {
            store["profiles"] = json!({});
        }
        Ok(store)
    }

    /// Waits until no other process changes the file.
    ///
    /// # Errors
    /// When the lock's own file cannot be made.
    pub fn lock(&self) -> Result<AuthLock, AuthFileError> {
        if let Some(dir) = self.path.parent().filter(|dir| !dir.is_dir()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|err| self.disk(err))?;
        }
        let path = self.path.with_extension("json.lock");
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(|err| self.disk(err))?;
        file.lock().map_err(|err| self.disk(err))?;
        Ok(AuthLock { _file: file })
    }

    /// Changes the file under the lock.
    ///
    /// # Errors
    /// As for reading, and when it cannot be written; then the old one stays.
    pub fn change<T>(&self, change: impl FnOnce(&mut Value) -> T) -> Result<T, AuthFileError> {
        let lock = self.lock()?;
        self.change_locked(&lock, change)
    }

    /// As [`Self::change`], with the lock held already.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub fn change_locked<T>(&self, _lock: &AuthLock, change: impl FnOnce(&mut Value) -> T) -> Result<T, AuthFileError> {
        let mut store = self.read()?;
        let before = store.clone();
        let out = change(&mut store);
        if store != before {
            self.write(&store).map_err(|err| self.disk(err))?;
        }
        Ok(out)
    }

    /// Puts a profile in.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub fn put(&self, id: &str, profile: Value) -> Result<(), AuthFileError> {
        self.change(|store| {
            store["profiles"][id] = profile;
            // What was remembered of the old credential says nothing about the new one.
            if let Some(stats) = store.get_mut("usageStats").and_then(Value::as_object_mut) {
                stats.remove(id);
            }
        })
    }

    /// Takes a profile out, also of the orders; answers whether it was there.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub fn remove(&self, id: &str) -> Result<bool, AuthFileError> {
        self.change(|store| {
            let had = store["profiles"].as_object_mut().is_some_and(|profiles| profiles.shift_remove(id).is_some());
            for list in store.get_mut("order").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut).filter_map(Value::as_array_mut) {
                list.retain(|one| one != id);
            }
            if let Some(orders) = store.get_mut("order").and_then(Value::as_object_mut) {
                orders.retain(|_, list| list.as_array().is_none_or(|list| !list.is_empty()));
            }
            for key in ["lastGood", "usageStats"] {
                if let Some(map) = store.get_mut(key).and_then(Value::as_object_mut) {
                    map.retain(|name, value| name != id && value != id);
                }
            }
            had
        })
    }

    fn write(&self, store: &Value) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(store).unwrap_or_default() + "\n";
        let part = self.path.with_extension(format!("part.{}", std::process::id()));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, &self.path)
    }

    fn disk(&self, err: std::io::Error) -> AuthFileError {
        AuthFileError::Disk { path: self.path.clone(), err }
    }
}

/// Writes new tokens into a profile; a server that gives no new refresh token leaves the old one in force.
pub(super) fn renew(profile: &mut Value, tokens: &Tokens) {
    profile["access"] = tokens.access.expose().into();
    if let Some(refresh) = &tokens.refresh {
        profile["refresh"] = refresh.expose().into();
    }
    profile["expires"] = tokens.expires_at.into();
}
