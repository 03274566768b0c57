use clap::builder::PossibleValuesParser;
use serde_json::{Map, Value, json};

use super::Common;
use crate::{commands::Outcome, cx::Cx, fail::Fail, format::duration, print};

/// What a job is, for `add` and as a patch for `edit`.
#[derive(clap::Args, Default)]
pub struct Job {
    /// Name
    #[arg(long)]
    name: Option<String>,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// Label
    #[arg(long)]
    display_name: Option<String>,
    /// Key that makes repeated adds one job
    #[arg(long, value_name = "KEY")]
    declaration_key: Option<String>,
    /// Once: ISO time, or a duration from now
    #[arg(long, value_name = "TIME|DUR", help_heading = "Schedule")]
    at: Option<String>,
    /// Again and again: 30m, 6h
    #[arg(long, value_name = "DUR", help_heading = "Schedule")]
    every: Option<String>,
    /// Cron expression, 5 or 6 fields
    #[arg(long, value_name = "EXPR", help_heading = "Schedule")]
    cron: Option<String>,
    /// Time zone of --cron and of --at without offset
    #[arg(long, value_name = "IANA", help_heading = "Schedule")]
    tz: Option<String>,
    /// Spread the start over this long
    #[arg(long, value_name = "DUR", help_heading = "Schedule")]
    stagger: Option<String>,
    /// Start at the exact instant
    #[arg(long, conflicts_with = "stagger", help_heading = "Schedule")]
    exact: bool,
    /// Where it runs: main, isolated, current or session:<id>
    #[arg(long, value_name = "TARGET", help_heading = "Where")]
    session: Option<String>,
    /// Routing key
    #[arg(long, value_name = "KEY", help_heading = "Where")]
    session_key: Option<String>,
    /// Agent
    #[arg(long, value_name = "ID", help_heading = "Where")]
    agent: Option<String>,
    /// Prompt of an agent turn
    #[arg(long, value_name = "TEXT", help_heading = "What")]
    message: Option<String>,
    /// Event for the agent's main session
    #[arg(long, value_name = "TEXT", conflicts_with = "message", help_heading = "What")]
    system_event: Option<String>,
    /// Model
    #[arg(long, value_name = "REF", help_heading = "What")]
    model: Option<String>,
    /// Further models, comma-separated
    #[arg(long, value_name = "REFS", value_delimiter = ',', help_heading = "What")]
    fallbacks: Vec<String>,
    /// How much the model thinks
    #[arg(long, value_name = "LEVEL", help_heading = "What")]
    thinking: Option<String>,
    /// Time limit of a run
    #[arg(long, value_name = "S", help_heading = "What")]
    timeout_seconds: Option<u64>,
    /// Fewer workspace files in the prompt
    #[arg(long, help_heading = "What")]
    light_context: bool,
    /// Tools allowed, comma-separated
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "What")]
    tools: Vec<String>,
    /// When an event is heard
    #[arg(long, value_name = "WHEN", value_parser = PossibleValuesParser::new(["now", "next-heartbeat"]), help_heading = "What")]
    wake: Option<String>,
    /// Send the answer to a chat
    #[arg(long, visible_alias = "deliver", help_heading = "Delivery")]
    announce: bool,
    /// Send nothing
    #[arg(long, conflicts_with = "announce", help_heading = "Delivery")]
    no_deliver: bool,
    /// Channel, or last
    #[arg(long, value_name = "CHANNEL", help_heading = "Delivery")]
    channel: Option<String>,
    /// Target in the channel
    #[arg(long, value_name = "TARGET", help_heading = "Delivery")]
    to: Option<String>,
    /// Account of the channel
    #[arg(long, value_name = "ACCOUNT", help_heading = "Delivery")]
    account: Option<String>,
    /// Thread in the target
    #[arg(long, value_name = "ID", help_heading = "Delivery")]
    thread_id: Option<String>,
    /// A delivery that fails does not fail the run
    #[arg(long, help_heading = "Delivery")]
    best_effort_deliver: bool,
    /// Send the result to this URL
    #[arg(long, value_name = "URL", conflicts_with = "announce", help_heading = "Delivery")]
    webhook: Option<String>,
    /// Remove a one-shot after success (default for --at)
    #[arg(long, conflicts_with = "keep_after_run")]
    delete_after_run: bool,
    /// Keep a one-shot after success
    #[arg(long)]
    keep_after_run: bool,
    /// Not available: agents run commands with their exec tool
    #[arg(long, hide = true)]
    command: Option<String>,
    /// Not available
    #[arg(long, hide = true)]
    script: Option<String>,
}

