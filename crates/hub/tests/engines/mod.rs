//! Starts the engines the suites run against: private ones on loopback, in folders of their own, gone with their handle.
#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use clawstead_world::World;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// An engine comes up within this time.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// The program that a variable names. A missing one is said loudly, and counted by `cargo xtask test`.
pub fn find(suite: &str, variable: &str) -> Option<PathBuf> {
    let why = match std::env::var_os(variable).map(PathBuf::from) {
        Some(path) if path.exists() => return Some(path),
        Some(_) => format!("{variable} names a file that does not exist"),
        None => format!("{variable} is not set (cargo xtask test sets it)"),
    };
    skip(suite, &why);
    None
}

/// Says that something was not tested.
pub fn skip(suite: &str, why: &str) {
    // Not `println!`, which is captured: a skipped test must be seen in the output of a run that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {suite}: {why}");
    if let Some(path) = std::env::var_os("CLAWSTEAD_SKIPS") {
        let file = std::fs::File::options().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "hub\t{suite}\t{why}"));
    }
}

/// The real world: clock, randomness, HTTP.
pub fn world() -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    World::real().expect("a world")
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// One server of an engine.
pub struct Server {
    program: PathBuf,
    words: Vec<String>,
    folder: TempDir,
    /// Where it listens.
    pub port: u16,
    process: Option<Child>,
}

impl Server {
    /// A Redis server that keeps what it accepted, with a password if there is one.
    pub async fn redis(suite: &str, password: Option<&str>) -> Option<Self> {
        let program = find(suite, "CLAWSTEAD_REDIS_SERVER")?;
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let mut words: Vec<String> = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"].map(str::to_owned).into();
        words.extend(["--port".into(), port.to_string(), "--dir".into(), folder.path().display().to_string()]);
        words.extend(password.map(|password| ["--requirepass".to_owned(), password.to_owned()]).into_iter().flatten());
        let mut server = Self { program, words, folder, port, process: None };
        server.start().await;
        Some(server)
    }

    /// A Consul server with a leader.
    pub async fn consul(suite: &str) -> Option<Self> {
        let program = find(suite, "CLAWSTEAD_CONSUL")?;
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let config = json!({
            "server": true, "bootstrap_expect": 1, "node_name": "hub-test", "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
            "data_dir": folder.path().join("data"), "disable_update_check": true, "log_level": "warn",
            "ports": {"http": port, "server": free_port(), "serf_lan": free_port(), "serf_wan": -1, "dns": -1, "grpc": -1},
            "performance": {"raft_multiplier": 1},
        });
        let file = folder.path().join("consul.json");
        std::fs::write(&file, config.to_string()).expect("the configuration");
        let words = ["agent".to_owned(), "-config-file".to_owned(), file.display().to_string()].into();
        let mut server = Self { program, words, folder, port, process: None };
        server.start().await;
        Some(server)
    }

    /// Starts it, with what it had, and waits until it takes connections.
    pub async fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a log");
        let mut command = Command::new(&self.program);
        command.args(&self.words).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).kill_on_drop(true);
        self.process = Some(command.spawn().expect("the engine starts"));
        let end = Instant::now() + UP_WITHIN;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(Instant::now() < end, "{} does not listen: {}", self.program.display(), self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it without any order.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.expect("SIGKILL");
        }
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// A program of this crate's `examples`, built when it is not there or when cargo runs us.
pub fn example(name: &str) -> Option<PathBuf> {
    let here = std::env::current_exe().ok()?;
    let path = here.parent()?.parent()?.join("examples").join(name);
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = std::process::Command::new(cargo);
        build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).args(["build", "--quiet", "--example", name]);
        // What cargo told this test about its package makes build scripts run again that look at it.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                build.env_remove(&*name);
            }
        }
        if let Some(target) = here.ancestors().nth(3) {
            build.arg("--target-dir").arg(target);
        }
        assert!(build.status().expect("cargo starts").success(), "the example {name} does not build");
    }
    path.exists().then_some(path)
}
