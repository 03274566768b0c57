//! I6: attempts are bounded. Those that nobody could have answered (`free`) cost nothing and do not count.

use serde_json::Value;

use super::{Evidence, Invariant, text};

/// The first attempt, eight retries, three tries after failures.
const SENDS_MAX: u64 = 1 + 8 + 3;

pub(super) const INVARIANT: Invariant = Invariant { name: "I6 retries stay bounded", check };

fn check(evidence: &Evidence) -> Vec<String> {
    let number = |row: &Value, place: &str| row.pointer(place).and_then(Value::as_u64).unwrap_or(0);
    let counted = |row: &Value| number(row, "/row/sends").saturating_sub(number(row, "/row/free"));
    let over = evidence.sent.iter().filter(|row| counted(row) > SENDS_MAX);
    over.map(|row| format!("{} was sent {} times", text(row, "/row/message_id"), counted(row))).collect()
}
