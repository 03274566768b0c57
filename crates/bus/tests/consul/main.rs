//! Consul keeps the promises, with one server and with three of which the leader is killed.

mod catalogue;
#[path = "../engines/mod.rs"]
mod engines;
mod rules;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use clawstead_bus::{
    Bus, CasError, Change, Coord, CoordError, MailBox, Sealed, Version,
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
        Consul::new(&settings, &world()).expect("settings that can be")
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
    assert_eq!(conformance::bus(&rig, "1").await, Ok(11));
}

#[tokio::test]
async fn three_servers() {
    let Some(cluster) = Cluster::start(3, json!({})).await else { return };
    let rig = Servers(cluster);
    assert_eq!(conformance::coord(&rig, "1").await, Ok(16));
    assert_eq!(conformance::bus(&rig, "1").await, Ok(11));
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

fn letter(id: &str, attempt: u32) -> Sealed {
    Sealed { message_id: id.into(), attempt, bytes: format!("{id}.{attempt}").into() }
}

async fn measure(name: &str, count: u8) {
    let Some(cluster) = Cluster::start(count, json!({})).await else { return };
    // Each gateway asks the agent of its own node: the writer one, the reader another.
    let at = |first: usize| {
        let mut urls = cluster.urls();
        urls.rotate_left(first);
        Consul::new(&Settings { letters_per_second: 100_000, burst: 100_000, ..Settings::at(urls) }, &world()).expect("settings that can be")
    };
    let (writer, reader) = (at(0), at(usize::from(count) - 1));
    let (coord, bus) = (writer.coord(), writer.bus());
    let mut watch = reader.coord().watch("measured/");
    assert!(timeout(SOON, watch.next()).await.expect("measured").is_some());
    let (mut writes, mut told, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..200 {
        let began = Instant::now();
        coord.put("measured/key", number.to_string().into()).await.expect("measured");
        writes.push(began.elapsed());
        let change = timeout(SOON, watch.next()).await.expect("measured");
        told.push(began.elapsed());
        assert!(matches!(change, Some(Change::Put(_))), "{change:?}");
        let began = Instant::now();
        coord.get("measured/key").await.expect("measured");
        reads.push(began.elapsed());
    }
    let to = MailBox::Unit("measured".into());
    let mut mail = reader.bus().subscribe(&to, "r.1");
    let (mut arrived, mut settled) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let began = Instant::now();
        bus.publish(&to, &letter(&format!("m-{number}"), 0)).await.expect("measured");
        let delivery = timeout(SOON, mail.next()).await.expect("measured").expect("measured").expect("measured");
        arrived.push(began.elapsed());
        delivery.settle.done().await.expect("measured");
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
