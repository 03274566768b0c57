//! Whole gateways: how long it takes until jerry has bobby's answer.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clawstead_harness::{
    PATIENCE,
    cli::Cli,
    client::Client,
    free_port,
    gateway::{Gateway, Setup, TOKEN, Whose, config},
    http,
    mock::{MockModel, Options},
    until,
};
use serde_json::{Value, json};

use crate::{
    engines::Engine,
    report::{Line, Times},
};

/// Sessions of bobby's that are asked in turn.
const SESSIONS: usize = 8;
/// Trips that are not counted: connections are made, caches filled.
const WARM_UP: usize = 16;

/// One home with its config.
struct Home {
    folder: tempfile::TempDir,
    port: u16,
}

impl Home {
    fn new(agents: &[&str], model: &MockModel, farm: Option<Value>) -> anyhow::Result<Self> {
        let (folder, port) = (tempfile::tempdir()?, free_port()?);
        let mut text = config(port, &model.v1(), agents);
        text["tools"] = json!({"agentToAgent": {"enabled": true}, "sessions": {"visibility": "all"}});
        text["gateway"]["tools"] = json!({"allow": ["sessions_send"]});
        if let Some(farm) = farm {
            text["farm"] = farm;
        }
        std::fs::create_dir_all(folder.path().join(".openclaw"))?;
        std::fs::write(folder.path().join(".openclaw/openclaw.json"), serde_json::to_string_pretty(&text)?)?;
        Ok(Self { folder, port })
    }

    async fn run(&self, args: &[&str]) -> anyhow::Result<Value> {
        let ran = Cli::in_home(Whose::Ours, self.folder.path()).run(args).await?;
        ensure!(ran.code == Some(0), "{args:?}: {}{}", ran.stdout, ran.stderr);
        Ok(serde_json::from_str(&ran.stdout).unwrap_or(Value::String(ran.stdout)))
    }

    /// The starter policy allows 120 letters a minute.
    fn lift_limits(&self) -> anyhow::Result<()> {
        let file = self.folder.path().join(".openclaw/openclaw.json");
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
        for rule in config.pointer_mut("/farm/policy").and_then(Value::as_array_mut).into_iter().flatten() {
            rule["limits"] = json!({"per_minute": 1_000_000});
        }
        Ok(std::fs::write(&file, serde_json::to_vec_pretty(&config)?)?)
    }

    async fn start(&self) -> anyhow::Result<Gateway> {
        let home: &Path = self.folder.path();
        Gateway::start(Setup { config: None, port: self.port, ..Setup::ours(&json!({})) }.home(home)).await
    }
}

/// Two gateways that know each other, or one with both agents.
struct Pair {
    homes: Vec<Home>,
    gateways: Vec<Gateway>,
}

impl Pair {
    async fn alone(model: &MockModel) -> anyhow::Result<Self> {
        let home = Home::new(&["jerry", "bobby"], model, None)?;
        let gateway = home.start().await?;
        Ok(Self { homes: vec![home], gateways: vec![gateway] })
    }

    async fn farm(model: &MockModel, coord: &Value, bus: &Value) -> anyhow::Result<Self> {
        let farm = |agent: &str, roots: Vec<String>| -> anyhow::Result<Value> {
            let listen = format!("127.0.0.1:{}", free_port()?);
            Ok(json!({"id": "bench", "gateway": format!("{agent}-gateway"), "coord": coord, "bus": bus, "peer": {"listen": listen}, "roots": roots}))
        };
        let jerry = Home::new(&["jerry"], model, Some(farm("jerry", Vec::new())?))?;
        let made = jerry.run(&["farm", "init", "--agent", "bobby", "--yes", "--json"]).await?;
        let pin = made.pointer("/root/pin").and_then(Value::as_str).context("farm init names no root")?.to_owned();
        let bobby = Home::new(&["bobby"], model, Some(farm("bobby", vec![pin])?))?;
        bobby.run(&["farm", "enroll", "--json"]).await?;
        bobby.run(&["farm", "policy", "starter", "--agent", "jerry", "--write", "--json"]).await?;
        jerry.run(&["farm", "approve", "bobby-gateway", "--yes", "--json"]).await?;
        jerry.lift_limits()?;
        bobby.lift_limits()?;
        let gateways = vec![jerry.start().await?, bobby.start().await?];
        let pair = Self { homes: vec![jerry, bobby], gateways };
        pair.together().await?;
        Ok(pair)
    }

