//! `openclaw tui`: chat in the terminal.

use std::sync::Arc;

use clawstead_tui::{TuiError, TuiOptions};

use super::Outcome;
use crate::{
    COMPATIBLE,
    cx::Cx,
    device,
    fail::{Fail, Kind},
    rpc::{Connect, Target, explain},
};

/// Chat in the terminal.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  openclaw tui\n  openclaw tui --session agent:jerry:main\n  openclaw tui --url wss://host:18789 --token <token>")]
pub struct Args {
    /// Session key, or main
    target: Option<String>,
    /// Gateway address; stored credentials are not used with it
    #[arg(long, value_name = "WS-URL")]
    url: Option<String>,
    /// Gateway token
    #[arg(long)]
    token: Option<String>,
    /// Gateway password
    #[arg(long)]
    password: Option<String>,
    /// Session
    #[arg(long, value_name = "KEY")]
    session: Option<String>,
    /// Agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Also send replies to the chat
    #[arg(long)]
    deliver: bool,
    /// How much the model thinks
    #[arg(long, value_name = "LEVEL")]
    thinking: Option<String>,
    /// Send this first
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Budget of a turn, milliseconds
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// Messages loaded at the start
    #[arg(long, default_value_t = 200, value_name = "N")]
    history_limit: u64,
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    let (snapshot, config) = cx.config_or_defaults();
    let flags = Connect { url: args.url.clone(), token: args.token.clone(), password: args.password.clone(), ..Connect::default() };
    let target = Target::resolve(cx, &flags, &snapshot, &config)?;
    let mut options = TuiOptions::new(&target.url, COMPATIBLE, Arc::new(device::new_id));
    options.connect.auth.token = target.token.as_ref().map(|t| t.expose().to_owned());
    options.connect.auth.password = target.password.as_ref().map(|p| p.expose().to_owned());
    let identity = device::identity(&cx.paths.state_dir).map_err(Fail::new)?;
    if options.connect.auth.token.is_none() && options.connect.auth.password.is_none() && !target.by_hand {
        options.connect.auth.device_token = device::token(&cx.paths.state_dir, identity.id());
    }
    options.connect.device = Some(identity);
    options.session = args.session.or(args.target);
    options.agent = args.agent;
    options.message = args.message;
    options.thinking = args.thinking;
    options.deliver = args.deliver;
    options.timeout_ms = args.timeout_ms;
    options.history_limit = args.history_limit;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(clawstead_tui::run(options)) {
        Ok(()) => Ok(0),
        Err(TuiError::Connect(err)) => Err(explain(&err, &target)),
        Err(err) => Err(Fail::of(Kind::Cli, err.to_string()).hint("openclaw agent --message")),
    }
}
