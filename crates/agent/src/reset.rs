//! When a conversation starts afresh by itself. Pure.

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::TimeZone};

use clawstead_terms::{ChatType, Millis, SessionKey};

/// `session.reset`, `session.resetByType` and `session.resetByChannel`. The platform's rule beats the one of the
/// chat's type, which beats the general one; a rule that is there replaces the other whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetPlan {
    /// For every session without a rule of its own.
    pub general: ResetRules,
    /// By `direct`, `group`, `thread`.
    pub by_type: BTreeMap<String, ResetRules>,
    /// By platform.
    pub by_channel: BTreeMap<String, ResetRules>,
}

impl ResetPlan {
    /// The rule of one session. `channel` is the platform of the letter, or else the session's last one.
    #[must_use]
    pub fn of(&self, key: &SessionKey, channel: Option<&str>) -> ResetRules {
        let by_channel = channel.and_then(|channel| self.by_channel.get(channel));
        *by_channel.or_else(|| self.by_type.get(chat_type(key))).unwrap_or(&self.general)
    }
}

/// The word of `session.resetByType` for a session. Rooms count as groups.
fn chat_type(key: &SessionKey) -> &'static str {
    if key.rest().split(':').any(|word| matches!(word, "thread" | "topic")) {
        return "thread";
    }
    match key.chat_type() {
        ChatType::Direct => "direct",
        ChatType::Group | ChatType::Channel => "group",
    }
}

/// When a session starts afresh. Empty means never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetRules {
    /// Start afresh once a day at this local hour, 0 to 23.
    pub daily_at_hour: Option<u8>,
    /// Start afresh after this many minutes without a letter.
    pub idle_minutes: Option<u64>,
}

/// Says whether a letter at `now` finds its session stale: `daily`, `idle`, or none. The last interaction counts,
/// not the last heartbeat. A session that never had one is fresh.
#[must_use]
pub fn stale(rules: ResetRules, last: Option<Millis>, now: Millis, zone: &TimeZone) -> Option<&'static str> {
    let last = last?;
    if let Some(hour) = rules.daily_at_hour
        && last < last_daily(hour, now, zone)?
    {
        return Some("daily");
    }
    if let Some(minutes) = rules.idle_minutes
        && now.since(last) > i64::try_from(minutes).ok()?.saturating_mul(60_000)
    {
        return Some("idle");
    }
    None
}

/// The latest moment at or before `now` at which a day of conversation ended.
fn last_daily(hour: u8, now: Millis, zone: &TimeZone) -> Option<Millis> {
    let local = Timestamp::from_millisecond(now.0).ok()?.to_zoned(zone.clone());
    let today = local.date().at(i8::try_from(hour.min(23)).ok()?, 0, 0, 0).to_zoned(zone.clone()).ok()?;
    let at = Millis(today.timestamp().as_millisecond());
    if at <= now {
        return Some(at);
    }
    let yesterday = local.date().yesterday().ok()?.at(i8::try_from(hour.min(23)).ok()?, 0, 0, 0).to_zoned(zone.clone()).ok()?;
    Some(Millis(yesterday.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::{ResetPlan, ResetRules, stale};
    use clawstead_terms::{AgentId, Millis, SessionKey};
    use jiff::tz::TimeZone;

    fn at(text: &str) -> Millis {
        Millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn daily_and_idle_rules_by_table() {
        let utc = TimeZone::UTC;
        let daily = ResetRules { daily_at_hour: Some(4), idle_minutes: None };
        let idle = ResetRules { daily_at_hour: None, idle_minutes: Some(60) };
        let both = ResetRules { daily_at_hour: Some(4), idle_minutes: Some(60) };
        for (rules, last, now, want) in [
            (ResetRules::default(), "2026-01-01T00:00:00Z", "2026-09-01T00:00:00Z", None),
            (daily, "2026-11-20T03:59:00Z", "2026-11-20T04:00:00Z", Some("daily")),
            (daily, "2026-11-20T04:00:00Z", "2026-11-21T03:59:00Z", None),
            (daily, "2026-11-19T03:00:00Z", "2026-11-20T01:00:00Z", Some("daily")),
            (idle, "2026-11-20T10:00:00Z", "2026-11-20T11:00:00Z", None),
            (idle, "2026-11-20T10:00:00Z", "2026-11-20T11:00:01Z", Some("idle")),
            (both, "2026-11-20T10:00:00Z", "2026-11-20T12:00:00Z", Some("idle")),
            (both, "2026-11-20T03:30:00Z", "2026-11-20T04:10:00Z", Some("daily")),
        ] {
            assert_eq!(stale(rules, Some(at(last)), at(now), &utc), want, "{last} -> {now}");
        }
        assert_eq!(stale(daily, None, at("2026-11-20T04:00:00Z"), &utc), None);
    }

    #[test]
    fn the_platform_beats_the_type_and_the_type_the_general_rule() {
        let idle = |minutes| ResetRules { daily_at_hour: None, idle_minutes: Some(minutes) };
        let plan = ResetPlan {
            general: idle(1),
            by_type: [("direct".to_owned(), idle(2)), ("group".to_owned(), idle(3)), ("thread".to_owned(), idle(4))].into(),
            by_channel: [("discord".to_owned(), ResetRules::default())].into(),
        };
        let jerry = AgentId::normalise("jerry");
        for (rest, channel, want) in [
            ("main", None, Some(2)),
            ("telegram:direct:7", Some("telegram"), Some(2)),
            ("telegram:group:-100", Some("telegram"), Some(3)),
            ("slack:channel:c1", Some("slack"), Some(3)),
            ("telegram:group:-100:topic:7", Some("telegram"), Some(4)),
            ("slack:channel:c1:thread:1.2", Some("slack"), Some(4)),
            ("discord:channel:1", Some("discord"), None),
            ("main", Some("discord"), None),
        ] {
            assert_eq!(plan.of(&SessionKey::of(&jerry, rest), channel).idle_minutes, want, "{rest} {channel:?}");
        }
        let general = ResetPlan { general: idle(1), ..ResetPlan::default() };
        assert_eq!(general.of(&SessionKey::main(&jerry), Some("slack")), idle(1));
    }

    #[test]
    fn the_day_is_the_local_one() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let daily = ResetRules { daily_at_hour: Some(4), idle_minutes: None };
        assert_eq!(stale(daily, Some(at("2026-11-20T02:30:00Z")), at("2026-11-20T03:30:00Z"), &berlin), Some("daily"));
        assert_eq!(stale(daily, Some(at("2026-11-20T02:30:00Z")), at("2026-11-20T03:30:00Z"), &TimeZone::UTC), None);
    }
}
