//! A whole gateway with its state in a temporary folder, as the command line raises it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use clawstead_config::{DevFlag, Env, Paths, Profile};
use clawstead_gateway::run::{AllowUnconfigured, Ended, RunOptions, StartError, run};

use crate::{
    common::{PASSWORD, TOKEN},
    known,
    model::Model,
};

/// A gateway that runs, and what was learned of it.
pub struct House {
    /// Its port.
    pub port: u16,
    /// Its model.
    pub model: Model,
    /// Device tokens by recorded device id.
    pub tokens: BTreeMap<String, String>,
    /// Our ids by recorded ones.
    pub ids: BTreeMap<String, String>,
    /// What differed for a known reason: recordings and reasons.
    pub known: BTreeSet<(String, &'static str)>,
    /// Stops it, as SIGTERM does.
    pub stop: CancellationToken,
    running: JoinHandle<Result<Ended, StartError>>,
    _folder: tempfile::TempDir,
}

fn auth(mode: &str) -> Value {
    match mode {
        "password" => json!({ "mode": "password", "password": PASSWORD }),
        "none" => json!({ "mode": "none" }),
        _ => json!({ "mode": "token", "token": TOKEN }),
    }
}

impl House {
    /// Raises it. `mode` is `gateway.auth.mode`.
    pub async fn raise(mode: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let model = Model::start().await;
        let config = json!({
            "gateway": { "mode": "local", "bind": "loopback", "auth": auth(mode) },
            "agents": { "defaults": { "model": { "primary": "mock/mock-1" } } },
            "models": { "mode": "merge", "providers": { "mock": {
                "baseUrl": model.url, "apiKey": "mock-key", "api": "openai-completions",
                "models": [{ "id": "mock-1", "name": "Mock", "reasoning": false, "input": ["text"],
                    "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0 }, "contextWindow": 200_000, "maxTokens": 4_096 }] } } },
            "update": { "checkOnStart": false },
        });
        let state = folder.path().join(".openclaw");
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("openclaw.json"), config.to_string()).unwrap();
        let env = Env::from_pairs([("HOME", folder.path().display().to_string()), ("PATH", std::env::var("PATH").unwrap_or_default())]);
        let options = RunOptions {
            paths: Paths::resolve(Profile::from_flags(None, DevFlag::Off).unwrap(), &env),
            env,
            cwd: None,
            port: Some(0),
            bind: None,
            auth: clawstead_gateway::doors::auth::AuthOverrides::default(),
            allow_unconfigured: AllowUnconfigured::No,
        };
        let stop = CancellationToken::new();
        let (tell, told) = oneshot::channel();
        let mut tell = Some(tell);
        let asked = stop.clone();
        let running = tokio::spawn(async move {
            run(options, asked, Arc::new(tokio::sync::Notify::new()), move |up| {
                if let Some(tell) = tell.take() {
                    let _ = tell.send(up.port);
                }
            })
            .await
        });
        let port = told.await.expect("the gateway answers");
        Self { port, model, tokens: BTreeMap::new(), ids: BTreeMap::new(), known: BTreeSet::new(), stop, running, _folder: folder }
    }

    /// True when a difference is known; it is remembered.
    pub fn excused(&mut self, recording: &str, difference: &str) -> bool {
        let why = known::why(recording, difference);
        self.known.extend(why.map(|why| (recording.to_owned(), why)));
        why.is_some()
    }

    /// Stops it and waits for its end.
    pub async fn close(self) {
        self.stop.cancel();
        self.running.await.expect("the gateway ends").expect("the gateway stops in order");
    }
}
