//! I7: no work begins after a letter's time is over.

use serde_json::Value;

use super::{Evidence, Invariant, text};

pub(super) const INVARIANT: Invariant = Invariant { name: "I7 no work after the time to live", check };

fn check(evidence: &Evidence) -> Vec<String> {
    let mut out = Vec::new();
    for row in &evidence.received {
        let Some(expires) = row.pointer("/head/expires_at").and_then(Value::as_i64) else { continue };
        for told in row["history"].as_array().into_iter().flatten() {
            let begun = told["event"].as_str().is_some_and(|name| name.ends_with("processing"));
            if let (true, Some(at)) = (begun, told["at"].as_i64())
                && at > expires
            {
                out.push(format!("the work of {} began {} ms after its time was over", text(row, "/head/message_id"), at - expires));
            }
        }
    }
    out
}