/// Add a job.
#[derive(clap::Args)]
pub struct AddArgs {
    /// Schedule (a duration, a time or a cron expression) and message, in short
    #[arg(num_args = 0..=2, value_names = ["SCHEDULE", "MESSAGE"])]
    short: Vec<String>,
    #[command(flatten)]
    job: Job,
    /// Add it switched off
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    common: Common,
}

/// Change a job.
#[derive(clap::Args)]
pub struct EditArgs {
    /// Id or name
    id: String,
    #[command(flatten)]
    job: Job,
    /// Switch it on
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Switch it off
    #[arg(long)]
    disable: bool,
    /// Default agent again
    #[arg(long, help_heading = "Clear")]
    clear_agent: bool,
    /// Default model again
    #[arg(long, help_heading = "Clear")]
    clear_model: bool,
    /// All tools again
    #[arg(long, help_heading = "Clear")]
    clear_tools: bool,
    /// No target
    #[arg(long, help_heading = "Clear")]
    clear_to: bool,
    /// No channel
    #[arg(long, help_heading = "Clear")]
    clear_channel: bool,
    /// No account
    #[arg(long, help_heading = "Clear")]
    clear_account: bool,
    /// No routing key
    #[arg(long, help_heading = "Clear")]
    clear_session_key: bool,
    /// Default thinking again
    #[arg(long, help_heading = "Clear")]
    clear_thinking: bool,
    /// No fallbacks
    #[arg(long, help_heading = "Clear")]
    clear_fallbacks: bool,
    /// No thread
    #[arg(long, help_heading = "Clear")]
    clear_thread_id: bool,
    /// No label
    #[arg(long, help_heading = "Clear")]
    clear_display_name: bool,
    /// Whole workspace files again
    #[arg(long, help_heading = "Clear")]
    no_light_context: bool,
    /// A failing delivery fails the run again
    #[arg(long, help_heading = "Clear")]
    no_best_effort_deliver: bool,
    /// Tell about failures
    #[arg(long, conflicts_with = "no_failure_alert", help_heading = "Failure alert")]
    failure_alert: bool,
    /// Do not tell about failures
    #[arg(long, help_heading = "Failure alert")]
    no_failure_alert: bool,
    /// Failures in a row
    #[arg(long, value_name = "N", help_heading = "Failure alert")]
    failure_alert_after: Option<u32>,
    /// Between two alerts
    #[arg(long, value_name = "DUR", help_heading = "Failure alert")]
    failure_alert_cooldown: Option<String>,
    /// Channel of alerts
    #[arg(long, value_name = "CHANNEL", help_heading = "Failure alert")]
    failure_alert_channel: Option<String>,
    /// Target of alerts
    #[arg(long, value_name = "TARGET", help_heading = "Failure alert")]
    failure_alert_to: Option<String>,
    /// How alerts go: announce or webhook
    #[arg(long, value_name = "MODE", help_heading = "Failure alert")]
    failure_alert_mode: Option<String>,
    /// Account of alerts
    #[arg(long, value_name = "ACCOUNT", help_heading = "Failure alert")]
    failure_alert_account_id: Option<String>,
    #[command(flatten)]
    common: Common,
}

