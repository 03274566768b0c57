//! Two and three mailrooms over the embedded bus: letters go, are answered, survive restarts and a bad carrier.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod kit;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clawstead_bus::Bus;
use clawstead_cluster::envelope::MailState;
use clawstead_farm::mailroom::Place;
use clawstead_terms::RunStatus;
use clawstead_world::{Accepted, World};
use kit::{Farm, agent, store};

#[tokio::test(start_paused = true)]
async fn a_letter_goes_out_is_handled_once_and_its_answer_comes_back() {
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let bobby = farm.raise("bobby-gateway", &["bobby"], store(), 1).await;
    let jerry = farm.raise("jerry-gateway", &["jerry"], store(), 1).await;
    assert_eq!(jerry.send("bobby", "run-1", "any failed allocations?").await.unwrap(), Accepted::Stored);
    assert_eq!(jerry.answer("run-1").await.text.as_deref(), Some("echo: any failed allocations?"));
    // The same request again is the same letter.
    assert_eq!(jerry.send("bobby", "run-1", "any failed allocations?").await.unwrap(), Accepted::Duplicate(RunStatus::Ok));
    assert_eq!(bobby.handled(), ["any failed allocations?"]);
    let sent = jerry.room.sent(&agent("jerry"), 10).await.unwrap();
    let names: Vec<&str> = sent[0].history.iter().map(|told| told.event.name()).collect();
    assert_eq!(names[..2], ["farm.msg.queued", "farm.msg.sent"]);
}

