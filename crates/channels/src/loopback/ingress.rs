use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http::Method;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use clawstead_terms::{AccountId, ChannelId, DeliveryTarget, Failure, Millis, Part, Peer, PeerKind};
use clawstead_world::World;

use super::config::Config;
use crate::channel::{Inbound, Ingress, Intake};

/// The key of the cursor: the first update not yet stored.
const OFFSET: &str = "offset";
/// Largest answer to one poll.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Longest wait between tries after errors.
const BACK_OFF_MS_MAX: u64 = 30_000;

pub struct Polling {
    pub world: World,
    pub account: AccountId,
    pub config: Arc<Config>,
}

#[derive(Deserialize)]
struct Updates {
    updates: Vec<Update>,
}

#[derive(Deserialize)]
struct Update {
    id: u64,
    message: Message,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    id: String,
    chat: Chat,
    sender: Sender,
    text: String,
    #[serde(default)]
    thread_id: Option<String>,
    #[serde(default)]
    mentioned: bool,
    #[serde(default)]
    at: Option<i64>,
}

#[derive(Deserialize)]
struct Chat {
    kind: PeerKind,
    id: String,
}

#[derive(Deserialize)]
struct Sender {
    id: String,
    name: String,
}

#[async_trait]
impl Ingress for Polling {
    async fn run(&self, intake: Arc<dyn Intake>, stop: CancellationToken) -> Result<(), Failure> {
        let mut offset: Option<u64> = None;
        let mut wait_ms = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            }
            let round = async {
                if offset.is_none() {
                    offset = Some(intake.recall(OFFSET).await?.and_then(|text| text.parse().ok()).unwrap_or(0));
                }
                self.round(intake.as_ref(), offset.get_or_insert(0)).await
            };
            let done = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                done = round => done,
            };
            wait_ms = match done {
                Ok(()) => 0,
                Err(failure) => {
                    let next = (wait_ms * 2).clamp(500, BACK_OFF_MS_MAX);
                    tracing::warn!(channel = "loopback", account = %self.account, err = %failure, retry_ms = next, "polling failed");
                    next / 2 + self.world.rng.below(next / 2)
                }
            };
        }
    }
}

impl Polling {
    /// One poll: stores every update, then moves the cursor. A crash in between brings the update again, and the
    /// intake knows it by its id.
    async fn round(&self, intake: &dyn Intake, offset: &mut u64) -> Result<(), Failure> {
        let mut request = self.config.request(Method::GET, &format!("/updates?offset={offset}&timeout={}", self.config.poll_seconds))?;
        request.head_timeout_ms = (self.config.poll_seconds + 10) * 1_000;
        let response = self.world.http.send(request).await.map_err(|e| Failure::unavailable(e.to_string(), 1_000))?;
        let status = response.status;
        let (body, cut) = response.read(BODY_BYTES_MAX).await.map_err(|e| Failure::unavailable(e.to_string(), 1_000))?;
        if !status.is_success() || cut {
            return Err(Failure::unavailable(format!("{} answered {status}", self.config.url), 1_000));
        }
        let updates: Updates =
            serde_json::from_slice(&body).map_err(|e| Failure::unavailable(format!("{} answered something else than updates: {e}", self.config.url), 1_000))?;
        for update in updates.updates {
            let next = update.id + 1;
            intake.accept(self.inbound(update.message)).await?;
            *offset = next;
        }
        intake.keep(OFFSET, offset.to_string()).await
    }

    fn inbound(&self, message: Message) -> Inbound {
        let channel = ChannelId::from("loopback");
        let reply = DeliveryTarget {
            channel: channel.clone(),
            account: self.account.clone(),
            to: message.chat.id.clone(),
            thread_id: message.thread_id.clone(),
            reply_to: Some(message.id.clone()),
        };
        Inbound {
            channel,
            account: self.account.clone(),
            message_id: message.id,
            peer: Peer { kind: message.chat.kind, id: message.chat.id },
            parent_peer: None,
            thread_id: message.thread_id,
            guild_id: None,
            team_id: None,
            roles: Vec::new(),
            sender_id: message.sender.id,
            sender_name: message.sender.name,
            mentioned: message.mentioned,
            body: vec![Part::text(message.text)],
            at: message.at.map_or_else(|| self.world.clock.now(), Millis),
            reply,
        }
    }
}
