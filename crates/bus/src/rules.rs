//! What every engine refuses before it sends anything, so that a key or value that works with one works with all.

use std::collections::BTreeSet;

use crate::{
    Check, CoordError, Op,
    coord::{KEY_MAX, TXN_BYTES_MAX, TXN_OPS_MAX, VALUE_MAX},
};

/// A key of one value.
///
/// # Errors
/// [`CoordError::Invalid`] when it is empty, and as [`prefix`].
pub fn key(key: &str) -> Result<(), CoordError> {
    if key.is_empty() {
        return Err(CoordError::Invalid("a key is empty".into()));
    }
    prefix(key)
}

/// The beginning of keys, which may be empty.
///
/// # Errors
/// [`CoordError::Invalid`] when it is too long, begins with a slash, has an empty part or one of dots only, or holds
/// control characters.
pub fn prefix(key: &str) -> Result<(), CoordError> {
    if key.starts_with('/') {
        return Err(CoordError::Invalid(format!("the key {key:?} begins with a slash: leave it out")));
    }
    if key.len() > KEY_MAX {
        return Err(CoordError::Invalid(format!("a key has {} bytes, at most {KEY_MAX} are carried", key.len())));
    }
    // Engines that are asked over HTTP would put such a path in order and look elsewhere.
    let parts = || key.trim_end_matches('/').split('/');
    if key.contains("//") || parts().any(|part| part == "." || part == "..") {
        return Err(CoordError::Invalid(format!("the key {key:?} has an empty part, or one of dots only")));
    }
    if key.chars().any(char::is_control) {
        return Err(CoordError::Invalid(format!("the key {key:?} holds control characters")));
    }
    Ok(())
}

/// A value.
///
/// # Errors
/// [`CoordError::Invalid`] when it is larger than [`VALUE_MAX`].
pub fn value(key: &str, bytes: usize) -> Result<(), CoordError> {
    if bytes > VALUE_MAX {
        return Err(CoordError::Invalid(format!("the value of {key:?} has {bytes} bytes, at most {VALUE_MAX} are carried")));
    }
    Ok(())
}

/// A transaction.
///
/// # Errors
/// [`CoordError::Invalid`] when it has too many parts, one key twice, or values that are too large together.
pub fn txn(checks: &[Check], ops: &[Op]) -> Result<(), CoordError> {
    if checks.len() + ops.len() > TXN_OPS_MAX {
        return Err(CoordError::Invalid(format!(
            "a transaction has {} checks and {} operations, at most {TXN_OPS_MAX} together are carried",
            checks.len(),
            ops.len()
        )));
    }
    let mut seen = BTreeSet::new();
    for check in checks {
        key(&check.key)?;
        if !seen.insert(&check.key) {
            return Err(CoordError::Invalid(format!("a transaction checks {:?} twice", check.key)));
        }
    }
    let (mut seen, mut bytes) = (BTreeSet::new(), checks.iter().map(|check| carried(&check.key, 0)).sum::<usize>());
    for op in ops {
        let (name, size) = match op {
            Op::Put { key, value } => (key, value.len()),
            Op::Delete { key } => (key, 0),
        };
        key(name)?;
        value(name, size)?;
        bytes += carried(name, size);
        if bytes > TXN_BYTES_MAX {
            return Err(CoordError::Invalid(format!("a transaction has {bytes} bytes in base64, at most {TXN_BYTES_MAX} are carried")));
        }
        if !seen.insert(name) {
            return Err(CoordError::Invalid(format!("a transaction writes {name:?} twice")));
        }
    }
    Ok(())
}

/// Bytes one part of a transaction has on the way: its value in base64, its key, and what surrounds them.
fn carried(key: &str, value: usize) -> usize {
    const AROUND: usize = 110;
    value.div_ceil(3) * 4 + key.len() + AROUND
}
