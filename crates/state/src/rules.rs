//! Rules that every backend applies alike, so that none of them has its own.

use clawstead_terms::{Fence, Unit};

use crate::{
    Batch, Op, Scan, TxError,
    store::{BATCH_OPS_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX},
};

/// Checks a batch's limits and answers its size in bytes, for the bound of the queue.
pub(crate) fn check_batch(fence: &Fence, batch: &Batch) -> Result<usize, TxError> {
    check_fence(fence)?;
    let unit = batch.unit.to_string();
    check_key("unit", &unit)?;
    if batch.ops.len() > BATCH_OPS_MAX {
        return Err(invalid("a batch", format!("it has {} changes, {BATCH_OPS_MAX} are allowed", batch.ops.len())));
    }
    let mut bytes = 64 + unit.len();
    for op in &batch.ops {
        let (what, key, value) = match op {
            Op::Put(table, key, value) | Op::Insert(table, key, value) => (table.name(), key, Some(value)),
            Op::Delete(table, key) | Op::Expect(table, key, _) => (table.name(), key, None),
            Op::Append { journal, event, .. } => ("journal", journal, Some(event)),
            Op::DropJournal(journal) => ("journal", journal, None),
        };
        check_key(what, key)?;
        let size = value.map_or(0, String::len);
        if size > VALUE_BYTES_MAX {
            return Err(invalid(&format!("{what} {key}"), format!("it has {size} bytes, {VALUE_BYTES_MAX} are allowed")));
        }
        if value.is_some_and(|value| value.contains('\0')) {
            return Err(invalid(&format!("{what} {key}"), "its value contains a NUL character; JSON writes it as \\u0000".into()));
        }
        bytes += key.len() + size + 48;
    }
    Ok(bytes)
}

pub(crate) fn check_fence(fence: &Fence) -> Result<(), TxError> {
    check_key("owner", &fence.owner)?;
    if i64::try_from(fence.epoch).is_err() || i64::try_from(fence.incarnation).is_err() {
        return Err(invalid("a fence", "its numbers must fit 63 bits".into()));
    }
    Ok(())
}

fn check_key(what: &str, key: &str) -> Result<(), TxError> {
    if key.len() > KEY_BYTES_MAX {
        return Err(invalid(&format!("a key of {what}"), format!("it has {} bytes, {KEY_BYTES_MAX} are allowed", key.len())));
    }
    if key.contains('\0') {
        return Err(invalid(&format!("a key of {what}"), "it contains a NUL character".into()));
    }
    Ok(())
}

fn invalid(what: &str, why: String) -> TxError {
    TxError::Invalid { what: what.into(), why }
}

/// May a write with `ours` happen, given the fence in the store?
pub(crate) fn may_write(unit: &Unit, held: Option<&Fence>, ours: &Fence) -> Result<(), TxError> {
    if held == Some(ours) { Ok(()) } else { Err(fenced(unit, held, ours)) }
}

/// May `ours` be claimed, given the fence in the store? `Ok(false)` when it is there already.
pub(crate) fn may_claim(unit: &Unit, held: Option<&Fence>, ours: &Fence) -> Result<bool, TxError> {
    match held {
        None => Ok(true),
        Some(held) if held == ours => Ok(false),
        Some(held) if held.epoch < ours.epoch => Ok(true),
        Some(_) => Err(fenced(unit, held, ours)),
    }
}

fn fenced(unit: &Unit, held: Option<&Fence>, ours: &Fence) -> TxError {
    TxError::Fenced {
        unit: unit.to_string(),
        held: held.map_or(0, |fence| fence.epoch),
        ours: ours.epoch,
        owner: held.map_or_else(|| "nobody".into(), |fence| fence.owner.clone()),
    }
}

/// Is `seq` the line after the last of a journal that has `have` lines?
pub(crate) fn next_line(journal: &str, have: u64, seq: u64) -> Result<(), TxError> {
    if seq == have.saturating_add(1) {
        Ok(())
    } else if (1..=have).contains(&seq) {
        Err(TxError::Exists { table: "journal", key: format!("{journal}/{seq}") })
    } else {
        Err(TxError::Gap { journal: journal.into(), have, seq })
    }
}

/// The keys a scan covers: at or above `from`, below `below`.
pub(crate) struct Bounds {
    pub(crate) from: String,
    pub(crate) below: Option<String>,
}

impl Bounds {
    pub(crate) fn of(scan: &Scan) -> Self {
        let mut bounds = Self { from: scan.prefix.clone(), below: above(&scan.prefix) };
        if let Some(after) = &scan.after {
            if scan.newest_first {
                if bounds.below.as_ref().is_none_or(|below| after < below) {
                    bounds.below = Some(after.clone());
                }
            } else {
                // The lowest key above `after`: keys have no NUL.
                let next = format!("{after}\u{1}");
                bounds.from = bounds.from.max(next);
            }
        }
        bounds
    }
}

/// The lowest text above all texts that start with `prefix`, in byte order; `None` when there is none.
pub(crate) fn above(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // `char` ranges step over the surrogates, which UTF-8 has no bytes for.
        if let Some(next) = (last..=char::MAX).nth(1) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// A number of the database as ours; a negative one cannot be there.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A number of ours as the database's; larger ones are refused before.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A limit as the database's number.
pub(crate) fn signed_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::above;

    #[test]
    fn the_bound_above_a_prefix() {
        assert_eq!(above("ab").as_deref(), Some("ac"));
        assert_eq!(above("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
        assert_eq!(above("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(above("\u{10ffff}"), None);
        assert_eq!(above(""), None);
    }
}
