use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use clawstead_terms::{AccountId, ChannelId, DeliveryTarget, EffectClass, Failure, Millis, Outcome, Part, Peer};
use clawstead_world::World;
use tokio_util::sync::CancellationToken;

/// A message that came in from a platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    /// The platform.
    pub channel: ChannelId,
    /// Our account.
    pub account: AccountId,
    /// The platform's id of the message: repeats are known by it.
    pub message_id: String,
    /// The conversation.
    pub peer: Peer,
    /// The conversation around it: the channel of a thread, the group of a topic.
    #[serde(default)]
    pub parent_peer: Option<Peer>,
    /// Thread or topic.
    #[serde(default)]
    pub thread_id: Option<String>,
    /// Discord guild.
    #[serde(default)]
    pub guild_id: Option<String>,
    /// Slack or Teams team.
    #[serde(default)]
    pub team_id: Option<String>,
    /// The sender's roles.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The platform's id of the sender.
    pub sender_id: String,
    /// The sender's name.
    pub sender_name: String,
    /// True when we were named or answered to.
    #[serde(default)]
    pub mentioned: bool,
    /// What was said.
    pub body: Vec<Part>,
    /// When, by the platform's clock.
    pub at: Millis,
    /// Where the answer goes.
    pub reply: DeliveryTarget,
}

/// Where a channel hands its messages in. `Ok` means stored: only now the platform may be told so.
#[async_trait]
pub trait Intake: Send + Sync {
    /// Stores the message, once.
    ///
    /// # Errors
    /// When it could not be stored; the platform must keep it.
    async fn accept(&self, message: Inbound) -> Result<(), Failure>;

    /// Reads what the channel keeps under `key` (cursor, resume token).
    ///
    /// # Errors
    /// When the store is away.
    async fn recall(&self, key: &str) -> Result<Option<String>, Failure>;

    /// Keeps a value durably.
    ///
    /// # Errors
    /// When it could not be stored.
    async fn keep(&self, key: &str, value: String) -> Result<(), Failure>;
}

/// Something to send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outbound {
    /// The key of the effect: platforms that know repeats get it as nonce or transaction id.
    pub effect_id: String,
    /// Where to.
    pub target: DeliveryTarget,
    /// What.
    pub body: Vec<Part>,
}

/// What came of sending.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// How it ended.
    pub outcome: Outcome,
    /// The platform's id of the new message.
    pub message_id: Option<String>,
}

/// Receives: runs until cancelled, reconnects by itself.
#[async_trait]
pub trait Ingress: Send + Sync {
    /// Listens and hands messages to `intake` until `stop`.
    ///
    /// # Errors
    /// When the account cannot work (wrong token, replaced by another session).
    async fn run(&self, intake: Arc<dyn Intake>, stop: CancellationToken) -> Result<(), Failure>;
}

/// Sends.
#[async_trait]
pub trait Outlet: Send + Sync {
    /// Sends one message. `Outcome::Unknown` when the request may have arrived.
    async fn send(&self, message: &Outbound) -> Sent;

    /// `Idempotent` when the platform knows repeats by the effect id: then an uncertain send is simply made again.
    /// Otherwise (`Once`, the default) it ends as `Unknown` and a person decides.
    fn class(&self) -> EffectClass {
        EffectClass::Once
    }
}

/// A channel account: a capability is a value that is present, not a method that says no.
#[derive(Clone, Default)]
pub struct Channel {
    /// Receives.
    pub ingress: Option<Arc<dyn Ingress>>,
    /// Sends.
    pub outlet: Option<Arc<dyn Outlet>>,
}

/// What a channel is.
#[derive(Clone, Copy)]
pub struct ChannelSpec {
    /// `slack`, `loopback`, ...
    pub id: &'static str,
    /// For people.
    pub label: &'static str,
    /// Builds one account from `channels.<id>` merged with `channels.<id>.accounts.<account>`.
    pub build: fn(world: &World, account: &AccountId, section: &Value) -> Result<Channel, Failure>,
}