fn schedule(job: &Job) -> Result<Option<Value>, Fail> {
    let given = [job.at.is_some(), job.every.is_some(), job.cron.is_some()].into_iter().filter(|g| *g).count();
    if given > 1 {
        return Err(Fail::new("Choose one of --at, --every and --cron.").hint("openclaw cron add --help"));
    }
    if let Some(text) = &job.at {
        return Ok(Some(json!({"kind": "at", "at": instant(text, job.tz.as_deref())?})));
    }
    if let Some(text) = &job.every {
        let ms = duration(text, 60_000).map_err(Fail::new)?;
        if ms == 0 {
            return Err(Fail::new("--every must be more than nothing."));
        }
        return Ok(Some(json!({"kind": "every", "everyMs": ms})));
    }
    if let Some(expr) = &job.cron {
        let mut out = json!({"kind": "cron", "expr": expr});
        if let Some(tz) = &job.tz {
            out["tz"] = tz.as_str().into();
        }
        if job.exact {
            out["staggerMs"] = 0.into();
        } else if let Some(text) = &job.stagger {
            out["staggerMs"] = duration(text, 60_000).map_err(Fail::new)?.into();
        }
        return Ok(Some(out));
    }
    Ok(None)
}

/// An instant: ISO with or without offset, or a duration from now.
fn instant(text: &str, tz: Option<&str>) -> Result<String, Fail> {
    let bad = |why: &str| Fail::new(format!("--at {text}: {why}")).hint("for example --at 2026-12-24T18:00:00Z or --at 20m");
    if let Some(rest) = text.strip_prefix('+').or(Some(text)).filter(|t| t.chars().next().is_some_and(|c| c.is_ascii_digit()))
        && let Some(ms) =
            clawstead_config::duration_ms(rest, 60_000).filter(|_| rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '.') && !rest.contains('T'))
    {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
        return Ok(format!("{at:.3}"));
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(format!("{at:.3}"));
    }
    let civil: jiff::civil::DateTime = text.parse().map_err(|_| bad("neither a time nor a duration"))?;
    let zone = match tz {
        Some(name) => jiff::tz::TimeZone::get(name).map_err(|_| bad(&format!("unknown time zone {name}")))?,
        None => jiff::tz::TimeZone::UTC,
    };
    let at = civil.to_zoned(zone).map_err(|err| bad(&err.to_string()))?.timestamp();
    Ok(format!("{at:.3}"))
}

fn payload(job: &Job) -> Result<Option<Map<String, Value>>, Fail> {
    if job.command.is_some() || job.script.is_some() {
        return Err(Fail::new("Command and script jobs are not available in this program; use --message and let the agent's exec tool run it.")
            .hint("openclaw cron add --help"));
    }
    let mut out = Map::new();
    if let Some(text) = &job.system_event {
        out.insert("kind".into(), "systemEvent".into());
        out.insert("text".into(), text.as_str().into());
        return Ok(Some(out));
    }
    if let Some(text) = &job.message {
        out.insert("message".into(), text.as_str().into());
    }
    for (name, value) in [("model", &job.model), ("thinking", &job.thinking)] {
        if let Some(value) = value {
            out.insert(name.into(), value.as_str().into());
        }
    }
    if let Some(seconds) = job.timeout_seconds {
        out.insert("timeoutSeconds".into(), seconds.into());
    }
    if job.light_context {
        out.insert("lightContext".into(), true.into());
    }
    if !job.fallbacks.is_empty() {
        out.insert("fallbacks".into(), json!(job.fallbacks));
    }
    if !job.tools.is_empty() {
        out.insert("toolsAllow".into(), json!(job.tools));
    }
    if out.is_empty() {
        return Ok(None);
    }
    out.insert("kind".into(), "agentTurn".into());
    Ok(Some(out))
}

fn delivery(job: &Job) -> Option<Map<String, Value>> {
    let mut out = Map::new();
    for (name, value) in [("channel", &job.channel), ("to", &job.to), ("accountId", &job.account), ("threadId", &job.thread_id)] {
        if let Some(value) = value {
            out.insert(name.into(), value.as_str().into());
        }
    }
    if job.best_effort_deliver {
        out.insert("bestEffort".into(), true.into());
    }
    let mode = if job.no_deliver {
        Some("none")
    } else if let Some(url) = &job.webhook {
        out.insert("to".into(), url.as_str().into());
        Some("webhook")
    } else if job.announce || !out.is_empty() {
        Some("announce")
    } else {
        None
    };
    let mode = mode?;
    out.insert("mode".into(), mode.into());
    Some(out)
}

