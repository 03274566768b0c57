//! Row G5: gateways that leave in order, and units that are moved, under load.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clawstead_harness::ha::{ACCOUNT, Plan, Rig, Told};

use super::{clients, judge, more, others, people};

/// Turns ended where they began: the model was asked once about each message.
fn none_ran_twice(rig: &Rig) {
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    for entry in rig.model.seen() {
        if let Some(mark) = entry.mark {
            *asked.entry(mark).or_default() += 1;
        }
    }
    let twice: Vec<_> = asked.into_iter().filter(|(_, times)| *times > 1).collect();
    assert!(twice.is_empty(), "G5: asked twice: {twice:?}\n{}", rig.logs());
}

fn untroubled(row: &str, told: &Told, except: Option<u16>) {
    let trouble: Vec<_> = told.trouble.iter().filter(|(_, port, _)| Some(*port) != except).map(|(_, port, what)| (port, what)).collect();
    assert!(trouble.is_empty(), "{row}: clients of gateways that run were told: {trouble:?}");
}

/// `farm drain` and `farm move`: no client notices anything but time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_gateway_is_emptied_and_filled_under_load() {
    let Some(rig) = Rig::make(&Plan::new("take-over G5 drain")).await.unwrap() else { return };
    let (load, chat) = (clients(&rig, &["one", "two", "three"], 0), people(&rig, 500_000));
    more(&load, 5).await;
    let began = Instant::now();
    let drained = rig.run("one", &["farm", "drain", "two", "--why", "test", "--json"]).await.unwrap();
    println!("G5: drained after {:?} (the command's own time included)", began.elapsed());
    assert_eq!(drained["ok"], true, "{drained}\n{}", rig.logs());
    rig.owned("agent.bobby", "three").await.unwrap();
    rig.owned(ACCOUNT, "three").await.unwrap();
    more(&load, 5).await;
    rig.run("one", &["farm", "drain", "two", "--undo", "--json"]).await.unwrap();
    for unit in ["bobby", ACCOUNT] {
        let began = Instant::now();
        let moved = rig.run("three", &["farm", "move", unit, "two", "--json"]).await.unwrap();
        println!("G5: {unit} moved after {:?} (the command's own time included)", began.elapsed());
        assert_eq!(moved["ok"], true, "{moved}\n{}", rig.logs());
    }
    rig.at_home().await.unwrap();
    more(&load, 5).await;
    let written = chat.end().await.unwrap();
    let told = load.end().await.unwrap();
    untroubled("G5", &told, None);
    judge("G5", &rig, &told, written).await;
    assert!(told.longest < Duration::from_secs(5), "G5: a call took {:?}", told.longest);
    none_ran_twice(&rig);
}

/// SIGTERM: what it had goes on elsewhere without waiting for its silence, and comes back in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_gateway_is_stopped_under_load() {
    let Some(mut rig) = Rig::make(&Plan { lease: "lan", ..Plan::new("take-over G5 stop") }).await.unwrap() else { return };
    let (load, chat) = (clients(&rig, &["one", "two", "three"], 0), people(&rig, 500_000));
    more(&load, 5).await;
    let before = rig.records.epoch("agent.bobby");
    let began = Instant::now();
    let ended = rig.stop("two").await.unwrap();
    let served = rig.served("one", "bobby", "probe-1", began).await.unwrap();
    println!("G5: stopped after {ended:?}; bobby answers elsewhere {served:?} after SIGTERM");
    rig.owned("agent.bobby", "three").await.unwrap();
    rig.owned(ACCOUNT, "three").await.unwrap();
    assert_eq!(rig.records.epoch("agent.bobby"), before + 1);
    assert!(served < Duration::from_secs(6), "G5: it waited for silence: {served:?}\n{}", rig.logs());
    more(&load, 5).await;
    rig.start("two").await.unwrap();
    more(&load, 5).await;
    assert_eq!(rig.records.epoch("agent.bobby"), before + 1, "nothing moves by itself");
    let written = chat.end().await.unwrap();
    let told = load.end().await.unwrap();
    untroubled("G5", &told, Some(rig.port("two")));
    judge("G5", &rig, &told, written).await;
    none_ran_twice(&rig);
    let _ = others("two");
}
