//! The hub over a farm in memory, to try MCP clients on.
//!
//! ```text
//! cargo run -p clawstead-hub --example hub_memory                                   # stdio, as the local user
//! cargo run -p clawstead-hub --example hub_memory -- --http 127.0.0.1:8931 --peer laptop=<token of 24 bytes or more>
//! ```
//!
//! `--redis redis://127.0.0.1:6379` keeps shared memory in Redis; `--lease-ms 500` lends letters for half a second;
//! `--operator laptop` gives that peer the operator scope. The farm has one agent of its own, `jerry`.

use std::{collections::BTreeSet, error::Error, sync::Arc, time::Duration};

use clawstead_hub::{
    Caller, Hub, Peer, Scope, SharedMemory,
    host::{LEASE, local::LocalHost},
    mcp::http::HttpSettings,
    memory::{LocalMemory, RedisMemory},
    peers::PeerList,
};
use clawstead_terms::AgentId;
use clawstead_world::World;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Options {
    http: Option<String>,
    redis: Option<String>,
    lease: Option<Duration>,
    peers: Vec<(String, String)>,
    operators: BTreeSet<String>,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--http" => options.http = Some(value()?),
            "--redis" => options.redis = Some(value()?),
            "--lease-ms" => options.lease = Some(Duration::from_millis(value()?.parse()?)),
            "--operator" => drop(options.operators.insert(value()?)),
            "--peer" => {
                let pair = value()?;
                let (name, token) = pair.split_once('=').ok_or("--peer takes <name>=<token>")?;
                options.peers.push((name.to_owned(), token.to_owned()));
            }
            _ => return Err(format!("{word} is unknown: --http, --redis, --lease-ms, --peer, --operator").into()),
        }
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "TLS was set up twice")?;
    let world = World::real()?;
    let host = LocalHost::new("jerry-gateway", world.clone());
    host.add_farm_agent(AgentId::parse("jerry")?, BTreeSet::from(["slack".to_owned()])).await;
    let memory: Arc<dyn SharedMemory> = match &options.redis {
        Some(url) => Arc::new(RedisMemory::new(url, world.clone())?),
        None => Arc::new(LocalMemory::new(world.clone())),
    };
    let hub = Hub::new(Arc::new(host), memory, world).with_lease(options.lease.unwrap_or(LEASE));
    let Some(address) = options.http else {
        return Ok(hub.serve(Caller::Local, tokio::io::stdin(), tokio::io::stdout(), CancellationToken::new()).await?);
    };
    let mut peers = PeerList::default();
    for (name, token) in options.peers {
        let mut scopes = Scope::usual();
        if options.operators.contains(&name) {
            scopes.insert(Scope::Operator);
        }
        peers.add(Arc::new(Peer { name, scopes }), &token)?;
    }
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("http://{}/mcp", listener.local_addr()?);
    let app = axum::Router::new().nest("/mcp", hub.router(Arc::new(peers), HttpSettings::default()));
    Ok(axum::serve(listener, app).await?)
}
