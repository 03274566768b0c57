//! Letters between agents, as the running gateway has them.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    site::Consent,
    status::{ask, moment},
};
use crate::{
    commands::Outcome,
    cx::Cx,
    format::{dash, number, relative, scalar, span, text},
    print,
    rpc::Common,
};

/// Letters between agents.
#[derive(clap::Args)]
pub struct ListArgs {
    /// Of one agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// At most so many, newest first
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

/// The life of one letter.
#[derive(clap::Args)]
pub struct OneArgs {
    /// Letter, as `openclaw farm letters` shows it
    id: String,
    #[command(flatten)]
    common: Common,
}

/// Letters that could not be delivered.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct DlqArgs {
    #[command(subcommand)]
    verb: DlqVerb,
}

#[derive(Subcommand)]
enum DlqVerb {
    /// All of them
    List(ListArgs),
    /// One, with its body and why it is here
    Show(OneArgs),
    /// Send it again, as a new letter with the same idempotency key
    Replay(OneArgs),
    /// Forget it
    Drop {
        #[command(flatten)]
        one: OneArgs,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// `farm letters`.
pub fn list(args: &ListArgs, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.letters", params(args))?;
    if args.common.json {
        print::json(&found);
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = letters(&found).iter().map(row).collect();
    if rows.is_empty() {
        print::line("No letters.");
        return Ok(0);
    }
    print::columns(&["", "Letter", "State", "Kind", "From → to", "What", "Age", "Tries", "Last error"], &rows);
    Ok(0)
}

fn params(args: &ListArgs) -> Value {
    let mut params = json!({"limit": args.limit});
    if let Some(agent) = &args.agent {
        params["agent"] = agent.as_str().into();
    }
    params
}

fn letters(found: &Value) -> &[Value] {
    list_of(found, "letters")
}

fn list_of<'a>(found: &'a Value, name: &str) -> &'a [Value] {
    crate::format::list(found, name)
}

fn row(letter: &Value) -> Vec<String> {
    vec![
        if text(letter, "direction") == "in" { "←" } else { "→" }.into(),
        text(letter, "messageId").to_owned(),
        text(letter, "state").to_owned(),
        text(letter, "kind").to_owned(),
        path(letter),
        dash(text(letter, "capability")),
        relative(moment(&letter["createdAt"])),
        number(letter, "attempts").unwrap_or(0).to_string(),
        text(letter, "lastError").to_owned(),
    ]
}

fn path(letter: &Value) -> String {
    format!("{} → {}", dash(text(letter, "from")), dash(text(letter, "to")))
}

/// `farm letter`.
pub fn one(args: &OneArgs, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.letter", json!({"id": args.id}))?;
    if args.common.json {
        print::json(&found);
    } else {
        life(&found).iter().for_each(|line| print::line(line));
    }
    Ok(0)
}

/// The lines of one letter: what it is, then its events with the time since the first.
fn life(found: &Value) -> Vec<String> {
    let letter = found.get("letter").unwrap_or(found);
    let mut lines = vec![format!("{}  {}", dash(text(letter, "messageId")), dash(text(letter, "state")))];
    lines.push(format!("{} · {} · {}", path(letter), dash(text(letter, "kind")), dash(text(letter, "capability"))));
    for (name, words) in [("gateway", "Gateway"), ("lastError", "Error"), ("reason", "Reason"), ("replayedAs", "Sent again as")] {
        if let Some(said) = letter.get(name).and_then(Value::as_str).filter(|said| !said.is_empty()) {
            lines.push(format!("{words}: {said}"));
        }
    }
    let history = list_of(letter, "history");
    let first = history.iter().find_map(|event| moment(&event["at"])).or_else(|| moment(&letter["createdAt"]));
    for event in history {
        let at = match (moment(&event["at"]), first) {
            (Some(at), Some(first)) => after(at - first),
            _ => "-".into(),
        };
        let extras: Vec<String> = event
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, value)| !matches!(name.as_str(), "at" | "event") && !value.is_null())
            .map(|(name, value)| format!("{name}={}", scalar(value)))
            .collect();
        lines.push(format!("  {at:>9}  {:<24} {}", text(event, "event"), extras.join(" ")).trim_end().to_owned());
    }
    lines
}

