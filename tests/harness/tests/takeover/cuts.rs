//! Rows N1, N2, N3: a gateway that is cut off from the stores and from the others, while the chat platform and its model
//! can still be reached.

use std::time::{Duration, Instant};

use clawstead_harness::ha::{ACCOUNT, Cut, How, Plan, Rig};

use super::{clients, judge, more, others, people, rounds};

async fn cut_off(row: &'static str, suite: &'static str, cut: Cut, how: How) {
    let Some(mut rig) = Rig::make(&Plan::new(suite)).await.unwrap() else { return };
    let (load, chat) = (clients(&rig, &others("two"), 0), people(&rig, 500_000));
    more(&load, 5).await;
    for round in 1..=rounds() {
        let began = Instant::now();
        rig.cut("two", cut, how).await;
        let served = rig.served("one", "bobby", &format!("probe-{round}"), began).await.unwrap();
        rig.owned("agent.bobby", "three").await.unwrap();
        rig.owned(ACCOUNT, "three").await.unwrap();
        println!("{row}: bobby answers elsewhere {served:?} after the cut");
        assert!(served < Duration::from_secs(15), "{row}: it took {served:?}\n{}", rig.logs());
        more(&load, 5).await;
        rig.heal("two").await;
        // It learns, steps down, and is one of them again.
        rig.owned("agent.bobby", "three").await.unwrap();
        rig.owned(ACCOUNT, "three").await.unwrap();
        more(&load, 5).await;
        for unit in ["bobby", ACCOUNT] {
            rig.run("one", &["farm", "move", unit, "two", "--json"]).await.unwrap();
        }
        rig.at_home().await.unwrap();
    }
    let written = chat.end().await.unwrap();
    judge(row, &rig, &load.end().await.unwrap(), written).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_the_owner_is_cut_off_from_everything() {
    cut_off("N1", "take-over N1", Cut { coord: true, state: true, peers: true }, How::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n2_the_owner_is_cut_off_from_the_coordination_store() {
    cut_off("N2", "take-over N2", Cut { coord: true, ..Cut::default() }, How::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n3_the_owner_is_cut_off_from_the_state_store() {
    cut_off("N3", "take-over N3", Cut { state: true, ..Cut::default() }, How::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n3_the_owner_is_refused_by_the_state_store() {
    cut_off("N3 refused", "take-over N3 refused", Cut { state: true, ..Cut::default() }, How::Refused).await;
}
