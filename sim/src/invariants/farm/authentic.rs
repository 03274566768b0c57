//! I9: what is taken was written by a gateway of the farm, and nothing that was forged is said to an agent.

use clawstead_cluster::letter::RowState;
use clawstead_terms::JournalEvent;

use super::End;

pub fn end(end: &End<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    for ((unit, _), taken) in &end.books.taken {
        for letter in &taken.letters {
            let ours = end.books.sent.contains_key(letter);
            let theirs = end.books.honest.contains(letter);
            let breaks = end.books.forged.get(letter).is_some_and(|what| what == "Poison");
            if !ours && !theirs && !breaks {
                faults.push(format!("{unit} took {letter}, which nobody wrote ({:?})", end.books.forged.get(letter)));
            }
            if breaks && taken.row.row.state != RowState::Failed {
                faults.push(format!("{letter} breaks its handler and is {:?}", taken.row.row.state));
            }
        }
    }
    for session in &end.evidence.sessions {
        for (_, event) in &session.journal {
            if let JournalEvent::Said { message } = event
                && message.plain_text().contains("#forged")
            {
                faults.push(format!("{} heard {:?}", session.row.key, message.plain_text()));
            }
        }
    }
    faults
}
