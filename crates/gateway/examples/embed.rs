//! A gateway inside another program: state in a folder of its own, the demo model, one port.
//!
//! `cargo run -p clawstead-gateway --example embed -- <state folder> <port> <token>`

use std::sync::Arc;

use clawstead_config::{DevFlag, Env, Paths, Profile};
use clawstead_gateway::{
    doors::auth::AuthOverrides,
    run::{AllowUnconfigured, RunOptions, run},
};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (state, port, token) =
        (args.next().ok_or("a state folder is needed")?, args.next().ok_or("a port is needed")?, args.next().ok_or("a token is needed")?);
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "a TLS provider is there already")?;
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    let mut env = Env::from_pairs(std::env::vars());
    env.set("OPENCLAW_STATE_DIR", state);
    let options = RunOptions {
        paths: Paths::resolve(Profile::from_flags(None, DevFlag::Off)?, &env),
        env,
        cwd: None,
        port: Some(port.parse()?),
        bind: None,
        auth: AuthOverrides { token: Some(token), ..AuthOverrides::default() },
        allow_unconfigured: AllowUnconfigured::Yes,
    };
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        asked.cancel();
    });
    let ended = run(options, stop, Arc::new(tokio::sync::Notify::new()), |up| {
        println!("http://127.0.0.1:{}/ ready after {} ms, model {}", up.port, up.ready_ms, up.model)
    })
    .await?;
    println!("{ended:?}");
    Ok(())
}
