//! State that moves between the folder's file and PostgreSQL with one command, and databases that are not taken for
//! the right one: as an operator meets them.

use std::{path::Path, time::Duration};

use clawstead_harness::{
    cli::{Cli, Ran},
    client::Client,
    free_port,
    gateway::{Gateway, Setup, Whose, config},
    mock::{MockModel, Options},
};
use clawstead_state::testing::Postgres;
use serde_json::{Value, json};

const SCHEMA: &str = "claw";

fn in_file(port: u16, v1: &str) -> Value {
    config(port, v1, &["main", "jerry"])
}

fn in_postgres(port: u16, v1: &str, url: &str) -> Value {
    let mut config = in_file(port, v1);
    config["farm"] = json!({"state": {"kind": "postgres", "url": url, "schema": SCHEMA}});
    config
}

fn write(home: &Path, config: &Value) {
    std::fs::create_dir_all(home.join(".openclaw")).unwrap();
    std::fs::write(home.join(".openclaw/openclaw.json"), serde_json::to_string_pretty(config).unwrap()).unwrap();
}

async fn start(home: &Path, port: u16) -> Gateway {
    Gateway::start(Setup { config: None, port, ..Setup::ours(&json!({})) }.home(home)).await.unwrap()
}

async fn openclaw(home: &Path, args: &[&str]) -> Ran {
    Cli::in_home(Whose::Ours, home).run(args).await.unwrap()
}

async fn done(home: &Path, args: &[&str]) -> Value {
    let ran = openclaw(home, args).await;
    assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.stdout, ran.stderr);
    ran.json()
}

