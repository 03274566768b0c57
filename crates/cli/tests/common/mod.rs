//! Runs the built program with a home of its own.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

pub mod consul;

use std::{
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

pub struct Home {
    pub dir: tempfile::TempDir,
}

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|err| panic!("{err}: {} / {}", self.out, self.err))
    }
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn with_config(text: &str) -> Self {
        let home = Self::new();
        std::fs::create_dir_all(home.state()).unwrap();
        std::fs::write(home.config(), text).unwrap();
        home
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join(".openclaw")
    }

    pub fn config(&self) -> PathBuf {
        self.state().join("openclaw.json")
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(self.config()).unwrap()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        // `cargo xtask test` keeps the program of its own build apart.
        let program = std::env::var_os("CLAWSTEAD_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_openclaw").into());
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, &[])
    }

    pub fn run_with(&self, args: &[&str], vars: &[(&str, &str)]) -> Ran {
        let Output { status, stdout, stderr } = self.command(args).envs(vars.iter().copied()).output().unwrap();
        Ran { code: status.code().unwrap_or(-1), out: String::from_utf8(stdout).unwrap(), err: String::from_utf8(stderr).unwrap() }
    }

    /// Starts a gateway and waits until it answers.
    pub fn gateway(&self, port: u16) -> Gateway {
        let log = std::fs::File::create(self.dir.path().join("gateway.out")).unwrap();
        let child = self
            .command(&["gateway", "run", "--port", &port.to_string(), "--allow-unconfigured"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut gateway = Gateway { child };
        let started = Instant::now();
        let out = self.dir.path().join("gateway.out");
        while !std::fs::read_to_string(&out).is_ok_and(|said| said.contains("is ready after") && said.contains("Log  ")) {
            let ended = gateway.child.try_wait().unwrap();
            let said = || std::fs::read_to_string(self.dir.path().join("gateway.out")).unwrap_or_default();
            assert!(ended.is_none(), "{}", said());
            assert!(started.elapsed() < Duration::from_secs(30), "{}", said());
            std::thread::sleep(Duration::from_millis(10));
        }
        gateway
    }
}

/// Killed when dropped.
pub struct Gateway {
    pub child: Child,
}

impl Gateway {
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
