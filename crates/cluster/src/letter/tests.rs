use super::*;
use crate::{
    envelope::{MailState, Priority, Receipt, ReceiptType},
    testkit::{Farm, T0, at},
};

fn cx(ms: i64, owner: Owner) -> Cx<'static> {
    Cx { now: at(ms), timing: Timing::LAN, below: &|_| 0, owner, pace: Pace::Normal }
}

fn go(row: Outgoing, input: &Input<'_>, ms: i64) -> (Outgoing, Vec<Action>) {
    row.step(input, &cx(ms, Owner::Live))
}

fn receipt(kind: ReceiptType, code: &str, retryable: bool) -> Receipt {
    Receipt { code: code.into(), retryable, ..Receipt::plain("m", kind, 4) }
}

fn told(actions: &[Action]) -> Vec<&'static str> {
    actions.iter().filter_map(|action| if let Action::Tell(event) = action { Some(event.name().trim_start_matches("farm.msg.")) } else { None }).collect()
}

fn sent() -> Outgoing {
    let (row, actions) = Outgoing::queued("m", T0.plus(300_000));
    assert_eq!(told(&actions), ["queued"]);
    let (row, actions) = go(row, &Input::Send, 0);
    assert_eq!(actions, [Action::Tell(Event::Sent { attempt: 0 }), Action::Publish { attempt: 0, state: MailState::Queued }]);
    row
}

#[test]
fn the_table_of_the_sender() {
    for (name, given, want, state) in [
        ("S3", receipt(ReceiptType::Delivered, "", false), &["delivered"][..], MailState::Delivered),
        ("S3 S6", receipt(ReceiptType::Acked, "", false), &["delivered", "acked"], MailState::Acked),
        ("S4", receipt(ReceiptType::Busy, "", true), &["retry"], MailState::Queued),
        ("S4, refused for now", receipt(ReceiptType::Failed, "not_owner", true), &["retry"], MailState::Queued),
        ("S5, refused", receipt(ReceiptType::Failed, "forbidden", false), &["dead_letter"], MailState::DeadLetter),
        ("S3 S7 S9", receipt(ReceiptType::Failed, "model_down", true), &["delivered", "failed", "retry"], MailState::Queued),
        ("S3 S7 S10", receipt(ReceiptType::Failed, "poison", false), &["delivered", "failed", "dead_letter"], MailState::DeadLetter),
    ] {
        let (row, actions) = go(sent(), &Input::Receipt(&given), 10);
        assert_eq!((told(&actions).as_slice(), row.state), (want, state), "{name}");
    }
    let (row, actions) = go(sent(), &Input::Tick, 2_000);
    assert_eq!(actions, [Action::Tell(Event::Retry { reason: "no_answer".into(), delay_ms: 250 })]);
    assert!(!row.sendable(at(2_249)) && row.sendable(at(2_250)));
    let (row, _) = sent().step(&Input::Tick, &cx(2_000, Owner::Nobody));
    assert_eq!((row.retries, row.sendable(at(2_000))), (0, true), "no retry is spent while nobody could answer");
    let (row, _) = go(sent(), &Input::Receipt(&Receipt { retry_after_ms: 9_000, ..receipt(ReceiptType::Busy, "", true) }), 0);
    assert!(!row.sendable(at(8_999)) && row.sendable(at(9_000)), "the receiver's wish is a floor");
}

#[test]
fn work_is_asked_about_and_then_delivered_anew() {
    let (row, _) = go(sent(), &Input::Receipt(&receipt(ReceiptType::Delivered, "", false)), 0);
    let (row, actions) = go(row, &Input::Tick, 2_000);
    assert_eq!(actions, [Action::Ask]);
    let (known, actions) = go(row.clone(), &Input::Receipt(&receipt(ReceiptType::Heartbeat, "", false)), 2_100);
    assert_eq!((told(&actions).len(), known.state), (0, MailState::Delivered));
    let (again, actions) = go(row.clone(), &Input::Receipt(&receipt(ReceiptType::Failed, UNKNOWN_LETTER, true)), 2_100);
    assert_eq!((told(&actions), again.state, again.reopens), (vec!["redeliver"], MailState::Queued, 1));
    let (_, actions) = go(row.clone(), &Input::Tick, 600_000);
    // Its time was over meanwhile: delivered anew would be too late.
    assert_eq!(told(&actions), ["redeliver", "dead_letter"]);
    let (row, actions) = go(row, &Input::OwnerEpoch(5), 2_200);
    assert_eq!((actions, go(row, &Input::OwnerEpoch(5), 2_300).1.len()), (vec![Action::Ask], 0));
    let old = Receipt { receiver_epoch: 3, ..receipt(ReceiptType::Acked, "", false) };
    let (row, _) = go(sent(), &Input::Receipt(&receipt(ReceiptType::Delivered, "", false)), 0);
    assert_eq!(go(row, &Input::Receipt(&old), 1).0.state, MailState::Delivered, "an owner that was followed by another is not heard");
}

