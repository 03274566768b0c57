//! Consul's own rules: names, budget, indexes, empty prefixes, servers that hang.

use std::time::Duration;

use clawstead_bus::{
    Change, Delivery, MailBox, Published,
    consul::{Consul, Settings},
};
use clawstead_harness::fault_proxy::FaultProxy;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{
    SOON,
    engines::{consul::Cluster, until, world},
    letter,
};

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

/// The server that a watch waits at freezes. The watch would notice after its wait of 55 s; other requests notice sooner
/// and take it along.
#[tokio::test]
async fn a_watch_leaves_a_server_that_froze() {
    let Some(cluster) = Cluster::start(1, json!({})).await else { return };
    let server = format!("127.0.0.1:{}", cluster.servers[0].http).parse().unwrap();
    let proxy = FaultProxy::start(server, 1).unwrap();
    let settings = Settings::at([format!("http://{}", proxy.addr()), cluster.urls().remove(0)]);
    let coord = Consul::new(&settings, &world()).unwrap().coord();
    coord.put("freezes/key", "1".into()).await.unwrap();
    let mut watch = coord.watch("freezes/");
    assert!(matches!(timeout(SOON, watch.next()).await, Ok(Some(Change::Snapshot(all))) if all.len() == 1));
    proxy.freeze().await;
    let (written, told) = tokio::join!(coord.put("freezes/key", "2".into()), timeout(SOON, watch.next()));
    written.unwrap();
    assert!(matches!(&told, Ok(Some(Change::Put(entry))) if entry.value == "2"), "{told:?}");
}

/// Answers as a script says, one after the other, then not any more. Tells what it was asked.
async fn scripted(answers: &'static [(u16, u64, &'static str)]) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
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
async fn c6_an_index_that_goes_back_is_asked_anew_and_an_empty_prefix_is_no_fault() {
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
