//! Consul keeps the promises, with one server and with three of which the leader is killed.

mod engines;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use clawstead_bus::{
    Bus, CasError, Change, Coord, CoordError, Delivery, MailBox, Member, Published, Sealed, Version,
    conformance::{self, Rig},
    consul::{Consul, Settings},
};
use engines::{consul::Cluster, percentile, until, world};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(15);

/// All servers of a cluster.
struct Servers(Cluster);

impl Servers {
    fn client(&self) -> Consul {
        // More than the budget, or a burst of a thousand takes its time; the budget has a test of its own.
        let settings = Settings { letters_per_second: 500, burst: 500, ..Settings::at(self.0.urls()) };
        Consul::new(&settings, &world()).unwrap()
    }
}

#[async_trait]
impl Rig for Servers {
    async fn coord(&self) -> Result<Arc<dyn Coord>, String> {
        Ok(self.client().coord())
    }

    async fn bus(&self) -> Result<Arc<dyn Bus>, String> {
        Ok(self.client().bus())
    }

    async fn stop(&self) -> Result<(), String> {
        for server in &self.0.servers {
            server.kill().await;
        }
        Ok(())
    }

    async fn start(&self) -> Result<(), String> {
        for server in &self.0.servers {
            server.start();
        }
        Ok(())
    }

    fn again_within(&self) -> Duration {
        Duration::from_secs(1)
    }
}

#[tokio::test]
async fn one_server() {
    let Some(cluster) = Cluster::start(1, json!({})).await else { return };
    let rig = Servers(cluster);
    assert_eq!(conformance::coord(&rig, "1").await, Ok(16));
    assert_eq!(conformance::bus(&rig, "1").await, Ok(10));
}

#[tokio::test]
async fn three_servers() {
    let Some(cluster) = Cluster::start(3, json!({})).await else { return };
    let rig = Servers(cluster);
    assert_eq!(conformance::coord(&rig, "1").await, Ok(16));
    assert_eq!(conformance::bus(&rig, "1").await, Ok(10));
}

#[tokio::test]
async fn the_leader_is_killed_and_nothing_is_lost() {
    let Some(cluster) = Cluster::start(3, json!({})).await else { return };
    let rig = Servers(cluster);
    let cluster = &rig.0;
    let key = "leader/counter";
    rig.client().coord().put(key, "0".into()).await.unwrap();
    let watcher = Watcher::start(rig.client().coord(), key);

    // Four writers count; each increment that was answered with Ok must be in the end result, once.
    let stop = tokio::sync::watch::Sender::new(false);
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (coord, mut stopped) = (rig.client().coord(), stop.subscribe());
            tokio::spawn(async move {
                let (mut sure, mut unsure, mut longest) = (0_u64, 0_u64, Duration::ZERO);
                while !*stopped.borrow_and_update() {
                    let Ok(Some(entry)) = coord.get(key).await else { continue };
                    let count: u64 = String::from_utf8_lossy(&entry.value).parse().unwrap();
                    let began = Instant::now();
                    match coord.put_if(key, (count + 1).to_string().into(), Some(entry.version)).await {
                        Ok(_) => sure += 1,
                        Err(CasError::Unknown(_)) => unsure += 1,
                        Err(CasError::Conflict { .. } | CasError::Coord(CoordError::Unavailable { .. })) => {}
                        Err(err) => panic!("{err}"),
                    }
                    longest = longest.max(began.elapsed());
                }
                (sure, unsure, longest)
            })
        })
        .collect();

    let count = async || rig.client().coord().get(key).await.ok().flatten().and_then(|entry| String::from_utf8_lossy(&entry.value).parse::<u64>().ok());
    let mut gaps = Vec::new();
    for _ in 0..2 {
        let before = count().await.unwrap_or(0);
        until(SOON, "the count goes on", async || count().await.is_some_and(|now| now > before + 20)).await.unwrap();
        let leader = cluster.leader().await.expect("a leader");
        cluster.servers[leader].kill().await;
        let began = Instant::now();
        let reached = count().await.unwrap_or(before);
        until(Duration::from_secs(60), "the count goes on without the leader", async || count().await.is_some_and(|now| now > reached + 20)).await.unwrap();
        gaps.push(began.elapsed());
        watcher.reach(rig.client().coord().get(key).await.unwrap().unwrap().version).await;
        cluster.servers[leader].start();
        until(Duration::from_secs(60), "the server is back", async || {
            cluster.ask("GET", &format!("{}/v1/kv/{key}?stale", cluster.servers[leader].url()), None).await.is_some_and(|(status, _)| status == 200)
        })
        .await
        .unwrap();
    }
    stop.send_replace(true);
    let (mut sure, mut unsure, mut longest) = (0, 0, Duration::ZERO);
    for writer in writers {
        let (s, u, l) = writer.await.unwrap();
        (sure, unsure, longest) = (sure + s, unsure + u, longest.max(l));
    }
    let last = rig.client().coord().get(key).await.unwrap().unwrap();
    let total: u64 = String::from_utf8_lossy(&last.value).parse().unwrap();
    eprintln!("leader killed twice: counted {total}, sure {sure}, unknown {unsure}, gaps {gaps:?}, longest write {longest:?}");
    assert!(sure <= total && total <= sure + unsure, "counted {total}, sure {sure}, unknown {unsure}");
    // Two servers after the other, 2 s each, and the one that is alive at the end.
    assert!(longest < Duration::from_secs(7), "a write took {longest:?}");

    watcher.reach(last.version).await;
}

