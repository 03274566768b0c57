//! Instants of schedules: pure functions of a schedule and a moment.

use std::str::FromStr;

use croner::{Cron, parser::CronParser};
use jiff::{Timestamp, Zoned, tz::TimeZone};

use clawstead_terms::Millis;

use super::job::Schedule;

/// Shortest distance of `every` schedules.
pub const EVERY_MS_MIN: i64 = 1_000;

/// Checks a schedule and fills in what is left open (`anchorMs`).
///
/// # Errors
/// One sentence that names what is wrong.
pub fn check(schedule: Schedule, now: Millis) -> Result<Schedule, String> {
    match schedule {
        Schedule::Every { every_ms, .. } if every_ms < EVERY_MS_MIN => Err(format!("everyMs must be at least {EVERY_MS_MIN}")),
        Schedule::Every { every_ms, anchor_ms } => Ok(Schedule::Every { every_ms, anchor_ms: Some(anchor_ms.unwrap_or(now.0)) }),
        Schedule::At { at } => {
            let moment = parse_moment(&at)?;
            Ok(Schedule::At { at: Timestamp::from_millisecond(moment.0).map_or(at, |t| format!("{t:.3}")) })
        }
        Schedule::Cron { expr, tz, stagger_ms } => {
            parse_expr(&expr)?;
            zone(tz.as_deref())?;
            Ok(Schedule::Cron { expr, tz, stagger_ms })
        }
    }
}

/// The first instant strictly after `after`; `None` when there is none. `job_id` decides the stagger.
///
/// # Errors
/// One sentence, for an expression or zone that cannot be read.
pub fn next_after(schedule: &Schedule, after: Millis, job_id: &str) -> Result<Option<Millis>, String> {
    match schedule {
        Schedule::At { at } => Ok(Some(parse_moment(at)?).filter(|moment| *moment > after)),
        Schedule::Every { every_ms, anchor_ms } => {
            let every = (*every_ms).max(EVERY_MS_MIN);
            let anchor = anchor_ms.unwrap_or(0);
            let steps = after.0.saturating_sub(anchor).div_euclid(every) + 1;
            let first = anchor.saturating_add(steps.max(1).saturating_mul(every));
            Ok(Some(Millis(first)))
        }
        Schedule::Cron { expr, tz, stagger_ms } => {
            let cron = parse_expr(expr)?;
            let zone = zone(tz.as_deref())?;
            let shift = stagger(stagger_ms.unwrap_or(0), job_id);
            let from = Timestamp::from_millisecond(after.0 - shift).map_err(|e| e.to_string())?;
            let from = Zoned::new(from, zone);
            match cron.find_next_occurrence(&from, false) {
                Ok(next) => Ok(Some(Millis(next.timestamp().as_millisecond() + shift))),
                Err(_) => Ok(None),
            }
        }
    }
}

/// Reads an ISO moment, or a distance from now written `20m`, `1h30m` (see [`moment_or_distance`]).
fn parse_moment(text: &str) -> Result<Millis, String> {
    let text = text.trim();
    if let Ok(stamp) = Timestamp::from_str(text) {
        return Ok(Millis(stamp.as_millisecond()));
    }
    if let Ok(civil) = jiff::civil::DateTime::from_str(text) {
        return civil.to_zoned(TimeZone::UTC).map(|z| Millis(z.timestamp().as_millisecond())).map_err(|e| e.to_string());
    }
    text.parse::<i64>().map(Millis).map_err(|_| format!("\"{text}\" is not an ISO 8601 moment like 2026-11-20T09:00:00Z"))
}

/// What `--at` takes: an ISO moment (without offset: in `tz`, else UTC) or a distance like `20m`, `2h`, `1d`.
///
/// # Errors
/// One sentence that names the text.
pub fn moment_or_distance(text: &str, tz: Option<&str>, now: Millis) -> Result<Millis, String> {
    let text = text.trim();
    if let Some(ms) = distance_ms(text) {
        return Ok(now.plus(ms));
    }
    if Timestamp::from_str(text).is_err()
        && let (Some(tz), Ok(civil)) = (tz, jiff::civil::DateTime::from_str(text))
    {
        let zone = TimeZone::get(tz).map_err(|_| unknown_zone(tz))?;
        return civil.to_zoned(zone).map(|z| Millis(z.timestamp().as_millisecond())).map_err(|e| e.to_string());
    }
    parse_moment(text)
}

/// `90s`, `20m`, `2h`, `1d`, `1h30m` in milliseconds; `None` for anything else.
#[must_use]
pub fn distance_ms(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut rest = text.trim().trim_start_matches('+');
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[letters..];
    }
    Some(total)
}

