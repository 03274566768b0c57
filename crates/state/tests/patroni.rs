//! Three PostgreSQL nodes under Patroni and Consul: the leader's node dies under load, and the store goes on.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod load;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use clawstead_state::{
    PostgresStore, Store,
    postgres::Options,
    testing::{binaries, free_port, give_away, kill_tree, server_command, skip},
};
use clawstead_terms::Unit;
use load::{Load, fence};

/// All members are there, and one of them confirms commits.
const READY_WITHIN: Duration = Duration::from_secs(90);

struct Consul {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Consul {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Node {
    child: Option<Child>,
    folder: PathBuf,
    host: String,
    port: u16,
}

impl Node {
    /// Ends Patroni and the server: the death of the machine.
    fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Patroni first: it would start the server again.
        let _ = kill_tree(child.id());
        let _ = child.wait();
        let note = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap_or_default();
        if let Some(pid) = note.lines().next().and_then(|pid| pid.trim().parse().ok()) {
            let _ = kill_tree(pid);
        }
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        text.lines().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn program(variable: &str) -> Option<PathBuf> {
    let found = env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        skip("patroni", &format!("{variable} names no program (cargo xtask engines)"));
    }
    found
}

fn consul(program: &Path) -> Consul {
    let folder = tempfile::tempdir().unwrap();
    let ports: Vec<u16> = (0..4).map(|_| free_port().unwrap()).collect();
    let other = format!("ports {{ dns = -1 grpc = -1 server = {} serf_lan = {} serf_wan = {} http = {} }}", ports[0], ports[1], ports[2], ports[3]);
    let child = Command::new(program)
        .args(["agent", "-dev", "-client", "127.0.0.1", "-bind", "127.0.0.1", "-data-dir"])
        .arg(folder.path())
        .args(["-hcl", &other])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Consul { child, port: ports[3], _folder: folder }
}

fn node(patroni: &Path, binaries: &Path, consul: u16, number: u16) -> Node {
    let folder = env::temp_dir().join(format!("clawstead-patroni-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (host, port, api) = (format!("127.0.0.{number}"), free_port().unwrap(), free_port().unwrap());
    let shown = folder.display();
    let text = format!(
        r"scope: farm
name: node{number}
restapi: {{listen: '{host}:{api}', connect_address: '{host}:{api}'}}
consul: {{host: '127.0.0.1:{consul}'}}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 2
    retry_timeout: 3
    synchronous_mode: true
    postgresql: {{use_pg_rewind: true, parameters: {{shared_buffers: 16MB, max_connections: 40, autovacuum: 'off', wal_log_hints: 'on'}}}}
  initdb: [{{encoding: UTF8}}, {{locale: C}}, {{auth: trust}}, no-sync]
postgresql:
  listen: '{host}:{port}'
  connect_address: '{host}:{port}'
  data_dir: '{shown}/data'
  bin_dir: '{}'
  pgpass: '{shown}/pgpass'
  pg_hba: ['local all all trust', 'host all all 127.0.0.0/8 trust', 'host replication all 127.0.0.0/8 trust']
  authentication: {{superuser: {{username: postgres}}, replication: {{username: postgres}}, rewind: {{username: postgres}}}}
  parameters: {{unix_socket_directories: '{shown}'}}
",
        binaries.display()
    );
    fs::write(folder.join("patroni.yml"), text).unwrap();
    give_away(&folder).unwrap();
    let log = fs::File::create(folder.join("log")).unwrap();
    // Its modules lie beside it, where its packages were unpacked.
    let packages = patroni.parent().unwrap().parent().unwrap().join("usr/lib/python3/dist-packages");
    let child = server_command(patroni, &folder)
        .arg(folder.join("patroni.yml"))
        .env("PYTHONPATH", packages)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Node { child: Some(child), folder, host, port }
}

fn psql(binaries: &Path, node: &Node, statement: &str) -> Option<String> {
    let ran = Command::new(binaries.join("psql"))
        .args(["-X", "-q", "-A", "-t", "-h", &node.host, "-p", &node.port.to_string(), "-U", "postgres", "-c", statement, "postgres"])
        .env("PGCONNECT_TIMEOUT", "2")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    ran.status.success().then(|| String::from_utf8_lossy(&ran.stdout).trim().to_owned())
}

/// The node that leads, once it has both standbys and one of them confirms commits.
fn leader(binaries: &Path, nodes: &[Node]) -> usize {
    let end = Instant::now() + READY_WITHIN;
    loop {
        for (at, node) in nodes.iter().enumerate() {
            let said = psql(binaries, node, "SELECT count(*) || ' ' || count(*) FILTER (WHERE sync_state='sync') FROM pg_stat_replication");
            if said.as_deref() == Some("2 1") {
                return at;
            }
        }
        assert!(Instant::now() < end, "no cluster of three: {}", nodes.iter().map(Node::log).collect::<Vec<_>>().join("\n---\n"));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leaders_node_dies_under_load_and_nothing_is_lost() {
    let (Some(patroni), Some(consul_program)) = (program("CLAWSTEAD_PATRONI"), program("CLAWSTEAD_CONSUL")) else { return };
    let Some(binaries) = binaries() else { return skip("patroni", "PostgreSQL is not installed") };
    let consul = consul(&consul_program);
    let began = Instant::now();
    let mut nodes: Vec<Node> = (2..=4).map(|number| node(&patroni, &binaries, consul.port, number)).collect();
    let leading = tokio::task::block_in_place(|| leader(&binaries, &nodes));
    let made = began.elapsed();

    let hosts: Vec<String> = nodes.iter().map(|node| format!("{}:{}", node.host, node.port)).collect();
    let url = format!("postgres://postgres@{}/postgres", hosts.join(","));
    let store = Arc::new(PostgresStore::connect(&url, "farm", Options::default()).await.unwrap());
    store.claim(&Unit::Global, &fence()).await.unwrap();
    let load = Load::start(&store, 8);
    load.further(500).await;
    tokio::task::block_in_place(|| nodes[leading].kill());
    // A commit that was on its way when the node died may still be confirmed from what came before.
    let back = load.further(20).await;
    assert!(back < Duration::from_secs(30), "{back:?}: {}", nodes.iter().map(Node::log).collect::<Vec<_>>().join("\n---\n"));
    load.further(300).await;
    let confirmed = load.settle(&store).await;
    eprintln!("patroni: ready after {made:?}, back after {back:?}, {confirmed} confirmed lines, none lost, none twice");
}