#[test]
fn a_letter_ends_with_a_reason_and_late_receipts_are_noted() {
    let mut row = sent();
    let mut ms = 0;
    while !row.ended() {
        ms += 70_000;
        row.expires_at = T0.plus(10_000_000);
        row = go(row, &Input::Tick, ms).0;
        row = go(row, &Input::Send, ms + 65_000).0;
        ms += 65_000;
    }
    assert_eq!((row.state, row.sends, row.last_error.as_deref()), (MailState::DeadLetter, 9, Some("no_answer")));
    let late = receipt(ReceiptType::Acked, "", false);
    assert_eq!(go(row, &Input::Receipt(&late), ms).1, [Action::Note(late.clone())]);
    let (row, actions) = go(sent(), &Input::GiveUp("key_revoked"), 1);
    assert_eq!((told(&actions), row.last_error.as_deref()), (vec!["dead_letter"], Some("key_revoked")));
}

#[test]
fn the_desk_keeps_bounds_order_and_urgency() {
    let mut desk = Desk::new(Timing::LAN);
    let posting = |lane: u64, ord, priority| Posting { lane: ("jerry".into(), "bobby".into(), lane.to_string()), ord, priority, slow_ms: 0 };
    let (most, all) = (IN_FLIGHT_PER_TARGET_MAX as u64, 2 * IN_FLIGHT_PER_TARGET_MAX as u64 + 8);
    for n in 0..all {
        let priority = if n == all - 1 { Priority::High } else { Priority::Normal };
        desk.add(Outgoing::queued(format!("m{n:03}"), T0.plus(300_000)).0, posting(n / 2, n, priority), at(0));
    }
    let owner = |_: &str| Some("bobby-gateway".to_owned());
    let ids = |changes: Vec<Change>| changes.into_iter().map(|change| change.row.message_id).collect::<Vec<_>>();
    let first = ids(desk.poll(at(0), &owner, &|_| 0));
    // One of each lane, so many to one gateway; the urgent letter is behind another one of its lane.
    assert_eq!(first, (0..most).map(|n| format!("m{:03}", n * 2)).collect::<Vec<_>>());
    assert_eq!(ids(desk.poll(at(1), &owner, &|_| 0)), Vec::<String>::new());
    let acked = Receipt { of: "m000".into(), ..receipt(ReceiptType::Acked, "", false) };
    assert!(desk.receipt(&acked, at(2), &|_| 0).is_some());
    assert_eq!(ids(desk.poll(at(2), &owner, &|_| 0)), ["m001"]);
    // Nothing comes back: after five timeouts the gateway counts as silent, and one letter at a time tries.
    let timeouts = desk.poll(at(2_002), &owner, &|_| 0);
    assert!(timeouts.len() >= IN_FLIGHT_PER_TARGET_MAX && desk.silent_gateways() == ["bobby-gateway"]);
    assert_eq!(ids(desk.poll(at(6_000), &owner, &|_| 0)), Vec::<String>::new());
    assert_eq!(ids(desk.poll(at(7_100), &owner, &|_| 0)).len(), 1);
    assert_eq!(desk.len() as u64, all - 1);
    for n in 0..OUTBOX_MAX {
        desk.add(Outgoing::queued(format!("x{n}"), T0.plus(300_000)).0, posting(99, 100 + n as u64, Priority::Low), at(0));
    }
    assert!(desk.room_for("jerry").is_err() && desk.room_for("billy").is_ok());
}

