use serde_json::{Value, json};

use crate::{
    commands::Outcome,
    cx::Cx,
    fail::Fail,
    print,
    rpc::{self, Connect},
};

/// Call a method of the gateway protocol.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  openclaw gateway call health\n  openclaw gateway call cron.list --json\n  openclaw gateway call agent --params '{\"message\":\"hi\",\"idempotencyKey\":\"1\"}' --expect-final"
)]
pub struct Args {
    /// Method, for example `agents.list`
    method: String,
    /// Parameters as JSON
    #[arg(long, default_value = "{}", value_name = "JSON")]
    params: String,
    /// Fail when the resolved address is another one; configured credentials are used
    #[arg(long, value_name = "WS-URL")]
    expect_url: Option<String>,
    #[command(flatten)]
    gateway: Connect,
    /// Print only the result
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    let params: Value =
        serde_json::from_str(&args.params).map_err(|err| Fail::new(format!("--params is not valid JSON: {err}")).hint("openclaw gateway call --help"))?;
    let result = cx.block_on(async {
        let gateway = rpc::open(cx, &args.gateway, 10_000).await?;
        if let Some(expected) = args.expect_url.as_deref().filter(|url| url.trim_end_matches('/') != gateway.target.url) {
            return Err(Fail::new(format!("The gateway in use is {}, not {expected}.", gateway.target.url)).hint("openclaw gateway status"));
        }
        let done =
            if args.gateway.expect_final { gateway.call_final(&args.method, params, gateway.left()).await } else { gateway.call(&args.method, params).await };
        gateway.client.close().await;
        done
    })?;
    if !args.json {
        print::line(&format!("Gateway call: {}", args.method));
    }
    print::json(&if result.is_null() { json!(null) } else { result });
    Ok(0)
}
