//! I7: no work begins after a letter's time, and a letter whose time was over before it was sent is dead for that reason.

use clawstead_cluster::{envelope::MailState, letter::Event};

use super::End;
use crate::farm::ledger::Written;

pub fn written(written: &Written<'_>) -> Vec<String> {
    let Written::Taken { before, now } = written else { return Vec::new() };
    let known = before.map_or(0, |before| before.history.len());
    let late = now.history.iter().skip(known).filter(|told| told.event == Event::Processing && told.at > now.row.expires_at);
    late.map(|told| format!("work for {} began {} ms after its time", now.row.message_id, told.at.since(now.row.expires_at))).collect()
}

pub fn end(end: &End<'_>) -> Vec<String> {
    let given_up = end.books.sent.iter().filter(|(_, sent)| sent.row.row.state == MailState::DeadLetter && sent.row.row.sends == 0);
    given_up
        .filter(|(_, sent)| sent.row.row.last_error.as_deref() != Some("expired"))
        .map(|(id, sent)| format!("{id} was never sent and given up for {:?}", sent.row.row.last_error))
        .collect()
}
