//! `openclaw system`: events, heartbeats, presence.

use clap::{Subcommand, builder::PossibleValuesParser};
use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    print,
    rpc::{self, Common},
};

/// Events, heartbeats and presence.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw system event --text \"The backup is done\" --mode now\n  openclaw system heartbeat last\n  openclaw system presence"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Tell the agent something
    Event {
        /// What
        #[arg(long, value_name = "TEXT")]
        text: String,
        /// When it is heard
        #[arg(long, default_value = "next-heartbeat", value_parser = PossibleValuesParser::new(["now", "next-heartbeat"]))]
        mode: String,
        /// Session
        #[arg(long, value_name = "KEY")]
        session_key: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Heartbeats
    Heartbeat {
        /// last, enable or disable
        #[arg(value_parser = PossibleValuesParser::new(["last", "enable", "disable"]))]
        what: String,
        #[command(flatten)]
        common: Common,
    },
    /// Who is connected
    Presence {
        #[command(flatten)]
        common: Common,
    },
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    let call = |common: &Common, method: &str, params: Value| rpc::call(cx, &common.gateway, 30_000, method, params);
    match args.verb {
        Verb::Event { text, mode, session_key, common } => {
            let mut params = json!({"mode": mode, "text": text});
            if let Some(key) = session_key {
                params["sessionKey"] = key.into();
            }
            let answer = call(&common, "wake", params)?;
            if common.json {
                print::json(&answer);
            } else {
                print::line("ok");
            }
            Ok(0)
        }
        Verb::Heartbeat { what, common } => {
            let answer = match what.as_str() {
                "last" => call(&common, "last-heartbeat", json!({}))?,
                word => call(&common, "set-heartbeats", json!({"enabled": word == "enable"}))?,
            };
            print::json(&answer);
            Ok(0)
        }
        Verb::Presence { common } => {
            print::json(&call(&common, "system-presence", json!({}))?);
            Ok(0)
        }
    }
}
