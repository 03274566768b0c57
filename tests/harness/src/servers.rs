//! Real model servers: LiteLLM's proxy and llama.cpp's server.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{free_port, gguf::tiny_model, http, until};

/// How long such a server may take to come up: Python reads a lot of files first.
const UP_WITHIN: Duration = Duration::from_secs(120);
/// The proxy's key.
pub const KEY: &str = "sk-litellm-test-key";

/// A running server. Dropping it ends it.
pub struct Server {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    child: Child,
    pid: Pid,
    folder: TempDir,
}

impl Server {
    /// LiteLLM's proxy with these models: name and the lines of `litellm_params`.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn litellm(program: &Path, models: &[(&str, &[(&str, &str)])]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut config = String::from("model_list:\n");
        for (name, params) in models {
            config.push_str(&format!("  - model_name: {name}\n    litellm_params:\n"));
            for (key, value) in *params {
                config.push_str(&format!("      {key}: \"{value}\"\n"));
            }
        }
        config.push_str(&format!("general_settings:\n  master_key: {KEY}\nlitellm_settings:\n  telemetry: false\n"));
        let file = folder.path().join("litellm.yaml");
        std::fs::write(&file, config)?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&file).args(["--host", "127.0.0.1", "--port", &port.to_string(), "--telemetry", "False"]);
        command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("NO_DOCS", "True");
        Self::start(command, port, "/health/liveliness", folder).await
    }

    /// llama.cpp's server with the tiny random model.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn llama(python: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let file: PathBuf = folder.path().join("tiny.gguf");
        std::fs::write(&file, tiny_model(1))?;
        let port = free_port()?;
        let mut command = Command::new(python);
        command.args(["-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", &port.to_string(), "--n_ctx", "32768", "--chat_format", "chatml"]);
        command.args(["--n_threads", "2", "--model"]).arg(&file);
        Self::start(command, port, "/v1/models", folder).await
    }

    async fn start(mut command: Command, port: u16, ready: &str, folder: TempDir) -> anyhow::Result<Self> {
        let log = std::fs::File::create(folder.path().join("log"))?;
        command.current_dir(folder.path()).env("HOME", folder.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().context("start the model server")?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("no process id")?;
        let mut server = Self { url: format!("http://127.0.0.1:{port}"), child, pid, folder };
        let up = until(UP_WITHIN, async || {
            if server.child.try_wait().ok().flatten().is_some() {
                return Some(false);
            }
            http::get(port, ready).await.is_ok_and(|answer| answer.status == 200).then_some(true)
        })
        .await;
        if up != Some(true) {
            bail!("the model server did not come up:\n{}", server.log());
        }
        Ok(server)
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}
