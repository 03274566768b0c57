//! Where gateways are found: Consul's catalogue, its health and its DNS.

use std::net::Ipv4Addr;

use clawstead_harness::{PATIENCE, until};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use super::kit::{Consul, Farm, Plan};

/// Asks a DNS server for the addresses of a name.
async fn resolve(port: u16, name: &str) -> Vec<Ipv4Addr> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question, ("127.0.0.1", port)).await.unwrap();
    let mut answer = [0; 1024];
    let Ok(Ok(read)) = tokio::time::timeout(std::time::Duration::from_secs(2), socket.recv(&mut answer)).await else { return Vec::new() };
    // Each answer: a pointer to the name, type A, class IN, time to live, four bytes.
    let record = [0xc0, 12, 0, 1, 0, 1];
    (question.len()..read.saturating_sub(15))
        .filter(|at| answer[*at..].starts_with(&record) && answer[at + 10..at + 12] == [0, 4])
        .map(|at| Ipv4Addr::new(answer[at + 12], answer[at + 13], answer[at + 14], answer[at + 15]))
        .collect()
}

#[tokio::test]
async fn a_gateway_is_found_where_others_reach_it() {
    let Some(consul) = Consul::start("farm in Consul's catalogue", 1, json!({})).await else { return };
    let mut plan = Plan::over(json!({"kind": "consul", "addr": consul.urls()}), json!({"kind": "consul"}));
    // It listens everywhere, and says which of its addresses is meant.
    plan.config = json!({"gateway": {"bind": "lan"}});
    plan.farm = json!({"advertise": "127.0.0.2", "tags": ["traefik.enable=true", "traefik.http.routers.openclaw.rule=Host(`claw.example.net`)"]});
    let mut farm = Farm::make(&plan).await;

    let health = async |filter: &str| {
        let (_, found) = consul.ask(0, "GET", &format!("/v1/health/service/openclaw-gateway{filter}"), "", &Value::Null).await.unwrap();
        found.as_array().unwrap().clone()
    };
    // Consul asked them itself, and they answered.
    let asked = until(PATIENCE, async || {
        let found = health("?passing").await;
        let answered = |one: &Value| {
            let checks = one["Checks"].as_array().unwrap();
            checks.iter().any(|check| check["CheckID"].as_str().unwrap().starts_with("http:") && check["Output"].as_str().unwrap().contains("200"))
        };
        (found.len() == 2 && found.iter().all(answered)).then_some(found)
    });
    let found = asked.await.unwrap_or_default();
    assert_eq!(found.len(), 2, "{:?}", health("").await);
    let jerry = found.iter().find(|one| one["Service"]["ID"] == "jerry-gateway").unwrap();
    assert_eq!((jerry["Service"]["Address"].as_str(), jerry["Service"]["Port"].as_u64()), (Some("127.0.0.2"), Some(u64::from(farm.jerry.port))));
    let tags = jerry["Service"]["Tags"].as_array().unwrap();
    for tag in ["openclaw", "farm-octant", "traefik.enable=true", "traefik.http.routers.openclaw.rule=Host(`claw.example.net`)"] {
        assert!(tags.iter().any(|one| one == tag), "{tag} in {tags:?}");
    }
    assert_eq!(jerry["Service"]["Meta"]["farm"], "octant");
    let shown = farm.status().await;
    let url = shown["gateways"].as_array().unwrap().iter().find(|one| one["name"] == "jerry-gateway").unwrap()["url"].clone();
    assert_eq!(url, format!("ws://127.0.0.2:{}", farm.jerry.port));

    let two = vec![Ipv4Addr::new(127, 0, 0, 2); 2];
    assert_eq!(resolve(consul.dns(), "openclaw-gateway.service.consul").await.first(), two.first());
    assert_eq!(resolve(consul.dns(), "farm-octant.openclaw-gateway.service.consul").await.first(), two.first());

    // Who stands still is not in the answers any more, and comes back.
    farm.bobby.freeze().await;
    let gone = until(PATIENCE, async || (health("?passing").await.len() == 1).then_some(()));
    assert!(gone.await.is_some(), "{:?}", health("").await);
    farm.bobby.thaw();
    let back = until(PATIENCE, async || (health("?passing").await.len() == 2).then_some(()));
    assert!(back.await.is_some(), "{:?}", health("").await);
    // Who ends takes its entry with it.
    farm.bobby.gateway.take().unwrap().stop(PATIENCE).await.unwrap();
    let left = until(PATIENCE, async || (health("").await.len() == 1).then_some(()));
    assert!(left.await.is_some(), "{:?}", health("").await);
}
