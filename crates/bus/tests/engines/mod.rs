//! Starts the engines the suites run against: private ones on loopback, in folders of their own, gone with their handle.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod consul;

use std::{io::Write as _, net::TcpListener, path::PathBuf, time::Duration};

use clawstead_world::World;
use tokio::time::Instant;

/// The program that a variable names. A missing one is said loudly, and counted by `cargo xtask test`.
pub fn find(engine: &str, variable: &str) -> Option<PathBuf> {
    let why = match std::env::var_os(variable).map(PathBuf::from) {
        Some(path) if path.exists() => return Some(path),
        Some(_) => format!("{variable} names a file that does not exist"),
        None => format!("{variable} is not set (cargo xtask test sets it)"),
    };
    // Not `println!`, which is captured: a skipped test must be seen in the output of a run that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {engine}: {why}");
    if let Some(path) = std::env::var_os("CLAWSTEAD_SKIPS") {
        let file = std::fs::File::options().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "bus\t{engine}\t{why}"));
    }
    None
}

/// A port nobody listens on now.
pub fn free_port(host: &str) -> u16 {
    TcpListener::bind((host, 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// The real world: clock, randomness, HTTP.
pub fn world() -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    World::real().expect("a world")
}

/// Asks again and again until it is so.
pub async fn until(limit: Duration, what: &str, mut so: impl AsyncFnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + limit;
    while !so().await {
        if Instant::now() >= end {
            return Err(format!("{what}: not within {limit:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The share `p` of the samples took at most this time.
pub fn percentile(samples: &mut [Duration], p: f64) -> Duration {
    samples.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
    let at = ((samples.len() as f64 * p).ceil() as usize).clamp(1, samples.len()) - 1;
    samples[at]
}
