//! Rows G1, G2, G7: gateways that die without a word.

use std::time::{Duration, Instant};

use clawstead_harness::{
    PATIENCE,
    client::Client,
    ha::{ACCOUNT, Plan, Rig},
    soak::Accepted,
    until,
};
use serde_json::json;

use super::{clients, judge, more, others, people, rounds};

/// Until the model was asked about a mark.
async fn at_the_model(rig: &Rig, mark: &str) {
    let asked = until(PATIENCE, async || rig.model.seen().iter().any(|entry| entry.mark.as_deref() == Some(mark)).then_some(()));
    assert!(asked.await.is_some(), "{mark} never reached the model\n{}", rig.logs());
}

/// Row G1: the owner dies with a turn of a client and one of the chat account in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_the_owner_dies_in_the_middle_of_turns() {
    let Some(mut rig) = Rig::make(&Plan::new("take-over G1")).await.unwrap() else { return };
    let (load, chat) = (clients(&rig, &others("two"), 0), people(&rig, 500_000));
    let mut long = Vec::new();
    for round in 1..=rounds() {
        let message = Accepted { mark: format!("msg-{}", 900_000 + round), session: "agent:bobby:long".into(), run: format!("long-{round}") };
        let said = format!("{} !pace 250 !pieces 12", message.mark);
        let mut client = Client::connect(rig.port("one")).await.unwrap();
        client.call("chat.send", json!({"sessionKey": message.session, "message": said, "idempotencyKey": message.run})).await.unwrap();
        long.push(message.clone());
        let mark = format!("msg-{}", 800_000 + round);
        rig.platform.write("U9", &format!("{mark} !pace 250 !pieces 12"));
        at_the_model(&rig, &message.mark).await;
        at_the_model(&rig, &mark).await;

        let died = rig.kill("two").await.unwrap();
        let served = rig.served("one", "bobby", &format!("probe-{round}"), died).await.unwrap();
        rig.owned("agent.bobby", "three").await.unwrap();
        rig.owned(ACCOUNT, "three").await.unwrap();
        println!("G1: bobby answers again {served:?} after the kill");
        assert!(served < Duration::from_secs(9), "G1: it took {served:?}\n{}", rig.logs());
        more(&load, 4).await;
        if round < rounds() {
            rig.start("two").await.unwrap();
            for unit in ["bobby", ACCOUNT] {
                rig.run("one", &["farm", "move", unit, "two", "--json"]).await.unwrap();
            }
            rig.at_home().await.unwrap();
        }
    }
    let written = chat.end().await.unwrap() + usize::try_from(rounds()).unwrap();
    let mut told = load.end().await.unwrap();
    told.accepted.extend(long);
    judge("G1", &rig, &told, written).await;
}

/// Row G2: the owner dies, and its supervisor starts it again after a second: it goes on there, under the next epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_the_owner_dies_and_is_started_again() {
    let Some(mut rig) = Rig::make(&Plan { lease: "lan", ..Plan::new("take-over G2") }).await.unwrap() else { return };
    let (load, chat) = (clients(&rig, &others("two"), 0), people(&rig, 500_000));
    for round in 1..=rounds() {
        more(&load, 5).await;
        let before = rig.records.epoch("agent.bobby");
        let died = rig.kill("two").await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.start("two").await.unwrap();
        let served = rig.served("one", "bobby", &format!("probe-{round}"), died).await.unwrap();
        rig.at_home().await.unwrap();
        println!("G2: bobby answers again {served:?} after the kill (a second of it nobody ran)");
        let owners = rig.records.owners("agent.bobby");
        assert_eq!(rig.records.epoch("agent.bobby"), before + 1, "{owners:?}\n{}", rig.logs());
        assert!(owners.iter().all(|owner| owner.gateway == "two"), "{owners:?}\n{}", rig.logs());
        assert!(served < Duration::from_secs(6), "G2: it took {served:?}\n{}", rig.logs());
    }
    let written = chat.end().await.unwrap();
    judge("G2", &rig, &load.end().await.unwrap(), written).await;
}

/// Row G7: all gateways die at once, and all are started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_all_gateways_start_again_at_once() {
    let Some(mut rig) = Rig::make(&Plan::new("take-over G7")).await.unwrap() else { return };
    let (load, chat) = (clients(&rig, &["one", "two", "three"], 0), people(&rig, 500_000));
    for round in 1..=rounds() {
        more(&load, 5).await;
        let died = Instant::now();
        for name in ["one", "two", "three"] {
            rig.kill(name).await.unwrap();
        }
        rig.start_all().await.unwrap();
        for (agent, at) in [("jerry", "two"), ("bobby", "three"), ("billy", "one")] {
            let served = rig.served(at, agent, &format!("probe-{agent}-{round}"), died).await.unwrap();
            println!("G7: {agent} answers again after {served:?}");
            assert!(served < Duration::from_secs(15), "G7: {agent} took {served:?}\n{}", rig.logs());
        }
    }
    let written = chat.end().await.unwrap();
    judge("G7", &rig, &load.end().await.unwrap(), written).await;
}
