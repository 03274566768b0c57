//! I2: a letter that was stored at its sender ends there, acked or as a dead letter with a reason, and what had ended does
//! not change; who waits for its run is told.

use clawstead_cluster::{
    envelope::{Kind, MailState},
    letter::RowState,
};

use super::End;
use crate::farm::ledger::Written;

pub fn written(written: &Written<'_>) -> Vec<String> {
    match written {
        Written::Sent { before: Some(before), now } => {
            let ended = matches!(before.row.state, MailState::Acked | MailState::DeadLetter);
            if ended && before.row.state != now.row.state {
                return vec![format!("{} had ended as {:?} and is {:?} now", now.row.message_id, before.row.state, now.row.state)];
            }
        }
        Written::Taken { before: Some(before), now } => {
            if before.row.state == RowState::Acked && now.row.state != RowState::Acked {
                return vec![format!("{} was done and is {:?} now", now.row.message_id, now.row.state)];
            }
        }
        _ => {}
    }
    Vec::new()
}

pub fn end(end: &End<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    for (id, sent) in &end.books.sent {
        let row = &sent.row.row;
        match row.state {
            MailState::Acked => {}
            MailState::DeadLetter => {
                let dead = end.books.dead.get(id);
                if row.last_error.as_deref().is_none_or(str::is_empty) || dead.is_none_or(|dead| Some(&dead.reason) != row.last_error.as_ref()) {
                    faults.push(format!("{id} was given up ({:?}), its dead letter says {:?}", row.last_error, dead.map(|dead| &dead.reason)));
                }
            }
            state => faults.push(format!("{id} of {} to {} ended as {state:?} after {} sends", sent.unit, sent.row.head.to, row.sends)),
        }
        if sent.row.run.is_some() && sent.row.head.kind == Kind::Request {
            match end.books.runs.get(id) {
                None => faults.push(format!("nobody knows what became of the run that {id} asks for")),
                // The answer may have been given up; then its dead letter says so, at the gateway that answered.
                Some(run) if run.outcome.is_none() && !answer_was_given_up(end, id) => {
                    faults.push(format!("the run {} that {id} asks for ({:?}) has no end", run.run_id, row.state));
                }
                Some(_) => {}
            }
        }
    }
    faults
}

fn answer_was_given_up(end: &End<'_>, id: &str) -> bool {
    end.books
        .sent
        .values()
        .any(|sent| sent.row.head.kind == Kind::Reply && sent.row.head.causation_id.as_deref() == Some(id) && sent.row.row.state == MailState::DeadLetter)
}