async fn refused(home: &Path, args: &[&str], word: &str) {
    let ran = openclaw(home, args).await;
    assert_eq!(ran.code, Some(1), "{args:?}: {}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains(word) || ran.stdout.contains(word), "{args:?} does not say {word:?}: {}{}", ran.stdout, ran.stderr);
}

async fn said(port: u16, session: &str) -> usize {
    let mut client = Client::connect(port).await.unwrap();
    let history = client.call("chat.history", json!({"sessionKey": session, "limit": 1000})).await.unwrap();
    history["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "assistant").count()
}

async fn turn(port: u16, session: &str, run: &str) {
    let mut client = Client::connect(port).await.unwrap();
    assert_eq!(client.turn(session, &format!("hello {run}"), run).await.unwrap().state, "final");
}

const STOP: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_moves_to_postgres_and_back() {
    let Some(server) = Postgres::start().unwrap() else { return };
    let model = MockModel::start(Options::default()).await.unwrap();
    let (home, port, url) = (tempfile::tempdir().unwrap(), free_port().unwrap(), server.url());
    let home = home.path();
    write(home, &in_file(port, &model.v1()));
    let gateway = start(home, port).await;
    turn(port, "agent:main:kept", "run-1").await;
    turn(port, "agent:jerry:kept", "run-2").await;

    // Not while it runs; then, and only once.
    refused(home, &["state", "copy", "--to", &url, "--schema", SCHEMA], "stop it first").await;
    gateway.stop(STOP).await.unwrap();
    write(home, &in_postgres(port, &model.v1(), &url));
    let there = done(home, &["state", "copy", "--to", "farm", "--json"]).await;
    assert_eq!((there["verified"].as_bool(), there["kept"].as_array().map(Vec::len)), (Some(true), Some(0)), "{there}");
    assert!(there["tables"]["journal"]["count"].as_u64().unwrap() > 0 && there["perUnit"]["agent.jerry"]["checksum"].is_string(), "{there}");
    refused(home, &["state", "copy", "--to", "farm"], "copy into an empty database").await;

    // It goes on there.
    let gateway = start(home, port).await;
    assert_eq!((said(port, "agent:main:kept").await, said(port, "agent:jerry:kept").await), (1, 1));
    turn(port, "agent:jerry:kept", "run-3").await;
    // A second one on the same schema is told who is there; and so is the command, from another folder.
    let (other, other_port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
    write(other.path(), &in_postgres(other_port, &model.v1(), &url));
    let mut second = Gateway::launch(Setup { config: None, port: other_port, ..Setup::ours(&json!({})) }.home(other.path())).await.unwrap();
    assert_eq!(second.ended(Duration::from_secs(30)).await.unwrap(), Some(1), "{}", second.log_text());
    assert!(second.log_text().contains("is in use by another gateway"), "{}", second.log_text());
    refused(other.path(), &["state", "copy", "--from", "farm", "--to", "local"], "is in use by another gateway").await;
    // Its death lets go at once.
    drop(gateway.kill().await);
    let gateway = start(home, port).await;
    assert_eq!(said(port, "agent:jerry:kept").await, 2);
    gateway.stop(STOP).await.unwrap();

    // And back, into a file of its own: the old one holds an older state.
    refused(home, &["state", "copy", "--from", "farm", "--to", "local"], "copy into an empty database").await;
    std::fs::rename(home.join(".openclaw/clawstead.sqlite"), home.join("old.sqlite")).unwrap();
    let back = done(home, &["state", "copy", "--from", "farm", "--to", "local", "--json"]).await;
    assert_eq!(back["perUnit"].as_object().unwrap().len(), there["perUnit"].as_object().unwrap().len(), "{back}");
    write(home, &in_file(port, &model.v1()));
    let gateway = start(home, port).await;
    assert_eq!((said(port, "agent:main:kept").await, said(port, "agent:jerry:kept").await), (1, 2));
    gateway.stop(STOP).await.unwrap();

    // One agent alone, into another folder's file.
    let file = other.path().join("jerry.sqlite").display().to_string();
    let one = done(home, &["state", "copy", "--to", &file, "--agent", "jerry", "--json"]).await;
    assert_eq!(one["perUnit"].as_object().unwrap().keys().collect::<Vec<_>>(), ["agent.jerry"]);
    refused(home, &["state", "copy", "--to", &file, "--agent", "nobody"], "holds nothing of it").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_wiped_is_refused_until_it_is_trusted() {
    let Some(server) = Postgres::start().unwrap() else { return };
    let model = MockModel::start(Options::default()).await.unwrap();
    let (home, port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
    let home = home.path();
    write(home, &in_postgres(port, &model.v1(), &server.url()));
    let gateway = start(home, port).await;
    turn(port, "agent:main:kept", "run-1").await;
    refused(home, &["state", "trust"], "stop it first").await;
    gateway.stop(STOP).await.unwrap();
    server.sql(&format!("DROP SCHEMA {SCHEMA} CASCADE")).unwrap();
    let launch = async || Gateway::launch(Setup { config: None, port, ..Setup::ours(&json!({})) }.home(home)).await.unwrap();
    let mut empty = launch().await;
    assert_eq!(empty.ended(Duration::from_secs(30)).await.unwrap(), Some(78), "{}", empty.log_text());
    assert!(empty.log_text().contains("is empty") && empty.log_text().contains("openclaw state trust"), "{}", empty.log_text());
    let told = done(home, &["state", "trust", "--json"]).await;
    assert!(told["forgotten"]["place"].as_str().unwrap().contains(SCHEMA), "{told}");
    let gateway = start(home, port).await;
    assert_eq!(said(port, "agent:main:kept").await, 0);
    drop(gateway);
}

/// Not a check: how long turns take over each store. `cargo test -p clawstead-harness --test postgres_move -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn turns_measured() {
    let Some(server) = Postgres::start().unwrap() else { return };
    let model = MockModel::start(Options::default()).await.unwrap();
    for (name, url) in [("SQLite", None), ("PostgreSQL", Some(server.url()))] {
        let (home, port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
        write(home.path(), &url.map_or_else(|| in_file(port, &model.v1()), |url| in_postgres(port, &model.v1(), &url)));
        let gateway = start(home.path(), port).await;
        let mut client = Client::connect(port).await.unwrap();
        let mut times = Vec::new();
        for at in 0..220 {
            let began = std::time::Instant::now();
            client.turn("agent:main:kept", &format!("hello {at}"), &format!("run-{at}")).await.unwrap();
            if at >= 20 {
                times.push(began.elapsed());
            }
        }
        times.sort_unstable();
        eprintln!("{name}: turn p50 {:?}, p95 {:?}, max {:?}", times[100], times[190], times[199]);
        drop(gateway);
    }
}
