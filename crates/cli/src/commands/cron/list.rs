use serde_json::{Value, json};

use super::Common;
use crate::{
    commands::Outcome,
    cx::Cx,
    format::{dash, every, list, minute, number, relative, text},
    print,
};

/// Jobs.
#[derive(clap::Args)]
pub struct Args {
    /// Disabled ones too
    #[arg(long)]
    all: bool,
    /// One agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// `cron list`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let mut params = json!({"includeDisabled": args.all, "includeDeliveryPreviews": true, "limit": 200});
    if let Some(agent) = &args.agent {
        params["agentId"] = agent.as_str().into();
    }
    let found = super::call(cx, &args.common, "cron.list", params)?;
    if args.common.json {
        print::json(&found);
        return Ok(0);
    }
    let jobs = list(&found, "jobs");
    if jobs.is_empty() {
        print::line("No cron jobs.");
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = jobs.iter().map(|job| row(job, &found["deliveryPreviews"])).collect();
    print::columns(&["ID", "Declaration", "Name", "Schedule", "Next", "Last", "Status", "Target", "Delivery", "Agent ID", "Owner", "Model"], &rows);
    Ok(0)
}

/// `cron */5 * * * * (exact)`, `every 30m`, `at 2026-11-20 13:36Z`.
fn schedule(schedule: &Value) -> String {
    match text(schedule, "kind") {
        "cron" => {
            let zone = schedule.get("tz").and_then(Value::as_str).map(|tz| format!(" @ {tz}")).unwrap_or_default();
            let spread = match number(schedule, "staggerMs") {
                Some(0) => " (exact)".to_owned(),
                Some(ms) => format!(" (stagger {})", every(ms)),
                None => String::new(),
            };
            format!("cron {}{zone}{spread}", text(schedule, "expr"))
        }
        "every" => format!("every {}", every(number(schedule, "everyMs").unwrap_or(0))),
        "at" => format!("at {}", minute(text(schedule, "at"))),
        other => other.to_owned(),
    }
}

fn row(job: &Value, previews: &Value) -> Vec<String> {
    let state = &job["state"];
    let status = if job["enabled"] == false {
        "disabled"
    } else if state.get("runningAtMs").is_some_and(|v| !v.is_null()) {
        "running"
    } else {
        match text(state, "lastRunStatus") {
            "" => match text(state, "lastStatus") {
                "" => "idle",
                other => other,
            },
            other => other,
        }
    };
    let preview = text(&previews[text(job, "id")], "label");
    let delivery = if preview.is_empty() { text(&job["delivery"], "mode") } else { preview };
    vec![
        text(job, "id").to_owned(),
        dash(text(job, "declarationKey")),
        text(job, "name").to_owned(),
        schedule(&job["schedule"]),
        relative(number(state, "nextRunAtMs")),
        relative(number(state, "lastRunAtMs")),
        status.to_owned(),
        text(job, "sessionTarget").to_owned(),
        dash(delivery),
        dash(text(job, "agentId")),
        dash(text(&job["owner"], "id")),
        dash(text(&job["payload"], "model")),
    ]
}

#[cfg(test)]
mod tests {
    use super::{row, schedule};
    use serde_json::json;

    #[test]
    fn cells_read_as_recorded() {
        assert_eq!(schedule(&json!({"kind": "cron", "expr": "*/5 * * * *", "staggerMs": 0})), "cron */5 * * * * (exact)");
        assert_eq!(schedule(&json!({"kind": "every", "everyMs": 1_800_000})), "every 30m");
        assert_eq!(schedule(&json!({"kind": "at", "at": "2026-11-20T13:36:00.000Z"})), "at 2026-11-20 13:36Z");
        let cells = row(
            &json!({"id": "1", "name": "n", "enabled": true, "schedule": {"kind": "every", "everyMs": 1000}, "sessionTarget": "main", "state": {}}),
            &json!({}),
        );
        assert_eq!((cells[6].as_str(), cells[5].as_str(), cells.len()), ("idle", "-", 12));
    }
}
