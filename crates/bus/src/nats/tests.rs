//! What can be decided without a server.

use clawstead_world::SystemClock;

use super::*;

fn bus(servers: &[&str], replicas: usize) -> Result<NatsBus, NatsConfigError> {
    let config = NatsConfig { replicas, ..NatsConfig::new("octant", servers.iter().map(|&server| server.to_owned()).collect()) };
    NatsBus::new(config, Arc::new(SystemClock))
}

#[test]
fn settings_that_cannot_work_are_refused_without_repeating_the_password() {
    assert_eq!(bus(&[], 1).unwrap_err(), NatsConfigError::NoServer);
    assert_eq!(bus(&["localhost"], 2).unwrap_err(), NatsConfigError::Replicas(2));
    for wrong in ["http://user:canary@localhost", "ws://user:canary@localhost", "nats://user:canary@:bad:port", "wss://canary"] {
        let said = bus(&["nats://localhost", wrong], 1).unwrap_err();
        assert_eq!(said, NatsConfigError::Address { position: 2 }, "{wrong}");
        assert!(!said.to_string().contains("canary"), "{said}");
    }
}

#[tokio::test]
async fn neither_settings_nor_errors_show_the_password() {
    let port = clawstead_harness::free_port().unwrap();
    let bus = bus(&[&format!("nats://user:canary@127.0.0.1:{port}")], 1).unwrap();
    let said = bus.depth(&MailBox::Gateway("jerry".into())).await.unwrap_err().to_string();
    assert_eq!(said, format!("nats at 127.0.0.1:{port} does not answer: no connection within 2s"));
    let shown = format!("{bus:?} {:?}", bus.shared.config);
    assert!(!shown.contains("canary"), "{shown}");
}
