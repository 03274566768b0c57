//! Gateways in Consul's catalogue, and its access control.

use std::{collections::BTreeMap, time::Duration};

use clawstead_bus::{
    BusError, CasError, CoordError, MailBox, Member,
    consul::{Consul, Settings},
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    SOON,
    engines::{consul::Cluster, until, world},
    letter,
};

fn member(id: &str) -> Member {
    Member {
        service: "openclaw-gateway".into(),
        id: id.into(),
        address: "10.0.0.1".into(),
        port: 18789,
        tags: vec!["traefik.enable=true".into()],
        meta: BTreeMap::from([("version".into(), "1".into())]),
        check_ttl: Duration::from_secs(3),
        check_url: None,
    }
}

#[tokio::test]
async fn a_member_is_in_the_catalogue_and_its_silence_shows() {
    let Some(cluster) = Cluster::start(1, json!({})).await else { return };
    let coord = Consul::new(&Settings::at(cluster.urls()), &world()).unwrap().coord();
    let me = member("jerry-gateway");
    let health = async || {
        let (_, body) = cluster.ask("GET", &format!("{}/v1/health/service/openclaw-gateway", cluster.servers[0].url()), None).await.unwrap();
        let all: serde_json::Value = serde_json::from_str(&body).unwrap();
        let shown = |one: &serde_json::Value| {
            let check = one["Checks"].as_array().unwrap().iter().find(|check| check["CheckID"] == "service:jerry-gateway").unwrap().clone();
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            (text(&one["Service"]["Address"]), one["Service"]["Port"].clone(), text(&check["Status"]), text(&check["Output"]))
        };
        all.as_array().unwrap().iter().map(shown).collect::<Vec<_>>()
    };
    let is = async |status: &str| health().await.first().is_some_and(|shown| shown.2 == status);
    // A sign of life registers where that was forgotten, as after an agent was restarted without its data.
    coord.beat(&me, "fine").await.unwrap();
    until(SOON, "the member passes", async || is("passing").await).await.unwrap();
    assert_eq!(health().await, [("10.0.0.1".into(), json!(18789), "passing".into(), "fine".into())]);
    coord.register(&me).await.unwrap();
    coord.beat(&me, "still fine").await.unwrap();
    let began = Instant::now();
    until(SOON, "its silence shows", async || is("critical").await).await.unwrap();
    let silent = began.elapsed();
    assert!(silent > Duration::from_millis(2500) && silent < Duration::from_secs(6), "critical after {silent:?}");
    coord.beat(&me, "back").await.unwrap();
    until(SOON, "it passes again", async || is("passing").await).await.unwrap();
    coord.deregister(&me).await.unwrap();
    until(SOON, "it is gone", async || health().await.is_empty()).await.unwrap();
    coord.deregister(&me).await.unwrap();
}

#[tokio::test]
async fn a_member_whose_agent_died_is_known_to_another() {
    let Some(cluster) = Cluster::start(3, json!({})).await else { return };
    let coord = Consul::new(&Settings::at(cluster.urls()), &world()).unwrap().coord();
    let me = member("jerry-gateway");
    coord.beat(&me, "first").await.unwrap();
    cluster.servers[0].kill().await;
    let passing = async || {
        if let Err(err) = coord.beat(&me, "second").await {
            assert!(matches!(err, CoordError::Unavailable { .. }), "{err}");
        }
        let url = format!("{}/v1/health/service/openclaw-gateway?passing", cluster.servers[1].url());
        cluster.ask("GET", &url, None).await.is_some_and(|(_, body)| body.contains("second"))
    };
    until(Duration::from_secs(30), "another agent says that it passes", passing).await.unwrap();
}

#[tokio::test]
async fn without_a_token_nothing_is_told_and_with_one_everything_works() {
    let token = "b1gs0331-15d9-4aa1-a8b4-4b1a31a1b1aa".replace('g', "a").replace('s', "b");
    let extra = json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": token, "agent": token}}});
    let Some(cluster) = Cluster::start(1, extra).await else { return };
    let open = Settings::at(cluster.urls());
    let with = |token: &str| Consul::new(&Settings { token: Some(token.into()), ..open.clone() }, &world()).unwrap();
    let ready = with(&token).coord();
    until(SOON, "the token is known", async || ready.put("acl/key", "1".into()).await.is_ok()).await.unwrap();

    let wrong = with("00000000-0000-0000-0000-00000000dead");
    for stranger in [Consul::new(&open, &world()).unwrap(), wrong] {
        let (coord, bus) = (stranger.coord(), stranger.bus());
        let written = coord.put("acl/key", "2".into()).await;
        assert!(matches!(written, Err(CoordError::Denied { .. })), "{written:?}");
        let cas = coord.put_if("acl/key", "2".into(), None).await;
        assert!(matches!(cas, Err(CasError::Coord(CoordError::Denied { .. }))), "{cas:?}");
        let sent = bus.publish(&MailBox::Unit("bobby".into()), &letter("1", 0)).await;
        assert!(matches!(sent, Err(BusError::Denied { .. })), "{sent:?}");
    }
    assert_eq!(ready.get("acl/key").await.unwrap().unwrap().value, "1");
}