/// Follows one key all the time.
struct Watcher {
    known: tokio::sync::watch::Receiver<Version>,
    task: tokio::task::JoinHandle<()>,
}

impl Watcher {
    fn start(coord: Arc<dyn Coord>, key: &'static str) -> Self {
        let (told, known) = tokio::sync::watch::channel(Version(0));
        let task = tokio::spawn(async move {
            let mut watch = coord.watch(key);
            while let Some(change) = watch.next().await {
                match change {
                    Change::Put(entry) => drop(told.send_replace(entry.version)),
                    Change::Snapshot(all) => drop(told.send_replace(all.get(key).map_or(Version(0), |entry| entry.version))),
                    Change::Lost(why) => eprintln!("the watch lost Consul: {why}"),
                    Change::Delete(key) => panic!("{key} is gone"),
                }
            }
        });
        Self { known, task }
    }

    /// Waits until it has heard of this version or a later one.
    async fn reach(&self, version: Version) {
        let mut known = self.known.clone();
        let heard = timeout(SOON, known.wait_for(|known| *known >= version)).await;
        assert!(heard.is_ok_and(|heard| heard.is_ok()), "the watch did not hear of {version:?}, only of {:?}", *self.known.borrow());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn member(id: &str) -> Member {
    Member {
        service: "openclaw-gateway".into(),
        id: id.into(),
        address: "10.0.0.1".into(),
        port: 18789,
        tags: vec!["traefik.enable=true".into()],
        meta: BTreeMap::from([("version".into(), "1".into())]),
        check_ttl: Duration::from_secs(3),
    }
}

#[tokio::test]
async fn a_member_is_in_the_catalogue_and_its_silence_shows() {
    let Some(cluster) = Cluster::start(1, json!({})).await else { return };
    let coord = Servers(cluster).0;
    let (cluster, coord) = (&coord, Consul::new(&Settings::at(coord.urls()), &world()).unwrap().coord());
    let me = member("jerry-gateway");
    let health = async || {
        let (_, body) = cluster.ask("GET", &format!("{}/v1/health/service/openclaw-gateway", cluster.servers[0].url()), None).await.unwrap();
        let all: serde_json::Value = serde_json::from_str(&body).unwrap();
        let shown = |one: &serde_json::Value| {
            let check = one["Checks"].as_array().unwrap().iter().find(|check| check["CheckID"] == "service:jerry-gateway").unwrap().clone();
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            (text(&one["Service"]["Address"]), one["Service"]["Port"].clone(), text(&check["Status"]), text(&check["Output"]))
        };
        all.as_array().unwrap().iter().map(shown).collect::<Vec<_>>()
    };
    let is = async |status: &str| health().await.first().is_some_and(|shown| shown.2 == status);
    // A sign of life registers where that was forgotten, as after an agent was restarted without its data.
    coord.beat(&me, "fine").await.unwrap();
    until(SOON, "the member passes", async || is("passing").await).await.unwrap();
    assert_eq!(health().await, [("10.0.0.1".into(), json!(18789), "passing".into(), "fine".into())]);
    coord.register(&me).await.unwrap();
    coord.beat(&me, "still fine").await.unwrap();
    let began = Instant::now();
    until(SOON, "its silence shows", async || is("critical").await).await.unwrap();
    let silent = began.elapsed();
    assert!(silent > Duration::from_millis(2500) && silent < Duration::from_secs(6), "critical after {silent:?}");
    coord.beat(&me, "back").await.unwrap();
    until(SOON, "it passes again", async || is("passing").await).await.unwrap();
    coord.deregister(&me).await.unwrap();
    until(SOON, "it is gone", async || health().await.is_empty()).await.unwrap();
    coord.deregister(&me).await.unwrap();
}

#[tokio::test]
async fn without_a_token_nothing_is_told_and_with_one_everything_works() {
    let token = "b1gs0331-15d9-4aa1-a8b4-4b1a31a1b1aa".replace('g', "a").replace('s', "b");
    let extra = json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": token, "agent": token}}});
    let Some(cluster) = Cluster::start(1, extra).await else { return };
    let open = Settings::at(cluster.urls());
    let with = |token: &str| Consul::new(&Settings { token: Some(token.into()), ..open.clone() }, &world()).unwrap();
    let ready = with(&token).coord();
    until(SOON, "the token is known", async || ready.put("acl/key", "1".into()).await.is_ok()).await.unwrap();

    let wrong = with("00000000-0000-0000-0000-00000000dead");
    for stranger in [Consul::new(&open, &world()).unwrap(), wrong] {
        let (coord, bus) = (stranger.coord(), stranger.bus());
        let written = coord.put("acl/key", "2".into()).await;
        assert!(matches!(written, Err(CoordError::Denied { .. })), "{written:?}");
        let cas = coord.put_if("acl/key", "2".into(), None).await;
        assert!(matches!(cas, Err(CasError::Coord(CoordError::Denied { .. }))), "{cas:?}");
        let sent = bus.publish(&MailBox::Unit("bobby".into()), &letter("1", 0)).await;
        assert!(matches!(sent, Err(clawstead_bus::BusError::Denied { .. })), "{sent:?}");
    }
    assert_eq!(ready.get("acl/key").await.unwrap().unwrap().value, "1");
}

fn letter(id: &str, attempt: u32) -> Sealed {
    Sealed { message_id: id.into(), attempt, bytes: format!("{id}.{attempt}").into() }
}

#[tokio::test]
async fn mail_has_the_published_names_and_a_budget() {
    let Some(cluster) = Cluster::start(1, json!({})).await else { return };
    let consul = Consul::new(&Settings::at(cluster.urls()), &world()).unwrap();
    let (coord, bus) = (consul.coord(), consul.bus());
    let to = MailBox::Unit("bobby".into());
    bus.publish(&to, &letter("m-1", 0)).await.unwrap();
    bus.publish(&MailBox::Gateway("jerry-gateway".into()), &letter("m-2", 0)).await.unwrap();
    let keys: Vec<String> = coord.list("openclaw/").await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["openclaw/agents/bobby/inbox/m-1", "openclaw/farm/v1/receipts/jerry-gateway/m-2"]);

    // A letter from a shell, and what some interfaces leave behind.
    let url = format!("{}/v1/kv/openclaw/agents/bobby/inbox/", cluster.servers[0].url());
    cluster.ask("PUT", &format!("{url}seed-1"), Some("{\"from\":\"jerry\",\"body\":\"hello\"}".into())).await.unwrap();
    cluster.ask("PUT", &url, Some(String::new())).await.unwrap();
    let mut mail = bus.subscribe(&to, "b.1");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let delivery: Delivery = timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap();
        seen.push(String::from_utf8(delivery.raw.to_vec()).unwrap());
        delivery.settle.done().await.unwrap();
    }
    seen.sort();
    assert_eq!(seen, ["m-1.0", "{\"from\":\"jerry\",\"body\":\"hello\"}"]);