fn parse_expr(expr: &str) -> Result<Cron, String> {
    CronParser::builder().seconds(croner::parser::Seconds::Optional).build().parse(expr).map_err(|e| format!("\"{expr}\" is not a cron expression: {e}"))
}

fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    name.filter(|n| !n.is_empty()).map_or_else(|| Ok(TimeZone::system()), |name| TimeZone::get(name).map_err(|_| unknown_zone(name)))
}

fn unknown_zone(name: &str) -> String {
    format!("\"{name}\" is not an IANA time zone like Europe/Zurich")
}

/// A fixed share of `window_ms` for each job, so that jobs of the same minute do not start together.
fn stagger(window_ms: i64, job_id: &str) -> i64 {
    if window_ms <= 0 {
        return 0;
    }
    // FNV-1a: stable over versions and machines.
    let hash = job_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    i64::try_from(hash % u64::try_from(window_ms).unwrap_or(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{check, distance_ms, moment_or_distance, next_after};
    use crate::cron::job::Schedule;
    use clawstead_terms::Millis;

    fn ms(text: &str) -> Millis {
        Millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn cron(expr: &str, tz: &str) -> Schedule {
        Schedule::Cron { expr: expr.into(), tz: Some(tz.into()), stagger_ms: None }
    }

    #[test]
    fn every_keeps_its_anchor() {
        let every = Schedule::Every { every_ms: 60_000, anchor_ms: Some(5_000) };
        for (after, want) in [(0, 65_000), (4_999, 65_000), (65_000, 125_000), (65_001, 125_000), (1_000_000, 1_025_000)] {
            assert_eq!(next_after(&every, Millis(after), "j").unwrap(), Some(Millis(want)), "after {after}");
        }
    }

    #[test]
    fn cron_expressions_follow_their_zone_through_clock_changes() {
        // Central Europe: 2026-03-29 02:00 -> 03:00 and 2026-10-25 03:00 -> 02:00.
        let daily = cron("30 2 * * *", "Europe/Zurich");
        let spring = next_after(&daily, ms("2026-03-28T12:00:00Z"), "j").unwrap().unwrap();
        assert!(spring > ms("2026-03-29T00:00:00Z") && spring < ms("2026-03-30T01:00:00Z"), "{spring}");
        let autumn = next_after(&daily, ms("2026-10-24T12:00:00Z"), "j").unwrap().unwrap();
        let again = next_after(&daily, autumn, "j").unwrap().unwrap();
        assert!(again.since(autumn) > 20 * 3_600_000, "half past two runs once on the long day: {autumn} {again}");
        assert_eq!(next_after(&cron("0 9 * * 1-5", "UTC"), ms("2026-11-20T09:00:00Z"), "j").unwrap(), Some(ms("2026-11-23T09:00:00Z")));
        assert_eq!(next_after(&cron("*/10 * * * * *", "UTC"), ms("2026-11-20T09:00:01Z"), "j").unwrap(), Some(ms("2026-11-20T09:00:10Z")));
    }

    #[test]
    fn one_shots_happen_once() {
        let at = Schedule::At { at: "2026-11-20T09:00:00Z".into() };
        assert_eq!(next_after(&at, ms("2026-11-20T08:00:00Z"), "j").unwrap(), Some(ms("2026-11-20T09:00:00Z")));
        assert_eq!(next_after(&at, ms("2026-11-20T09:00:00Z"), "j").unwrap(), None);
    }

    #[test]
    fn wrong_schedules_are_named() {
        for (schedule, word) in [
            (cron("nope", "UTC"), "nope"),
            (cron("* * * * *", "Mars/Olympus"), "Mars/Olympus"),
            (Schedule::Every { every_ms: 5, anchor_ms: None }, "everyMs"),
            (Schedule::At { at: "soon".into() }, "soon"),
        ] {
            let err = check(schedule, Millis(0)).unwrap_err();
            assert!(err.contains(word), "{err}");
        }
    }

    #[test]
    fn distances_and_moments() {
        assert_eq!(distance_ms("1h30m"), Some(5_400_000));
        assert_eq!(distance_ms("20m"), Some(1_200_000));
        assert_eq!(distance_ms("soon"), None);
        assert_eq!(distance_ms(""), None);
        assert_eq!(moment_or_distance("2026-07-01T12:00:00", Some("Europe/Zurich"), Millis(0)).unwrap(), ms("2026-07-01T10:00:00Z"));
        assert_eq!(moment_or_distance("2026-07-01T12:00:00", None, Millis(0)).unwrap(), ms("2026-07-01T12:00:00Z"));
        assert_eq!(moment_or_distance("90s", None, Millis(1)).unwrap(), Millis(90_001));
    }
}
