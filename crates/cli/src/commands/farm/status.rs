//! What the running gateway knows of the farm: gateways, agents, engines.

use std::collections::BTreeSet;

use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use crate::{
    commands::Outcome,
    cx::Cx,
    fail::{Fail, Kind},
    format::{dash, list, number, relative, span, text},
    print,
    rpc::{self, Common},
};

/// Letters that were refused lately, of which the reason is shown.
const REFUSED_SHOWN: usize = 3;

/// What the running gateway knows.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
}

/// Calls a farm method of the gateway.
///
/// # Errors
/// As the call; a gateway without a farm with the way to one.
pub fn ask(cx: &Cx, common: &Common, method: &str, params: Value) -> Result<Value, Fail> {
    rpc::call(cx, &common.gateway, 10_000, method, params).map_err(|fail| {
        if fail.kind != Kind::Request {
            return fail;
        }
        let (snapshot, config) = cx.config_or_defaults();
        if config.farm.is_none() && snapshot.blocking(clawstead_config::Strictness::Tolerant).is_empty() {
            let message = format!("This gateway is in no farm ({}).", fail.message.trim_end_matches('.'));
            return Fail { message, ..fail }.hint("openclaw farm init (a new farm), or openclaw farm join <invitation>; then openclaw gateway restart");
        }
        if fail.message.contains("unknown method") {
            return fail.hint("openclaw gateway restart (the running gateway is of an older version)");
        }
        fail.hint("openclaw doctor; openclaw gateway restart when farm came into the config since its start")
    })
}

/// `farm status`.
pub fn status(args: &Args, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.status", json!({}))?;
    shown(args, &found, status_lines)
}