    // A later attempt takes the place of one that is in somebody's hands; settling the first leaves the second.
    bus.publish(&to, &letter("m-3", 0)).await.unwrap();
    let first = timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap();
    bus.publish(&to, &letter("m-3", 1)).await.unwrap();
    first.settle.done().await.unwrap();
    let second = timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(second.raw, "m-3.1");
    second.settle.done().await.unwrap();

    let small = Consul::new(&Settings { letters_per_second: 5, burst: 10, ..Settings::at(cluster.urls()) }, &world()).unwrap().bus();
    let began = Instant::now();
    let (mut sent, mut busy) = (0, None);
    while busy.is_none() {
        match small.publish(&MailBox::Unit("budget".into()), &letter(&format!("b-{sent}"), 0)).await.unwrap() {
            Published::Busy(wait) => busy = Some(wait),
            _ => sent += 1,
        }
    }
    let refilled = (began.elapsed().as_secs_f64() * 5.0).ceil() as u32;
    assert!((10..=10 + refilled).contains(&sent), "{sent} letters in {:?}", began.elapsed());
    assert!(busy.is_some_and(|wait| wait > Duration::ZERO && wait <= Duration::from_millis(200)), "{busy:?}");
}

/// A server that takes connections and never answers is left after 2 s, by watches too.
#[tokio::test]
async fn a_server_that_hangs_is_passed_over() {
    let Some(cluster) = Cluster::start(1, json!({})).await else { return };
    let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = format!("http://{}", hangs.local_addr().unwrap());
    let settings = Settings::at([hanging, cluster.urls().remove(0)]);
    let coord = Consul::new(&settings, &world()).unwrap().coord();
    let mut watch = coord.watch("hangs/");
    let began = Instant::now();
    let (version, first) = tokio::join!(coord.put_if("hangs/key", "1".into(), None), timeout(SOON, watch.next()));
    let version = version.unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(matches!(first, Ok(Some(Change::Snapshot(_)))), "{first:?}");
    let began = Instant::now();
    coord.put_if("hangs/key", "2".into(), Some(version)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "the server that hangs was asked again");
}

