//! `openclaw dashboard`: open the dashboard in a browser.

use std::{
    io::IsTerminal as _,
    process::{Command, Stdio},
};

use serde_json::json;

use super::Outcome;
use crate::{cx::Cx, local, print};

/// Open the dashboard in a browser.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  openclaw dashboard\n  openclaw dashboard --no-open     Print the address with the token")]
pub struct Args {
    /// Only print the address
    #[arg(long)]
    no_open: bool,
    /// Accepted for compatibility: nothing is asked
    #[arg(long, hide = true)]
    yes: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (_, config) = cx.config_or_defaults();
    let scheme = if config.gateway.tls.enabled { "https" } else { "http" };
    let base = config.gateway.control_ui.base_path.trim_end_matches('/');
    // A running gateway may listen on another port than the config says.
    let port = local::running(cx).map_or(config.gateway.port, |holder| holder.port);
    let url = format!("{scheme}://127.0.0.1:{port}{base}/");
    let token = local::gateway_token(cx, &config);
    let with_token = token.as_ref().map_or_else(|| url.clone(), |token| format!("{url}#token={}", token.expose()));
    let up = local::port_busy(port);
    if args.json {
        print::json(&json!({"url": url, "urlWithToken": with_token, "reachable": up}));
        return Ok(0);
    }
    print::line(&format!("Dashboard URL: {}", if args.no_open || std::io::stdout().is_terminal() { &with_token } else { &url }));
    if !up {
        print::line("Nothing listens there yet. Start the gateway: openclaw gateway");
        return Ok(0);
    }
    if args.no_open {
        return Ok(0);
    }
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let opened = Command::new(opener).arg(&with_token).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    match opened {
        Ok(_) => print::line("Opened in your browser."),
        Err(_) => print::line("No browser can be opened from here; copy the address."),
    }
    Ok(0)
}