/// `farm gateways`.
pub fn gateways(args: &Args, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.gateways", json!({}))?;
    if args.common.json {
        print::json(&found);
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = list(&found, "gateways").iter().map(gateway_row).collect();
    if rows.is_empty() {
        print::line("No gateway is known.");
    } else {
        print::columns(&["", "Gateway", "Since", "Beat", "Version", "Agents", "Address"], &rows);
    }
    for gateway in list(&found, "gateways") {
        problems(gateway, text(gateway, "name")).iter().for_each(|line| print::line(line));
    }
    Ok(0)
}

/// `farm agents`.
pub fn agents(args: &Args, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.agents", json!({}))?;
    if args.common.json {
        print::json(&found);
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = list(&found, "agents")
        .iter()
        .map(|agent| {
            vec![
                mark(agent).to_owned(),
                text(agent, "id").to_owned(),
                dash(text(agent, "kind")),
                dash(text(agent, "gateway")),
                dash(text(agent, "status")),
                dash(text(agent, "model")),
                words(agent, "capabilities"),
            ]
        })
        .collect();
    if rows.is_empty() {
        print::line("No agent is known.");
    } else {
        print::columns(&["", "Agent", "Kind", "Gateway", "Status", "Model", "Capabilities"], &rows);
    }
    Ok(0)
}

/// `farm map`.
pub fn map(args: &Args, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.status", json!({}))?;
    shown(args, &found, map_lines)
}

fn shown(args: &Args, found: &Value, lines: impl Fn(&Value) -> Vec<String>) -> Outcome {
    if args.common.json {
        print::json(found);
    } else {
        lines(found).iter().for_each(|line| print::line(line));
    }
    Ok(0)
}

fn mark(of: &Value) -> &'static str {
    if of["healthy"] == true { "●" } else { "○" }
}

fn coloured(of: &Value) -> String {
    if of["healthy"] == true { format!("{}", "●".green()) } else { format!("{}", "○".red()) }
}

fn words(of: &Value, name: &str) -> String {
    list(of, name).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn engine(of: &Value, what: &str) -> String {
    let state =
        if of["ok"] == true { "ok".to_owned() } else { format!("does not answer{}", of["why"].as_str().map(|why| format!(" ({why})")).unwrap_or_default()) };
    format!("{what} {} {state}", dash(text(of, "engine")))
}

fn since(of: &Value) -> String {
    number(of, "sinceMs").map_or_else(|| "-".into(), |ms| if ms > 1_000_000_000_000 { relative(Some(ms)) } else { span(ms) })
}

/// A moment as a number of milliseconds or as text.
#[must_use]
pub fn moment(at: &Value) -> Option<i64> {
    match at {
        Value::String(text) => text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond),
        other => other.as_i64(),
    }
}

/// The last heartbeat of a gateway.
fn beat(gateway: &Value) -> Option<i64> {
    moment(&gateway["lastHeartbeat"]).or_else(|| moment(&gateway["lastHeartbeatMs"]))
}

/// What a gateway is: its own word, else by the mark.
fn health(gateway: &Value) -> &str {
    match (text(gateway, "health"), gateway["healthy"] == true) {
        ("", true) => "healthy",
        ("", false) => "silent",
        (word, _) => word,
    }
}

fn problems(of: &Value, whose: &str) -> Vec<String> {
    list(of, "problems").iter().filter_map(Value::as_str).map(|problem| format!("  ! {whose}: {problem}")).collect()
}

fn gateway_row(gateway: &Value) -> Vec<String> {
    let name = text(gateway, "name");
    vec![
        mark(gateway).to_owned(),
        if gateway["self"] == true { format!("{name} (this one)") } else { name.to_owned() },
        since(gateway),
        relative(beat(gateway)),
        dash(text(gateway, "version")),
        dash(&words(gateway, "agents")),
        dash(text(gateway, "url")),
    ]
}

fn head(found: &Value) -> String {
    format!("{} · {} · {}", dash(text(found, "farm")), engine(&found["coord"], "coordination"), engine(&found["bus"], "letters"))
}

/// The lines of `farm status`.
fn status_lines(found: &Value) -> Vec<String> {
    let (gateways, agents) = (list(found, "gateways"), list(found, "agents"));
    let healthy = |of: &[Value]| of.iter().filter(|one| one["healthy"] == true).count();
    let mut lines = vec![head(found)];
    lines.push(format!("Gateways  {} of {} healthy", healthy(gateways), gateways.len()));
    for gateway in gateways {
        let name = text(gateway, "name");
        let this = if gateway["self"] == true { " (this one)" } else { "" };
        let beat = beat(gateway).map(|at| format!(" · beat {}", relative(Some(at)))).unwrap_or_default();
        let version = gateway["version"].as_str().map(|version| format!(" · {version}")).unwrap_or_default();
        lines.push(
            format!("  {} {name}{this}  {} {}{beat}{version}  {}", coloured(gateway), health(gateway), since(gateway), words(gateway, "agents"))
                .trim_end()
                .to_owned(),
        );
        lines.extend(problems(gateway, name).into_iter().map(|line| format!("  {line}")));
    }
    lines.push(format!("Agents    {} of {} healthy", healthy(agents), agents.len()));
    let letters = &found["letters"];
    let count = |name: &str| number(letters, name).unwrap_or(0);
    lines.push(format!("Letters   {} queued · {} in flight · {} delivered · {} dead", count("queued"), count("inFlight"), count("delivered"), count("dead")));
    let refused: Vec<String> = found["refusals"].as_object().into_iter().flatten().map(|(why, count)| format!("{count} {why}")).collect();
    if !refused.is_empty() {
        lines.push(format!("Refused   {} (since the start; openclaw farm policy explain, openclaw farm keys)", refused.join(" · ")));
    }
    for one in list(found, "refusedLately").iter().take(REFUSED_SHOWN) {
        let why = one["why"].as_str().unwrap_or_default();
        let from = one["from"].as_str().map(|from| format!("{from}: ")).unwrap_or_default();
        lines.push(format!("          {from}{why}"));
    }
    if count("dead") > 0 {
        lines.push("          openclaw farm dlq list".into());
    }
    let troubles: Vec<&str> = list(found, "problems").iter().filter_map(Value::as_str).collect();
    if troubles.is_empty() {
        lines.push("Problems  none".into());
    } else {
        lines.push(format!("Problems  {}", troubles.len()));
        lines.extend(troubles.iter().map(|trouble| format!("  ! {trouble}")));
    }
    lines
}

/// The lines of `farm map`: gateways with their agents; agents that no known gateway has come last.
fn map_lines(found: &Value) -> Vec<String> {
    let (gateways, agents) = (list(found, "gateways"), list(found, "agents"));
    let names: BTreeSet<&str> = gateways.iter().map(|gateway| text(gateway, "name")).collect();
    let lost: Vec<&Value> = agents.iter().filter(|agent| !names.contains(text(agent, "gateway"))).collect();
    let mut lines = vec![head(found)];
    let branches = gateways.len() + usize::from(!lost.is_empty());
    for (at, gateway) in gateways.iter().enumerate() {
        let (fork, bar) = branch(at + 1 == branches);
        let this = if gateway["self"] == true { " (this one)" } else { "" };
        lines.push(format!("{fork}{} {}{this} · {} {}", coloured(gateway), text(gateway, "name"), health(gateway), since(gateway)));
        let own: Vec<&Value> = agents.iter().filter(|agent| text(agent, "gateway") == text(gateway, "name")).collect();
        leaves(&mut lines, bar, &own);
    }
    if !lost.is_empty() {
        lines.push(format!("{}{} on no known gateway", branch(true).0, "○".red()));
        leaves(&mut lines, branch(true).1, &lost);
    }
    lines
}

const fn branch(last: bool) -> (&'static str, &'static str) {
    if last { ("└─ ", "   ") } else { ("├─ ", "│  ") }
}

fn leaves(lines: &mut Vec<String>, bar: &str, agents: &[&Value]) {
    for (at, agent) in agents.iter().enumerate() {
        let (fork, _) = branch(at + 1 == agents.len());
        let about: Vec<String> =
            [text(agent, "status").to_owned(), text(agent, "model").to_owned(), words(agent, "capabilities")].into_iter().filter(|t| !t.is_empty()).collect();
        let line = format!("{bar}{fork}{} {}  {}", coloured(agent), text(agent, "id"), about.join(" · "));
        lines.push(line.trim_end().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{map_lines, status_lines};

    fn farm() -> Value {
        json!({
            "farm": "octant", "gateway": "jerry-gateway",
            "coord": {"engine": "consul", "ok": true}, "bus": {"engine": "nats", "ok": false, "why": "connection refused"},
            "gateways": [
                {"name": "jerry-gateway", "self": true, "healthy": true, "sinceMs": 180_000, "version": "0.1.0", "agents": ["jerry"], "problems": []},
                {"name": "bobby-gateway", "self": false, "healthy": false, "sinceMs": 7_200_000, "agents": ["bobby"], "problems": ["no beat since 2h"]},
            ],
            "agents": [
                {"id": "jerry", "gateway": "jerry-gateway", "healthy": true, "capabilities": ["sessions.*", "infra.query"], "model": "m", "status": "active"},
                {"id": "bobby", "gateway": "bobby-gateway", "healthy": false, "capabilities": []},
                {"id": "billy", "gateway": "gone-gateway", "healthy": false, "capabilities": []},
            ],
            "letters": {"queued": 1, "inFlight": 2, "delivered": 3, "dead": 4},
            "refusals": {"forbidden": 2, "key_unknown": 1},
            "problems": ["NATS does not answer"],
        })
    }

    fn plain(lines: Vec<String>) -> Vec<String> {
        lines.into_iter().map(|line| anstream::adapter::strip_str(&line).to_string()).collect()
    }

    #[test]
    fn the_map_is_a_tree() {
        assert_eq!(
            plain(map_lines(&farm())),
            [
                "octant · coordination consul ok · letters nats does not answer (connection refused)",
                "├─ ● jerry-gateway (this one) · healthy 3m",
                "│  └─ ● jerry  active · m · sessions.*, infra.query",
                "├─ ○ bobby-gateway · silent 2h",
                "│  └─ ○ bobby",
                "└─ ○ on no known gateway",
                "   └─ ○ billy",
            ]
        );
        assert_eq!(plain(map_lines(&json!({}))).len(), 1, "an answer without anything is a line, not a failure");
    }

    #[test]
    fn status_is_one_screen_and_says_what_is_wrong() {
        let lines = plain(status_lines(&farm()));
        assert!(lines.len() <= 24);
        let text = lines.join("\n");
        for part in [
            "1 of 2 healthy",
            "  ● jerry-gateway (this one)  healthy 3m · 0.1.0  jerry",
            "! bobby-gateway: no beat since 2h",
            "1 of 3 healthy",
            "4 dead",
            "Refused   2 forbidden · 1 key_unknown",
            "farm dlq list",
            "  ! NATS does not answer",
        ] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
    }
}