async fn measure(name: &str, count: u8) {
    let Some(cluster) = Cluster::start(count, json!({})).await else { return };
    // Each gateway asks the agent of its own node: the writer one, the reader another.
    let at = |first: usize| {
        let mut urls = cluster.urls();
        urls.rotate_left(first);
        Consul::new(&Settings { letters_per_second: 100_000, burst: 100_000, ..Settings::at(urls) }, &world()).unwrap()
    };
    let (writer, reader) = (at(0), at(usize::from(count) - 1));
    let (coord, bus) = (writer.coord(), writer.bus());
    let mut watch = reader.coord().watch("measured/");
    assert!(timeout(SOON, watch.next()).await.unwrap().is_some());
    let (mut writes, mut told, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..200 {
        let began = Instant::now();
        coord.put("measured/key", number.to_string().into()).await.unwrap();
        writes.push(began.elapsed());
        let change = timeout(SOON, watch.next()).await.unwrap();
        told.push(began.elapsed());
        assert!(matches!(change, Some(Change::Put(_))), "{change:?}");
        let began = Instant::now();
        coord.get("measured/key").await.unwrap();
        reads.push(began.elapsed());
    }
    let to = MailBox::Unit("measured".into());
    let mut mail = reader.bus().subscribe(&to, "r.1");
    let (mut arrived, mut settled) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let began = Instant::now();
        bus.publish(&to, &letter(&format!("m-{number}"), 0)).await.unwrap();
        let delivery = timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap();
        arrived.push(began.elapsed());
        delivery.settle.done().await.unwrap();
        settled.push(began.elapsed());
    }
    for (what, samples) in
        [("write", &mut writes), ("change told", &mut told), ("read", &mut reads), ("letter arrived", &mut arrived), ("letter settled", &mut settled)]
    {
        eprintln!("consul, {name}: {what}: p50 {:?}, p95 {:?}", percentile(samples, 0.5), percentile(samples, 0.95));
    }
}

#[tokio::test]
async fn measured_with_one_server() {
    measure("one server", 1).await;
}

#[tokio::test]
async fn measured_with_three_servers() {
    measure("three servers", 3).await;
}