#[tokio::test(start_paused = true)]
async fn a_question_is_answered_and_needs_a_rule() {
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let _bobby = farm.raise("bobby-gateway", &["bobby"], store(), 1).await;
    let jerry = farm.raise("jerry-gateway", &["jerry", "eve"], store(), 1).await;
    let params = serde_json::json!({"limit": 3});
    let answer = jerry.room.call(&agent("jerry"), &agent("bobby"), "sessions.list", params, Duration::from_secs(30)).await.unwrap();
    assert_eq!(answer, serde_json::json!({"asked": "sessions.list", "with": {"limit": 3}}));
    let refused = jerry.room.call(&agent("eve"), &agent("bobby"), "sessions.list", serde_json::json!({}), Duration::from_secs(30)).await.unwrap_err();
    assert!(refused.message.contains("forbidden"), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_letter_waits_for_its_target_and_goes_on_after_restarts_of_both() {
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let jerry = farm.raise("jerry-gateway", &["jerry"], store(), 1).await;
    farm.map.0.write().unwrap().insert(agent("bobby"), Place { gateway: "bobby-gateway".into(), epoch: 1, alive: false });
    jerry.send("bobby", "run-1", "are you there?").await.unwrap();
    assert!(jerry.room.wait(&"run-1".into(), Duration::from_secs(60)).await.unwrap().is_none(), "nobody is there yet");
    let disk = jerry.die().await;

    let jerry = farm.raise("jerry-gateway", &["jerry"], disk, 2).await;
    let bobby = farm.raise("bobby-gateway", &["bobby"], store(), 2).await;
    jerry.room.look_again();
    assert_eq!(jerry.answer("run-1").await.text.as_deref(), Some("echo: are you there?"));
    assert_eq!(bobby.handled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_letter_nobody_takes_in_time_ends_as_a_dead_letter_and_can_be_replayed() {
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let jerry = farm.raise("jerry-gateway", &["jerry"], store(), 1).await;
    jerry.send("bobby", "run-1", "hello?").await.unwrap();
    let end = jerry.answer("run-1").await;
    assert!(end.failure.unwrap().message.contains("expired"));
    let dead = jerry.room.dead(&agent("jerry"), 10).await.unwrap();
    assert_eq!((dead.len(), dead[0].reason.as_str()), (1, "expired"));

    let bobby = farm.raise("bobby-gateway", &["bobby"], store(), 1).await;
    jerry.room.replay(&agent("jerry"), &dead[0].head.message_id).await.unwrap();
    wait_until(|| bobby.handled().len() == 1).await;
    assert!(jerry.room.replay(&agent("jerry"), &dead[0].head.message_id).await.is_err(), "once is enough");
}

/// Fault row M9.
#[tokio::test(start_paused = true)]
async fn a_handler_that_breaks_three_times_is_left_alone_and_others_go_on() {
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let bobby = farm.raise("bobby-gateway", &["bobby", "billy"], store(), 1).await;
    let jerry = farm.raise("jerry-gateway", &["jerry"], store(), 1).await;
    bobby.echo.panics.store(3, Ordering::Relaxed);
    jerry.send("bobby", "run-1", "poison").await.unwrap();
    let end = jerry.answer("run-1").await;
    assert!(end.failure.unwrap().message.contains("poison"));
    jerry.send("billy", "run-2", "fine").await.unwrap();
    assert_eq!(jerry.answer("run-2").await.text.as_deref(), Some("echo: fine"));
    assert_eq!(bobby.handled(), ["fine"]);
}

#[tokio::test(start_paused = true)]
async fn letters_of_one_lane_keep_their_order_over_a_carrier_that_loses_doubles_and_delays() {
    use clawstead_bus::faulty::{Delay, FaultyBus, MailFaults};
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let bus = |name: &str, seed| -> Arc<dyn Bus> {
        let world = World::simulated(seed);
        let bus = FaultyBus::new(farm.memory.bus(name), world.rng, world.tasks);
        bus.set(MailFaults { drop: 0.2, duplicate: 0.3, delay: Delay::Fixed(Duration::from_millis(400)), ..MailFaults::default() });
        Arc::new(bus)
    };
    let bobby = farm.raise_on("bobby-gateway", &["bobby"], store(), 1, bus("bobby-gateway", 1)).await;
    let jerry = farm.raise_on("jerry-gateway", &["jerry"], store(), 1, bus("jerry-gateway", 2)).await;
    for n in 0..40 {
        jerry.send("bobby", &format!("run-{n}"), &format!("{n}")).await.unwrap();
    }
    for n in 0..40 {
        assert_eq!(jerry.answer(&format!("run-{n}")).await.text, Some(format!("echo: {n}")));
    }
    assert_eq!(bobby.handled(), (0..40).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn killed_again_and_again_neither_side_loses_or_doubles_a_letter() {
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let (mut here, mut there) = (store(), store());
    let mut seen = Vec::new();
    for round in 1..=12_u64 {
        let bobby = farm.raise("bobby-gateway", &["bobby"], there, round).await;
        let jerry = farm.raise("jerry-gateway", &["jerry"], here, round).await;
        for n in 0..5 {
            let run = format!("run-{round}-{n}");
            jerry.send("bobby", &run, &run).await.unwrap();
        }
        // Somewhere in the middle of it.
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        seen.extend(bobby.handled());
        (there, here) = (bobby.die().await, jerry.die().await);
    }
    let bobby = farm.raise("bobby-gateway", &["bobby"], there, 99).await;
    let jerry = farm.raise("jerry-gateway", &["jerry"], here, 99).await;
    for round in 1..=12 {
        for n in 0..5 {
            let run = format!("run-{round}-{n}");
            assert_eq!(jerry.answer(&run).await.text, Some(format!("echo: {run}")));
        }
    }
    seen.extend(bobby.handled());
    seen.sort();
    let mut once = seen.clone();
    once.dedup();
    assert_eq!(once.len(), 60, "every letter was handled");
}

async fn wait_until(mut probe: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(600), async {
        while !probe() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn rows_that_ended_are_removed_after_an_hour_and_the_unfinished_stay() {
    let farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
    let _bobby = farm.raise("bobby-gateway", &["bobby"], store(), 1).await;
    let jerry = farm.raise("jerry-gateway", &["jerry"], store(), 1).await;
    jerry.send("bobby", "run-1", "one").await.unwrap();
    jerry.answer("run-1").await;
    let acked = async || jerry.room.sent(&agent("jerry"), 10).await.unwrap().iter().any(|sent| sent.row.state == MailState::Acked);
    while !acked().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    jerry.room.prune(&agent("jerry")).await.unwrap();
    assert_eq!(jerry.room.sent(&agent("jerry"), 10).await.unwrap().len(), 1, "still shown");
    tokio::time::sleep(Duration::from_secs(3700)).await;
    jerry.room.prune(&agent("jerry")).await.unwrap();
    assert!(jerry.room.sent(&agent("jerry"), 10).await.unwrap().is_empty());
}
