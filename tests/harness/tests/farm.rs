//! Two gateways of one farm, our real binary, on real engines: an agent of the one asks an agent of the other.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clawstead_harness::{
    PATIENCE,
    cli::Cli,
    engines::skipped,
    free_port,
    gateway::{Gateway, Setup, Whose, config},
    http,
    mock::{MockModel, Options, Rule},
    until,
};
use serde_json::{Value, json};

/// An engine as a child process with a folder of its own.
struct Server {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn engine(variable: &str, suite: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        skipped(suite, variable, &format!("{variable} names no program (cargo xtask engines)"));
    }
    found
}

async fn listening(port: u16) {
    let up = until(PATIENCE, async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
    assert!(up.is_some(), "nothing listens on {port}");
}

async fn start(program: PathBuf, args: impl Fn(u16, &str) -> Vec<String>) -> Server {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
    let args = args(port, &folder.path().display().to_string());
    let child = Command::new(program).args(args).current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    listening(port).await;
    Server { child, port, _folder: folder }
}

async fn consul(suite: &str) -> Option<Server> {
    let program = engine("CLAWSTEAD_CONSUL", suite)?;
    let ports: Vec<u16> = (0..3).map(|_| free_port().unwrap()).collect();
    let server = start(program, |http, folder| {
        let other = format!(r#"ports {{ dns = -1 grpc = -1 server = {} serf_lan = {} serf_wan = {} http = {http} }}"#, ports[0], ports[1], ports[2]);
        ["agent", "-dev", "-client", "127.0.0.1", "-bind", "127.0.0.1", "-data-dir", folder, "-hcl", &other].map(str::to_owned).to_vec()
    })
    .await;
    let leads = async || http::get(server.port, "/v1/status/leader").await.ok().filter(|answer| answer.body.contains(&b':')).map(drop);
    assert!(until(PATIENCE, leads).await.is_some(), "Consul has no leader");
    Some(server)
}

/// Bytes of a large letter: a MiB and one.
const LARGE: usize = 1024 * 1024 + 1;

/// Whether the gateways have links to each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Both,
    None,
}

/// Asks what the rule says; the mock model of both gateways.
async fn model() -> MockModel {
    let send = json!({"agentId": "bobby", "message": "Please check the nomad status", "timeoutSeconds": 40});
    let rules = vec![
        Rule {
            contains: "ask bobby to check".into(),
            tool: Some("sessions_send".into()),
            arguments: send,
            say: Some("Bobby answered: {result}".into()),
            ..Rule::default()
        },
        // Fault row M12: larger than any engine's letter, and than an envelope.
        Rule {
            contains: "send bobby the large report".into(),
            tool: Some("sessions_send".into()),
            arguments: json!({"agentId": "bobby", "message": format!("The large report: {}", "x".repeat(LARGE)), "timeoutSeconds": 60}),
            say: Some("Bobby read it: {result}".into()),
            ..Rule::default()
        },
        Rule { contains: "The large report".into(), say: Some("All of the report is read.".into()), ..Rule::default() },
        Rule { contains: "Unsigned letter".into(), say: Some("A stranger wrote.".into()), ..Rule::default() },
        Rule { contains: "check the nomad status".into(), say: Some("All seven Nomad jobs are running.".into()), ..Rule::default() },
        Rule {
            contains: "what did bobby hear".into(),
            tool: Some("sessions_history".into()),
            arguments: json!({"sessionKey": "agent:bobby:main"}),
            say: Some("He heard: {result}".into()),
            ..Rule::default()
        },
    ];
    MockModel::start(Options { rules, remember: true, ..Options::default() }).await.unwrap()
}

/// A farm of two, made with the command line as its operator would.
struct Farm {
    jerry: Gateway,
    bobby: Option<Gateway>,
    homes: (PathBuf, PathBuf),
    model: MockModel,
    _folders: (tempfile::TempDir, tempfile::TempDir),
}

fn write_config(folder: &tempfile::TempDir, agent: &str, model: &MockModel) -> PathBuf {
    let mut text = config(free_port().unwrap(), &model.v1(), &[agent]);
    text["tools"] = json!({"agentToAgent": {"enabled": true}});
    std::fs::create_dir_all(folder.path().join(".openclaw")).unwrap();
    std::fs::write(folder.path().join(".openclaw/openclaw.json"), serde_json::to_string_pretty(&text).unwrap()).unwrap();
    folder.path().to_owned()
}

fn port_of(home: &std::path::Path) -> u16 {
    let text = std::fs::read_to_string(home.join(".openclaw/openclaw.json")).unwrap();
    let config: Value = json5::from_str(&text).unwrap();
    u16::try_from(config["gateway"]["port"].as_u64().unwrap()).unwrap()
}

async fn gateway(home: &std::path::Path) -> Gateway {
    let setup = Setup { config: None, port: port_of(home), ..Setup::ours(&json!({})) };
    Gateway::start(setup.home(home)).await.unwrap()
}

async fn run(home: &std::path::Path, args: &[&str]) -> Value {
    let ran = Cli::in_home(Whose::Ours, home).run(args).await.unwrap();
    assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap_or(Value::String(ran.stdout))
}

impl Farm {
    async fn make(coord: &str, bus: &[&str]) -> Self {
        Self::make_with(coord, bus, Links::Both).await
    }

    async fn make_with(coord: &str, bus: &[&str], links: Links) -> Self {
        let (model, folders) = (model().await, (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()));
        let homes = (write_config(&folders.0, "jerry", &model), write_config(&folders.1, "bobby", &model));
        let peers = (format!("127.0.0.1:{}", free_port().unwrap()), format!("127.0.0.1:{}", free_port().unwrap()));
        let mut init = vec!["farm", "init", "--id", "octant", "--gateway", "jerry-gateway", "--coord", "consul", "--coord-addr", coord];
        init.extend(["--agent", "bobby", "--yes", "--json"]);
        if links == Links::Both {
            init.extend(["--peer-listen", &peers.0]);
        }
        init.extend(bus);
        let made = run(&homes.0, &init).await;
        let root = homes.0.join(".openclaw/farm-root.pem");
        assert!(root.exists(), "{made}");
        let pin = run(&homes.0, &["config", "get", "farm.roots", "--json"]).await[0].as_str().unwrap().to_owned();

        let mut enroll = vec!["farm", "enroll", "--id", "octant", "--gateway", "bobby-gateway", "--coord", "consul", "--coord-addr", coord];
        enroll.extend(["--root", &pin, "--agent", "jerry", "--json"]);
        if links == Links::Both {
            enroll.extend(["--peer-listen", &peers.1]);
        }
        enroll.extend(bus);
        run(&homes.1, &enroll).await;
        run(&homes.0, &["farm", "approve", "bobby-gateway", "--yes", "--json"]).await;
        let (jerry, bobby) = (gateway(&homes.0).await, gateway(&homes.1).await);
        let farm = Self { jerry, bobby: Some(bobby), homes, model, _folders: folders };
        farm.together().await;
        farm
    }

    async fn status(&self) -> Value {
        run(&self.homes.0, &["farm", "status", "--json"]).await
    }

    /// Until jerry's gateway knows that bobby lives at the other one.
    async fn together(&self) {
        let known = until(PATIENCE, async || {
            let status = self.status().await;
            let agents = status["agents"].as_array()?;
            agents.iter().any(|agent| agent["id"] == "bobby" && agent["gateway"] == "bobby-gateway" && agent["healthy"] == true).then_some(())
        });
        assert!(known.await.is_some(), "{}", self.status().await);
    }

    async fn ask(&self, what: &str) -> String {
        let answer = run(&self.homes.0, &["agent", "--agent", "jerry", "--message", what]).await;
        answer.as_str().map_or_else(|| answer.to_string(), str::to_owned)
    }

    /// Every letter that jerry wrote ended well, and each was handled once.
    async fn all_acked(&self) {
        let acked = until(PATIENCE, async || {
            let letters = run(&self.homes.0, &["farm", "letters", "--json"]).await;
            letters["letters"].as_array()?.iter().all(|letter| letter["state"] == "acked").then_some(())
        });
        assert!(acked.await.is_some(), "{}", run(&self.homes.0, &["farm", "letters", "--json"]).await);
    }
}

async fn jerry_asks_bobby(farm: &Farm) {
    let answer = farm.ask("Please ask bobby to check").await;
    assert!(answer.contains("All seven Nomad jobs are running."), "{answer}");
    let heard = farm.ask("what did bobby hear").await;
    assert!(heard.contains("Please check the nomad status"), "{heard}");
    farm.all_acked().await;
}

/// Fault row M12, end to end: a letter that no carrier takes whole.
async fn jerry_sends_a_large_report(farm: &Farm) {
    let answer = farm.ask("Please send bobby the large report").await;
    assert!(answer.contains("All of the report is read."), "{}", answer.chars().take(2_000).collect::<String>());
    let seen: Vec<(usize, String)> = farm.model.seen().into_iter().map(|entry| (entry.bytes, entry.text.to_lowercase())).collect();
    let read = seen.iter().any(|(bytes, text)| *bytes > LARGE && text.contains("large report: xxx"));
    assert!(read, "bobby's model was not given all of it: {seen:?}");
    farm.all_acked().await;
}

#[tokio::test]
async fn over_consul_agents_reach_each_other_and_a_killed_gateway_loses_nothing() {
    let Some(consul) = consul("farm over Consul").await else { return };
    let coord = format!("http://127.0.0.1:{}", consul.port);
    let mut farm = Farm::make(&coord, &["--bus", "consul"]).await;
    jerry_asks_bobby(&farm).await;
    jerry_sends_a_large_report(&farm).await;

    // People reach bobby through jerry's gateway, over the link.
    let answer = run(&farm.homes.0, &["agent", "--agent", "bobby", "--message", "hello through jerry"]).await;
    assert!(answer.to_string().contains("hello through jerry"), "{answer}");

    // bobby's gateway dies; the letter waits for it.
    drop(farm.bobby.take().unwrap().kill().await);
    let home = farm.homes.0.clone();
    let asked = tokio::spawn(async move { run(&home, &["agent", "--agent", "jerry", "--message", "Please ask bobby to check"]).await });
    let began = Instant::now();
    let waits = until(Duration::from_secs(20), async || {
        let letters = run(&farm.homes.0, &["farm", "letters", "--json"]).await;
        letters["letters"].as_array()?.iter().any(|letter| letter["state"] == "queued").then_some(())
    });
    assert!(waits.await.is_some(), "no letter waits after {:?}", began.elapsed());
    farm.bobby = Some(gateway(&farm.homes.1).await);
    let answer = asked.await.unwrap();
    assert!(answer.to_string().contains("All seven Nomad jobs are running."), "{answer}");
    farm.all_acked().await;
    drop(farm.jerry);
}

#[tokio::test]
async fn over_nats_agents_reach_each_other() {
    let (Some(consul), Some(program)) = (consul("farm over NATS").await, engine("CLAWSTEAD_NATS_SERVER", "farm over NATS")) else { return };
    let nats = start(program, |port, folder| ["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd", folder].map(str::to_owned).to_vec()).await;
    let bus = format!("nats://127.0.0.1:{}", nats.port);
    let farm = Farm::make_with(&format!("http://127.0.0.1:{}", consul.port), &["--bus", "nats", "--bus-addr", &bus], Links::None).await;
    jerry_asks_bobby(&farm).await;
    jerry_sends_a_large_report(&farm).await;
}

#[tokio::test]
async fn over_redis_agents_reach_each_other() {
    let (Some(consul), Some(program)) = (consul("farm over Redis").await, engine("CLAWSTEAD_REDIS_SERVER", "farm over Redis")) else { return };
    let redis =
        start(program, |port, folder| ["--port", &port.to_string(), "--dir", folder, "--appendonly", "yes", "--bind", "127.0.0.1"].map(str::to_owned).to_vec())
            .await;
    let bus = format!("redis://127.0.0.1:{}", redis.port);
    let farm = Farm::make_with(&format!("http://127.0.0.1:{}", consul.port), &["--bus", "redis", "--bus-addr", &bus], Links::None).await;
    jerry_asks_bobby(&farm).await;
    jerry_sends_a_large_report(&farm).await;
}

#[tokio::test]
async fn over_the_link_itself_agents_reach_each_other() {
    let Some(consul) = consul("farm over the peer link").await else { return };
    let farm = Farm::make(&format!("http://127.0.0.1:{}", consul.port), &["--bus", "peer"]).await;
    jerry_asks_bobby(&farm).await;
    jerry_sends_a_large_report(&farm).await;
}

/// `consul kv put`, as people type it. Consul takes keys without a slash at their beginning only.
fn consul_kv(consul: &Server, args: &[&str]) -> String {
    let address = format!("-http-addr=http://127.0.0.1:{}", consul.port);
    let ran = Command::new(std::env::var_os("CLAWSTEAD_CONSUL").unwrap()).args(["kv", args[0], &address]).args(&args[1..]).output().unwrap();
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// Fault row M14, end to end: a letter put by hand is refused, told and removed; once its box is listed, while the gateway
/// runs, it is read by the agent, once, as what it is. The same farm has no links, so large letters go through Consul.
#[tokio::test]
async fn m14_a_letter_put_by_hand_into_consul_is_refused_unless_its_box_is_listed() {
    let Some(consul) = consul("farm letters by hand").await else { return };
    let farm = Farm::make_with(&format!("http://127.0.0.1:{}", consul.port), &["--bus", "consul"], Links::None).await;
    jerry_sends_a_large_report(&farm).await;
    assert_eq!(consul_kv(&consul, &["get", "-keys", "-recurse", "openclaw/farm/v1/blobs/"]).trim(), "", "nothing of it is left in Consul");

    let letter = r#"{"from":"jerry","to":"bobby","body":"Is anybody there?"}"#;
    let key = "openclaw/agents/bobby/inbox/msg-001";
    let home = farm.homes.1.clone();
    let gone = async || until(PATIENCE, async || consul_kv(&consul, &["get", "-keys", key]).trim().is_empty().then_some(())).await;
    consul_kv(&consul, &["put", key, letter]);
    assert!(gone().await.is_some(), "a refused letter is removed");
    let told = until(PATIENCE, async || {
        let status = run(&home, &["farm", "status", "--json"]).await;
        let refused = status["refusedLately"].as_array()?;
        refused
            .iter()
            .any(|one| one["reason"] == "unsigned" && one["why"].as_str().is_some_and(|why| why.contains(key) && why.contains("farm.acceptUnsigned")))
            .then_some(())
    });
    assert!(told.await.is_some(), "{}", run(&home, &["farm", "status", "--json"]).await);

    run(&home, &["config", "set", "farm.acceptUnsigned", r#"["openclaw/agents/bobby/inbox/"]"#]).await;
    let heard = async || {
        let sessions = run(&home, &["sessions", "--agent", "bobby", "--json"]).await;
        sessions.to_string().matches("unsigned:jerry").count()
    };
    // The config is taken up while the gateway runs: until then letters are refused, each under a name of its own.
    let mut n = 1;
    let taken = until(PATIENCE, async || {
        n += 1;
        consul_kv(&consul, &["put", &format!("openclaw/agents/bobby/inbox/msg-{n:03}"), letter]);
        tokio::time::sleep(Duration::from_millis(500)).await;
        (heard().await > 0).then_some(())
    });
    assert!(taken.await.is_some(), "{}", run(&home, &["farm", "status", "--json"]).await);
    let letters = run(&home, &["farm", "letters", "--json"]).await;
    let by_hand = |letters: &Value| letters["letters"].as_array().unwrap().iter().filter(|letter| letter["from"] == "unsigned.jerry").count();
    let before = by_hand(&letters);
    // The same name once more is the same letter.
    consul_kv(&consul, &["put", &format!("openclaw/agents/bobby/inbox/msg-{n:03}"), letter]);
    let again = format!("openclaw/agents/bobby/inbox/msg-{n:03}");
    assert!(until(PATIENCE, async || consul_kv(&consul, &["get", "-keys", &again]).trim().is_empty().then_some(())).await.is_some());
    assert_eq!(by_hand(&run(&home, &["farm", "letters", "--json"]).await), before);
}

/// Two gateways with one name: the second is refused with a clear word, the first does not notice.
#[tokio::test]
async fn a_second_gateway_with_the_same_name_is_refused_and_the_first_goes_on() {
    let Some(consul) = consul("farm with one name twice").await else { return };
    let farm = Farm::make(&format!("http://127.0.0.1:{}", consul.port), &["--bus", "consul"]).await;
    // A copy of bobby's home, as it is while bobby's gateway runs: the same name and the same key.
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-a").arg(farm.homes.1.join(".openclaw")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let config = copy.path().join(".openclaw/openclaw.json");
    let port = port_of(copy.path());
    let text = std::fs::read_to_string(&config).unwrap().replace(&port.to_string(), &free_port().unwrap().to_string());
    std::fs::write(&config, text).unwrap();
    let ran = tokio::time::timeout(Duration::from_secs(60), Cli::in_home(Whose::Ours, copy.path()).run(&["gateway", "run"])).await;
    let ran = ran.expect("it ends by itself").unwrap();
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(ran.code != Some(0) && said.contains("another gateway named bobby-gateway is running") && said.contains("farm.gateway"), "{said}");
    jerry_asks_bobby(&farm).await;
    let status = farm.status().await;
    assert!(status["problems"].as_array().unwrap().is_empty(), "{status}");
}
