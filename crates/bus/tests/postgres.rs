//! `PostgreSQL` keeps the promises, also over a crash and when it hangs.

mod engines;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use clawstead_bus::{
    Bus, CasError, Change, Coord, CoordError, Member,
    conformance::{self, Rig},
    postgres::{Postgres, Settings},
};
use clawstead_harness::fault_proxy::FaultProxy;
use clawstead_state::testing;
use engines::{percentile, world};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(20);

struct Server(Mutex<testing::Postgres>);

impl Server {
    fn start() -> Option<Self> {
        testing::Postgres::start().expect("PostgreSQL starts").map(|server| Self(Mutex::new(server)))
    }

    fn with<T>(&self, work: impl FnOnce(&mut testing::Postgres) -> T) -> T {
        tokio::task::block_in_place(|| work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn url(&self) -> String {
        self.with(|server| server.url())
    }

    fn client(&self) -> Arc<dyn Coord> {
        Postgres::new(&Settings::at(self.url()), &world()).expect("settings that can be").coord()
    }
}

#[async_trait]
impl Rig for Server {
    async fn coord(&self) -> Result<Arc<dyn Coord>, String> {
        Ok(self.client())
    }

    async fn bus(&self) -> Result<Arc<dyn Bus>, String> {
        Err("PostgreSQL carries no mail".into())
    }

    async fn stop(&self) -> Result<(), String> {
        self.with(testing::Postgres::crash).map_err(|err| err.to_string())
    }

    async fn start(&self) -> Result<(), String> {
        self.with(testing::Postgres::run).map_err(|err| err.to_string())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys() {
    let Some(server) = Server::start() else { return };
    assert_eq!(conformance::coord(&server, "1").await, Ok(16));
}

fn member(id: &str) -> Member {
    Member {
        service: "openclaw-gateway".into(),
        id: id.into(),
        address: "10.0.0.1".into(),
        port: 18789,
        tags: vec!["traefik.enable=true".into()],
        meta: BTreeMap::from([("version".into(), "1".into())]),
        check_ttl: Duration::from_secs(1),
        check_url: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_rows_and_their_silence_shows() {
    let Some(server) = Server::start() else { return };
    let coord = server.client();
    let (me, other) = (member("jerry-gateway"), member("bobby-gateway"));
    coord.register(&me).await.unwrap();
    coord.beat(&me, "fine\0").await.unwrap();
    // Without having registered, as after a row was lost.
    coord.beat(&other, "also").await.unwrap();
    coord.deregister(&other).await.unwrap();

    let (sql, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let health = async || {
        let rows = sql.query("SELECT id, status, note, tags[1], meta->>'version' FROM openclaw_farm.member_health", &[]).await.unwrap();
        rows.iter().map(|row| (0..5).map(|at| row.get::<_, String>(at)).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    assert_eq!(health().await, [["jerry-gateway", "passing", "fine", "traefik.enable=true", "1"]]);
    engines::until(Duration::from_secs(10), "a silent member is critical", async || health().await[0][1] == "critical").await.unwrap();
    coord.beat(&me, "again").await.unwrap();
    assert_eq!(health().await[0][1..3], ["passing", "again"]);
    connection.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_are_refused_and_secrets_stay_hidden() {
    let refused = |url: &str, schema: &str| {
        let settings = Settings { schema: schema.into(), ..Settings::at(url) };
        Postgres::new(&settings, &world()).err().map(|err| err.to_string()).unwrap_or_default()
    };
    let shown = refused("postgres://me:hunter2@host:port/x", "farm");
    assert!(shown.contains("postgres://user@host1,host2/database") && !shown.contains("hunter2"), "{shown}");
    assert!(refused("postgres://me@/x", "farm").contains("no host"));
    assert!(refused("postgres://me@host/x", "Bad-Name").contains("schema name"));

    let Some(server) = Server::start() else { return };
    let url = server.url().replace("postgres@", "nobody:hunter2@");
    let coord = Postgres::new(&Settings::at(url), &world()).unwrap().coord();
    match coord.get("key").await {
        Err(err @ CoordError::Denied { .. }) => assert!(!err.to_string().contains("hunter2"), "{err}"),
        other => panic!("{other:?}"),
    }
}

/// Two hosts, of which the first takes connections and never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_hangs_is_passed_over() {
    let Some(server) = Server::start() else { return };
    let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ports = [hangs.local_addr().unwrap().port(), server.with(|server| server.port())];
    let url = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", ports[0], ports[1]);
    let coord = Postgres::new(&Settings::at(url), &world()).unwrap().coord();
    let began = Instant::now();
    coord.put("key", "1".into()).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    coord.put("key", "2".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measured() {
    let Some(server) = Server::start() else { return };
    let (writer, reader) = (server.client(), server.client());
    let mut watch = reader.watch("measured/");
    let first = timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    assert!(first.is_some());
    let (mut writes, mut told) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let began = Instant::now();
        writer.put("measured/key", format!("{number}").into()).await.unwrap();
        writes.push(began.elapsed());
        timeout(Duration::from_secs(10), watch.next()).await.unwrap();
        told.push(began.elapsed());
    }
    eprintln!(
        "postgresql: write p50 {:?} p95 {:?}, told p50 {:?} p95 {:?}",
        percentile(&mut writes, 0.5),
        percentile(&mut writes, 0.95),
        percentile(&mut told, 0.5),
        percentile(&mut told, 0.95)
    );
}

/// Of two servers the one that takes writes is used, also when that changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_writes_any_more_is_left() {
    let (Some(one), Some(two)) = (Server::start(), Server::start()) else { return };
    let ports = [&one, &two].map(|server| server.with(|server| server.port()));
    let url = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", ports[0], ports[1]);
    let coord = Postgres::new(&Settings::at(url), &world()).unwrap().coord();
    coord.put("key", "one".into()).await.unwrap();
    let mut watch = coord.watch("key");
    assert!(matches!(timeout(SOON, watch.next()).await, Ok(Some(Change::Snapshot(all))) if all.len() == 1));

    let (sql, connection) = tokio_postgres::connect(&one.url(), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    sql.batch_execute("ALTER SYSTEM SET default_transaction_read_only=on").await.unwrap();
    sql.query("SELECT pg_reload_conf()", &[]).await.unwrap();
    connection.abort();
    engines::until(SOON, "writes go to the other server", async || match coord.put("key", "two".into()).await {
        Ok(_) => two.client().get("key").await.is_ok_and(|entry| entry.is_some()),
        Err(CoordError::Unavailable { .. }) => false,
        Err(err) => panic!("{err}"),
    })
    .await
    .unwrap();
    let mut told = Vec::new();
    while told.last() != Some(&"two".to_owned()) {
        told.push(match timeout(SOON, watch.next()).await.unwrap().unwrap() {
            Change::Lost(_) => "lost".into(),
            Change::Snapshot(all) => all.get("key").map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).unwrap_or_default(),
            Change::Put(entry) => String::from_utf8_lossy(&entry.value).into_owned(),
            Change::Delete(key) => format!("{key} is gone"),
        });
    }
    assert!(told.contains(&"lost".to_owned()), "{told:?}");
}

/// A line that swallows everything: requests end, the watch tells, and both go on when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_freezes_is_noticed() {
    let Some(server) = Server::start() else { return };
    let proxy = FaultProxy::start(([127, 0, 0, 1], server.with(|server| server.port())).into(), 1).unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.addr().port());
    let coord = Postgres::new(&Settings::at(url), &world()).unwrap().coord();
    let version = coord.put("key", "1".into()).await.unwrap();
    let mut watch = coord.watch("key");
    assert!(matches!(timeout(SOON, watch.next()).await, Ok(Some(Change::Snapshot(all))) if all.len() == 1));

    proxy.freeze().await;
    let began = Instant::now();
    let written = coord.put_if("key", "2".into(), Some(version)).await;
    assert!(matches!(written, Err(CasError::Unknown(CoordError::Unavailable { .. }))), "{written:?}");
    assert!(began.elapsed() < conformance::AWAY_WITHIN, "{:?}", began.elapsed());
    let lost = timeout(Duration::from_secs(5), watch.next()).await;
    assert!(matches!(lost, Ok(Some(Change::Lost(_)))), "{lost:?}");
    // While it is frozen: a new connection hangs too, and the error comes in time all the same.
    let began = Instant::now();
    let read = coord.get("key").await;
    assert!(matches!(read, Err(CoordError::Unavailable { .. })), "{read:?}");
    assert!(began.elapsed() < conformance::AWAY_WITHIN, "{:?}", began.elapsed());

    proxy.heal().await;
    engines::until(SOON, "it answers again", async || coord.put("key", "3".into()).await.is_ok()).await.unwrap();
    loop {
        match timeout(SOON, watch.next()).await.unwrap().unwrap() {
            Change::Snapshot(all) if all["key"].value == "3" => break,
            Change::Put(entry) if entry.value == "3" => break,
            _ => {}
        }
    }
}
