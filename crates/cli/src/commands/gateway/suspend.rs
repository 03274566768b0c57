//! `gateway suspend` and `resume`: nothing new begins while the machine is put to sleep or copied.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    commands::Outcome,
    cx::Cx,
    device,
    fail::Fail,
    format::{list, number, text},
    print,
    rpc::{self, Common},
};

/// Between two questions at least.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest wait, seconds: a day.
const WAIT_MAX_S: f64 = 86_400.0;

/// Let nothing new begin, for two minutes or until `gateway resume`.
#[derive(clap::Args)]
pub struct SuspendArgs {
    /// Id of this request: the same one renews it
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Wait for work that goes on, seconds at most
    #[arg(long, value_name = "SECONDS")]
    wait: Option<f64>,
    #[command(flatten)]
    common: Common,
}

/// Let work begin again.
#[derive(clap::Args)]
pub struct ResumeArgs {
    /// What `gateway suspend` printed
    suspension: String,
    #[command(flatten)]
    common: Common,
}

/// `gateway suspend`.
pub fn suspend(args: &SuspendArgs, cx: &Cx) -> Outcome {
    let request = match args.request_id.as_deref().map(str::trim) {
        None => format!("cli-{}", device::new_id().split('-').next().unwrap_or_default()),
        Some(id) if id.is_empty() || id.chars().count() > 128 => return Err(Fail::new("--request-id must contain 1 to 128 characters.")),
        Some(id) => id.to_owned(),
    };
    let wait = match args.wait {
        None => None,
        Some(seconds) if (0.0..=WAIT_MAX_S).contains(&seconds) => Some(Duration::from_secs_f64(seconds)),
        Some(_) => return Err(Fail::new("--wait must be a number of seconds, a day at most.")),
    };
    let began = Instant::now();
    loop {
        let mut found = rpc::call(cx, &args.common.gateway, 10_000, "gateway.suspend.prepare", json!({"requestId": request}))?;
        let ready = text(&found, "status") == "ready";
        let left = wait.map(|wait| wait.saturating_sub(began.elapsed())).filter(|left| !left.is_zero());
        if !ready && let Some(left) = left {
            let pause = Duration::from_millis(number(&found, "retryAfterMs").and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0)).max(PAUSE_MIN);
            std::thread::sleep(pause.min(left));
            continue;
        }
        found["requestId"] = request.as_str().into();
        return if args.common.json {
            print::json(&found);
            Ok(u8::from(!ready))
        } else if ready {
            show(args, &found);
            Ok(0)
        } else {
            Err(busy(&found, wait.is_some()))
        };
    }
}

fn show(args: &SuspendArgs, found: &Value) {
    let id = text(found, "suspensionId");
    let until = number(found, "expiresAtMs").and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|at| format!("{at:.0}")).unwrap_or_default();
    let port = args.common.gateway.port.map(|port| format!(" --port {port}")).unwrap_or_default();
    print::line("Gateway suspension prepared.");
    print::line(&format!("Suspension ID: {id}"));
    print::line(&format!("Expires: {until}"));
    print::line(&format!("Resume with: openclaw gateway resume {id}{port}"));
}

fn busy(found: &Value, waited: bool) -> Fail {
    let mut words = format!("The gateway is at work ({} active): ", number(found, "activeCount").unwrap_or(0));
    let named: Vec<&str> = list(found, "blockers").iter().map(|blocker| text(blocker, "message")).filter(|m| !m.is_empty()).collect();
    words.push_str(&if named.is_empty() { text(found, "reason").to_owned() } else { named.join("; ") });
    words.push_str(if waited { ". It did not become idle in time." } else { "." });
    Fail::new(words).hint("openclaw gateway suspend --wait 60")
}

/// `gateway resume`.
pub fn resume(args: &ResumeArgs, cx: &Cx) -> Outcome {
    let found = rpc::call(cx, &args.common.gateway, 10_000, "gateway.suspend.resume", json!({"suspensionId": args.suspension.trim()}))?;
    if args.common.json {
        print::json(&found);
    } else {
        print::line(if found["resumed"] == true {
            "Gateway resumed."
        } else {
            "No matching suspension was held (it ended or was resumed); the gateway is running."
        });
    }
    Ok(0)
}