#[test]
fn a_failed_row_is_opened_by_a_newer_try_only() {
    let farm = Farm::new(1);
    let mut letter = farm.letter();
    let (row, _) = Row::arrived(&letter, 4, at(0));
    let (row, _) = row.step(&RowInput::Start, 4, at(0));
    let (row, _) = row.step(&RowInput::End(HandlerEnd::Failed { code: "model_down".into(), retryable: true }), 4, at(1));
    letter.hop.retry_count = 1;
    assert_eq!(row.clone().step(&RowInput::Again(&letter), 4, at(2)).0.state, RowState::Failed, "a late repeat");
    letter.hop.state = MailState::Failed;
    let (opened, _) = row.clone().step(&RowInput::Again(&letter), 4, at(2));
    assert_eq!((opened.state, opened.reopened), (RowState::Delivered, 1));
    assert_eq!(row.step(&RowInput::Again(&letter), 4, at(300_001)).0.state, RowState::Failed, "too late");
    // Poison, and time that was over before the work.
    let mut row = Row::arrived(&letter, 4, at(0)).0;
    for _ in 0..CRASHES_MAX {
        row = row.step(&RowInput::Start, 4, at(0)).0.step(&RowInput::Crashed, 4, at(0)).0;
    }
    assert_eq!((row.state, row.code.as_str(), row.retryable), (RowState::Failed, "poison", false));
    let (late, _) = Row::arrived(&letter, 4, at(0)).0.step(&RowInput::Start, 4, at(300_001));
    assert_eq!((late.state, late.code.as_str()), (RowState::Failed, "expired"));
}

#[test]
fn retries_are_patient_and_bounded() {
    let least: u64 = (0..RETRIES_MAX).map(|n| backoff_ms(n, &|_| 0)).sum();
    let most: u64 = (0..RETRIES_MAX).map(|n| backoff_ms(n, &|bound| bound - 1)).sum();
    assert!(least >= 60_000 && most <= 123_500, "{least} {most}");
    let mut budget = RetryBudget::default();
    for n in 0..100 {
        budget.sent(u32::from(n % 5 == 0), 1_000);
    }
    assert!(!budget.is_spent(1_000));
    budget.sent(1, 1_000);
    assert!(budget.is_spent(1_000) && !budget.is_spent(70_000));
    assert_eq!(busy_level(200, 0).turns_away(Priority::Low), Some(2_000));
    assert_eq!((busy_level(200, 0).turns_away(Priority::Normal), busy_level(1000, 0)), (None, BusyLevel::Hard));
    assert!(busy_level(1, INBOX_BYTES_MAX).turns_away(Priority::High).is_some());
}

/// Nothing is spent while nobody could answer: the bus is away here, or nobody knows who is alive. Only time ends it.
#[test]
fn a_gateway_that_is_cut_off_spends_no_retry() {
    let (mut row, _) = Outgoing::queued("m", T0.plus(86_400_000));
    let mut ms = 0;
    let mut pauses = Vec::new();
    for n in 0..60_u32 {
        row = go(row, &Input::Send, ms).0;
        assert_eq!((row.sends, row.free), (n + 1, n));
        let (next, actions) = if n % 2 == 0 {
            go(row, &Input::NotCarried(None), ms)
        } else {
            ms += 2_000;
            row.step(&Input::Tick, &cx(ms, Owner::Unknown))
        };
        let [Action::Tell(Event::Retry { delay_ms, .. })] = actions[..] else { panic!("{actions:?}") };
        pauses.push(delay_ms);
        ms += delay_ms as i64;
        row = next;
    }
    assert_eq!((row.state, row.retries, row.spent_sends()), (MailState::Queued, 0, 0));
    assert!(pauses.is_sorted() && pauses.last() == Some(&30_000), "{pauses:?}");
    // Heard again, it goes on as ever.
    row = go(row, &Input::Send, ms).0;
    let (row, actions) = go(row, &Input::Receipt(&receipt(ReceiptType::Acked, "", false)), ms);
    assert_eq!((row.state, told(&actions)), (MailState::Acked, vec!["delivered", "acked"]));
}
