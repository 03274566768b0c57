//! I6: a letter is sent twelve times at most, over all restarts (attempts that nobody could have answered do not count), and each attempt has a number of its own.

use clawstead_cluster::letter::{REOPENS_MAX, RETRIES_MAX, SENDS_MAX};

use super::End;
use crate::farm::ledger::Written;

pub fn written(written: &Written<'_>) -> Vec<String> {
    let Written::Sent { before, now } = written else { return Vec::new() };
    let row = &now.row;
    let mut faults = Vec::new();
    if row.spent_sends() > SENDS_MAX || row.spent_retries() > RETRIES_MAX || row.reopens > REOPENS_MAX {
        faults.push(format!("{} has {} sends, {} retries, {} tries after failures", row.message_id, row.sends, row.retries, row.reopens));
    }
    if before.is_some_and(|before| before.row.sends > row.sends || before.row.retries > row.retries) {
        faults.push(format!("{} forgot attempts", row.message_id));
    }
    faults
}

pub fn end(end: &End<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    for ((by, letter), attempts) in &end.books.attempts {
        let Some(sent) = end.books.sent.get(letter) else { continue };
        if sent.row.head.from_gateway == *by && attempts.iter().any(|attempt| *attempt >= SENDS_MAX + sent.row.row.free) {
            faults.push(format!("{by} sent {letter} as attempts {attempts:?}"));
        }
    }
    faults
}
