//! Two gateways of one farm on one schema of one PostgreSQL server, which keeps their coordination too: what people
//! did at the one is known at the other, and nobody else gets in.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use clawstead_harness::{
    cli::Cli,
    client::{Client, Device, Who},
    free_port,
    gateway::{Gateway, Setup, Whose, config},
    mock::{MockModel, Options},
    until,
};
use clawstead_state::testing::Postgres;
use serde_json::{Value, json};

const NAMES: [&str; 2] = ["one", "two"];
const SOON: Duration = Duration::from_secs(2);

async fn run(home: &Path, args: &[&str]) -> Value {
    let ran = Cli::in_home(Whose::Ours, home).run(args).await.unwrap();
    assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.stdout, ran.stderr);
    ran.json()
}

fn read(home: &Path) -> Value {
    json5::from_str(&std::fs::read_to_string(home.join(".openclaw/openclaw.json")).unwrap()).unwrap()
}

fn write(home: &Path, config: &Value) {
    std::fs::create_dir_all(home.join(".openclaw")).unwrap();
    std::fs::write(home.join(".openclaw/openclaw.json"), serde_json::to_string_pretty(config).unwrap()).unwrap();
}

fn port(home: &Path) -> u16 {
    u16::try_from(read(home)["gateway"]["port"].as_u64().unwrap()).unwrap()
}

fn setup(home: &Path) -> Setup {
    Setup { config: None, port: port(home), ..Setup::ours(&json!({})) }.home(home)
}

/// The homes of the two, enrolled and configured, nothing started.
async fn farm(url: &str, model: &MockModel) -> [tempfile::TempDir; 2] {
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut pin = String::new();
    for (name, home) in NAMES.into_iter().zip(&homes) {
        let (home, peer) = (home.path(), format!("127.0.0.1:{}", free_port().unwrap()));
        write(home, &config(free_port().unwrap(), &model.v1(), &["jerry", "bobby"]));
        let common = ["--id", "octant", "--gateway", name, "--coord", "postgres", "--coord-addr", url, "--bus", "peer", "--peer-listen", &peer, "--json"];
        if pin.is_empty() {
            run(home, &[&["farm", "init", "--yes"], &common[..]].concat()).await;
            pin = run(home, &["config", "get", "farm.roots", "--json"]).await[0].as_str().unwrap().to_owned();
        } else {
            run(home, &[&["farm", "enroll", "--root", &pin], &common[..]].concat()).await;
            run(homes[0].path(), &["farm", "approve", name, "--yes", "--json"]).await;
        }
        let mut text = read(home);
        text["farm"]["state"] = json!({"kind": "postgres", "url": url, "schema": "octant"});
        text["farm"]["home"] = json!({"jerry": ["one", "two"], "bobby": ["two", "one"]});
        write(home, &text);
    }
    homes
}

async fn paired(port: u16, device: &str) -> bool {
    let mut client = Client::connect(port).await.unwrap();
    let list = client.call("device.pair.list", json!({})).await.unwrap();
    list["paired"].as_array().unwrap().iter().any(|row| row["deviceId"] == device)
}

