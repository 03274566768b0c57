//! Attaches the terminal interface to any gateway of the same protocol:
//!
//! `OPENCLAW_GATEWAY_URL=ws://127.0.0.1:18789 OPENCLAW_GATEWAY_TOKEN=… cargo run -p clawstead-tui --example attach -- key.pem [agent] [session]`
//!
//! `key.pem` is an Ed25519 key in PKCS#8 (`openssl genpkey -algorithm ed25519 -out key.pem`); the gateway pairs it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};

use clawstead_tui::TuiOptions;
use clawstead_wire::device::DeviceIdentity;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let key = args.next().ok_or("usage: attach key.pem [agent] [session]")?;
    let device = DeviceIdentity::from_pem(&std::fs::read_to_string(&key)?)?;
    let url = std::env::var("OPENCLAW_GATEWAY_URL").unwrap_or_else(|_| "ws://127.0.0.1:18789".into());
    // Run ids must never repeat: process, its start, and a counter.
    let started = std::fs::metadata("/proc/self").and_then(|meta| meta.modified()).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let prefix = format!("attach-{}-{}", std::process::id(), started.map_or(0, |at| at.as_nanos()));
    let count = AtomicU64::new(1);
    let new_id = Arc::new(move || format!("{prefix}-{}", count.fetch_add(1, Ordering::Relaxed)));
    let mut options = TuiOptions::new(url, env!("CARGO_PKG_VERSION"), new_id);
    options.connect = options.connect.device(device);
    if let Ok(token) = std::env::var("OPENCLAW_GATEWAY_TOKEN") {
        options.connect = options.connect.token(token);
    }
    options.agent = args.next();
    options.session = args.next();
    clawstead_tui::run(options).await?;
    Ok(())
}
