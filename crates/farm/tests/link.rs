//! Links between gateways over real TLS on loopback.

#[path = "link/kit.rs"]
mod kit;
#[path = "link/peer_bus.rs"]
mod peer_bus;

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clawstead_cluster::keys::KeyStatus;
use clawstead_farm::link::{
    Call, Direction, Event, FRAME_BYTES_MAX, Progress,
    certificate::{CERTIFICATE_LIFE_MS, CERTIFICATE_RENEW_MS, CertificateError, Identity, SKEW_MS, certificate_name},
    verifier::Verifier,
};
use clawstead_harness::fault_proxy::FaultProxy;
use clawstead_terms::{FailureCode, Retry};
use clawstead_world::{Clock as _, SystemRng};
use futures_util::future::join_all;
use kit::{Farm, Gateway, SOON, stranger, timing, until};
use rustls::{ClientConfig, crypto::ring, pki_types::ServerName, version::TLS13};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const HOUR: i64 = 3_600_000;

async fn pair(farm: &Farm) -> (Gateway, Gateway) {
    let (jerry, bobby) = (farm.key("jerry"), farm.key("bobby"));
    (farm.gateway(jerry).await, farm.gateway(bobby).await)
}

#[tokio::test]
async fn calls_are_answered_by_whom_they_name() {
    let farm = Farm::new();
    let keys = ["jerry", "bobby", "billy"].map(|name| farm.key(name));
    let [jerry, bobby, billy] = [farm.gateway(keys[0].clone()).await, farm.gateway(keys[1].clone()).await, farm.gateway(keys[2].clone()).await];
    for (from, to) in [(&jerry, &bobby), (&bobby, &billy), (&billy, &jerry), (&bobby, &jerry)] {
        let call = Call { caller: json!({"device": 7}), traceparent: Some("00-ab-cd-01".into()), ..Call::new("echo", json!({"ä": [1.5, null]})) };
        let answer = from.links.call(&to.name, call).await.unwrap();
        assert_eq!(answer, json!({"peer": from.name, "params": {"ä": [1.5, null]}, "caller": {"device": 7}, "traceparent": "00-ab-cd-01"}));
    }
    // Bobby asked jerry over the link that jerry opened.
    assert_eq!(bobby.peer("jerry").links.iter().map(|link| link.direction).collect::<Vec<_>>(), [Direction::In]);
    let wrong = jerry.links.call("bobby", Call::new("dance", Value::Null)).await.unwrap_err();
    assert_eq!((wrong.code, &*wrong.message, wrong.hint.as_deref()), (FailureCode::NotFound, "no method dance", Some("try echo")));
    let broken = jerry.links.call("bobby", Call::new("panic", Value::Null)).await.unwrap_err();
    assert_eq!(broken.code, FailureCode::Internal);
    let nobody = jerry.echo("nobody", Value::Null).await.unwrap_err();
    assert!(nobody.code == FailureCode::Unavailable && nobody.message.contains("no address of the gateway nobody"), "{nobody}");
    let rtt = until("a round trip", || jerry.peer("bobby").links[0].rtt_us).await;
    assert!(rtt < 1_000_000, "{rtt}");
    let status = serde_json::to_value(jerry.links.status()).unwrap();
    assert_eq!((&status["peers"][1]["gateway"], &status["peers"][1]["links"][0]["direction"]), (&json!("bobby"), &json!("out")));
}

#[tokio::test]
async fn a_gateway_that_cannot_be_reached_is_asked_over_its_own_link() {
    let farm = Farm::new();
    let (home, laptop) = (farm.key("home"), farm.key("laptop"));
    let home = farm.gateway(home).await;
    let mut build = farm.build(laptop);
    build.listen = None;
    let laptop = build.start().await;
    assert_eq!(home.echo("laptop", Value::Null).await.unwrap_err().code, FailureCode::Unavailable);
    laptop.links.tell("home", Event { topic: "here".into(), payload: json!(1) }).await.unwrap();
    home.desk.told_some.notified().await;
    assert_eq!(*home.desk.told.lock().unwrap(), [("laptop".to_owned(), Event { topic: "here".into(), payload: json!(1) })]);
    assert_eq!(home.echo("laptop", json!(2)).await.unwrap()["peer"], "home");
}

