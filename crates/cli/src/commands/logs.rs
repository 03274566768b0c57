//! `openclaw logs`.

use std::{path::Path, time::Duration};

use clawstead_gateway::logs::tail;
use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    fail::{Fail, Kind},
    format::{list, number, text},
    print,
    rpc::{self, Connect},
};

/// Read the gateway's log.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  openclaw logs --follow\n  openclaw logs --limit 50 --json")]
pub struct Args {
    /// Wait for more
    #[arg(short, long)]
    follow: bool,
    /// How often to look, milliseconds
    #[arg(long, default_value_t = 1_000, value_name = "MS")]
    interval: u64,
    /// Lines
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    limit: u32,
    /// Bytes
    #[arg(long, default_value_t = 250_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_bytes: u32,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
    /// No colours
    #[arg(long)]
    plain: bool,
    /// Local times (default)
    #[arg(long, conflicts_with = "utc")]
    local_time: bool,
    /// UTC times
    #[arg(long)]
    utc: bool,
    #[command(flatten)]
    gateway: Connect,
}

/// Runs it: through the gateway, or from the file when the local one does not answer.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    if args.plain {
        anstream::ColorChoice::Never.write_global();
    }
    let explicit = args.gateway.url.is_some();
    match through_gateway(args, cx) {
        Err(fail) if fail.kind == Kind::Transport && !explicit => {
            let note = format!("Gateway not reachable; reading the file. ({})", fail.message);
            if args.json {
                print::json_line(&json!({"type": "notice", "message": note}));
            } else {
                anstream::eprintln!("{note}");
            }
            from_file(args, cx)
        }
        other => other,
    }
}

fn through_gateway(args: &Args, cx: &Cx) -> Outcome {
    cx.block_on(async {
        let gateway = rpc::open(cx, &args.gateway, 30_000).await?;
        let mut cursor: Option<i64> = None;
        loop {
            let mut params = json!({"limit": args.limit, "maxBytes": args.max_bytes});
            if let Some(at) = cursor {
                params["cursor"] = at.into();
            }
            let found = gateway.client.call_within("logs.tail", params, Duration::from_secs(30)).await.map_err(|err| gateway.fail(&err))?;
            let first = cursor.is_none();
            cursor = number(&found, "cursor");
            show_page(
                args,
                first,
                text(&found, "file"),
                "gateway",
                cursor.unwrap_or(0),
                number(&found, "size").unwrap_or(0),
                found["truncated"] == true,
                found["reset"] == true,
            );
            for line in list(&found, "lines").iter().filter_map(Value::as_str) {
                show_line(args, line);
            }
            if !args.follow {
                gateway.client.close().await;
                return Ok(0);
            }
            tokio::time::sleep(Duration::from_millis(args.interval.max(50))).await;
        }
    })
}

fn from_file(args: &Args, cx: &Cx) -> Outcome {
    let (_, config) = cx.config_or_defaults();
    let path = config
        .logging
        .file
        .clone()
        .or_else(|| clawstead_gateway::logs::newest(&cx.paths.log_dir))
        .unwrap_or_else(|| cx.paths.log_dir.join(clawstead_gateway::logs::file_of_today()));
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    cx.block_on(async {
        let mut cursor = None;
        loop {
            let page = tail(&path, cursor, limit, u64::from(args.max_bytes)).map_err(|err| Fail::new(format!("{}: {err}", path.display())))?;
            let as_number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            show_page(args, cursor.is_none(), &path.display().to_string(), "file", as_number(page.cursor), as_number(page.size), page.truncated, page.reset);
            for line in &page.lines {
                show_line(args, line);
            }
            cursor = Some(page.cursor);
            if !args.follow {
                return Ok(0);
            }
            tokio::time::sleep(Duration::from_millis(args.interval.max(50))).await;
        }
    })
}

#[allow(clippy::too_many_arguments, reason = "the fields of one note")]
fn show_page(args: &Args, first: bool, file: &str, source: &str, cursor: i64, size: i64, truncated: bool, reset: bool) {
    if args.json {
        if first {
            print::json_line(&json!({"type": "meta", "file": file, "sourceKind": source, "cursor": cursor, "size": size}));
        }
        if truncated && first {
            print::json_line(&json!({"type": "notice", "message": "Older lines were left out; use --limit and --max-bytes."}));
        }
        if reset {
            print::json_line(&json!({"type": "notice", "message": "The file was turned or replaced."}));
        }
        return;
    }
    if first {
        print::line(&format!("Log file: {}", Path::new(file).display()));
        if truncated {
            anstream::eprintln!("Older lines were left out; use --limit and --max-bytes.");
        }
    }
    if reset {
        anstream::eprintln!("The file was turned or replaced.");
    }
}

/// A line of the file in its parts.
#[must_use]
pub fn parse(line: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    let level = value.pointer("/_meta/logLevelName").and_then(Value::as_str).unwrap_or("INFO").to_lowercase();
    let subsystem = value
        .get("0")
        .and_then(Value::as_str)
        .and_then(|name| serde_json::from_str::<Value>(name).ok())
        .and_then(|name| name.get("subsystem")?.as_str().map(str::to_owned));
    let message = value.get("message").and_then(Value::as_str).or_else(|| value.get("1").and_then(Value::as_str)).unwrap_or_default();
    Some(json!({"type": "log", "time": value.get("time"), "level": level, "subsystem": subsystem, "message": message, "raw": line}))
}

fn show_line(args: &Args, line: &str) {
    use owo_colors::OwoColorize as _;
    let Some(entry) = parse(line) else {
        if args.json {
            print::json_line(&json!({"type": "raw", "raw": line}));
        } else {
            print::line(line);
        }
        return;
    };
    if args.json {
        print::json_line(&entry);
        return;
    }
    let time = text(&entry, "time");
    let time = match time.parse::<jiff::Timestamp>() {
        Ok(at) if args.utc => format!("{at:.3}"),
        Ok(at) => at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string(),
        Err(_) => time.to_owned(),
    };
    let level = text(&entry, "level");
    let level = match level {
        "error" | "fatal" => format!("{}", level.red()),
        "warn" => format!("{}", level.yellow()),
        _ => format!("{}", level.dimmed()),
    };
    print::line(&format!("{} {level} {} {}", time.dimmed(), text(&entry, "subsystem").cyan(), text(&entry, "message")));
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lines_are_taken_apart() {
        let line =
            r#"{"0":"{\"subsystem\":\"gateway/ws\"}","1":"closed","_meta":{"logLevelName":"WARN"},"time":"2026-11-20T12:00:00.000+00:00","message":"closed"}"#;
        let entry = parse(line).unwrap_or_default();
        assert_eq!((entry["level"].as_str(), entry["subsystem"].as_str(), entry["message"].as_str()), (Some("warn"), Some("gateway/ws"), Some("closed")));
        assert!(parse("plain words").is_none());
    }
}
