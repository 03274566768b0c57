//! The key files of a gateway and of the farm's root.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use clawstead_cluster::keys::{FarmRoot, GatewayKey, KeyFileError};
use clawstead_world::Rng;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is not there.
    #[error("{path} does not exist: {hint}")]
    Missing {
        /// The file.
        path: String,
        /// The way out.
        hint: &'static str,
    },
    /// It cannot be read or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        why: std::io::Error,
    },
    /// Others may read it.
    #[error("{path} can be read by others (mode {mode:o}): chmod 600 it, and rotate the key if somebody may have read it")]
    Open {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// It is no key.
    #[error("{path}: {why}")]
    Key {
        /// The file.
        path: String,
        /// What is wrong.
        why: KeyFileError,
    },
}

/// Where a gateway's farm keys lie: the one that signs now, and one that is to sign next.
#[derive(Clone, Debug)]
pub struct KeyFolder(PathBuf);

impl KeyFolder {
    /// Below a state folder.
    #[must_use]
    pub fn of(state_dir: &Path) -> Self {
        Self(state_dir.join("identity/farm"))
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Where each start notes its lease.
    #[must_use]
    pub fn lease(&self) -> PathBuf {
        self.0.join("lease.json")
    }

    /// The file of the key that signs.
    #[must_use]
    pub fn current(&self) -> PathBuf {
        self.0.join("gateway.pem")
    }

    /// The file of the key that is to sign after a rotation.
    #[must_use]
    pub fn next(&self) -> PathBuf {
        self.0.join("gateway-next.pem")
    }

    /// The key that signs.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn load(&self, gateway: &str) -> Result<GatewayKey, KeyError> {
        load(&self.current(), gateway)
    }

    /// The key that signs, made if there is none.
    ///
    /// # Errors
    /// When it cannot be read or made.
    pub fn load_or_make(&self, gateway: &str, rng: &dyn Rng) -> Result<GatewayKey, KeyError> {
        match self.load(gateway) {
            Err(KeyError::Missing { .. }) => make(&self.current(), gateway, rng),
            other => other,
        }
    }

    /// The key that waits for its turn.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn load_next(&self, gateway: &str) -> Result<GatewayKey, KeyError> {
        load(&self.next(), gateway)
    }

    /// A key for a rotation: the one that waits, or a new one.
    ///
    /// # Errors
    /// When it cannot be read or made.
    pub fn next_or_make(&self, gateway: &str, rng: &dyn Rng) -> Result<GatewayKey, KeyError> {
        match load(&self.next(), gateway) {
            Err(KeyError::Missing { .. }) => make(&self.next(), gateway, rng),
            other => other,
        }
    }

    /// The waiting key signs from now on; the one before stays beside it under its name.
    ///
    /// # Errors
    /// When there is none or files cannot be renamed.
    pub fn promote(&self, gateway: &str) -> Result<GatewayKey, KeyError> {
        let next = load(&self.next(), gateway)?;
        let old = load(&self.current(), gateway)?;
        let kept = self.0.join(format!("{}.pem", old.kid()));
        let named = |path: &Path| {
            let path = path.display().to_string();
            move |why| KeyError::File { path, why }
        };
        fs::copy(self.current(), &kept).map_err(named(&kept))?;
        fs::rename(self.next(), self.current()).map_err(named(&self.current()))?;
        Ok(next)
    }
}

fn load(path: &Path, gateway: &str) -> Result<GatewayKey, KeyError> {
    let text = read_private(path, "make it with `openclaw farm enroll`")?;
    GatewayKey::from_pem(gateway, &text).map_err(|why| KeyError::Key { path: path.display().to_string(), why })
}

fn make(path: &Path, gateway: &str, rng: &dyn Rng) -> Result<GatewayKey, KeyError> {
    let named = |why| KeyError::Key { path: path.display().to_string(), why };
    let key = GatewayKey::generate(gateway, rng).map_err(named)?;
    write_private(path, &key.to_pem().map_err(named)?)?;
    Ok(key)
}

/// Reads the farm's root.
///
/// # Errors
/// When it cannot be read, others may read it, or it is no key.
pub fn load_root(path: &Path) -> Result<FarmRoot, KeyError> {
    let text = read_private(path, "`openclaw farm init` makes it; where was it put away?")?;
    FarmRoot::from_pem(&text).map_err(|why| KeyError::Key { path: path.display().to_string(), why })
}

/// Makes a farm's root. Refuses to replace one.
///
/// # Errors
/// When the file is there or cannot be written.
pub fn make_root(path: &Path, rng: &dyn Rng) -> Result<FarmRoot, KeyError> {
    if path.exists() {
        return Err(KeyError::File {
            path: path.display().to_string(),
            why: std::io::Error::new(std::io::ErrorKind::AlreadyExists, "there is a root already; it is not replaced"),
        });
    }
    let root = FarmRoot::generate(rng);
    let text = root.to_pem().map_err(|why| KeyError::Key { path: path.display().to_string(), why })?;
    write_private(path, &text)?;
    Ok(root)
}

fn read_private(path: &Path, hint: &'static str) -> Result<String, KeyError> {
    let shown = path.display().to_string();
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Err(KeyError::Missing { path: shown, hint }),
        Err(why) => return Err(KeyError::File { path: shown, why }),
    };
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path: shown, mode });
    }
    fs::read_to_string(path).map_err(|why| KeyError::File { path: shown, why })
}

fn write_private(path: &Path, text: &str) -> Result<(), KeyError> {
    let named = |why| KeyError::File { path: path.display().to_string(), why };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(named)?;
    }
    let part = path.with_extension(format!("part.{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(named)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(named)?;
    fs::rename(&part, path).map_err(named)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clawstead_world::SeededRng;

    use super::{KeyError, KeyFolder, load_root, make_root};

    #[test]
    fn a_key_is_made_once_private_and_replaced_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, rng) = (KeyFolder::of(dir.path()), SeededRng::new(1));
        assert!(matches!(folder.load("jerry-gateway"), Err(KeyError::Missing { .. })));
        let first = folder.load_or_make("jerry-gateway", &rng).unwrap();
        assert_eq!(folder.load_or_make("jerry-gateway", &rng).unwrap().kid(), first.kid());
        let mode = std::fs::metadata(folder.current()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let next = folder.next_or_make("jerry-gateway", &rng).unwrap();
        assert_eq!(folder.load("jerry-gateway").unwrap().kid(), first.kid(), "the next key does not sign yet");
        assert_eq!(folder.promote("jerry-gateway").unwrap().kid(), next.kid());
        assert_eq!(folder.load("jerry-gateway").unwrap().kid(), next.kid());
        assert!(folder.promote("jerry-gateway").is_err(), "nothing waits any more");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.pem");
        make_root(&path, &SeededRng::new(2)).unwrap();
        assert!(load_root(&path).is_ok());
        assert!(make_root(&path, &SeededRng::new(3)).unwrap_err().to_string().contains("not replaced"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load_root(&path).err().unwrap().to_string().contains("chmod 600"));
    }
}