#[tokio::test]
async fn events_come_in_order_before_the_answer() {
    let farm = Farm::new();
    let (jerry, _bobby) = pair(&farm).await;
    let mut running = jerry.links.open("bobby", Call::new("stream", json!({"n": 2000}))).await.unwrap();
    for n in 0..2000 {
        assert_eq!(running.next().await, Some(Progress::Event(Event { topic: "tick".into(), payload: json!(n) })));
    }
    assert_eq!(running.next().await, Some(Progress::Answer(Ok(json!("done")))));
    assert_eq!(running.next().await, None);
}

#[tokio::test]
async fn a_caller_that_does_not_read_its_events_holds_up_nobody() {
    let farm = Farm::new();
    let (jerry, _bobby) = pair(&farm).await;
    let mut lazy = jerry.links.open("bobby", Call::new("stream", json!({"n": 20_000}))).await.unwrap();
    until("the call is given up", || (jerry.peer("bobby").links[0].waiting == 0).then_some(())).await;
    jerry.echo("bobby", json!(1)).await.unwrap();
    let last = loop {
        if let Progress::Answer(answer) = lazy.next().await.unwrap() {
            break answer.unwrap_err();
        }
    };
    assert_eq!(last.code, FailureCode::Busy);
}

#[tokio::test]
async fn dropping_a_call_and_the_end_of_its_time_cancel_it() {
    let farm = Farm::new();
    let (jerry, bobby) = pair(&farm).await;
    let running = jerry.links.open("bobby", Call::new("hold", Value::Null)).await.unwrap();
    bobby.desk.started.notified().await;
    drop(running);
    timeout(SOON, bobby.desk.dropped.notified()).await.expect("the call was not cancelled at its desk");
    let short = Call { deadline_ms: 100, ..Call::new("hold", Value::Null) };
    assert_eq!(jerry.links.call("bobby", short).await.unwrap_err().code, FailureCode::Timeout);
    timeout(SOON, bobby.desk.dropped.notified()).await.expect("a late call was not dropped at its desk");
    until("nothing runs", || (bobby.peer("jerry").links[0].serving == 0).then_some(())).await;
}

#[tokio::test]
async fn two_hundred_calls_at_once() {
    let farm = Farm::new();
    let (jerry, bobby) = pair(&farm).await;
    let began = Instant::now();
    let answers = join_all((0..200).map(|n| jerry.echo("bobby", json!(n)))).await;
    println!("200 calls at once: {:?}", began.elapsed());
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap()["params"], json!(n));
    }
    assert_eq!((jerry.peer("bobby").links.len(), jerry.peer("bobby").calls, bobby.peer("jerry").served), (1, 200, 200));
    // More than one link runs is told so, and those that run are not harmed.
    let held: Vec<_> = join_all((0..600).map(|_| jerry.links.open("bobby", Call::new("hold", Value::Null)))).await;
    let open: Vec<_> = held.into_iter().filter_map(Result::ok).collect();
    until("as many run as may", || (bobby.peer("jerry").links[0].serving == 512 && jerry.peer("bobby").links[0].waiting == 512).then_some(())).await;
    bobby.desk.release.send_replace(true);
    let ended = join_all(open.into_iter().map(clawstead_farm::link::Running::answer)).await;
    let busy = ended.iter().filter(|end| end.as_ref().is_err_and(|err| err.code == FailureCode::Busy && err.retry != Retry::Never)).count();
    assert_eq!((ended.iter().filter(|end| end.is_ok()).count(), busy), (512, 88));
}

#[tokio::test]
async fn frames_have_a_bound() {
    let farm = Farm::new();
    let (jerry, _bobby) = pair(&farm).await;
    let large = json!("y".repeat(FRAME_BYTES_MAX - 4096));
    assert_eq!(jerry.echo("bobby", large.clone()).await.unwrap()["params"], large);
    let refused = jerry.echo("bobby", json!("y".repeat(FRAME_BYTES_MAX + 1))).await.unwrap_err();
    assert!(refused.code == FailureCode::InvalidRequest && refused.message.contains("26214400 is the limit"), "{refused}");
    let refused = jerry.links.call("bobby", Call::new("large", json!({"n": FRAME_BYTES_MAX}))).await.unwrap_err();
    assert!(refused.code == FailureCode::InvalidRequest && refused.message.contains("is the limit"), "{refused}");
    jerry.echo("bobby", json!(1)).await.unwrap();
    assert_eq!(jerry.peer("bobby").links.len(), 1);
}

