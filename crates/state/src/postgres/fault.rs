use tokio_postgres::{Error, error::SqlState};

use crate::TxError;

/// Whether the same work may succeed on this or another server soon: a lost connection, a failover, a deadlock, a
/// time limit of ours.
pub(super) fn is_passing(err: &Error) -> bool {
    let Some(code) = err.code() else { return !is_setting(err) };
    let class = code.code().get(..2).unwrap_or_default();
    class == "08"
        || class == "40"
        || [
            &SqlState::ADMIN_SHUTDOWN,
            &SqlState::CRASH_SHUTDOWN,
            &SqlState::CANNOT_CONNECT_NOW,
            &SqlState::READ_ONLY_SQL_TRANSACTION,
            &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            &SqlState::QUERY_CANCELED,
            &SqlState::LOCK_NOT_AVAILABLE,
            &SqlState::TOO_MANY_CONNECTIONS,
            &SqlState::IN_FAILED_SQL_TRANSACTION,
        ]
        .contains(&code)
}

/// Errors of the driver that come from our side and stay: a wrong setting, a value that has no form.
fn is_setting(err: &Error) -> bool {
    let text = err.to_string();
    ["authentication", "TLS", "configuration", "error serializing", "error deserializing"].iter().any(|sign| text.contains(sign))
}

/// An error of the server as the store's; `maybe` where the change may have been committed.
pub(super) fn explain(name: &str, err: &Error, maybe: bool) -> TxError {
    let path = name.to_owned();
    let why = match err.as_db_error() {
        // The detail of an error may quote values; the message does not.
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => with_cause(err),
    };
    match err.code() {
        Some(code) if *code == SqlState::DISK_FULL => TxError::Full { path },
        Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION || *code == SqlState::INSUFFICIENT_PRIVILEGE => TxError::ReadOnly { path, why },
        Some(code) if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED => TxError::Corrupt { path, why },
        _ => TxError::Away { path, why, maybe },
    }
}

fn with_cause(err: &Error) -> String {
    match std::error::Error::source(err) {
        Some(cause) => format!("{err}: {cause}"),
        None => err.to_string(),
    }
}

pub(super) fn too_slow(name: &str, maybe: bool) -> TxError {
    TxError::Away { path: name.into(), why: "it does not answer in time".into(), maybe }
}
