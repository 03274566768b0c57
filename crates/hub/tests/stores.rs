//! Shared memory over real servers: the conformance suite, and what is particular to each.

mod engines;

use std::{sync::Arc, time::Duration};

use clawstead_bus::{
    Coord,
    consul::{Consul, Settings},
    memory::Memory,
};
use clawstead_hub::memory::{CoordMemory, Event, Expect, MemoryError, MemoryKey, RedisMemory, SharedMemory, Space, Task, conformance};
use clawstead_terms::{AgentId, Millis};
use engines::{Server, world};
use redis::AsyncCommands as _;
use serde_json::json;

fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}/0", server.port)
}

fn bobby(name: &str) -> MemoryKey {
    MemoryKey::new(Space::Agent(AgentId::parse("bobby").expect("an id")), name).expect("a key")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_passes_the_suite() {
    let Some(server) = Server::redis("hub memory in Redis", None).await else { return };
    conformance::suite(Arc::new(RedisMemory::new(&url(&server), world()).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consul_passes_the_suite() {
    let Some(server) = Server::consul("hub memory in Consul").await else { return };
    let coord = consul(&server).await;
    conformance::suite(Arc::new(CoordMemory::new(coord, world()))).await;
}

#[tokio::test]
async fn the_bus_in_memory_passes_the_suite() {
    conformance::suite(Arc::new(CoordMemory::new(Memory::new().coord("jerry-gateway"), world()))).await;
}

async fn consul(server: &Server) -> Arc<dyn Coord> {
    let coord = Consul::new(&Settings::at([format!("http://127.0.0.1:{}", server.port)]), &world()).expect("settings").coord();
    // It listens before it has a leader.
    for _ in 0..600 {
        if coord.put("openclaw/ready", "yes".into()).await.is_ok() {
            return coord;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("Consul found no leader: {}", server.log());
}

#[tokio::test]
async fn redis_has_the_published_keys_and_takes_what_people_wrote() {
    let Some(server) = Server::redis("hub memory in Redis", None).await else { return };
    let memory = RedisMemory::new(&url(&server), world()).unwrap();
    let mut direct = redis::Client::open(url(&server)).unwrap().get_multiplexed_async_connection().await.unwrap();

    memory.set(&bobby("current-task"), &json!("Debugging homelab deployment"), None, &Expect::Any).await.unwrap();
    memory.set(&MemoryKey::new(Space::Shared, "recommendations").unwrap(), &json!({"n": 3}), Some(Duration::from_secs(60)), &Expect::Any).await.unwrap();
    let event = Event { at: Some(Millis(1_771_243_200_000)), agent: AgentId::parse("bobby").ok(), event: "reported Nomad alert".into(), id: Some("e".into()) };
    memory.push_event(&event).await.unwrap();
    memory.push_task(&Task { id: "t1".into(), task: json!("backup-consul"), by: None, at: None }).await.unwrap();

    let text: String = direct.get("openclaw:agents:bobby:memory:current-task").await.unwrap();
    assert_eq!(text, "\"Debugging homelab deployment\"");
    let left: i64 = direct.pttl("openclaw:shared:recommendations").await.unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
    let lines: Vec<String> = direct.lrange("openclaw:shared:recent-events", 0, -1).await.unwrap();
    assert_eq!(lines, ["2026-02-16T12:00:00.000Z: bobby: reported Nomad alert"]);

    let _: () = direct.set("openclaw:agents:jerry:memory:context", "User asked about multi-node OpenClaw").await.unwrap();
    let _: () = direct.rpush("openclaw:shared:recent-events", "2026-02-16T12:00:00Z: Bobby reported Nomad alert").await.unwrap();
    let _: () = direct.rpush("openclaw:shared:task-queue", "update-traefik-config").await.unwrap();
    let _: () = direct.lpush("openclaw:agents:bobby:memory:a-list", "x").await.unwrap();
    let jerry = MemoryKey::new(Space::Agent(AgentId::parse("jerry").unwrap()), "context").unwrap();
    assert_eq!(memory.get(&jerry).await.unwrap().unwrap().value, json!("User asked about multi-node OpenClaw"));
    assert_eq!(memory.recent_events(1).await.unwrap()[0].event, "Bobby reported Nomad alert");
    let tasks = [memory.pop_task("billy", "r1").await.unwrap().unwrap(), memory.pop_task("billy", "r2").await.unwrap().unwrap()];
    assert_eq!(tasks.map(|popped| popped.task.task), [json!("backup-consul"), json!("update-traefik-config")]);
    let odd = memory.get(&bobby("a-list")).await.unwrap_err();
    assert!(matches!(&odd, MemoryError::Invalid(why) if why.contains("another type")), "{odd}");
}

#[tokio::test]
async fn a_redis_that_died_is_found_again_with_all_it_took() {
    let Some(mut server) = Server::redis("hub memory in Redis", None).await else { return };
    let memory = RedisMemory::new(&url(&server), world()).unwrap();
    memory.push_task(&Task { id: "t1".into(), task: json!(1), by: None, at: None }).await.unwrap();
    memory.set(&bobby("k"), &json!(1), None, &Expect::Any).await.unwrap();
    server.kill().await;
    let away = memory.get(&bobby("k")).await.unwrap_err();
    assert!(matches!(away, MemoryError::Unknown { .. } | MemoryError::Unavailable(_)), "{away}");
    let still = memory.set(&bobby("k"), &json!(2), None, &Expect::Any).await.unwrap_err();
    assert!(still.to_string().contains(&server.port.to_string()), "{still}");
    server.start().await;
    assert_eq!(memory.get(&bobby("k")).await.unwrap().unwrap().value, json!(1));
    assert_eq!(memory.pop_task("billy", "r").await.unwrap().unwrap().task.task, json!(1));
}

#[tokio::test]
async fn a_wrong_password_is_named_without_showing_it() {
    let Some(server) = Server::redis("hub memory in Redis", Some("the-right-one")).await else { return };
    for login in ["", ":the-wrong-one@"] {
        let memory = RedisMemory::new(&format!("redis://{login}127.0.0.1:{}/0", server.port), world()).unwrap();
        let err = memory.get(&bobby("k")).await.unwrap_err();
        assert!(matches!(&err, MemoryError::Unavailable(why) if why.contains("refuses us")), "{err}");
        assert!(!err.to_string().contains("the-wrong-one"), "{err}");
    }
    let right = RedisMemory::new(&format!("redis://:the-right-one@127.0.0.1:{}/0", server.port), world()).unwrap();
    assert_eq!(right.get(&bobby("k")).await, Ok(None));
}
