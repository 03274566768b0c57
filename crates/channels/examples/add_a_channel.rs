//! A channel in one file: `printf 'hello\nthere\n' | cargo run -p clawstead-channels --example add_a_channel`.
//!
//! The platform is this terminal: a line that is typed is a message, what is sent is printed. In the house the two
//! capabilities below go into `crates/channels/src/<name>/ingress.rs` and `send.rs`, the spec into `mod.rs`, and one
//! line into `CHANNELS` in `registry.rs`. Here an echo stands in for the gateway.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use clawstead_channels::{Channel, ChannelSpec, Inbound, Ingress, Intake, Outbound, Outlet, Sent};
use clawstead_terms::{AccountId, ChannelId, DeliveryTarget, Failure, Outcome, Part, Peer, PeerKind};
use clawstead_world::{Clock as _, SystemClock, World};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;

/// What a registry would hold.
const SPEC: ChannelSpec = ChannelSpec { id: "terminal", label: "This terminal", build };

fn build(_: &World, account: &AccountId, section: &Value) -> Result<Channel, Failure> {
    let name = section.get("name").and_then(Value::as_str).ok_or_else(|| Failure::invalid("channels.terminal.name is missing"))?;
    Ok(Channel { ingress: Some(Arc::new(Lines { account: account.clone(), name: name.to_owned() })), outlet: Some(Arc::new(Printer)) })
}

/// Receives.
struct Lines {
    account: AccountId,
    name: String,
}

#[async_trait]
impl Ingress for Lines {
    async fn run(&self, intake: Arc<dyn Intake>, stop: CancellationToken) -> Result<(), Failure> {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut count: u64 = intake.recall("count").await?.and_then(|text| text.parse().ok()).unwrap_or(0);
        loop {
            let line = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                line = lines.next_line() => line.map_err(|err| Failure::unavailable(err.to_string(), 0))?,
            };
            let Some(text) = line else { return Ok(()) };
            count += 1;
            let here = |to: &str| DeliveryTarget {
                channel: ChannelId::from(SPEC.id),
                account: self.account.clone(),
                to: to.to_owned(),
                thread_id: None,
                reply_to: None,
            };
            intake
                .accept(Inbound {
                    channel: ChannelId::from(SPEC.id),
                    account: self.account.clone(),
                    // Repeats are known by this id: it must be the same when the platform delivers a message again.
                    message_id: count.to_string(),
                    peer: Peer { kind: PeerKind::Direct, id: self.name.clone() },
                    parent_peer: None,
                    thread_id: None,
                    guild_id: None,
                    team_id: None,
                    roles: Vec::new(),
                    sender_id: self.name.clone(),
                    sender_name: self.name.clone(),
                    mentioned: true,
                    body: vec![Part::text(text)],
                    at: SystemClock.now(),
                    reply: here(&self.name),
                })
                .await?;
            // Only now, when it is stored, the platform may forget it.
            intake.keep("count", count.to_string()).await?;
        }
    }
}

/// Sends.
struct Printer;

#[async_trait]
impl Outlet for Printer {
    async fn send(&self, message: &Outbound) -> Sent {
        let text: String = message.body.iter().filter_map(|part| if let Part::Text { text } = part { Some(text.as_str()) } else { None }).collect();
        println!("to {}: {text}", message.target.to);
        Sent { outcome: Outcome::Done, message_id: Some(message.effect_id.clone()) }
    }
}

/// Stands in for the gateway: keeps what it is told and says everything again.
struct Echo {
    outlet: Arc<dyn Outlet>,
    kept: Mutex<std::collections::BTreeMap<String, String>>,
}

#[async_trait]
impl Intake for Echo {
    async fn accept(&self, message: Inbound) -> Result<(), Failure> {
        let sent = self.outlet.send(&Outbound { effect_id: format!("echo-{}", message.message_id), target: message.reply, body: message.body }).await;
        if sent.outcome == Outcome::Done { Ok(()) } else { Err(Failure::unavailable("the echo was not sent", 0)) }
    }

    async fn recall(&self, key: &str) -> Result<Option<String>, Failure> {
        Ok(self.kept.lock().map_err(|_| Failure::internal("poisoned"))?.get(key).cloned())
    }

    async fn keep(&self, key: &str, value: String) -> Result<(), Failure> {
        self.kept.lock().map_err(|_| Failure::internal("poisoned"))?.insert(key.to_owned(), value);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let world = World::simulated(1);
    let channel = (SPEC.build)(&world, &AccountId::from("default"), &json!({ "name": "ann" }))?;
    let (Some(ingress), Some(outlet)) = (channel.ingress, channel.outlet) else { return Err("the channel can neither receive nor send".into()) };
    ingress.run(Arc::new(Echo { outlet, kept: Mutex::default() }), CancellationToken::new()).await?;
    Ok(())
}