#[tokio::test]
async fn a_key_that_is_not_known_is_refused_at_both_ends() {
    let farm = Farm::new();
    let (jerry, bobby) = pair(&farm).await;
    let mallory = farm.gateway(stranger("mallory")).await;
    // As client.
    let refused = mallory.echo("bobby", Value::Null).await.unwrap_err();
    assert!(refused.message.contains("is our key approved"), "{refused}");
    let (_, _, why) = until("bobby notes it", || bobby.links.status().last_refused).await;
    assert!(why.contains("the certificate of mallory is not believed"), "{why}");
    // As server.
    let refused = jerry.echo("mallory", Value::Null).await.unwrap_err();
    assert!(refused.message.contains("the certificate of mallory is not believed"), "{refused}");
    // Under the name of another gateway, at its address.
    let false_bobby = farm.build(stranger("bobby"));
    let false_bobby = false_bobby.start().await;
    let refused = jerry.echo("bobby", Value::Null).await.unwrap_err();
    assert!(refused.message.contains("the certificate of bobby is not believed"), "{refused}");
    // One of us, at the wrong address.
    farm.directory.set("bobby", jerry.address.unwrap());
    let refused = mallory.echo("bobby", Value::Null).await.unwrap_err();
    assert!(refused.message.contains("the certificate is for jerry, and bobby was called"), "{refused}");
    assert!(false_bobby.links.status().peers.iter().all(|peer| peer.links.is_empty()));
}

#[tokio::test]
async fn a_revoked_key_loses_its_links_at_once() {
    let farm = Farm::new();
    let (jerry_key, bobby_key) = (farm.key("jerry"), farm.key("bobby"));
    let (jerry, bobby) = (farm.gateway(jerry_key.clone()).await, farm.gateway(bobby_key).await);
    let running = jerry.links.open("bobby", Call::new("hold", Value::Null)).await.unwrap();
    bobby.desk.started.notified().await;
    farm.stage(&jerry_key, KeyStatus::Revoked);
    farm.spread(&[&bobby]);
    assert_eq!(bobby.links.recheck(), 1);
    let lost = timeout(SOON, running.answer()).await.unwrap().unwrap_err();
    assert!(lost.code == FailureCode::Unavailable && lost.message.contains("whether it was done is not known"), "{lost}");
    timeout(SOON, bobby.desk.dropped.notified()).await.expect("the call runs on");
    let refused = jerry.echo("bobby", Value::Null).await.unwrap_err();
    assert!(refused.message.contains("is our key approved"), "{refused}");
    assert!(bobby.links.status().last_refused.is_some_and(|(_, _, why)| why.contains("was revoked")));
    // Who forgets to tell is noticed by the next look of the link itself.
    let billy = farm.key("billy");
    farm.spread(&[&bobby]);
    let billy_there = farm.gateway(billy.clone()).await;
    billy_there.echo("bobby", Value::Null).await.unwrap();
    farm.stage(&billy, KeyStatus::Revoked);
    farm.spread(&[&bobby]);
    until("the link is closed", || bobby.peer("billy").links.is_empty().then_some(())).await;
}

#[tokio::test]
async fn keys_that_are_only_old_close_nothing_and_open_nothing() {
    let farm = Farm::new();
    let keys = ["jerry", "bobby", "billy"].map(|name| farm.key(name));
    let [jerry, bobby, billy] = [farm.gateway(keys[0].clone()).await, farm.gateway(keys[1].clone()).await, farm.gateway(keys[2].clone()).await];
    jerry.echo("bobby", Value::Null).await.unwrap();
    bobby.view.mono_ms.store(100_000, Ordering::SeqCst);
    assert_eq!(bobby.links.recheck(), 0);
    jerry.echo("bobby", Value::Null).await.unwrap();
    billy.echo("bobby", Value::Null).await.unwrap_err();
    assert!(bobby.links.status().last_refused.unwrap().2.contains("the key list is 99000 ms old"));
    // What was revoked before is revoked.
    farm.stage(&keys[0], KeyStatus::Revoked);
    farm.spread(&[&bobby]);
    assert_eq!(bobby.links.recheck(), 1);
}

