//! Rows of the fault matrix with whole gateways that talk meanwhile: C1, C3, C8, C9; and PostgreSQL as coordination.

use std::{path::Path, time::Duration};

use clawstead_harness::{PATIENCE, until};
use clawstead_state::testing::Postgres;
use rustix::process::Signal;
use serde_json::json;

use super::kit::{Consul, Farm, Plan, Server, engine};

/// Questions that are asked while a row's fault lasts.
const QUESTIONS: u64 = 24;

fn over(consul: &Consul, bus: serde_json::Value) -> Plan {
    Plan::over(json!({"kind": "consul", "addr": consul.urls()}), bus)
}

pub async fn nats(suite: &str) -> Option<Server> {
    let program = engine("CLAWSTEAD_NATS_SERVER", suite)?;
    Some(Server::start(&program, "127.0.0.1", |port, folder| nats_args(port, folder)).await)
}

fn nats_args(port: u16, folder: &Path) -> Vec<String> {
    ["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd", &folder.join("store").display().to_string()].map(str::to_owned).to_vec()
}

pub async fn redis(suite: &str) -> Option<Server> {
    let program = engine("CLAWSTEAD_REDIS_SERVER", suite)?;
    let server = Server::start(&program, "127.0.0.1", |port, folder| {
        let text = format!("--port {port} --bind 127.0.0.1 --dir {} --appendonly yes --appendfsync always", folder.display());
        text.split(' ').map(str::to_owned).collect()
    });
    Some(server.await)
}

#[tokio::test]
async fn c1_the_leader_of_consul_is_killed_and_agents_go_on() {
    let Some(mut consul) = Consul::start("row C1", 3, json!({})).await else { return };
    let farm = Farm::make(&over(&consul, json!({"kind": "consul"}))).await;
    let asked = farm.load(1, QUESTIONS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let leader = consul.leader().await.unwrap();
    consul.servers[leader].kill();
    let next = until(PATIENCE, async || consul.leader().await.filter(|at| *at != leader)).await;
    assert!(next.is_some(), "two of three elect another one");
    farm.all_once(asked, 1, QUESTIONS).await;
    // The one that died comes back, and dies for the farm no second time.
    consul.servers[leader].run().await;
    let again = farm.load(100, 4);
    farm.all_once(again, 100, 4).await;
    farm.together().await;
}

#[tokio::test]
async fn c3_the_leader_of_consul_stands_still_and_agents_go_on() {
    let Some(consul) = Consul::start("row C3", 3, json!({})).await else { return };
    let farm = Farm::make(&over(&consul, json!({"kind": "consul"}))).await;
    let asked = farm.load(1, QUESTIONS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let leader = consul.leader().await.unwrap();
    consul.servers[leader].signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(5)).await;
    consul.servers[leader].signal(Signal::CONT);
    farm.all_once(asked, 1, QUESTIONS).await;
    farm.together().await;
    let status = farm.status().await;
    assert_eq!((status["coord"]["ok"].as_bool(), status["problems"].as_array().map(Vec::len)), (Some(true), Some(0)), "{status}");
}

#[tokio::test]
async fn c8_redis_comes_back_without_its_last_writes_and_nothing_is_lost() {
    let Some(consul) = Consul::start("row C8", 1, json!({})).await else { return };
    let Some(mut redis) = redis("row C8").await else { return };
    let farm = Farm::make(&over(&consul, json!({"kind": "redis", "addr": format!("redis://127.0.0.1:{}", redis.port)}))).await;
    farm.talk().await;
    let asked = farm.load(1, QUESTIONS);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        // As a failover to a replica that was behind: the same place, and nothing of what was written lately.
        redis.kill();
        for entry in std::fs::read_dir(redis.folder.path()).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else if path.extension().is_some_and(|kind| kind == "aof" || kind == "rdb") {
                std::fs::remove_file(path).unwrap();
            }
        }
        redis.run().await;
    }
    farm.all_once(asked, 1, QUESTIONS).await;
}

#[tokio::test]
async fn c9_nats_loses_everything_and_nothing_is_lost() {
    let Some(consul) = Consul::start("row C9", 1, json!({})).await else { return };
    let Some(mut nats) = nats("row C9").await else { return };
    let farm = Farm::make(&over(&consul, json!({"kind": "nats", "addr": format!("nats://127.0.0.1:{}", nats.port)}))).await;
    farm.talk().await;
    let asked = farm.load(1, QUESTIONS);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        nats.kill();
        std::fs::remove_dir_all(nats.folder.path().join("store")).unwrap();
        nats.run().await;
    }
    farm.all_once(asked, 1, QUESTIONS).await;
}

/// Two gateways whose memberships, keys and ownership records are in PostgreSQL, with this bus.
async fn over_postgres(mut server: Postgres, bus: serde_json::Value) {
    let coord = json!({"kind": "postgres", "url": {"source": "env", "provider": "default", "id": "FARM_DATABASE_URL"}});
    let farm = Farm::make(&Plan::over(coord, bus).env("FARM_DATABASE_URL", &server.url())).await;
    let status = farm.status().await;
    assert_eq!((status["coord"]["engine"].as_str(), status["coord"]["ok"].as_bool()), (Some("postgresql"), Some(true)), "{status}");
    assert!(!status.to_string().contains("postgres://"), "the address may hold a password: {status}");
    farm.talk().await;
    // The database dies and comes back while agents talk: who is known stays known.
    let asked = farm.load(1, 12);
    let server = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(800));
        server.crash().unwrap();
        std::thread::sleep(Duration::from_secs(2));
        server.run().unwrap();
        server
    });
    farm.all_once(asked, 1, 12).await;
    let _server = server.await.unwrap();
    farm.together().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_coordinates_while_the_link_carries() {
    let Some(server) = Postgres::start().unwrap() else { return };
    over_postgres(server, json!({"kind": "peer"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_coordinates_while_nats_carries() {
    let (Some(server), Some(nats)) = (Postgres::start().unwrap(), nats("PostgreSQL and NATS").await) else { return };
    over_postgres(server, json!({"kind": "nats", "addr": format!("nats://127.0.0.1:{}", nats.port)})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_coordinates_while_redis_carries() {
    let (Some(server), Some(redis)) = (Postgres::start().unwrap(), redis("PostgreSQL and Redis").await) else { return };
    over_postgres(server, json!({"kind": "redis", "addr": format!("redis://127.0.0.1:{}", redis.port)})).await;
}
