//! The certificates of a TLS connection to an engine, the same for all of them.

use std::path::{Path, PathBuf};

/// PEM files. Without any the certificate authorities of the system are believed, and no certificate of ours is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificate authorities; only these are believed then.
    pub ca: Option<PathBuf>,
    /// Our certificate chain and its key, for engines that want one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// True when nothing is set.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.ca.is_none() && self.identity.is_none()
    }

    /// The authorities, as they are in the file.
    ///
    /// # Errors
    /// When the file cannot be read; says which.
    pub fn ca_pem(&self) -> Result<Option<Vec<u8>>, String> {
        self.ca.as_deref().map(read).transpose()
    }

    /// Certificate and key, as they are in the files.
    ///
    /// # Errors
    /// When a file cannot be read; says which.
    pub fn identity_pem(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>, String> {
        self.identity.as_ref().map(|(certificate, key)| Ok((read(certificate)?, read(key)?))).transpose()
    }

    /// Looks whether the files can be read, for engines whose client reads them by itself when it connects.
    ///
    /// # Errors
    /// When one cannot be; says which.
    pub fn check(&self) -> Result<(), String> {
        self.ca_pem()?;
        self.identity_pem().map(drop)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|err| format!("{} cannot be read: {err}", path.display()))
}
