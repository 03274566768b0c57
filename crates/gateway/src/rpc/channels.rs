//! Channels and sending: `channels.*`, `send`, `message.action`, `poll`.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use clawstead_agent::{OutboxRow, OutboxState};
use clawstead_channels as channels;
use clawstead_terms::{AgentId, DeliveryTarget, Outcome, Part, SessionKey};
use clawstead_wire::{
    error::ErrorShape,
    methods::channels::{
        AccountRef, ActionParams, ChannelsApi, PairingApproveParams, PairingDismissParams, PairingListParams, PollParams, SendParams, StatusParams,
    },
};
use clawstead_world::World;
use std::sync::Arc;

use super::Cx;
use crate::{
    accounts::Accounts,
    desk::Desk,
    outbox::{Outbox, Outlets},
    vitals,
};

/// How long a call waits for its message to leave; it goes on by itself afterwards.
const SEND_WAIT: Duration = Duration::from_secs(15);

/// The handlers of this area.
pub struct ChannelsRpc {
    /// Accounts and how they are.
    pub accounts: Accounts,
    /// Who can send.
    pub outlets: Arc<Outlets>,
    /// Where messages wait to leave.
    pub outbox: Outbox,
    /// Sessions, for the last channel of an agent.
    pub desk: Arc<Desk>,
    /// Clock and ids.
    pub world: World,
}

struct Wanted {
    channel: Option<String>,
    account: Option<String>,
    to: Option<String>,
    thread: Option<String>,
    reply_to: Option<String>,
    session: Option<String>,
    agent: Option<String>,
}

impl ChannelsRpc {
    fn agent(&self, id: Option<&str>) -> Result<AgentId, ErrorShape> {
        self.desk.agent(id).map_err(ErrorShape::from)
    }

    /// Where a message goes: as named, or the session's last channel.
    fn target(&self, wanted: &Wanted) -> Result<(SessionKey, DeliveryTarget), ErrorShape> {
        let agent = self.agent(wanted.agent.as_deref())?;
        let session = match &wanted.session {
            Some(key) => SessionKey::resolve(key, &agent).map_err(|e| ErrorShape::invalid(e.to_string()))?,
            None => SessionKey::main(&agent),
        };
        let last = self.desk.row(&session).and_then(|row| row.delivery_context.clone());
        let named = wanted.channel.as_deref().map(str::to_lowercase).filter(|c| !matches!(c.as_str(), "last" | "webchat" | ""));
        let able = self.outlets.channels();
        let channel = match (named, &last, able.as_slice()) {
            (Some(channel), _, _) => channel,
            (None, Some(last), _) => last.channel.to_string(),
            (None, None, [only]) => only.to_string(),
            (None, None, []) => {
                return Err(ErrorShape::invalid("Error: Channel is required (no configured channels detected). Add one under channels in the config."));
            }
            (None, None, many) => {
                let names: Vec<&str> = many.iter().map(clawstead_terms::ChannelId::as_str).collect();
                return Err(ErrorShape::invalid(format!("Error: Channel is required when several are configured: {}. Pass channel.", names.join(", "))));
            }
        };
        if channels::find(&channel).is_none() {
            let known = channels::KNOWN.iter().any(|(id, _)| *id == channel);
            let why = if known { "is not available in this version yet" } else { "is unknown" };
            return Err(ErrorShape::invalid(format!("Error: channel {channel} {why}")));
        }
        let same = last.as_ref().filter(|l| l.channel.as_str() == channel);
        let account = wanted.account.as_deref().map(str::to_lowercase).or_else(|| same.map(|l| l.account.to_string())).unwrap_or_else(|| "default".into());
        let to = wanted
            .to
            .clone()
            .filter(|to| !to.is_empty())
            .or_else(|| same.map(|l| l.to.clone()))
            .ok_or_else(|| ErrorShape::invalid("Error: `to` is required: whom does the message go to?"))?;
        let prefix = format!("{channel}:");
        let to = to.strip_prefix(&prefix).map_or(to.clone(), str::to_owned);
        let thread_id = wanted.thread.clone().or_else(|| same.filter(|l| l.to == to).and_then(|l| l.thread_id.clone()));
        Ok((session, DeliveryTarget { channel: channel.into(), account: account.into(), to, thread_id, reply_to: wanted.reply_to.clone() }))
    }

    async fn send(&self, wanted: &Wanted, text: &str, key: &str) -> Result<Value, ErrorShape> {
        if text.trim().is_empty() {
            return Err(ErrorShape::invalid("Error: message must not be empty"));
        }
        let (session, target) = self.target(wanted)?;
        let now = self.world.clock.now();
        let row = OutboxRow {
            id: uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, format!("clawstead:send:{key}").as_bytes()).to_string(),
            run_id: format!("send:{key}").into(),
            session,
            target,
            body: vec![Part::text(text)],
            state: OutboxState::Queued,
            attempts: 0,
            next_attempt_at: None,
            created_at: now,
            updated_at: now,
            receipt: None,
            outcome: None,
            traceparent: clawstead_world::trace::current(),
        };
        let row = self.outbox.send(row, SEND_WAIT).await.map_err(ErrorShape::from)?;
        match row.state {
            OutboxState::Done => Ok(
                json!({"runId": row.run_id, "messageId": row.receipt, "channel": row.target.channel, "accountId": row.target.account, "to": row.target.to, "deliveryStatus": "delivered"}),
            ),
            OutboxState::Failed => {
                let why = match row.outcome {
                    Some(Outcome::Failed(failure)) => failure.message,
                    _ => "the message could not be sent".into(),
                };
                Err(ErrorShape::unavailable(why))
            }
            OutboxState::Unknown => Err(ErrorShape::unavailable("it is not known whether the message arrived; look before sending it again")
                .with_details(json!({"code": "OUTBOUND_DELIVERY_UNKNOWN", "id": row.id}))),
            OutboxState::Queued | OutboxState::Sending => Err(ErrorShape {
                details: Some(json!({"code": "OUTBOUND_DELIVERY_QUEUED", "id": row.id, "channel": row.target.channel})),
                ..ErrorShape::unavailable(format!("the message is stored and will be sent when {} can be reached", row.target.channel))
            }),
        }
    }
}