fn after(ms: i64) -> String {
    if ms < 10_000 { format!("+{ms} ms") } else { format!("+{}", span(ms)) }
}

/// `farm dlq`.
pub fn dlq(args: DlqArgs, cx: &Cx) -> Outcome {
    match args.verb {
        DlqVerb::List(args) => dead(&args, cx),
        DlqVerb::Show(one) => {
            let found = ask(cx, &one.common, "farm.dlq.show", json!({"id": one.id}))?;
            // With the body, whatever it is: JSON for people too.
            print::json(&found);
            Ok(0)
        }
        DlqVerb::Replay(one) => {
            let found = ask(cx, &one.common, "farm.dlq.replay", json!({"id": one.id}))?;
            let new =
                ["replayedAs", "messageId"].iter().map(|name| text(&found, name)).find(|id| !id.is_empty()).map(|id| format!(" as {id}")).unwrap_or_default();
            told(&one, &found, &format!("Sent {} again{new}. Its life: openclaw farm letter <id>", one.id))
        }
        DlqVerb::Drop { one, yes } => {
            Consent::from_flag(yes).to(&format!("Forget the letter {}? It cannot be sent again then.", one.id))?;
            let found = ask(cx, &one.common, "farm.dlq.drop", json!({"id": one.id}))?;
            told(&one, &found, &format!("Forgot {}.", one.id))
        }
    }
}

fn told(one: &OneArgs, found: &Value, words: &str) -> Outcome {
    if one.common.json {
        print::json(found);
    } else {
        print::line(words);
    }
    Ok(0)
}

fn dead(args: &ListArgs, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.dlq.list", params(args))?;
    if args.common.json {
        print::json(&found);
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = letters(&found)
        .iter()
        .map(|letter| {
            let again = letter["replayedAs"].as_str().map(|id| format!("sent again as {id}")).unwrap_or_default();
            vec![text(letter, "messageId").to_owned(), text(letter, "reason").to_owned(), path(letter), relative(moment(&letter["at"])), again]
        })
        .collect();
    if rows.is_empty() {
        print::line("No dead letters.");
        return Ok(0);
    }
    print::columns(&["Letter", "Reason", "From → to", "Since", ""], &rows);
    print::line("Send one again: openclaw farm dlq replay <letter>");
    Ok(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{life, row};

    #[test]
    fn a_life_is_told_in_order_with_what_each_event_says() {
        let letter = json!({
            "direction": "out", "messageId": "m1", "state": "acked", "kind": "request", "from": "jerry", "to": "bobby", "capability": "infra.query",
            "createdAt": "2026-11-20T11:00:00.000Z", "attempts": 2, "gateway": "bobby-gateway",
            "history": [
                {"at": "2026-11-20T11:00:00.000Z", "event": "farm.msg.queued"},
                {"at": 1_795_172_400_040_i64, "event": "farm.msg.sent", "attempt": 1},
                {"at": 1_795_172_460_000_i64, "event": "farm.msg.acked", "why": null},
            ],
        });
        let lines = life(&json!({"letter": letter}));
        assert_eq!(lines, life(&letter), "with and without an envelope");
        assert_eq!(lines[..3], ["m1  acked", "jerry → bobby · request · infra.query", "Gateway: bobby-gateway"]);
        assert_eq!(lines[3..], ["      +0 ms  farm.msg.queued", "     +40 ms  farm.msg.sent            attempt=1", "        +1m  farm.msg.acked"]);
        assert_eq!(row(&letter)[..3], ["→", "m1", "acked"]);
    }

    #[test]
    fn a_letter_that_says_little_is_shown_all_the_same() {
        assert_eq!(life(&json!({})), ["-  -", "- → - · - · -"]);
        assert_eq!(row(&json!({}))[4], "- → -");
    }
}
