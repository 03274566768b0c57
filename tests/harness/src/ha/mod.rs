//! A farm of three gateways over shared state, for tests that break it: one or three servers of Consul, PostgreSQL, a chat
//! platform, a model, and a fault proxy between each gateway and everything it talks to.
//!
//! * [`Rig`]: makes the farm as its operator would, and breaks it;
//! * [`Load`]: clients that retry, and the ledger of what they were told;
//! * [`Consul`]; [`invariants`]: what must hold afterwards.

mod consul;
pub mod invariants;
mod load;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clawstead_state::testing::Postgres;
use serde_json::{Value, json};

use crate::{
    PATIENCE,
    cli::Cli,
    client::Client,
    fault_proxy::{Door, FaultProxy},
    free_port,
    gateway::{Gateway, Setup, Whose, config, pretty},
    mock::{MockModel, Options},
    platform::Platform,
    until,
};
use invariants::Evidence;

pub use consul::{Consul, read_keys};
pub use load::{Chatter, Habit, Load, Told};
pub use record::Records;

/// The gateways.
pub const NAMES: [&str; 3] = ["one", "two", "three"];
/// The agents; each is at home at the gateway of the same place.
pub const AGENTS: [&str; 3] = ["jerry", "bobby", "billy"];
/// The platform's account; it lives with bobby.
pub const ACCOUNT: &str = "chan.loopback.default";

/// What a farm is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Named where it is skipped.
    pub suite: &'static str,
    /// `farm.lease`.
    pub lease: &'static str,
    /// Servers of Consul: one or three.
    pub servers: u8,
    /// The model.
    pub model: Options,
    /// Merged into the config of each gateway.
    pub config: Value,
}

impl Plan {
    /// The fast lease, one server of Consul.
    #[must_use]
    pub fn new(suite: &'static str) -> Self {
        Self { suite, lease: "fast", servers: 1, model: Options { remember: true, ..Options::default() }, config: json!({}) }
    }
}

/// What a gateway is cut off from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    /// The coordination store, and the letters that go over it.
    pub coord: bool,
    /// The state store.
    pub state: bool,
    /// Calls of other gateways to it.
    pub peers: bool,
}

/// How the path fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing comes any more, and nobody says so: as a dead cable.
    Silent,
    /// Connections are cut, new ones refused: as a firewall that says no.
    Refused,
}

/// The proxies of one gateway.
struct Links {
    coord: Vec<FaultProxy>,
    state: FaultProxy,
    peers: FaultProxy,
}

