//! When a conversation starts afresh by itself. Pure.

use jiff::{Timestamp, tz::TimeZone};

use clawstead_terms::Millis;

/// `session.reset` as resolved for one session by the gateway (channel over type over global). Empty means never.
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
    use super::{ResetRules, stale};
    use clawstead_terms::Millis;
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
    fn the_day_is_the_local_one() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let daily = ResetRules { daily_at_hour: Some(4), idle_minutes: None };
        assert_eq!(stale(daily, Some(at("2026-11-20T02:30:00Z")), at("2026-11-20T03:30:00Z"), &berlin), Some("daily"));
        assert_eq!(stale(daily, Some(at("2026-11-20T02:30:00Z")), at("2026-11-20T03:30:00Z"), &TimeZone::UTC), None);
    }
}