#[tokio::test]
async fn another_farm_is_refused_with_words() {
    let farm = Farm::new();
    let (jerry, other) = (farm.key("jerry"), farm.key("other"));
    let jerry = farm.gateway(jerry).await;
    let mut build = farm.build(other);
    build.id = "quadrant".into();
    let other = build.start().await;
    let words = "belongs to farm \"";
    let refused = other.echo("jerry", Value::Null).await.unwrap_err();
    assert!(refused.message.contains(words), "{refused}");
    let noted = until("jerry notes it", || jerry.links.status().last_refused).await;
    assert!(noted.2.contains(words), "{noted:?}");
}

/// A client of its own that writes what it likes after the handshake.
async fn raw(farm: &Farm, name: &str, to: &Gateway) -> TlsStream<TcpStream> {
    let identity = Arc::new(Identity::new("octant", farm.key(name), farm.clock.clone(), Arc::new(SystemRng)).unwrap());
    farm.spread(&[to]);
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(farm.view())))
        .with_client_cert_resolver(identity);
    config.alpn_protocols = vec![clawstead_farm::link::ALPN.to_vec()];
    let tcp = TcpStream::connect(to.address.unwrap()).await.unwrap();
    let server = ServerName::try_from(certificate_name(&to.name, "octant")).unwrap();
    TlsConnector::from(Arc::new(config)).connect(server, tcp).await.unwrap()
}

async fn write(tls: &mut TlsStream<TcpStream>, text: &str) {
    tls.write_u32(u32::try_from(text.len()).unwrap()).await.unwrap();
    tls.write_all(text.as_bytes()).await.unwrap();
    tls.flush().await.unwrap();
}

/// The next frame that is not a ping.
async fn read(tls: &mut TlsStream<TcpStream>) -> Value {
    loop {
        let length = timeout(SOON, tls.read_u32()).await.unwrap().unwrap();
        let mut text = vec![0; length as usize];
        tls.read_exact(&mut text).await.unwrap();
        let frame: Value = serde_json::from_slice(&text).unwrap();
        if frame["kind"] != "ping" {
            return frame;
        }
    }
}

fn hello(gateway: &str, major: u32) -> String {
    json!({"kind": "hello", "major": major, "minor": 9, "farm": "octant", "gateway": gateway, "incarnation": 1, "build": "9.9", "moods": []}).to_string()
}

