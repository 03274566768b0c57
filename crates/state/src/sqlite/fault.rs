use std::path::Path;

use rusqlite::ErrorCode;

use crate::TxError;

/// What a damaged file's owner can do.
pub(super) const WAY_OUT: &str =
    "stop the gateway and run `openclaw doctor --fix`, which moves the file to <name>.quarantine.<time> and puts the newest good backup in its place";

/// Whether the connection is still good after an error.
pub(super) fn is_broken(err: &rusqlite::Error) -> bool {
    matches!(
        err.sqlite_error_code(),
        Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    )
}

/// An error of SQLite as the store's; `maybe` where the change may have reached the disk.
pub(super) fn explain(path: &Path, err: &rusqlite::Error, maybe: bool) -> TxError {
    let path = path.display().to_string();
    match err.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => TxError::Full { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => TxError::Corrupt { path, why: format!("{err}; {WAY_OUT}") },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            TxError::ReadOnly { path, why: format!("{err}; the gateway's user must own the file and its folder") }
        }
        Some(ErrorCode::CannotOpen) => TxError::ReadOnly { path, why: format!("{err}; the folder must exist and belong to the gateway's user") },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            TxError::Away { path, why: format!("another process holds its write lock ({err})"), maybe: false }
        }
        _ => TxError::Away { path, why: err.to_string(), maybe },
    }
}