/// Fields that `add` and `edit` share.
fn fields(job: &Job) -> Result<Map<String, Value>, Fail> {
    let mut out = Map::new();
    for (name, value) in [
        ("name", &job.name),
        ("description", &job.description),
        ("displayName", &job.display_name),
        ("declarationKey", &job.declaration_key),
        ("sessionTarget", &job.session),
        ("sessionKey", &job.session_key),
        ("agentId", &job.agent),
        ("wakeMode", &job.wake),
    ] {
        if let Some(value) = value {
            out.insert(name.into(), value.as_str().into());
        }
    }
    if let Some(schedule) = schedule(job)? {
        out.insert("schedule".into(), schedule);
    }
    if let Some(payload) = payload(job)? {
        out.insert("payload".into(), Value::Object(payload));
    }
    if let Some(delivery) = delivery(job) {
        out.insert("delivery".into(), Value::Object(delivery));
    }
    if job.delete_after_run || job.keep_after_run {
        out.insert("deleteAfterRun".into(), job.delete_after_run.into());
    }
    Ok(out)
}

/// `cron add`.
pub fn add(args: &AddArgs, cx: &Cx) -> Outcome {
    let job = &args.job;
    let mut with_short = Job::default();
    let short = match args.short.as_slice() {
        [] => None,
        [first] if job.at.is_none() && job.every.is_none() && job.cron.is_none() => Some((first.as_str(), None)),
        [name] => {
            with_short.name = Some(name.clone());
            None
        }
        [first, rest @ ..] => Some((first.as_str(), rest.first())),
    };
    if let Some((when, message)) = short {
        if when.split_whitespace().count() >= 5 {
            with_short.cron = Some(when.to_owned());
        } else if clawstead_config::duration_ms(when, 60_000).is_some() {
            with_short.every = Some(when.to_owned());
        } else {
            with_short.at = Some(when.to_owned());
        }
        with_short.message = message.cloned();
    }
    let mut params = fields(&with_short)?;
    params.extend(fields(job)?);
    if !params.contains_key("schedule") {
        return Err(Fail::new("Choose exactly one schedule: --at, --every or --cron.").hint("openclaw cron add --help"));
    }
    let kind = params.get("payload").and_then(|p| p.get("kind")).and_then(Value::as_str).unwrap_or_default().to_owned();
    let said = params.get("payload").is_some_and(|p| p.get("message").is_some() || p.get("text").is_some());
    if !said {
        return Err(Fail::new("Choose exactly one payload: --message or --system-event.").hint("openclaw cron add --help"));
    }
    if !params.contains_key("name") {
        let text = params["payload"].get("message").or_else(|| params["payload"].get("text")).and_then(Value::as_str).unwrap_or_default();
        let name: String = text.lines().next().unwrap_or_default().chars().take(60).collect();
        params.insert("name".into(), name.into());
    }
    let isolated = kind == "agentTurn";
    if !params.contains_key("sessionTarget") {
        params.insert("sessionTarget".into(), if isolated { "isolated" } else { "main" }.into());
    }
    if !params.contains_key("wakeMode") {
        params.insert("wakeMode".into(), "now".into());
    }
    if isolated && !params.contains_key("delivery") && params["sessionTarget"] != "main" {
        params.insert("delivery".into(), json!({"mode": "announce", "channel": "last"}));
    }
    params.insert("enabled".into(), (!args.disabled).into());
    if params["schedule"]["kind"] == "at" && !params.contains_key("deleteAfterRun") {
        params.insert("deleteAfterRun".into(), true.into());
    }
    print::json(&super::call(cx, &args.common, "cron.add", Value::Object(params))?);
    Ok(0)
}

