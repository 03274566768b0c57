//! `farm events`: what happens to letters, members, keys and ownership, as the running gateway tells it.

use std::time::Duration;

use clawstead_wire::client::{Events, Heard};
use serde_json::{Value, json};

use super::status::{ask, moment};
use crate::{
    commands::Outcome,
    cx::Cx,
    format::{list, number, scalar, text},
    print,
    rpc::{self, Common},
};

/// Looked at this often even when nothing was told.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a gateway that went away is waited for.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Between two tries to reach it again.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// How long one answer is waited for.
const ANSWER: Duration = Duration::from_secs(10);

/// What happens in the farm.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  openclaw farm events --follow\n  openclaw farm events --follow --json | jq 'select(.event == \"farm.msg.dead_letter\")'")]
pub struct Args {
    /// Wait for more
    #[arg(short, long)]
    follow: bool,
    /// At most so many of those that happened already
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.events", json!({"limit": args.limit}))?;
    if !args.follow {
        if args.common.json {
            print::json(&found);
        } else if list(&found, "events").is_empty() {
            print::line("Nothing has happened since the gateway started.");
        } else {
            list(&found, "events").iter().for_each(|event| print::line(&line(event)));
        }
        return Ok(0);
    }
    let mut cursor = 0;
    show(args, &found, &mut cursor);
    cx.block_on(follow(args, cx, cursor))
}

/// Goes on from event `cursor`, over restarts of the gateway too.
async fn follow(args: &Args, cx: &Cx, mut cursor: i64) -> Outcome {
    let mut away: Option<tokio::time::Instant> = None;
    loop {
        let gateway = match rpc::open(cx, &args.common.gateway, 10_000).await {
            Ok(gateway) => gateway,
            Err(fail) => match away {
                Some(since) if since.elapsed() < BACK_WITHIN => {
                    tokio::time::sleep(TRY_EVERY).await;
                    continue;
                }
                _ => return Err(fail),
            },
        };
        let mut told = gateway.client.events();
        loop {
            match gateway.client.call_within("farm.events", json!({"after": cursor}), ANSWER).await {
                Ok(found) => {
                    away = None;
                    show(args, &found, &mut cursor);
                }
                Err(err) if gateway.client.ended().is_none() => return Err(gateway.fail(&err)),
                Err(_) => break,
            }
            if !wait(&mut told).await {
                break;
            }
        }
        if away.is_none() {
            notice(args, "The gateway went away; waiting for it.");
        }
        away.get_or_insert_with(tokio::time::Instant::now);
    }
}

/// Until the gateway tells of events, or it is time to look. False when the connection ended.
async fn wait(told: &mut Events) -> bool {
    let hear = async {
        loop {
            match told.next().await {
                Ok(Heard::Event(event)) if event.event != "farm" => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    };
    tokio::time::timeout(LOOK_EVERY, hear).await.unwrap_or(true)
}

/// Shows a page and moves the cursor behind it.
fn show(args: &Args, found: &Value, cursor: &mut i64) {
    let newest = number(found, "newest").unwrap_or(0);
    if newest < *cursor {
        notice(args, "The gateway was started anew; its events count from 1 again.");
        *cursor = 0;
    }
    for event in list(found, "events") {
        let seq = number(event, "seq").unwrap_or(0);
        if *cursor > 0 && seq > *cursor + 1 {
            notice(args, &format!("{} events happened too quickly to be kept.", seq - *cursor - 1));
        }
        *cursor = seq;
        if args.common.json {
            print::json_line(event);
        } else {
            print::line(&line(event));
        }
    }
    *cursor = (*cursor).max(newest);
}

fn notice(args: &Args, words: &str) {
    if args.common.json {
        print::json_line(&json!({"type": "notice", "message": words}));
    } else {
        anstream::eprintln!("{words}");
    }
}

/// One event as one line: when, what, about whom, and what else it says.
fn line(event: &Value) -> String {
    let at = moment(&event["at"]).and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    let at = at.map_or_else(|| "-".to_owned(), |at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string());
    let who = match (text(event, "from"), text(event, "to")) {
        ("", "") => ["gateway", "agent", "kid"].iter().map(|name| text(event, name)).find(|found| !found.is_empty()).unwrap_or("").to_owned(),
        (from, to) => format!("{from} → {to}"),
    };
    let known = ["seq", "at", "event", "from", "to", "gateway", "agent", "kid", "correlationId", "fromGateway", "kind", "capability", "messageId"];
    let extras = event.as_object().into_iter().flatten().filter(|(name, value)| !known.contains(&name.as_str()) && !value.is_null());
    let extras: Vec<String> = extras.map(|(name, value)| format!("{name}={}", scalar(value))).chain(Some(text(event, "messageId").to_owned())).collect();
    format!("{at}  {:<22} {who:<20} {}", text(event, "event"), extras.join(" ").trim()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::line;

    #[test]
    fn an_event_is_one_line_that_says_whom_it_is_about() {
        let letter = json!({"seq": 3, "at": 0, "event": "farm.msg.retry", "from": "jerry", "to": "bobby", "messageId": "m1", "kind": "request", "reason": "no_answer", "delay_ms": 200});
        let shown = line(&letter);
        assert!(shown.ends_with("farm.msg.retry         jerry → bobby        reason=no_answer delay_ms=200 m1"), "{shown}");
        let member = json!({"seq": 4, "at": 0, "event": "farm.member.silent", "gateway": "bobby-gateway", "was": "healthy"});
        assert!(line(&member).ends_with("farm.member.silent     bobby-gateway        was=healthy"), "{}", line(&member));
        assert_eq!(line(&json!({})), "-");
    }
}
