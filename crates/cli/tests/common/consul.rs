//! One Consul server, started by the test on free ports of loopback, with a folder of its own.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::free_port;

/// It serves within this time.
const UP_WITHIN: Duration = Duration::from_secs(60);

pub struct Consul {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Consul {
    /// Starts it; none, said loudly, where `CLAWSTEAD_CONSUL` names no program.
    pub fn start(suite: &str) -> Option<Self> {
        let Some(program) = std::env::var_os("CLAWSTEAD_CONSUL").filter(|path| std::path::Path::new(path).is_file()) else {
            eprintln!("SKIPPED: {suite}: CLAWSTEAD_CONSUL names no Consul");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let ports = [(); 3].map(|()| free_port());
        let config = json!({
            "server": true, "bootstrap_expect": 1, "node_name": "one", "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
            "data_dir": folder.path().join("data"),
            "ports": {"http": ports[0], "server": ports[1], "serf_lan": ports[2], "serf_wan": -1, "dns": -1, "grpc": -1},
            "performance": {"raft_multiplier": 1}, "disable_update_check": true, "log_level": "warn",
        });
        let file = folder.path().join("consul.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(program)
            .arg("agent")
            .arg("-config-file")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let consul = Self { process, port: ports[0], _folder: folder };
        let started = Instant::now();
        while consul.ask("PUT", "/v1/kv/probe", "x").is_none_or(|(status, _)| status != 200) {
            assert!(started.elapsed() < UP_WITHIN, "Consul does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(consul)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// One request; none when nobody answers.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// A value as JSON.
    pub fn get(&self, key: &str) -> Option<Value> {
        let (status, body) = self.ask("GET", &format!("/v1/kv/{key}?raw"), "").unwrap();
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    /// Writes a value over whatever is there: what somebody with the rights of any gateway could do.
    pub fn put(&self, key: &str, value: &Value) {
        let (status, body) = self.ask("PUT", &format!("/v1/kv/{key}"), &value.to_string()).unwrap();
        assert_eq!((status, body.trim()), (200, "true"));
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