    async fn together(&self) -> anyhow::Result<()> {
        for home in &self.homes {
            let mut client = Client::connect(home.port).await?;
            let mut last = Value::Null;
            let known = until(PATIENCE, async || {
                last = client.call("farm.status", json!({})).await.ok()?;
                let agents = last["agents"].as_array()?;
                let at = |id: &str| agents.iter().any(|one| one["id"] == id && one["gateway"] == format!("{id}-gateway") && one["healthy"] == true);
                let keys = last["gateways"].as_array()?.iter().all(|one| one["keys"].as_u64() > Some(0));
                (at("jerry") && at("bobby") && keys).then_some(())
            });
            known.await.with_context(|| format!("the gateways do not find each other: {last}"))?;
        }
        Ok(())
    }

    /// jerry asks bobby; until he has the answer.
    async fn trip(&self, n: usize) -> anyhow::Result<Duration> {
        let port = self.homes.first().context("a gateway")?.port;
        let (mark, session) = (format!("msg-{n:06}"), format!("agent:bobby:trip-{}", n % SESSIONS));
        let call = json!({"tool": "sessions_send", "sessionKey": "agent:jerry:main", "args": {"sessionKey": session, "message": mark, "timeoutSeconds": 30}});
        let bearer = format!("Bearer {TOKEN}");
        let headers = [("authorization", &*bearer), ("content-type", "application/json")];
        let began = Instant::now();
        let answer = http::request(port, "POST", "/tools/invoke", &headers, call.to_string().as_bytes(), PATIENCE).await?;
        let took = began.elapsed();
        let said = answer.json();
        let reply = said.pointer("/result/details/reply").and_then(Value::as_str).unwrap_or_default();
        // bobby's model repeats what it was asked.
        ensure!(reply.starts_with("echo: ") && reply.contains(&mark), "jerry has no answer of bobby's: {said}");
        Ok(took)
    }
}

/// Measures one way.
pub async fn measure(kind: &str, trips: usize) -> anyhow::Result<Line> {
    let model = MockModel::start(Options::default()).await?;
    let (what, bar, engines) = match kind {
        "alone" => ("round trip, both agents in one gateway".to_owned(), 25, Vec::new()),
        "consul" => ("round trip, two gateways over Consul (3 servers)".to_owned(), 100, vec![Engine::consul(3).await?]),
        other => (
            format!("round trip, two gateways over {}", if other == "nats" { "NATS" } else { "Redis" }),
            50,
            vec![Engine::consul(1).await?, Engine::start(other).await?],
        ),
    };
    let pair = match engines.as_slice() {
        [] => Pair::alone(&model).await?,
        [consul, more @ ..] => {
            let coord = json!({"kind": "consul", "addr": consul.urls});
            let bus = more.first().map_or_else(|| coord.clone(), |engine| json!({"kind": kind, "addr": [format!("{kind}://127.0.0.1:{}", engine.port)]}));
            Pair::farm(&model, &coord, &bus).await?
        }
    };
    let mut times = Vec::new();
    for n in 0..WARM_UP + trips {
        let took = pair.trip(n).await?;
        if n >= WARM_UP {
            times.push(took);
        }
    }
    for gateway in pair.gateways {
        gateway.kill().await;
    }
    let method = format!(
        "{trips} times, one after another over {SESSIONS} sessions after {WARM_UP} for warming up: `POST /tools/invoke` of `sessions_send` as jerry until bobby's answer is there; both letters and bobby's turn are on disk by then, and bobby's turn asks a model server that answers at once"
    );
    Ok(Times::new(times).line(&what, Duration::from_millis(bar), method))
}
