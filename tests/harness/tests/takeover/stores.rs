//! Rows G10, C1, C4: the stores themselves die, and nobody's agents move for it.

use std::time::{Duration, Instant};

use clawstead_harness::{
    PATIENCE,
    ha::{Plan, Rig},
    until,
};

use super::{clients, epochs, judge, more, people};

/// Row G10: the PostgreSQL server dies without a word and recovers. What was taken is there; clients wait, or try again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g10_the_state_store_dies_and_recovers() {
    let Some(mut rig) = Rig::make(&Plan::new("take-over G10")).await.unwrap() else { return };
    let (load, chat) = (clients(&rig, &["one", "two", "three"], 0), people(&rig, 500_000));
    more(&load, 5).await;
    let died = Instant::now();
    rig.state.crash().unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    rig.state.run().unwrap();
    let back = died.elapsed();
    for (agent, at) in [("jerry", "two"), ("bobby", "three"), ("billy", "one")] {
        let served = rig.served(at, agent, &format!("probe-{agent}"), died).await.unwrap();
        println!("G10: the store was away for {back:?}; {agent} answers again after {served:?}");
        assert!(served < back + Duration::from_secs(15), "G10: {agent} took {served:?}\n{}", rig.logs());
    }
    more(&load, 5).await;
    let written = chat.end().await.unwrap();
    judge("G10", &rig, &load.end().await.unwrap(), written).await;
}

/// Row C1: Consul's leader dies. Running agents do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_the_leader_of_the_coordination_store_dies() {
    let Some(mut rig) = Rig::make(&Plan { servers: 3, ..Plan::new("take-over C1") }).await.unwrap() else { return };
    let (load, chat) = (clients(&rig, &["one", "two", "three"], 0), people(&rig, 500_000));
    more(&load, 5).await;
    let before = epochs(&rig);
    let leader = rig.consul.leader().await.unwrap();
    let died = Instant::now();
    rig.consul.kill(leader);
    more(&load, 10).await;
    // Followers name the dead one until they have elected.
    let led = until(PATIENCE, async || rig.consul.leader().await.filter(|other| *other != leader)).await;
    println!("C1: another server leads after {:?}", died.elapsed());
    assert!(led.is_some());
    more(&load, 10).await;
    assert_eq!(epochs(&rig), before, "C1: an election moved something\n{}", rig.logs());
    rig.consul.run(leader).unwrap();
    let written = chat.end().await.unwrap();
    let told = load.end().await.unwrap();
    assert!(told.trouble.is_empty(), "C1: clients were told {:?}\n{}", told.trouble, rig.logs());
    assert!(told.longest < Duration::from_secs(3), "C1: a call took {:?}\n{}", told.longest, rig.logs());
    judge("C1", &rig, &told, written).await;
}

/// Row C4: Consul has no quorum. Agents go on where they are, also for clients of other gateways; nothing moves, then and
/// afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_the_coordination_store_has_no_quorum() {
    let Some(mut rig) = Rig::make(&Plan { servers: 3, ..Plan::new("take-over C4") }).await.unwrap() else { return };
    let (load, chat) = (clients(&rig, &["one", "two", "three"], 0), people(&rig, 500_000));
    more(&load, 5).await;
    let before = epochs(&rig);
    rig.consul.kill(0);
    rig.consul.kill(1);
    let died = Instant::now();
    // Longer than any lease, several times over.
    while died.elapsed() < Duration::from_secs(12) {
        more(&load, 5).await;
    }
    rig.consul.run(0).unwrap();
    rig.consul.run(1).unwrap();
    assert!(until(PATIENCE, async || rig.consul.leader().await).await.is_some());
    // A whole lease and more: nobody takes the silence of the store for the silence of a gateway.
    let healed = Instant::now();
    while healed.elapsed() < Duration::from_secs(5) {
        more(&load, 5).await;
    }
    assert_eq!(epochs(&rig), before, "C4: a store without quorum moved something\n{}", rig.logs());
    rig.at_home().await.unwrap();
    let written = chat.end().await.unwrap();
    let told = load.end().await.unwrap();
    assert!(told.trouble.is_empty(), "C4: clients were told {:?}\n{}", told.trouble, rig.logs());
    assert!(told.longest < Duration::from_secs(5), "C4: a call took {:?}\n{}", told.longest, rig.logs());
    judge("C4", &rig, &told, written).await;
}
