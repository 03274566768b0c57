//! What can be decided without a server.

use clawstead_world::SystemClock;

use super::*;

fn bus(farm: &str, servers: &[&str]) -> Result<RedisBus, RedisConfigError> {
    RedisBus::new(RedisConfig::new(farm, servers.iter().map(|&server| server.to_owned()).collect()), Arc::new(SystemClock))
}

#[test]
fn settings_that_cannot_work_are_refused_without_repeating_the_password() {
    assert_eq!(bus("octant", &[]).unwrap_err(), RedisConfigError::NoServer);
    assert_eq!(bus("a:b", &["redis://localhost"]).unwrap_err(), RedisConfigError::FarmId("a:b".into()));
    for wrong in ["http://user:canary@localhost", "redis://user:canary@:bad:port", "canary"] {
        let said = bus("octant", &["redis://localhost", wrong]).unwrap_err().to_string();
        assert!(said.starts_with("address 2 of the Redis servers") && !said.contains("canary"), "{said}");
    }
}

#[test]
fn neither_the_bus_nor_its_settings_show_the_password() {
    let bus = bus("octant", &["redis://user:canary@localhost:1"]).unwrap();
    let shown = format!("{bus:?} {:?}", bus.shared.config);
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn a_server_that_is_away_is_named_without_credentials() {
    let port = clawstead_harness::free_port().unwrap();
    let bus = bus("octant", &[&format!("redis://user:canary@127.0.0.1:{port}")]).unwrap();
    let said = bus.depth(&MailBox::Gateway("jerry".into())).await.unwrap_err().to_string();
    assert!(said.starts_with(&format!("redis at 127.0.0.1:{port} does not answer: no master: ")) && !said.contains("canary"), "{said}");
}

#[test]
fn keys_of_boxes_and_owners_never_meet() {
    let shared = bus("octant", &["redis://localhost"]).unwrap().shared;
    let unit = MailBox::Unit("agents/bobby".into());
    assert_eq!(shared.key(&unit), "openclaw:farm:octant:s:agents/bobby");
    assert_eq!(shared.key(&MailBox::Gateway("jerry".into())), "openclaw:farm:octant:g:jerry");
    let names = ["bobby", "s:bobby", "os:bobby", "bobby:owner"];
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        for of in [MailBox::Unit(name.into()), MailBox::Gateway(name.into())] {
            assert!(seen.insert(shared.key(&of)) && seen.insert(shared.owner_key(&of)), "{name}");
        }
    }
}