/// `cron edit`.
pub fn edit(args: &EditArgs, cx: &Cx) -> Outcome {
    let mut patch = fields(&args.job)?;
    if args.enable || args.disable {
        patch.insert("enabled".into(), args.enable.into());
    }
    for (given, name) in [(args.clear_agent, "agentId"), (args.clear_session_key, "sessionKey"), (args.clear_display_name, "displayName")] {
        if given {
            patch.insert(name.into(), Value::Null);
        }
    }
    let clear = |given: &[(bool, &str)], patch: &mut Map<String, Value>, part: &str| {
        for (_, name) in given.iter().filter(|(g, _)| *g) {
            let block = patch.entry(part).or_insert_with(|| json!({}));
            block[*name] = Value::Null;
        }
    };
    clear(
        &[
            (args.clear_model, "model"),
            (args.clear_tools, "toolsAllow"),
            (args.clear_thinking, "thinking"),
            (args.clear_fallbacks, "fallbacks"),
            (args.no_light_context, "lightContext"),
        ],
        &mut patch,
        "payload",
    );
    clear(
        &[
            (args.clear_to, "to"),
            (args.clear_channel, "channel"),
            (args.clear_account, "accountId"),
            (args.clear_thread_id, "threadId"),
            (args.no_best_effort_deliver, "bestEffort"),
        ],
        &mut patch,
        "delivery",
    );
    if args.no_failure_alert {
        patch.insert("failureAlert".into(), false.into());
    } else {
        let mut alert = Map::new();
        if let Some(after) = args.failure_alert_after {
            alert.insert("after".into(), after.into());
        }
        if let Some(cooldown) = &args.failure_alert_cooldown {
            alert.insert("cooldownMs".into(), duration(cooldown, 60_000).map_err(Fail::new)?.into());
        }
        for (name, value) in [
            ("channel", &args.failure_alert_channel),
            ("to", &args.failure_alert_to),
            ("mode", &args.failure_alert_mode),
            ("accountId", &args.failure_alert_account_id),
        ] {
            if let Some(value) = value {
                alert.insert(name.into(), value.as_str().into());
            }
        }
        if args.failure_alert || !alert.is_empty() {
            patch.insert("failureAlert".into(), Value::Object(alert));
        }
    }
    if patch.is_empty() {
        return Err(Fail::new("Nothing to change.").hint("openclaw cron edit --help"));
    }
    let id = super::resolve(cx, &args.common, &args.id)?;
    print::json(&super::call(cx, &args.common, "cron.update", json!({"id": id, "patch": patch})).map_err(|fail| super::not_found(fail, &args.id))?);
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::{Job, delivery, instant, payload, schedule};

    #[test]
    fn schedules_are_read() {
        let job = |change: fn(&mut Job)| {
            let mut job = Job::default();
            change(&mut job);
            schedule(&job).ok().flatten().map(|v| v.to_string())
        };
        assert_eq!(job(|j| j.every = Some("30m".into())).as_deref(), Some(r#"{"kind":"every","everyMs":1800000}"#));
        assert_eq!(
            job(|j| {
                j.cron = Some("0 7 * * *".into());
                j.tz = Some("Europe/Berlin".into());
                j.exact = true;
            })
            .as_deref(),
            Some(r#"{"kind":"cron","expr":"0 7 * * *","tz":"Europe/Berlin","staggerMs":0}"#)
        );
        assert_eq!(instant("2026-12-24T18:00:00", Some("Europe/Berlin")).ok().as_deref(), Some("2026-12-24T17:00:00.000Z"));
        assert_eq!(instant("2026-12-24T18:00:00", None).ok().as_deref(), Some("2026-12-24T18:00:00.000Z"));
        assert!(instant("20m", None).is_ok() && instant("tomorrow", None).is_err());
        let both = Job { at: Some("20m".into()), every: Some("1h".into()), ..Job::default() };
        assert!(schedule(&both).is_err());
    }

    #[test]
    fn payload_and_delivery_follow_the_flags() {
        let job = Job { system_event: Some("x".into()), ..Job::default() };
        assert_eq!(payload(&job).ok().flatten().and_then(|p| p.get("kind").cloned()), Some("systemEvent".into()));
        assert!(payload(&Job { command: Some("ls".into()), ..Job::default() }).is_err());
        assert_eq!(delivery(&Job::default()), None);
        let sent = delivery(&Job { to: Some("5".into()), ..Job::default() }).unwrap_or_default();
        assert_eq!(sent.get("mode"), Some(&"announce".into()));
    }
}
