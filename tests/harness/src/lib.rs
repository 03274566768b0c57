//! What the end-to-end suites and the benchmarks stand on.
//!
//! * [`mock`]: a model server fast enough never to be the bottleneck, steered by the text of the message;
//! * [`engines`]: where the foreign programs are (the original gateway and its command line, LiteLLM, llama.cpp), and
//!   how a suite says loudly that one is missing;
//! * [`gateway`]: our binary and the original as child processes: start, wait until ready, freeze, kill;
//! * [`client`]: a gateway client on bare JSON frames, so that it shares no code with what it tests;
//! * [`cli`]: the original's command line in a home of its own;
//! * [`golden`]: what the original answered to the commands of the compatibility suite;
//! * [`fault_proxy`] and [`nats_proxy`]: connections and messages that fail on demand; [`invariants`]: what must hold whatever
//!   they do;
//! * [`ha`]: a farm of three gateways over shared state, its faults, its load and its invariants;
//! * [`platform`]: a chat platform for the loopback channel;
//! * [`servers`]: LiteLLM and llama.cpp, the latter with the model of [`gguf`];
//! * [`http`]: single HTTP/1.1 requests; [`process`]: what `/proc` says of a process; [`soak`]: the ledger check.

pub mod cli;
pub mod client;
pub mod engines;
pub mod fault_proxy;
pub mod gateway;
pub mod gguf;
pub mod golden;
pub mod ha;
pub mod http;
pub mod invariants;
pub mod mock;
pub mod nats_proxy;
pub mod platform;
pub mod process;
pub mod servers;
pub mod soak;

use std::time::Duration;

use tokio::time::Instant;

/// How long a suite waits for something that should happen at once. Generous, because test machines are slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `probe` again and again until it answers `Some`, at most `limit` long. Returns `None` when the time is over.
pub async fn until<T>(limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = probe().await {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// A port nobody listens on at the moment. Another program may take it before you do: use it at once.
///
/// # Errors
/// When the loopback interface has no free port.
pub fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