#[tokio::test]
async fn a_neighbouring_version_is_understood_and_another_one_told_why_not() {
    let farm = Farm::new();
    let bobby = farm.key("bobby");
    let bobby = farm.gateway(bobby).await;
    let mut next = raw(&farm, "next", &bobby).await;
    write(&mut next, &hello("next", 1)).await;
    assert_eq!(read(&mut next).await["gateway"], "bobby");
    write(&mut next, r#"{"kind":"weather","sun":true}"#).await;
    write(&mut next, r#"{"kind":"call","id":5,"method":"echo","params":1,"deadline_ms":5000,"mood":"good"}"#).await;
    let answer = read(&mut next).await;
    assert_eq!((&answer["kind"], &answer["id"], &answer["ok"]["peer"]), (&json!("answer"), &json!(5), &json!("next")));
    // Known kinds have to be right.
    write(&mut next, r#"{"kind":"call","id":"six"}"#).await;
    assert!(timeout(SOON, next.read_to_end(&mut Vec::new())).await.is_ok());
    assert!(until("noted", || bobby.peer("next").last_error).await.1.contains("does not keep to the protocol"));

    let mut later = raw(&farm, "later", &bobby).await;
    write(&mut later, &hello("later", 2)).await;
    assert_eq!(read(&mut later).await["kind"], "hello");
    let bye = read(&mut later).await;
    assert_eq!(bye, json!({"kind": "bye", "why": "later (9.9) speaks version 2 of links, bobby speaks 1: update one of them"}));
    // The name in the greeting is the one in the certificate.
    let mut liar = raw(&farm, "liar", &bobby).await;
    write(&mut liar, &hello("bobby", 1)).await;
    read(&mut liar).await;
    assert_eq!(read(&mut liar).await["why"], "\"bobby\" showed the certificate of liar");
    // Before the greeting little is read.
    let mut huge = raw(&farm, "huge", &bobby).await;
    huge.write_u32(1_000_000).await.unwrap();
    huge.flush().await.unwrap();
    assert!(timeout(SOON, huge.read_to_end(&mut Vec::new())).await.is_ok());
}

#[tokio::test]
async fn certificates_are_renewed_under_load_and_no_call_fails() {
    let farm = Farm::new();
    let (jerry_key, bobby_key) = (farm.key("jerry"), farm.key("bobby"));
    let (jerry, bobby) = (farm.gateway(jerry_key.clone()).await, farm.gateway(bobby_key).await);
    jerry.echo("bobby", Value::Null).await.unwrap();
    let first = jerry.links.status().certificate_serial;
    let (stop, streams) = (AtomicBool::new(false), AtomicBool::new(false));
    let load = async |from: &Gateway, to: &str| {
        let mut calls = 0;
        while !stop.load(Ordering::SeqCst) {
            from.echo(to, json!(calls)).await.unwrap();
            let streamed = from.links.call(to, Call::new("stream", json!({"n": 20}))).await.unwrap();
            assert_eq!(streamed, "done");
            streams.store(true, Ordering::SeqCst);
            calls += 1;
        }
        calls
    };
    let turn = async {
        for round in 0..4 {
            until("load", || streams.swap(false, Ordering::SeqCst).then_some(())).await;
            let before = jerry.links.status().certificate_serial;
            if round == 2 {
                // A change of the key itself, as `farm rotate` does it.
                let new = farm.key("jerry");
                farm.spread(&[&jerry, &bobby]);
                jerry.links.set_key(new.clone()).unwrap();
                farm.stage(&jerry_key, KeyStatus::Retiring);
                farm.spread(&[&jerry, &bobby]);
            } else {
                farm.clock.advance(CERTIFICATE_RENEW_MS + HOUR);
            }
            until("a new certificate on a new link", || {
                let (status, links) = (jerry.links.status(), bobby.peer("jerry").links);
                (status.certificate_serial != before && links.len() == 1 && links[0].certificate_serial == status.certificate_serial).then_some(())
            })
            .await;
        }
        stop.store(true, Ordering::SeqCst);
    };
    let (there, back, ()) = tokio::join!(load(&jerry, "bobby"), load(&bobby, "jerry"), turn);
    println!("{} calls over four renewals", there + back);
    assert!(there > 4 && back > 4);
    assert_ne!(jerry.links.status().certificate_serial, first);
    assert_eq!(jerry.peer("bobby").last_error, None);
}

#[tokio::test]
async fn a_certificate_holds_for_its_days_and_a_little_skew() {
    let farm = Farm::new();
    let identity = Identity::new("octant", farm.key("jerry"), farm.clock.clone(), Arc::new(SystemRng)).unwrap();
    let view = farm.view();
    let bobby = farm.gateway(farm.key("bobby")).await;
    // Bobby's certificate, as a client sees it, at other times.
    let tls = raw(&farm, "next", &bobby).await;
    let certificate = tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    view.ring.store(Arc::new(farm.ring()));
    let verifier = Verifier::new(view);
    let at = |ms: i64| {
        farm.clock.advance(ms);
        let checked = verifier.check(&certificate).map(|presented| presented.gateway);
        farm.clock.advance(-ms);
        checked
    };
    for ms in [0, CERTIFICATE_LIFE_MS - 1000, CERTIFICATE_LIFE_MS + SKEW_MS - 2000] {
        assert_eq!(at(ms), Ok("bobby".into()), "{ms}");
    }
    assert!(matches!(at(CERTIFICATE_LIFE_MS + SKEW_MS + 1000), Err(CertificateError::Invalid { .. })));
    // Written by a clock that is ahead of ours; within the record's own time.
    assert!(matches!(at(-SKEW_MS - 2000), Err(CertificateError::Invalid { .. } | CertificateError::Key { .. })));
    // One changed byte of the signature.
    let mut forged = certificate.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(verifier.check(&forged.into()), Err(CertificateError::Invalid { .. })));
    assert!(matches!(verifier.check(&vec![0x30, 0].into()), Err(CertificateError::Foreign(_))));
    assert_eq!(identity.validity().not_after, farm.clock.now().plus(CERTIFICATE_LIFE_MS));
    assert!(matches!(identity.set_key(stranger("bobby")), Err(CertificateError::OtherGateway { .. })));
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed_and_comes_back() {
    let farm = Farm::new();
    let (jerry, bobby) = (farm.key("jerry"), farm.key("bobby"));
    let jerry = farm.gateway(jerry).await;
    // Bobby waits longer, so that it is jerry who notices.
    let mut build = farm.build(bobby);
    build.timing.dead_after *= 3;
    let bobby = build.start().await;
    farm.spread(&[&jerry]);
    let proxy = FaultProxy::start(bobby.address.unwrap(), 1).unwrap();
    farm.directory.set("bobby", proxy.addr());
    let running = jerry.links.open("bobby", Call::new("hold", Value::Null)).await.unwrap();
    bobby.desk.started.notified().await;
    proxy.freeze().await;
    let began = Instant::now();
    let lost = timeout(SOON, running.answer()).await.unwrap().unwrap_err();
    let after = began.elapsed();
    println!("silence noticed after {after:?}");
    assert!(lost.message.contains("nothing was heard of bobby"), "{lost}");
    assert!(after >= timing().dead_after - timing().ping_every && after < timing().dead_after * 2, "{after:?}");
    until("bobby notices too", || bobby.peer("jerry").links.is_empty().then_some(())).await;
    // Nobody answers a handshake: the caller hears it within its wait.
    let began = Instant::now();
    assert_eq!(jerry.echo("bobby", Value::Null).await.unwrap_err().code, FailureCode::Unavailable);
    assert!(began.elapsed() < Duration::from_millis(2500));
    proxy.heal().await;
    until("jerry connects by himself", || jerry.links.is_up("bobby").then_some(())).await;
    jerry.echo("bobby", Value::Null).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_was_started_again_is_connected_again() {
    let farm = Farm::new();
    let (jerry_key, bobby_key) = (farm.key("jerry"), farm.key("bobby"));
    let (jerry, bobby) = (farm.gateway(jerry_key).await, farm.gateway(bobby_key.clone()).await);
    jerry.echo("bobby", Value::Null).await.unwrap();
    let address = bobby.address;
    bobby.die().await;
    until("the loss", || jerry.peer("bobby").links.is_empty().then_some(())).await;
    let mut build = farm.build(bobby_key.clone());
    (build.incarnation, build.listen) = (2, address);
    let bobby = build.start().await;
    // Without a call: it is still wanted.
    until("the link", || jerry.links.is_up("bobby").then_some(())).await;
    jerry.echo("bobby", Value::Null).await.unwrap();
    assert_eq!(jerry.peer("bobby").links[0].incarnation, 2);
    // A gateway that comes up under the same name ends the links of the earlier start; the earlier one is told why it
    // does not get in.
    let mut build = farm.build(bobby_key);
    build.incarnation = 3;
    let third = build.start().await;
    third.echo("jerry", Value::Null).await.unwrap();
    until("one start", || (jerry.peer("bobby").links.iter().all(|link| link.incarnation == 3)).then_some(())).await;
    until("the earlier start notices", || bobby.peer("jerry").links.is_empty().then_some(())).await;
    let _ = bobby.echo("jerry", Value::Null).await;
    until("two with one name", || jerry.links.status().last_refused.filter(|(_, _, why)| why.contains("start 3 of bobby is connected"))).await;
}

#[tokio::test]
async fn a_gateway_that_stops_lets_calls_end() {
    let farm = Farm::new();
    let (jerry, bobby) = pair(&farm).await;
    let running = jerry.links.open("bobby", Call::new("hold", Value::Null)).await.unwrap();
    bobby.desk.started.notified().await;
    let (desk, links) = (bobby.desk.clone(), bobby.links.clone());
    let closing = tokio::spawn(async move { links.close(SOON).await });
    // It does not take new ones.
    until("bobby stops", || jerry.peer("bobby").links.iter().all(|link| link.draining).then_some(())).await;
    assert_eq!(jerry.echo("bobby", Value::Null).await.unwrap_err().code, FailureCode::Unavailable);
    desk.release.send_replace(true);
    assert_eq!(running.answer().await, Ok(json!("held")));
    assert!(closing.await.unwrap());
    // With a call that does not end it stops all the same.
    let billy = farm.gateway(farm.key("billy")).await;
    farm.spread(&[&jerry]);
    let running = jerry.links.open("billy", Call::new("hold", Value::Null)).await.unwrap();
    billy.desk.started.notified().await;
    assert!(!billy.links.close(Duration::from_millis(100)).await);
    assert_eq!(timeout(SOON, running.answer()).await.unwrap().unwrap_err().code, FailureCode::Unavailable);
}

#[tokio::test]
async fn blobs_come_in_pieces_and_go_on_after_a_cut() {
    let farm = Farm::new();
    let (jerry, bobby) = pair(&farm).await;
    let proxy = FaultProxy::start(bobby.address.unwrap(), 2).unwrap();
    farm.directory.set("bobby", proxy.addr());
    let whole: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 251) as u8).collect();
    bobby.desk.blobs.lock().unwrap().extend([("blake3:a".to_owned(), whole.clone()), ("blake3:none".to_owned(), Vec::new())]);
    let part = jerry.links.blob("bobby", "blake3:a", 0).await.unwrap();
    assert_eq!((part.size, part.bytes.len()), (1_000_003, 262_144));
    proxy.freeze().await;
    let broken = jerry.links.fetch_blob("bobby", "blake3:a", part.bytes.to_vec(), 2_000_000).await.unwrap_err();
    assert_eq!((broken.failure.code, broken.have.len()), (FailureCode::Unavailable, 262_144));
    proxy.heal().await;
    until("the link", || jerry.links.is_up("bobby").then_some(())).await;
    let before = bobby.desk.pieces.load(Ordering::SeqCst);
    assert_eq!(jerry.links.fetch_blob("bobby", "blake3:a", broken.have, 2_000_000).await.unwrap(), whole);
    assert_eq!(bobby.desk.pieces.load(Ordering::SeqCst) - before, 3, "it began anew");
    assert_eq!(jerry.links.fetch_blob("bobby", "blake3:none", Vec::new(), 10).await.unwrap(), b"");
    assert_eq!(jerry.links.fetch_blob("bobby", "blake3:a", Vec::new(), 10).await.unwrap_err().failure.code, FailureCode::InvalidRequest);
    assert_eq!(jerry.links.blob("bobby", "blake3:b", 0).await.unwrap_err().code, FailureCode::NotFound);
}

#[tokio::test]
async fn openssl_without_a_certificate_is_refused() {
    let farm = Farm::new();
    let bobby = farm.gateway(farm.key("bobby")).await;
    let address = bobby.address.unwrap().to_string();
    for (flag, words) in [("-tls1_3", "certificate required"), ("-tls1_2", "protocol version")] {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &address, flag, "-alpn", "openclaw-farm/1", "-ign_eof"])
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let Ok(output) = timeout(SOON, output).await.expect("openssl hangs") else {
            let _ = writeln!(std::io::stderr(), "SKIPPED: link: openssl is not installed");
            // `cargo xtask test` counts the lines of this file.
            if let Some(path) = std::env::var_os("CLAWSTEAD_SKIPS") {
                let file = std::fs::File::options().create(true).append(true).open(path);
                let _ = file.and_then(|mut file| writeln!(file, "farm link\topenssl\tnot installed"));
            }
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(words), "{flag}: {said}");
    }
    let (_, _, why) = until("bobby notes it", || bobby.links.status().last_refused).await;
    println!("{why}");
    assert!(bobby.links.status().refused >= 1 && bobby.links.status().peers.is_empty());
}
