//! Heartbeats: the built-in job of each agent that looks at its HEARTBEAT.md from time to time. Pure decisions.

use clawstead_terms::{AgentId, Millis};

/// What an agent is asked when its config gives no prompt.
pub const PROMPT: &str = "Heartbeat: read HEARTBEAT.md in your workspace if it is there and do what it says now. Do not bring up old tasks again. If nothing needs attention, answer HEARTBEAT_OK.";

/// The part of a day in which heartbeats happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveHours {
    /// Minutes since midnight.
    pub start: u16,
    /// Minutes since midnight, up to 1440; smaller than `start` means over midnight.
    pub end: u16,
    /// IANA name; none means the host's zone.
    pub timezone: Option<String>,
}

/// The heartbeat of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The agent.
    pub agent: AgentId,
    /// Distance in milliseconds; 0 means off.
    pub every_ms: i64,
    /// When it may happen.
    pub active: Option<ActiveHours>,
    /// What the agent is asked.
    pub prompt: String,
    /// `none`, `last`, `owner` or a channel id.
    pub target: String,
    /// Peer for a named channel.
    pub to: Option<String>,
    /// Account for a named channel.
    pub account: Option<String>,
    /// `provider/model`.
    pub model: Option<String>,
    /// The rest of the session key; none means `main`.
    pub session: Option<String>,
    /// Only the short set of workspace files.
    pub light_context: bool,
    /// Time limit of the turn, ms.
    pub timeout_ms: Option<u64>,
}

/// Reads `HH:MM`; `24:00` only as an end.
#[must_use]
pub fn minutes(text: &str) -> Option<u16> {
    let (hours, mins) = text.split_once(':')?;
    let (hours, mins): (u16, u16) = (hours.parse().ok()?, mins.parse().ok()?);
    (hours < 24 && mins < 60 || hours == 24 && mins == 0).then_some(hours * 60 + mins)
}

/// True when HEARTBEAT.md asks for nothing: only blank lines, headings, comments and empty list items.
#[must_use]
pub fn asks_for_nothing(text: &str) -> bool {
    let mut in_comment = false;
    text.lines().all(|line| {
        let mut line = line.trim();
        if in_comment {
            match line.split_once("-->") {
                Some((_, rest)) => {
                    in_comment = false;
                    line = rest.trim();
                }
                None => return true,
            }
        }
        if let Some((before, rest)) = line.split_once("<!--") {
            if !rest.contains("-->") {
                in_comment = true;
            }
            line = before.trim();
        }
        line.is_empty() || line.starts_with('#') || matches!(line, "-" | "*" | "- [ ]" | "* [ ]" | "---")
    })
}

/// Why a heartbeat does not happen now; `None` means it does. `instructions` is HEARTBEAT.md where it exists.
#[must_use]
pub fn reason_to_skip(plan: &Plan, now: Millis, session_busy: bool, instructions: Option<&str>) -> Option<String> {
    if let Some(active) = &plan.active
        && !is_active(active, now)
    {
        return Some("heartbeat skipped: outside active hours".into());
    }
    if session_busy {
        return Some("heartbeat skipped: requests in flight".into());
    }
    match instructions {
        Some(text) if asks_for_nothing(text) => Some("heartbeat skipped: HEARTBEAT.md asks for nothing".into()),
        _ => None,
    }
}

fn is_active(active: &ActiveHours, now: Millis) -> bool {
    let zone = active.timezone.as_deref().and_then(|name| jiff::tz::TimeZone::get(name).ok()).unwrap_or_else(jiff::tz::TimeZone::system);
    let Ok(stamp) = jiff::Timestamp::from_millisecond(now.0) else { return true };
    let local = stamp.to_zoned(zone);
    let minute = u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap_or(0);
    if active.start <= active.end { (active.start..active.end).contains(&minute) } else { minute >= active.start || minute < active.end }
}

#[cfg(test)]
mod tests {
    use super::{ActiveHours, Plan, asks_for_nothing, minutes, reason_to_skip};
    use clawstead_terms::{AgentId, Millis};

    fn plan(active: Option<(&str, &str)>) -> Plan {
        Plan {
            agent: AgentId::normalise("a"),
            every_ms: 1_800_000,
            active: active.map(|(start, end)| ActiveHours { start: minutes(start).unwrap(), end: minutes(end).unwrap(), timezone: Some("UTC".into()) }),
            prompt: String::new(),
            target: "none".into(),
            to: None,
            account: None,
            model: None,
            session: None,
            light_context: false,
            timeout_ms: None,
        }
    }

    #[test]
    fn empty_instructions_ask_for_nothing() {
        for (text, nothing) in
            [("", true), ("# Heartbeat\n\n- \n", true), ("<!-- a\nb -->\n", true), ("# H\n- check mail", false), ("<!-- x --> do it", true), ("say hi", false)]
        {
            assert_eq!(asks_for_nothing(text), nothing, "{text:?}");
        }
    }

    #[test]
    fn reasons() {
        let noon = Millis(12 * 3_600_000);
        assert_eq!(reason_to_skip(&plan(None), noon, false, None), None);
        assert_eq!(reason_to_skip(&plan(Some(("08:00", "24:00"))), noon, false, Some("x")), None);
        assert!(reason_to_skip(&plan(Some(("22:00", "06:00"))), noon, false, Some("x")).unwrap().contains("active hours"));
        assert_eq!(reason_to_skip(&plan(Some(("22:00", "06:00"))), Millis(3_600_000), false, Some("x")), None);
        assert!(reason_to_skip(&plan(None), noon, true, Some("x")).unwrap().contains("in flight"));
        assert!(reason_to_skip(&plan(None), noon, false, Some("# only a title")).unwrap().contains("HEARTBEAT.md"));
        assert_eq!(minutes("25:00"), None);
    }
}
