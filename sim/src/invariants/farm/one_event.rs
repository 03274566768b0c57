//! I11: every change of a letter's state has its event in the same write, and no event stands there without a change.

use clawstead_cluster::{
    envelope::MailState,
    letter::{Event, RowState},
};
use clawstead_farm::mailroom::Told;

use crate::farm::ledger::Written;

/// Histories are cut at 64; nothing is said about cut ones.
const WHOLE: usize = 64;

pub fn written(written: &Written<'_>) -> Vec<String> {
    match written {
        Written::Sent { now, .. } if now.history.len() < WHOLE => {
            let (mut state, mut sends) = (None, 0);
            for told in &now.history {
                sends += u32::from(matches!(told.event, Event::Sent { .. }));
                state = after(state, &told.event);
            }
            let mut faults = Vec::new();
            if state != Some(now.row.state) {
                faults.push(format!("{} is {:?}, its events say {state:?}: {:?}", now.row.message_id, now.row.state, names(&now.history)));
            }
            if sends != now.row.sends {
                faults.push(format!("{} was sent {} times and tells of {sends}", now.row.message_id, now.row.sends));
            }
            let ends = now.history.iter().filter(|told| matches!(told.event, Event::Acked | Event::DeadLetter { .. })).count();
            if ends > 1 {
                faults.push(format!("{} ended {ends} times: {:?}", now.row.message_id, names(&now.history)));
            }
            faults
        }
        Written::Taken { now, .. } if now.history.len() < WHOLE => {
            let count = |want: fn(&Event) -> bool| now.history.iter().filter(|told| want(&told.event)).count();
            let received = count(|event| matches!(event, Event::Received));
            let completed = count(|event| matches!(event, Event::Completed { .. }));
            let reopened = count(|event| matches!(event, Event::Reopened));
            let over = matches!(now.row.state, RowState::Acked | RowState::Failed);
            let mut faults = Vec::new();
            if received != 1 {
                faults.push(format!("{} was received {received} times: {:?}", now.row.message_id, names(&now.history)));
            }
            if completed != reopened + usize::from(over) {
                faults.push(format!("{} is {:?} and tells {:?}", now.row.message_id, now.row.state, names(&now.history)));
            }
            faults
        }
        _ => Vec::new(),
    }
}

fn after(state: Option<MailState>, event: &Event) -> Option<MailState> {
    match event {
        Event::Queued => Some(MailState::Queued),
        Event::Delivered => Some(MailState::Delivered),
        Event::Acked => Some(MailState::Acked),
        Event::DeadLetter { .. } => Some(MailState::DeadLetter),
        // A failure, or silence, that is made good: it waits to be sent again.
        Event::Failed { .. } | Event::Redeliver { .. } => Some(MailState::Queued),
        _ => state,
    }
}

fn names(history: &[Told]) -> Vec<&'static str> {
    history.iter().map(|told| told.event.name()).collect()
}

#[cfg(test)]
mod tests {
    use clawstead_cluster::{
        envelope::{Kind, Priority},
        letter::{Event, Outgoing},
    };
    use clawstead_farm::mailroom::{Head, SentRow, Told};
    use clawstead_terms::Millis;

    use super::written;
    use crate::{farm::ledger::Written, invariants::farm::bounded_retries};

    fn row(sends: u32, events: Vec<Event>) -> SentRow {
        let (mut row, _) = Outgoing::queued("m-1", Millis(1_000));
        row.sends = sends;
        let head = Head {
            message_id: "m-1".into(),
            correlation_id: "m-1".into(),
            causation_id: None,
            kind: Kind::Event,
            from: "jerry".into(),
            from_gateway: "jerry-gateway".into(),
            to: "bobby".into(),
            session: None,
            capability: "sessions.notify".into(),
            priority: Priority::Normal,
            created_at: Millis(0),
            expires_at: Millis(1_000),
        };
        let history = events.into_iter().map(|event| Told { at: Millis(0), event }).collect();
        SentRow { row, ord: 1, head, run: None, gateway: None, history, ended_at: None }
    }

    fn faults(now: &SentRow) -> Vec<String> {
        written(&Written::Sent { before: None, now })
    }

    #[test]
    fn a_change_without_event_and_an_event_without_change_are_noticed() {
        assert_eq!(faults(&row(1, vec![Event::Queued, Event::Sent { attempt: 0 }])), Vec::<String>::new());
        assert_eq!(faults(&row(2, vec![Event::Queued, Event::Sent { attempt: 0 }])).len(), 1, "an attempt without event");
        assert_eq!(faults(&row(0, vec![Event::Queued, Event::Delivered])).len(), 1, "an event without change");
        assert_eq!(faults(&row(0, vec![Event::Queued, Event::Acked, Event::DeadLetter { reason: "retries".into() }])).len(), 2, "two ends");
    }

    #[test]
    fn attempts_without_end_are_noticed() {
        assert!(bounded_retries::written(&Written::Sent { before: None, now: &row(12, Vec::new()) }).is_empty());
        assert_eq!(bounded_retries::written(&Written::Sent { before: None, now: &row(99, Vec::new()) }).len(), 1);
        assert_eq!(bounded_retries::written(&Written::Sent { before: Some(&row(3, Vec::new())), now: &row(2, Vec::new()) }).len(), 1);
    }
}
