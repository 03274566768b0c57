//! Rows H1 and H4: messages that the platform hands out again, and schedules, over a take-over.

use std::collections::BTreeMap;

use clawstead_harness::{
    PATIENCE,
    client::Client,
    ha::{ACCOUNT, Plan, Rig},
    until,
};
use clawstead_state::testing::{binaries, server_command};
use serde_json::{Value, json};

use super::{clients, judge, more, others, people};

/// Row H1: the platform hands out everything once more, before a take-over and after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h1_messages_come_again_over_a_take_over() {
    let Some(mut rig) = Rig::make(&Plan::new("take-over H1")).await.unwrap() else { return };
    let (load, chat) = (clients(&rig, &others("two"), 0), people(&rig, 500_000));
    more(&load, 5).await;
    rig.platform.repeat_all();
    let died = rig.kill("two").await.unwrap();
    rig.platform.repeat_all();
    rig.served("one", "bobby", "probe-1", died).await.unwrap();
    rig.owned("agent.bobby", "three").await.unwrap();
    rig.owned(ACCOUNT, "three").await.unwrap();
    rig.platform.repeat_all();
    more(&load, 5).await;
    let written = chat.end().await.unwrap();
    let stored = until(PATIENCE, async || rig.platform.all_confirmed().then_some(())).await;
    assert!(stored.is_some(), "H1: the cursor stands still\n{}", rig.logs());
    judge("H1", &rig, &load.end().await.unwrap(), written).await;
    assert_eq!(rig.platform.shown().len(), written, "H1: answers to messages that came again");
}

/// The instants of bobby's jobs as the state store has them: key and row.
fn instants(rig: &Rig) -> BTreeMap<String, Value> {
    let query = "SELECT key, value FROM octant.doc WHERE unit = 'agent.bobby' AND tbl = 'cron_runs' ORDER BY key";
    let psql = binaries().unwrap().join("psql");
    let mut command = server_command(&psql, std::path::Path::new("/"));
    let said = command.args(["-h", "127.0.0.1", "-p", &rig.state.port().to_string(), "-U", "postgres", "-At", "-F", "\t", "-c", query]).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let text = String::from_utf8(said.stdout).unwrap();
    text.lines().filter_map(|line| line.split_once('\t')).map(|(key, value)| (key.to_owned(), serde_json::from_str(value).unwrap())).collect()
}

/// Row H4: a job is due every second while its gateway dies. Each instant ends once, as ran, skipped or missed, and none is
/// left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h4_schedules_go_on_elsewhere() {
    let Some(mut rig) = Rig::make(&Plan::new("take-over H4")).await.unwrap() else { return };
    let mut client = Client::connect(rig.port("one")).await.unwrap();
    let job = client
        .call(
            "cron.add",
            json!({"name": "each second", "enabled": true, "agentId": "bobby", "schedule": {"kind": "every", "everyMs": 1000},
                "sessionTarget": "isolated", "wakeMode": "now", "payload": {"kind": "agentTurn", "message": "tick msg-000777 !pace 60 !pieces 6"}}),
        )
        .await
        .unwrap();
    let id = job["id"].as_str().or_else(|| job["job"]["id"].as_str()).unwrap().to_owned();
    let ran = |rows: &BTreeMap<String, Value>| rows.values().filter(|row| row["end"]["end"] == "ran").count();
    let until_ran = async |rig: &Rig, count: usize| {
        let goal = ran(&instants(rig)) + count;
        let there = until(PATIENCE, async || (ran(&instants(rig)) >= goal).then_some(())).await;
        assert!(there.is_some(), "H4: {:#?}\n{}", instants(rig), rig.logs());
    };
    until_ran(&rig, 3).await;
    let died = rig.kill("two").await.unwrap();
    let served = rig.served("one", "bobby", "probe-1", died).await.unwrap();
    println!("H4: bobby answers again after {served:?}");
    until_ran(&rig, 3).await;
    // In order, too.
    rig.start("two").await.unwrap();
    rig.run("one", &["farm", "move", "bobby", "two", "--json"]).await.unwrap();
    until_ran(&rig, 3).await;
    client.call("cron.update", json!({"id": id, "patch": {"enabled": false}})).await.unwrap();
    let over = until(PATIENCE, async || instants(&rig).values().all(|row| row["end"]["end"] != "started").then_some(())).await;
    let rows = instants(&rig);
    assert!(over.is_some(), "H4: an instant has no end: {rows:#?}\n{}", rig.logs());
    let at = |key: &String| key.rsplit('/').next().unwrap().parse::<i64>().unwrap();
    let times: Vec<i64> = rows.keys().map(at).collect();
    let gaps: Vec<_> = times.windows(2).filter(|pair| pair[1] - pair[0] != 1000).collect();
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows.values() {
        *ends.entry(row["end"]["end"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    println!("H4: {} instants: {ends:?}", rows.len());
    assert!(gaps.is_empty(), "H4: instants are left out: {gaps:?}\n{rows:#?}");
    // One turn each: its session has one question.
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows.values().filter(|row| row["end"]["end"] == "ran") {
        let session = row["entry"]["sessionKey"].as_str().unwrap_or_default().to_owned();
        if session.is_empty() {
            continue;
        }
        let history = rig.history("one", &session).await.unwrap();
        let questions = history["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user").count();
        asked.insert(session, questions);
    }
    assert!(!asked.is_empty() && asked.values().all(|count| *count == 1), "H4: turns of one instant: {asked:?}\n{}", rig.logs());
}
