//! What the outbox does next: plain decisions.

use std::{collections::BTreeMap, time::Duration};

use clawstead_agent::{OutboxRow, OutboxState};
use clawstead_terms::{EffectClass, Failure, Millis, Outcome, Retry};
use clawstead_world::Rng;

/// Tries of one reply.
pub const ATTEMPTS_MAX: u32 = 8;
/// How long a reply waits for an account that cannot send yet.
pub const NO_OUTLET_MS_MAX: i64 = 24 * 3_600_000;

/// What to do with a row.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// It has ended.
    Nothing,
    /// Not yet; look again in so many milliseconds. The rows behind it wait too.
    Wait(u64),
    /// Send it.
    Send,
    /// It ends without sending.
    Settle(Outcome),
}

/// Decides about one row. `can_send` says whether the account has an outlet now.
pub fn next(row: &OutboxRow, class: EffectClass, can_send: bool, now: Millis) -> Next {
    match row.state {
        OutboxState::Done | OutboxState::Failed | OutboxState::Unknown => Next::Nothing,
        OutboxState::Sending if can_send && class == EffectClass::Once => Next::Settle(Outcome::Unknown),
        OutboxState::Queued | OutboxState::Sending if !can_send => {
            if now.since(row.created_at) > NO_OUTLET_MS_MAX {
                let what = format!("{} account {} is not running", row.target.channel, row.target.account);
                return Next::Settle(Outcome::Failed(Failure::not_found(what)));
            }
            Next::Wait(2_000)
        }
        OutboxState::Queued | OutboxState::Sending => match row.next_attempt_at.map(|at| at.since(now)) {
            Some(ms) if ms > 0 => Next::Wait(u64::try_from(ms).unwrap_or(0)),
            _ => Next::Send,
        },
    }
}

/// What follows a send: `Some(delay)` tries again, `None` settles.
pub fn after(row: &OutboxRow, outcome: &Outcome, class: EffectClass, rng: &dyn Rng) -> Option<u64> {
    if row.attempts >= ATTEMPTS_MAX {
        return None;
    }
    let floor = match outcome {
        Outcome::Failed(failure) => match failure.retry {
            Retry::Never => return None,
            Retry::Now => 0,
            Retry::AfterMs(ms) => ms,
        },
        Outcome::Unknown if class == EffectClass::Idempotent => 500,
        Outcome::Unknown | Outcome::Done | Outcome::Expired => return None,
    };
    let step = (500_u64 << row.attempts.min(7)).min(60_000);
    Some(floor.max(step / 2 + rng.below(step / 2)))
}

/// Rows grouped by conversation, each group oldest first, groups by their oldest row.
pub fn by_conversation(rows: impl Iterator<Item = OutboxRow>) -> Vec<Vec<OutboxRow>> {
    let mut groups: BTreeMap<(String, String, String, Option<String>), Vec<OutboxRow>> = BTreeMap::new();
    for row in rows {
        let t = &row.target;
        groups.entry((t.channel.to_string(), t.account.to_string(), t.to.clone(), t.thread_id.clone())).or_default().push(row);
    }
    let mut out: Vec<Vec<OutboxRow>> = groups.into_values().collect();
    for group in &mut out {
        group.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    }
    out.sort_by_key(|group| group.first().map(|row| row.created_at));
    out
}

/// The shorter wait.
pub fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// True for rows that ended long enough ago to be removed.
pub fn is_stale(row: &OutboxRow, now: Millis) -> bool {
    let age = now.since(row.updated_at);
    match row.state {
        OutboxState::Done => age > 3_600_000,
        OutboxState::Failed | OutboxState::Unknown => age > 14 * 86_400_000,
        OutboxState::Queued | OutboxState::Sending => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Next, after, by_conversation, next};
    use clawstead_agent::{OutboxRow, OutboxState};
    use clawstead_terms::{DeliveryTarget, EffectClass, Failure, Millis, Outcome};
    use clawstead_world::SeededRng;

    fn row(id: &str, to: &str, at: i64) -> OutboxRow {
        OutboxRow {
            id: id.into(),
            run_id: "r".into(),
            session: clawstead_terms::SessionKey::main(&clawstead_terms::AgentId::normalise("a")),
            target: DeliveryTarget { channel: "c".into(), account: "default".into(), to: to.into(), thread_id: None, reply_to: None },
            body: vec![],
            state: OutboxState::Queued,
            attempts: 0,
            next_attempt_at: None,
            created_at: Millis(at),
            updated_at: Millis(at),
            receipt: None,
            outcome: None,
            traceparent: None,
        }
    }

    #[test]
    fn a_send_that_had_begun_is_repeated_only_where_the_platform_knows_repeats() {
        let begun = OutboxRow { state: OutboxState::Sending, attempts: 1, ..row("1", "u", 0) };
        assert_eq!(next(&begun, EffectClass::Once, true, Millis(1)), Next::Settle(Outcome::Unknown));
        assert_eq!(next(&begun, EffectClass::Idempotent, true, Millis(1)), Next::Send);
        assert_eq!(next(&begun, EffectClass::Once, false, Millis(1)), Next::Wait(2_000));
        assert_eq!(next(&row("1", "u", 0), EffectClass::Once, true, Millis(1)), Next::Send);
        let later = OutboxRow { next_attempt_at: Some(Millis(500)), ..row("1", "u", 0) };
        assert_eq!(next(&later, EffectClass::Once, true, Millis(100)), Next::Wait(400));
        assert!(matches!(next(&row("1", "u", 0), EffectClass::Once, false, Millis(90_000_000)), Next::Settle(Outcome::Failed(_))));
    }

    #[test]
    fn retries_are_for_what_can_help_and_end() {
        let rng = SeededRng::new(1);
        let sent = |attempts, outcome: Outcome, class| after(&OutboxRow { attempts, ..row("1", "u", 0) }, &outcome, class, &rng);
        assert_eq!(sent(1, Outcome::Done, EffectClass::Once), None);
        assert_eq!(sent(1, Outcome::Unknown, EffectClass::Once), None);
        assert!(sent(1, Outcome::Unknown, EffectClass::Idempotent).is_some());
        assert_eq!(sent(1, Outcome::Failed(Failure::invalid("no such chat")), EffectClass::Once), None);
        assert!(sent(1, Outcome::Failed(Failure::unavailable("503", 9_000)), EffectClass::Once) >= Some(9_000));
        assert_eq!(sent(8, Outcome::Failed(Failure::unavailable("503", 1)), EffectClass::Once), None);
    }

    #[test]
    fn order_is_kept_inside_a_conversation() {
        let groups = by_conversation([row("b", "u", 2), row("c", "v", 1), row("a", "u", 1)].into_iter());
        let ids: Vec<Vec<&str>> = groups.iter().map(|g| g.iter().map(|r| r.id.as_str()).collect()).collect();
        assert_eq!(ids, [vec!["a", "b"], vec!["c"]]);
    }
}
