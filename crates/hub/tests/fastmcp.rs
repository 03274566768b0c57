//! FastMCP's client (from `PyPI`) against the hub, over HTTP and stdio, with every kind of shared memory.

mod engines;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use clawstead_bus::consul::{Consul, Settings};
use clawstead_hub::{
    Hub, Peer, Scope, SharedMemory,
    host::{LEASE, local::LocalHost},
    mcp::http::HttpSettings,
    memory::{CoordMemory, LocalMemory, RedisMemory},
    peers::PeerList,
};
use clawstead_terms::AgentId;
use engines::{Server, example, find, skip, world};
use serde_json::{Value, json};
use tokio::process::Command;

/// A scenario ends within this time.
const LIMIT: Duration = Duration::from_secs(180);

const VARIABLE: &str = "CLAWSTEAD_FASTMCP_PYTHON";

/// A hub on a port of this process.
struct Served {
    given: Value,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(memory: Arc<dyn SharedMemory>, lease: Duration) -> Served {
    let world = world();
    let host = LocalHost::new("jerry-gateway", world.clone());
    host.add_farm_agent(AgentId::parse("jerry").expect("an id"), BTreeSet::from(["slack".to_owned()])).await;
    let hub = Hub::new(Arc::new(host), memory, world).with_lease(lease);
    let mut peers = PeerList::default();
    let mut tokens = serde_json::Map::new();
    for name in ["laptop", "phone", "operator"] {
        let token = format!("token-of-{name}-0123456789abcdef");
        let mut scopes = Scope::usual();
        if name == "operator" {
            scopes.insert(Scope::Operator);
        }
        peers.add(Arc::new(Peer { name: name.into(), scopes }), &token).expect("a peer");
        tokens.insert(name.into(), token.into());
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("it works");
    let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
    let app = axum::Router::new().nest("/mcp", hub.router(Arc::new(peers), HttpSettings::default()));
    let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("the listener") });
    Served { given: json!({ "url": url, "tokens": tokens }), task }
}

async fn play(python: &PathBuf, scenario: &str, given: &Value) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fastmcp/clients.py");
    let mut command = Command::new(python);
    command.arg(script).arg(scenario).arg(given.to_string()).kill_on_drop(true);
    // Nothing but the scenario may reach a network.
    command.env("FASTMCP_CHECK_FOR_UPDATES", "off").env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tokio::time::timeout(LIMIT, command.output()).await.unwrap_or_else(|_| panic!("{scenario} did not end within {LIMIT:?}")).expect("it works");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim_end().ends_with("ok"), "{scenario}: {}\n{said}\n{errors}", output.status);
}

fn local() -> Arc<dyn SharedMemory> {
    Arc::new(LocalMemory::new(world()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tool_and_every_error_over_http() {
    let Some(python) = find("hub with FastMCP", VARIABLE) else { return };
    play(&python, "http", &serve(local(), LEASE).await.given).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tool_and_every_error_over_stdio() {
    let Some(python) = find("hub with FastMCP", VARIABLE) else { return };
    let Some(program) = example("hub_memory") else { return skip("hub with FastMCP", "the example hub_memory is not built") };
    play(&python, "stdio", &json!({ "command": [program], "tokens": {} })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_talk() {
    let Some(python) = find("hub with FastMCP", VARIABLE) else { return };
    play(&python, "conversation", &serve(local(), LEASE).await.given).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_is_not_settled_comes_again() {
    let Some(python) = find("hub with FastMCP", VARIABLE) else { return };
    play(&python, "lease", &serve(local(), Duration::from_millis(500)).await.given).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_clients_take_each_task_once_in_memory() {
    let Some(python) = find("hub with FastMCP", VARIABLE) else { return };
    play(&python, "tasks", &serve(local(), LEASE).await.given).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tool_with_redis_and_sixteen_takers() {
    let Some(python) = find("hub with FastMCP", VARIABLE) else { return };
    let Some(server) = Server::redis("hub with FastMCP over Redis", None).await else { return };
    let memory = RedisMemory::new(&format!("redis://127.0.0.1:{}/0", server.port), world()).unwrap();
    let served = serve(Arc::new(memory), LEASE).await;
    play(&python, "http", &served.given).await;
    play(&python, "tasks", &served.given).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tool_with_consul_and_sixteen_takers() {
    let Some(python) = find("hub with FastMCP", VARIABLE) else { return };
    let Some(server) = Server::consul("hub with FastMCP over Consul").await else { return };
    let coord = Consul::new(&Settings::at([format!("http://127.0.0.1:{}", server.port)]), &world()).unwrap().coord();
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while coord.put("openclaw/ready", "yes".into()).await.is_err() {
        assert!(tokio::time::Instant::now() < end, "Consul found no leader: {}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let served = serve(Arc::new(CoordMemory::new(coord, world())), LEASE).await;
    play(&python, "http", &served.given).await;
    play(&python, "tasks", &served.given).await;
}
