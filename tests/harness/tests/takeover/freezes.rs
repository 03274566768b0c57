//! Row G4: gateways that stand still and go on.

use std::time::{Duration, Instant};

use clawstead_harness::ha::{ACCOUNT, Plan, Rig};

use super::{clients, epochs, judge, more, others, people, rounds};

/// For less than L nothing changes; for longer than G another gateway goes on, and the one that wakes up says nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_the_owner_stands_still() {
    let Some(mut rig) = Rig::make(&Plan::new("take-over G4")).await.unwrap() else { return };
    let (load, chat) = (clients(&rig, &others("two"), 0), people(&rig, 500_000));
    more(&load, 5).await;
    let before = epochs(&rig);
    rig.freeze("two").await.unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    rig.thaw("two").unwrap();
    more(&load, 5).await;
    assert_eq!(epochs(&rig), before, "a short pause moved something\n{}", rig.logs());

    let mut written = 0;
    for round in 1..=rounds() {
        // Its answer comes while nobody reads it; the zombie finds it when it wakes up.
        let mark = format!("msg-{}", 800_000 + round);
        rig.platform.write("U9", &format!("{mark} !delay 300"));
        written += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let stopped = Instant::now();
        rig.freeze("two").await.unwrap();
        let served = rig.served("one", "bobby", &format!("probe-{round}"), stopped).await.unwrap();
        rig.owned("agent.bobby", "three").await.unwrap();
        rig.owned(ACCOUNT, "three").await.unwrap();
        println!("G4: bobby answers again {served:?} after its gateway stood still");
        assert!(served < Duration::from_secs(9), "{served:?}");
        more(&load, 4).await;
        let held = epochs(&rig);
        rig.thaw("two").unwrap();
        // It knows, and nothing comes back by itself.
        rig.owned("agent.bobby", "three").await.unwrap();
        rig.owned(ACCOUNT, "three").await.unwrap();
        more(&load, 8).await;
        assert_eq!(epochs(&rig), held, "waking up moved something\n{}", rig.logs());
        if round < rounds() {
            for unit in ["bobby", ACCOUNT] {
                rig.run("one", &["farm", "move", unit, "two", "--json"]).await.unwrap();
            }
            rig.at_home().await.unwrap();
        }
    }
    written += chat.end().await.unwrap();
    judge("G4", &rig, &load.end().await.unwrap(), written).await;
}