/// Answers as a script says, one after the other, then not any more. Tells what it was asked.
async fn scripted(answers: &'static [(u16, u64, &'static str)]) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut answers = answers.iter();
        while let Ok((mut line, _)) = listener.accept().await {
            let (mut read, mut head) = ([0; 4096], Vec::new());
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let Ok(count @ 1..) = line.read(&mut read).await else { break };
                head.extend_from_slice(&read[..count]);
            }
            let _ = asked.send(String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned());
            let Some((status, index, body)) = answers.next() else { std::future::pending().await };
            let answer = format!("HTTP/1.1 {status} x\r\nX-Consul-Index: {index}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            let _ = line.write_all(answer.as_bytes()).await;
        }
    });
    (url, told)
}

#[tokio::test]
async fn an_index_that_goes_back_is_asked_anew_and_an_empty_prefix_is_no_fault() {
    const ONE: &str = r#"[{"Key":"p/a","Value":"MQ==","ModifyIndex":90}]"#;
    const RESTORED: &str = r#"[{"Key":"p/a","Value":"MA==","ModifyIndex":40}]"#;
    let (url, mut asked) = scripted(&[(404, 80, ""), (200, 90, ONE), (200, 90, ONE), (200, 40, RESTORED), (200, 41, RESTORED), (404, 95, "")]).await;
    let coord = Consul::new(&Settings::at([url]), &world()).unwrap().coord();
    let mut watch = coord.watch("p/");
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(match timeout(SOON, watch.next()).await.unwrap().unwrap() {
            Change::Snapshot(all) => format!("{} keys", all.len()),
            Change::Put(entry) => format!("{}={} {}", entry.key, String::from_utf8_lossy(&entry.value), entry.version.0),
            Change::Delete(key) => format!("{key} is gone"),
            Change::Lost(why) => why,
        });
    }
    assert_eq!(told, ["0 keys", "p/a=1 90", "p/a=0 40", "p/a is gone"]);
    let mut indexes = Vec::new();
    while let Ok(line) = asked.try_recv() {
        assert!(line.starts_with("GET /v1/kv/p/?recurse&index=") && line.contains("&wait=55000ms") && !line.contains("stale"), "{line}");
        indexes.push(line.split("index=").nth(1).unwrap().split('&').next().unwrap().to_owned());
    }
    assert_eq!(indexes, ["0", "80", "90", "90", "0", "41"]);
}

/// Consul wakes questions about a prefix without keys at every write. Boxes keep a folder; watches ask less often.
#[tokio::test]
async fn writes_elsewhere_do_not_keep_empty_boxes_busy() {
    let Some(cluster) = Cluster::start(1, json!({"telemetry": {"prometheus_retention_time": "60s", "disable_hostname": true}})).await else { return };
    let consul = Consul::new(&Settings::at(cluster.urls()), &world()).unwrap();
    let (coord, bus) = (consul.coord(), consul.bus());
    let readers: Vec<_> = (0..10)
        .map(|n| {
            let mut mail = bus.subscribe(&MailBox::Unit(format!("quiet-{n}")), "a.1");
            tokio::spawn(async move { mail.next().await.map(|item| item.map(|delivery| delivery.raw)) })
        })
        .collect();
    until(SOON, "folders", async || coord.list("openclaw/agents/").await.is_ok_and(|all| all.len() == 10)).await.unwrap();
    let asked = async || {
        let (_, text) = cluster.ask("GET", &format!("{}/v1/agent/metrics?format=prometheus", cluster.servers[0].url()), None).await.unwrap();
        let line = text.lines().find(|line| line.starts_with("consul_http_GET_v1_kv_") && line.contains("_count")).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    let before = asked().await;
    assert!(before >= 20.0, "the questions are not counted: {before}");
    for number in 0..200 {
        coord.put("elsewhere", number.to_string().into()).await.unwrap();
    }
    let more = asked().await - before;
    assert!(more < 50.0, "200 writes elsewhere made {more} questions");
    for (n, reader) in readers.into_iter().enumerate() {
        bus.publish(&MailBox::Unit(format!("quiet-{n}")), &letter("m", 0)).await.unwrap();
        assert_eq!(timeout(SOON, reader).await.unwrap().unwrap().unwrap().unwrap(), "m.0");
    }
}