/// The farm.
pub struct Rig {
    /// Those that run.
    pub gateways: BTreeMap<&'static str, Gateway>,
    /// Frozen or cut off: not asked.
    pub away: BTreeSet<&'static str>,
    /// The state store.
    pub state: Postgres,
    /// The coordination store.
    pub consul: Consul,
    /// The model of all agents.
    pub model: MockModel,
    /// The chat platform; its account is bobby's.
    pub platform: Arc<Platform>,
    /// Ownership records, as Consul had them.
    pub records: Records,
    homes: BTreeMap<&'static str, tempfile::TempDir>,
    ports: BTreeMap<&'static str, u16>,
    links: BTreeMap<&'static str, Links>,
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(here), Value::Object(more)) => {
            for (key, value) in more {
                merge(here.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (here, more) => *here = more.clone(),
    }
}

impl Rig {
    /// Makes the farm and waits until every agent is at home. `None` where an engine is missing, which was said.
    ///
    /// # Errors
    /// When something does not come up.
    pub async fn make(plan: &Plan) -> anyhow::Result<Option<Self>> {
        let Some(consul) = Consul::start(plan.suite, plan.servers).await? else { return Ok(None) };
        let Some(state) = Postgres::start()? else { return Ok(None) };
        let (model, platform) = (MockModel::start(plan.model.clone()).await?, Arc::new(Platform::start().await?));
        let real = format!("http://127.0.0.1:{}", consul.ports().first().context("no server")?);
        let (mut homes, mut ports, mut links) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut pin = String::new();
        for (seed, name) in (1..).zip(NAMES) {
            let (folder, port, peer) = (tempfile::tempdir()?, free_port()?, free_port()?);
            let home = folder.path();
            std::fs::create_dir_all(home.join(".openclaw"))?;
            let place = home.join(".openclaw/openclaw.json");
            let mut text = config(port, &model.v1(), &AGENTS);
            text["tools"] = json!({"agentToAgent": {"enabled": true}});
            text["channels"] = json!({"loopback": {"enabled": true, "url": platform.url_of(name), "dmPolicy": "open", "allowFrom": ["*"]}});
            text["bindings"] = json!([{"agentId": "bobby", "match": {"channel": "loopback"}}]);
            text["session"] = json!({"dmScope": "per-channel-peer"});
            merge(&mut text, &plan.config);
            std::fs::write(&place, pretty(&text))?;
            let listen = format!("127.0.0.1:{peer}");
            let common =
                ["--id", "octant", "--gateway", name, "--coord", "consul", "--coord-addr", &real, "--bus", "consul", "--peer-listen", &listen, "--json"];
            if pin.is_empty() {
                run(home, &[&["farm", "init", "--yes"], &common[..]].concat()).await?;
                pin = run(home, &["config", "get", "farm.roots", "--json"]).await?[0].as_str().context("no root")?.to_owned();
            } else {
                run(home, &[&["farm", "enroll", "--root", &pin], &common[..]].concat()).await?;
                // The root is in the first home.
                let first = homes.get(NAMES[0]).map_or(home, tempfile::TempDir::path);
                run(first, &["farm", "approve", name, "--yes", "--json"]).await?;
            }
            let coord = consul.ports().into_iter().map(|port| FaultProxy::start(local(port), seed)).collect::<Result<Vec<_>, _>>()?;
            let proxies = Links { coord, state: FaultProxy::start(local(state.port()), seed)?, peers: FaultProxy::start(local(peer), seed)? };
            let mut text: Value = json5::from_str(&std::fs::read_to_string(&place)?)?;
            let addrs: Vec<String> = proxies.coord.iter().map(|proxy| format!("http://{}", proxy.addr())).collect();
            merge(
                &mut text["farm"],
                &json!({
                    "coord": {"addr": addrs},
                    "bus": {"addr": addrs},
                    "state": {"kind": "postgres", "url": format!("postgres://postgres@{}/postgres", proxies.state.addr()), "schema": "octant"},
                    "peer": {"advertise": proxies.peers.addr().to_string()},
                    "lease": plan.lease,
                    "home": {"jerry": ["one", "two", "three"], "bobby": ["two", "three", "one"], "billy": ["three", "one", "two"]},
                }),
            );
            std::fs::write(&place, pretty(&text))?;
            homes.insert(name, folder);
            ports.insert(name, port);
            links.insert(name, proxies);
        }
        let records = Records::watch(consul.ports());
        let mut rig = Self { gateways: BTreeMap::new(), away: BTreeSet::new(), state, consul, model, platform, records, homes, ports, links };
        rig.start_all().await?;
        rig.at_home().await?;
        Ok(Some(rig))
    }

    /// Waits until every agent is where it belongs.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn at_home(&self) -> anyhow::Result<()> {
        for (agent, gateway) in AGENTS.into_iter().zip(NAMES) {
            self.owned(&format!("agent.{agent}"), gateway).await?;
        }
        self.owned(ACCOUNT, "two").await.map(drop)
    }

    /// Starts those that do not run, all at once.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        let missing: Vec<&'static str> = NAMES.into_iter().filter(|name| !self.gateways.contains_key(name)).collect();
        let started = futures_util::future::join_all(missing.iter().map(|name| Gateway::start(self.setup(name)))).await;
        for (name, gateway) in missing.into_iter().zip(started) {
            self.gateways.insert(name, gateway?);
        }
        Ok(())
    }

    /// Starts one.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(&mut self, name: &'static str) -> anyhow::Result<()> {
        self.gateways.insert(name, Gateway::start(self.setup(name)).await?);
        Ok(())
    }

    fn setup(&self, name: &str) -> Setup {
        Setup { config: None, port: self.port(name), ..Setup::ours(&json!({})) }.home(self.home(name))
    }

    /// SIGKILL. Answers the moment it was sent.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self, name: &str) -> anyhow::Result<Instant> {
        let gateway = self.gateways.remove(name).context("it does not run")?;
        let at = Instant::now();
        drop(gateway.kill().await);
        Ok(at)
    }

    /// SIGTERM, and waits for the end. Answers how long that took.
    ///
    /// # Errors
    /// When it does not end within a minute, or not with code 0.
    pub async fn stop(&mut self, name: &str) -> anyhow::Result<Duration> {
        let gateway = self.gateways.remove(name).context("it does not run")?;
        let began = Instant::now();
        let (code, _) = gateway.stop(PATIENCE).await?;
        ensure!(code == Some(0), "{name} ended with {code:?}");
        Ok(began.elapsed())
    }

    /// SIGSTOP; every thread stands when this returns.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn freeze(&mut self, name: &'static str) -> anyhow::Result<()> {
        let gateway = self.gateways.get(name).context("it does not run")?;
        gateway.freeze()?;
        let pid = gateway.pid();
        let stands = || {
            std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().all(|thread| {
                let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't']))
            })
        };
        until(PATIENCE, async || stands().then_some(())).await.context("it does not stand still")?;
        self.away.insert(name);
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&mut self, name: &str) -> anyhow::Result<()> {
        self.away.remove(name);
        self.gateways.get(name).context("it does not run")?.thaw()
    }

    /// Cuts a gateway off.
    pub async fn cut(&mut self, name: &'static str, cut: Cut, how: How) {
        self.away.insert(name);
        let Some(links) = self.links.get(name) else { return };
        let coord = links.coord.iter().filter(|_| cut.coord);
        for proxy in coord.chain(cut.state.then_some(&links.state)).chain(cut.peers.then_some(&links.peers)) {
            match how {
                How::Silent => proxy.freeze().await,
                How::Refused => {
                    proxy.door(Door::Refuse).await;
                    proxy.cut();
                }
            }
        }
    }

    /// Everything is as before.
    pub async fn heal(&mut self, name: &str) {
        self.away.remove(name);
        let Some(links) = self.links.get(name) else { return };
        for proxy in links.coord.iter().chain([&links.state, &links.peers]) {
            proxy.heal().await;
        }
    }

    /// A gateway's home.
    #[must_use]
    pub fn home(&self, name: &str) -> &Path {
        self.homes.get(name).map_or(Path::new("/nowhere"), tempfile::TempDir::path)
    }

    /// A gateway's port.
    #[must_use]
    pub fn port(&self, name: &str) -> u16 {
        self.ports.get(name).copied().unwrap_or_default()
    }

    /// All ports.
    #[must_use]
    pub fn all_ports(&self) -> Vec<u16> {
        NAMES.iter().map(|name| self.port(name)).collect()
    }

    /// Those that run and are neither frozen nor cut off.
    #[must_use]
    pub fn reachable(&self) -> Vec<&'static str> {
        self.gateways.keys().copied().filter(|name| !self.away.contains(name)).collect()
    }

    /// A command at a gateway's home that must work; its answer.
    ///
    /// # Errors
    /// When it does not.
    pub async fn run(&self, at: &str, args: &[&str]) -> anyhow::Result<Value> {
        run(self.home(at), args).await
    }

    /// Who has what, as a gateway says: unit → owner, `*` appended where it acts for the unit itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn map(&self, at: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let ask = async { Client::connect(self.port(at)).await?.call("farm.shards", json!({})).await };
        let said = tokio::time::timeout(Duration::from_secs(5), ask).await??;
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let rows = said["shards"].as_array().cloned().unwrap_or_default();
        Ok(rows.iter().map(|row| (text(row, "unit"), text(row, "owner") + if row["here"] == true { "*" } else { "" })).collect())
    }

    /// Waits until every reachable gateway says that this one has the unit, and it acts for it; answers how long that took.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn owned(&self, unit: &str, gateway: &str) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let there = until(PATIENCE, async || {
            for name in self.reachable() {
                let map = self.map(name).await.ok()?;
                let wanted = if name == gateway { format!("{gateway}*") } else { gateway.to_owned() };
                (*map.get(unit)? == wanted).then_some(())?;
            }
            Some(())
        });
        if there.await.is_none() {
            bail!("{unit} is not at {gateway}: {:?}\n{}", self.maps().await, self.logs());
        }
        Ok(began.elapsed())
    }

    /// What every reachable gateway says.
    pub async fn maps(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut maps = BTreeMap::new();
        for name in self.reachable() {
            maps.insert(name.to_owned(), self.map(name).await.unwrap_or_default());
        }
        maps
    }

    /// Asks an agent through a gateway, again and again with the same key, until it answers. How long that took from
    /// `since` on.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub async fn served(&self, at: &str, agent: &str, mark: &str, since: Instant) -> anyhow::Result<Duration> {
        let said = until(PATIENCE, async || {
            let mut client = Client::connect(self.port(at)).await.ok()?;
            let session = format!("agent:{agent}:probe");
            client.call("chat.send", json!({"sessionKey": session, "message": format!("!say {mark}"), "idempotencyKey": mark})).await.ok()?;
            let end = client.call("agent.wait", json!({"runId": mark, "timeoutMs": 30_000})).await.ok()?;
            (end["status"] == "ok").then_some(())
        });
        said.await.with_context(|| format!("{agent} does not answer at {at}\n{}", self.logs()))?;
        Ok(since.elapsed())
    }

    /// What stands in a session, asked of this gateway.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn history(&self, at: &str, session: &str) -> anyhow::Result<Value> {
        Client::connect(self.port(at)).await?.call("chat.history", json!({"sessionKey": session, "limit": 1000})).await
    }

    /// Waits until every message on the platform has its answer, and every client's message an end; then judges all of it.
    ///
    /// # Errors
    /// When it does not come to rest.
    pub async fn evidence(&self, told: &Told, written: usize) -> anyhow::Result<Evidence> {
        let at = *self.reachable().first().context("nobody runs")?;
        let fates = told.judge(self.port(at)).await.with_context(|| self.logs())?;
        let rest = async || (self.platform.shown().len() >= written).then_some(());
        let _ = until(PATIENCE, rest).await;
        // Whoever has the unit and who says so are read at different moments: until they agree.
        let mut evidence = Evidence {
            fates,
            written,
            shown: self.platform.shown_marks(),
            answers: self.platform.shown().len(),
            calls: self.platform.calls(),
            account: self.records.owners(ACCOUNT),
            owners: self.records.all(),
            maps: BTreeMap::new(),
        };
        let _ = until(Duration::from_secs(30), async || {
            evidence.maps = self.maps().await;
            let apart = invariants::violations(&evidence).iter().any(|what| what.starts_with("I12"));
            (!apart).then_some(())
        })
        .await;
        Ok(evidence)
    }

    /// The ends of all logs.
    #[must_use]
    pub fn logs(&self) -> String {
        let log = |name: &str| std::fs::read_to_string(self.home(name).join("gateway.log")).unwrap_or_default();
        let tail = |text: String| text.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        NAMES.iter().map(|name| format!("--- {name}\n{}\n", tail(log(name)))).collect()
    }
}

async fn run(home: &Path, args: &[&str]) -> anyhow::Result<Value> {
    let ran = Cli::in_home(Whose::Ours, home).run(args).await?;
    ensure!(ran.code == Some(0), "{args:?}: {}{}", ran.stdout, ran.stderr);
    Ok(serde_json::from_str(&ran.stdout).unwrap_or(Value::String(ran.stdout)))
}
