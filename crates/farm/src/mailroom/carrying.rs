//! Letters, questions and receipts on their way to the bus. What is lost here is made again by a later attempt.

use std::sync::Arc;

use clawstead_bus::{MailBox, Published, Sealed};
use clawstead_cluster::{
    envelope::{Envelope, Hop, MailState, Receipt, ReceiptType},
    letter::status_query,
};
use clawstead_terms::Unit;
use tokio::sync::mpsc;

use super::{
    bodies::offer,
    clerk::{Clerk, Command},
};

impl Clerk {
    /// Hands an attempt to the bus.
    pub(super) fn publish(&self, unit: Unit, envelope: Arc<Envelope>, attempt: u32, state: MailState, gateway: Option<String>, epoch: u64) {
        let (parts, commands) = (Arc::clone(&self.parts), self.commands.clone());
        clawstead_world::spawn(async move {
            let id = envelope.message_id.clone();
            let hop = Hop {
                state,
                retry_count: attempt,
                hops: vec![parts.gateway.clone()],
                sender_gateway: parts.gateway.clone(),
                sender_epoch: epoch,
                target_gateway: gateway,
                ..Hop::default()
            };
            let to = MailBox::Unit(envelope.target_agent.clone());
            // The link to this gateway is asked first; where there is none, or it was no use, the engine has the body too.
            if envelope.body_ref.is_some()
                && (parts.peers.is_none() || attempt > 0)
                && let Some(blobs) = parts.bus.blobs()
                && let Err(why) = offer(&parts, blobs, &unit, &envelope).await
            {
                tracing::debug!(message = id, why, "the body of a letter was not carried");
                let _ = commands.send(Command::NotCarried { id, after_ms: None }).await;
                return;
            }
            // The first attempt usually goes as the letter was written, and needs no other signature.
            let bytes = if envelope.hop == hop {
                envelope.to_bytes()
            } else {
                Envelope::clone(&envelope).with_hop(hop, &parts.key.load()).and_then(|letter| letter.to_bytes())
            };
            let after_ms = match bytes {
                Err(refusal) => {
                    tracing::error!(message = id, err = %refusal, "a letter cannot be signed");
                    None
                }
                Ok(bytes) => match parts.bus.publish(&to, &Sealed { message_id: id.clone(), attempt, bytes: bytes.into() }).await {
                    Ok(Published::Accepted | Published::Duplicate) => return,
                    Ok(Published::Busy(wait)) => Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
                    Err(err) => {
                        tracing::debug!(message = id, %err, "a letter was not carried");
                        None
                    }
                },
            };
            let _ = commands.send(Command::NotCarried { id, after_ms }).await;
        });
    }

    /// A letter with a large body ended: the engine need not keep the body. What is left is over with its time.
    pub(super) fn forget_body(&self, envelope: Arc<Envelope>) {
        let parts = Arc::clone(&self.parts);
        clawstead_world::spawn(async move {
            if let Some(blobs) = parts.bus.blobs()
                && let Err(err) = blobs.remove(&envelope.message_id).await
            {
                tracing::debug!(%err, "a body stays with the engine until its time is over");
            }
        });
    }

    /// Asks the owner of the target where a letter stands. A lost question is asked again.
    pub(super) fn ask_status(&self, envelope: Arc<Envelope>, gateway: Option<String>, epoch: u64) {
        let parts = Arc::clone(&self.parts);
        clawstead_world::spawn(async move {
            let now = parts.world.clock.now();
            let id = parts.world.rng.uuid_v7(now);
            let to = MailBox::Unit(envelope.target_agent.clone());
            let sealed = status_query(&envelope, id.clone(), now, epoch, gateway, &parts.key.load()).and_then(|question| question.to_bytes());
            match sealed {
                Ok(bytes) => {
                    if let Err(err) = parts.bus.publish(&to, &Sealed { message_id: id, attempt: 0, bytes: bytes.into() }).await {
                        tracing::debug!(%err, "a question was not carried");
                    }
                }
                Err(refusal) => tracing::error!(err = %refusal, "a question cannot be signed"),
            }
        });
    }

    pub(super) fn busy_receipt(&mut self, letter: Envelope, wait_ms: u64, epoch: u64) {
        let mut receipt = Receipt::plain(letter.message_id.clone(), ReceiptType::Busy, epoch);
        (receipt.retry_after_ms, receipt.retryable) = (wait_ms, true);
        self.send_receipt(Arc::new(letter), receipt);
    }

    pub(super) fn command_line(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }
}
