//! Where channel messages come in: who may speak, which agent, which session; then the one door.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_channels::{Inbound, Intake};
use clawstead_state::Table;
use clawstead_terms::{AccountId, AgentId, ChannelId, Envelope, EnvelopeKind, Failure, Origin, Part, TurnOptions, Unit};
use clawstead_world::{Post, World};

use crate::{
    keeper::Keeper,
    observe,
    policy::{self, Admission},
    routing::{self, Rule, SessionRules},
};

/// What reception needs of the config; a reload swaps it.
#[derive(Clone, Debug)]
pub struct Book {
    /// Bindings in config order.
    pub rules: Vec<Rule>,
    /// The agent for everything else.
    pub default_agent: AgentId,
    /// How sessions are cut.
    pub sessions: SessionRules,
}

/// Takes messages of one account in.
pub struct Reception {
    /// The one door.
    pub post: Arc<dyn Post>,
    /// Where cursors lie.
    pub keeper: Keeper,
    /// Clock and ids.
    pub world: World,
    /// Bindings.
    pub book: Arc<ArcSwap<Book>>,
    /// The channel.
    pub channel: ChannelId,
    /// The account.
    pub account: AccountId,
    /// The account's section.
    pub section: Value,
    /// `dmPolicy` where the section has none.
    pub dm_default: &'static str,
}

impl Reception {
    fn unit(&self) -> Unit {
        Unit::Account(self.channel.clone(), self.account.clone())
    }
}

#[async_trait]
impl Intake for Reception {
    async fn accept(&self, message: Inbound) -> Result<(), Failure> {
        if let Admission::Drop(why) = policy::admit(&self.section, &message, self.dm_default) {
            tracing::info!(channel = %message.channel, account = %message.account, sender = %message.sender_id, why, "a message was dropped");
            return Ok(());
        }
        let book = self.book.load();
        let routed = routing::route(&book.rules, &message, &book.default_agent);
        let session = routing::session_key(&book.sessions, &routed.agent, &message);
        tracing::debug!(channel = %message.channel, account = %message.account, agent = %routed.agent, session = %session, by = routed.matched_by, "routed");
        let span = observe::message(&self.world, &self.channel);
        let mut letter = letter(&self.world, message, routed.agent, session, &self.section);
        letter.traceparent = span.traceparent();
        self.post.deliver(letter).await.map(|_| ())
    }

    async fn recall(&self, key: &str) -> Result<Option<String>, Failure> {
        self.keeper.get(&self.unit(), Table::Channel, key).await
    }

    async fn keep(&self, key: &str, value: String) -> Result<(), Failure> {
        self.keeper.put(&self.unit(), Table::Channel, key, &value).await
    }
}

/// The letter of a message. Its run id is made from the platform's message id, so a repeat is the same letter.
fn letter(world: &World, message: Inbound, agent: AgentId, session: clawstead_terms::SessionKey, section: &Value) -> Envelope {
    let now = world.clock.now();
    let owner = section.get("owners").and_then(Value::as_array).is_some_and(|list| list.iter().any(|id| id.as_str() == Some(message.sender_id.as_str())));
    let mut body = message.body;
    if message.peer.kind != clawstead_terms::PeerKind::Direct {
        // In a group the model must know who speaks.
        body.insert(0, Part::text(format!("[{} in {}]", message.sender_name, message.peer.id)));
    }
    Envelope {
        id: world.rng.uuid_v7(now).into(),
        run_id: format!("in:{}:{}:{}", message.channel, message.account, message.message_id).into(),
        kind: EnvelopeKind::Request,
        from: Origin::Channel {
            channel: message.channel,
            account: message.account,
            sender_id: message.sender_id,
            sender_name: message.sender_name,
            message_id: message.message_id,
            owner,
        },
        to: clawstead_terms::Address { agent, session },
        reply_to: None,
        cause: None,
        body,
        options: TurnOptions { deliver_to: Some(message.reply), ..TurnOptions::default() },
        path: Vec::new(),
        at: now,
        expires: None,
        traceparent: None,
    }
}

/// The status of an account as `channels.status` shows it.
#[must_use]
pub fn account_status(account: &AccountId, running: Option<i64>, error: Option<&str>) -> Value {
    json!({
        "accountId": account,
        "enabled": true,
        "configured": true,
        "running": running.is_some(),
        "connected": running.is_some() && error.is_none(),
        "lastStartAt": running,
        "lastError": error,
    })
}