/// Waits until it is so, two seconds at most.
async fn soon(what: &str, so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    assert!(until(SOON + Duration::from_secs(1), async || so().await.then_some(())).await.is_some(), "{what}: not within {SOON:?}");
    assert!(began.elapsed() <= SOON + Duration::from_millis(500), "{what}: after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_share_a_schema_and_what_is_common() {
    let Some(server) = Postgres::start().unwrap() else { return };
    let model = MockModel::start(Options::default()).await.unwrap();
    let url = server.url();
    let homes = farm(&url, &model).await;
    let one = Gateway::start(setup(homes[0].path())).await.unwrap();
    let two = Gateway::start(setup(homes[1].path())).await.unwrap();

    // A device that is paired at the one is known at the other.
    let device = || Device::from_seed([7; 32]);
    let mut held = Client::connect_as(one.port, Who { device: Some(device()), ..Who::default() }).await.unwrap();
    held.call("status", json!({})).await.unwrap();
    soon("the device is known at the other gateway", async || paired(two.port, &device().id()).await).await;
    let mut there = Client::connect_as(two.port, Who { device: Some(device()), ..Who::default() }).await.unwrap();

    // Preferences and groups too, and at once.
    there.call("users.prefs.set", json!({"entries": {"theme": "dark"}})).await.unwrap();
    assert_eq!(held.call("users.prefs.get", json!({})).await.unwrap()["entries"]["theme"], "dark");
    held.call("sessions.groups.put", json!({"names": ["work"]})).await.unwrap();
    assert_eq!(there.call("sessions.groups.list", json!({})).await.unwrap()["names"], json!(["work"]));

    // Removed at the other: its connection here ends, and it is unknown here.
    drop(there);
    let mut operator = Client::connect(two.port).await.unwrap();
    operator.call("device.pair.remove", json!({"deviceId": device().id()})).await.unwrap();
    soon("the device is unknown here", async || !paired(one.port, &device().id()).await).await;
    let ended = until(SOON, async || held.call("status", json!({})).await.is_err().then_some(())).await;
    assert!(ended.is_some(), "its connection goes on");

    // Nobody writes while nothing happens.
    let written = || {
        server.sql("SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables WHERE schemaname='octant' AND relname IN ('doc', 'journal', 'fence', 'commit_marker')")
    };
    let (mut before, mut since) = (written().unwrap(), Instant::now());
    let began = Instant::now();
    while since.elapsed() < Duration::from_secs(8) {
        assert!(began.elapsed() < Duration::from_secs(40), "rows are written all the time");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = written().unwrap();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }

    // The same name elsewhere, with the same keys: refused by name.
    let twin = tempfile::tempdir().unwrap();
    copy_folder(homes[0].path(), twin.path());
    let mut text = read(twin.path());
    text["gateway"]["port"] = json!(free_port().unwrap());
    text["farm"]["peer"]["listen"] = json!(format!("127.0.0.1:{}", free_port().unwrap()));
    write(twin.path(), &text);
    let mut second = Gateway::launch(setup(twin.path())).await.unwrap();
    assert_eq!(second.ended(Duration::from_secs(40)).await.unwrap(), Some(1), "{}", second.log_text());
    assert!(second.log_text().contains("a gateway named \"one\" uses"), "{}", second.log_text());

    // A gateway that is of no farm, on this schema.
    let stranger = tempfile::tempdir().unwrap();
    let mut text = config(free_port().unwrap(), &model.v1(), &["jerry"]);
    text["farm"] = json!({"state": {"kind": "postgres", "url": url, "schema": "octant"}});
    write(stranger.path(), &text);
    let mut lone = Gateway::launch(setup(stranger.path())).await.unwrap();
    assert_eq!(lone.ended(Duration::from_secs(40)).await.unwrap(), Some(1), "{}", lone.log_text());
    assert!(lone.log_text().contains("in use by the gateways of a farm"), "{}", lone.log_text());

    // The one dies: it is back under its name at once, and the other never noticed.
    drop(one.kill().await);
    let one = Gateway::start(setup(homes[0].path())).await.unwrap();
    assert_eq!(Client::connect(one.port).await.unwrap().call("users.prefs.get", json!({})).await.unwrap()["entries"]["theme"], "dark");
    let mut client = Client::connect(two.port).await.unwrap();
    client.call("users.prefs.set", json!({"entries": {"theme": "light"}})).await.unwrap();

    // One leaves the farm with what it holds by then; the other's folder gets its own part only.
    let said = "agent:bobby:kept";
    assert_eq!(client.turn(said, "hello", "run-1").await.unwrap().state, "final");
    drop(client);
    two.stop(Duration::from_secs(60)).await.unwrap();
    let owner = || server.sql("SELECT owner FROM octant.fence WHERE unit='agent.bobby'").is_ok_and(|owner| owner == "one");
    assert!(until(Duration::from_secs(40), async || owner().then_some(())).await.is_some(), "nobody took bobby over: {}", one.log_tail(30));
    one.stop(Duration::from_secs(60)).await.unwrap();
    let copied = run(homes[0].path(), &["state", "copy", "--from", "farm", "--to", "local", "--json"]).await;
    assert_eq!((&copied["verified"], &copied["leftToOthers"]), (&json!(true), &json!(["gateway.two"])), "{copied}");
    let other = run(homes[1].path(), &["state", "copy", "--from", "farm", "--to", "local", "--json"]).await;
    assert_eq!(other["perUnit"].as_object().unwrap().keys().collect::<Vec<_>>(), ["global"], "{other}");
    assert!(other["leftToOthers"].as_array().unwrap().contains(&json!("agent.bobby")), "{other}");
    let refused =
        Cli::in_home(Whose::Ours, homes[1].path()).run(&["state", "copy", "--from", "farm", "--to", "bobby.sqlite", "--agent", "bobby"]).await.unwrap();
    assert!(refused.code == Some(1) && refused.stderr.contains("agent.bobby is held by one"), "{}{}", refused.stdout, refused.stderr);
    // What was a gateway of a farm is one alone, on its own file.
    let mut text = read(homes[0].path());
    text.as_object_mut().unwrap().remove("farm");
    write(homes[0].path(), &text);
    let alone = Gateway::start(setup(homes[0].path())).await.unwrap();
    let mut client = Client::connect(alone.port).await.unwrap();
    let history = client.call("chat.history", json!({"sessionKey": said, "limit": 100})).await.unwrap();
    assert_eq!(history["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "assistant").count(), 1, "{history}");
    assert_eq!(client.call("users.prefs.get", json!({})).await.unwrap()["entries"]["theme"], "light");
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