fn text(params: &Map<String, Value>, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| params.get(*key)).and_then(|v| v.as_str().map(str::to_owned).or_else(|| v.as_i64().map(|n| n.to_string())))
}

fn unknown(channel: &str) -> ErrorShape {
    ErrorShape::invalid(format!("channel {channel} has no such operation in this version"))
}

#[async_trait]
impl ChannelsApi<Cx> for ChannelsRpc {
    async fn status(&self, _: &Cx, params: StatusParams) -> Result<Value, ErrorShape> {
        let mut status = self.accounts.status();
        status["eventLoop"] = vitals::event_loop();
        if let Some(only) = params.channel
            && let Some(order) = status["channelOrder"].as_array_mut()
        {
            order.retain(|id| id.as_str() == Some(only.as_str()));
        }
        Ok(status)
    }

    async fn start(&self, _: &Cx, params: AccountRef) -> Result<Value, ErrorShape> {
        let started = self.accounts.restart(&params.channel, params.account_id.as_deref());
        if started {
            Ok(json!({"ok": true, "channel": params.channel, "started": true}))
        } else {
            Err(ErrorShape::invalid(format!("channel {} is not configured", params.channel)))
        }
    }

    async fn stop(&self, _: &Cx, params: AccountRef) -> Result<Value, ErrorShape> {
        let stopped = self.accounts.stop(&params.channel, params.account_id.as_deref());
        Ok(json!({"ok": true, "channel": params.channel, "stopped": stopped}))
    }

    async fn logout(&self, _: &Cx, params: AccountRef) -> Result<Value, ErrorShape> {
        let account = params.account_id.as_deref().unwrap_or("default");
        if channels::find(&params.channel).is_none() {
            return Err(unknown(&params.channel));
        }
        // No channel here keeps a sign-in of its own: what it needs is in the config, and stays there.
        let stopped = self.accounts.stop(&params.channel, params.account_id.as_deref());
        Ok(json!({"channel": params.channel, "accountId": account, "cleared": false, "loggedOut": stopped}))
    }

    async fn send(&self, _: &Cx, params: SendParams) -> Result<Value, ErrorShape> {
        if params.media_url.is_some() || params.media_urls.is_some() || params.buffer.is_some() {
            return Err(ErrorShape::invalid("Error: media cannot be sent in this version; send text"));
        }
        let wanted = Wanted {
            channel: params.channel,
            account: params.account_id,
            to: Some(params.to),
            thread: params.thread_id,
            reply_to: params.reply_to_id,
            session: params.session_key,
            agent: params.agent_id,
        };
        self.send(&wanted, params.message.as_deref().unwrap_or_default(), &params.idempotency_key).await
    }

    async fn action(&self, _: &Cx, params: ActionParams) -> Result<Value, ErrorShape> {
        if params.action != "send" {
            return Err(ErrorShape::invalid(format!("Error: action {} is not supported on channel {}", params.action, params.channel)));
        }
        let p = &params.params.0;
        let wanted = Wanted {
            channel: Some(params.channel.clone()),
            account: params.account_id.clone().or_else(|| text(p, &["accountId"])),
            to: text(p, &["to", "target", "channelId", "chatId"]),
            thread: text(p, &["threadId"]),
            reply_to: text(p, &["replyTo", "replyToId"]),
            session: params.session_key.clone(),
            agent: params.agent_id.clone(),
        };
        let message = text(p, &["message", "text", "content"]).unwrap_or_default();
        let sent = self.send(&wanted, &message, &params.idempotency_key).await?;
        Ok(json!({"ok": true, "action": "send", "channel": sent["channel"], "payload": sent, "messageId": sent["messageId"], "runId": sent["runId"]}))
    }

    async fn poll(&self, _: &Cx, params: PollParams) -> Result<Value, ErrorShape> {
        Err(ErrorShape::invalid(format!("Error: polls are not supported on channel {}", params.channel.as_deref().unwrap_or("last"))))
    }

    async fn pairing_list(&self, _: &Cx, _: PairingListParams) -> Result<Value, ErrorShape> {
        Ok(json!({"requests": [], "accounts": [], "commandOwnerConfigured": false, "limits": {"pendingPerAccount": 0, "ttlMs": 0}}))
    }

    async fn pairing_approve(&self, _: &Cx, params: PairingApproveParams) -> Result<Value, ErrorShape> {
        Err(ErrorShape::invalid(format!("no pairing request {} on channel {}", params.request_id, params.channel)))
    }

    async fn pairing_dismiss(&self, _: &Cx, params: PairingDismissParams) -> Result<Value, ErrorShape> {
        Err(ErrorShape::invalid(format!("no pairing request {} on channel {}", params.request_id, params.channel)))
    }
}
