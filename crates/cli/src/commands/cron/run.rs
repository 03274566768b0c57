use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::Common;
use crate::{
    commands::Outcome,
    cx::Cx,
    fail::Fail,
    format::{duration, list, text},
    print, rpc,
};

/// Run a job now.
#[derive(clap::Args)]
pub struct Args {
    /// Id or name
    id: String,
    /// Only when it is due
    #[arg(long)]
    due: bool,
    /// Wait for the end
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "10m", value_name = "DUR")]
    wait_timeout: String,
    /// How often to look
    #[arg(long, default_value = "2s", value_name = "DUR")]
    poll_interval: String,
    #[command(flatten)]
    common: Common,
}

/// Past runs.
#[derive(clap::Args)]
pub struct RunsArgs {
    /// Job [default: all]
    job: Option<String>,
    /// Job
    #[arg(long, value_name = "ID", conflicts_with = "job")]
    id: Option<String>,
    /// Rows
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Rows to skip
    #[arg(long)]
    offset: Option<u32>,
    /// How they ended
    #[arg(long, value_parser = PossibleValuesParser::new(["all", "ok", "error", "skipped"]))]
    status: Option<String>,
    /// How delivery ended
    #[arg(long, value_name = "STATUS")]
    delivery_status: Option<String>,
    /// One run
    #[arg(long, value_name = "ID")]
    run_id: Option<String>,
    /// Words to look for
    #[arg(long)]
    query: Option<String>,
    /// Order by time
    #[arg(long, value_parser = PossibleValuesParser::new(["asc", "desc"]))]
    sort: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// `cron run`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let id = super::resolve(cx, &args.common, &args.id)?;
    let mode = if args.due { "due" } else { "force" };
    let answer = super::call(cx, &args.common, "cron.run", json!({"id": id, "mode": mode})).map_err(|fail| super::not_found(fail, &args.id))?;
    let not_run = answer["ran"] == false || answer["enqueued"] == false;
    if not_run || !args.wait {
        print::json(&answer);
        return Ok(u8::from(not_run));
    }
    let limit = Duration::from_millis(duration(&args.wait_timeout, 60_000).map_err(Fail::new)?);
    let pause = Duration::from_millis(duration(&args.poll_interval, 1_000).map_err(Fail::new)?.max(50));
    let run_id = text(&answer, "runId").to_owned();
    let entry = cx.block_on(async {
        let gateway = rpc::open(cx, &args.common.gateway, 30_000).await?;
        let started = Instant::now();
        loop {
            let found = gateway
                .client
                .call_within("cron.runs", json!({"id": id, "runId": run_id, "limit": 1}), Duration::from_secs(30))
                .await
                .map_err(|err| gateway.fail(&err))?;
            if let Some(entry) = list(&found, "entries").first() {
                gateway.client.close().await;
                return Ok(entry.clone());
            }
            if started.elapsed() >= limit {
                return Err(Fail::new(format!("The run did not end within {}.", args.wait_timeout)).hint(format!("openclaw cron runs {id}")));
            }
            tokio::time::sleep(pause).await;
        }
    })?;
    let mut out = answer;
    for name in ["status", "completionStatus", "error", "summary", "durationMs", "deliveryStatus"] {
        if let Some(value) = entry.get(name) {
            out[name] = value.clone();
        }
    }
    print::json(&out);
    let good = match entry.get("completionStatus").and_then(Value::as_str) {
        Some(word) => word == "succeeded",
        None => text(&entry, "status") == "ok",
    };
    Ok(u8::from(!good))
}

/// `cron runs`.
pub fn runs(args: &RunsArgs, cx: &Cx) -> Outcome {
    let mut params = json!({"limit": args.limit.clamp(1, 200)});
    match args.job.as_ref().or(args.id.as_ref()) {
        Some(id) => params["id"] = super::resolve(cx, &args.common, id)?.into(),
        None => params["scope"] = "all".into(),
    }
    if let Some(offset) = args.offset {
        params["offset"] = offset.into();
    }
    for (name, value) in
        [("status", &args.status), ("deliveryStatus", &args.delivery_status), ("runId", &args.run_id), ("query", &args.query), ("sortDir", &args.sort)]
    {
        if let Some(value) = value {
            params[name] = value.as_str().into();
        }
    }
    print::json(&super::call(cx, &args.common, "cron.runs", params)?);
    Ok(0)
}
