//! Receipts on their way. What several letters between two agents are told at about the same time goes in one envelope: it
//! costs two signatures and one message instead of two and one each.

use std::{collections::BTreeMap, sync::Arc};

use clawstead_bus::{MailBox, Sealed};
use clawstead_cluster::{
    envelope::{Envelope, RECEIPTS_MAX, Receipt, ReceiptType, receipts_for},
    names::party_unit,
};

use super::clerk::Clerk;

/// How long `delivered` waits for the end of the work, ms: quick work then is told once and stored once. The sender waits
/// for two seconds.
const HOLD_MS: u64 = 40;

/// Gateway, agent that is told, agent that tells, its epoch.
type To = (String, String, String, u64);

/// Receipts that were not sent yet.
#[derive(Default)]
pub(super) struct Receipts {
    piles: BTreeMap<To, Pile>,
    due: Option<u64>,
}

struct Pile {
    letter: Arc<Envelope>,
    /// By letter: each receipt says all that the ones before said.
    receipts: BTreeMap<String, (u64, Receipt)>,
}

impl Receipts {
    /// When they are to be sent, on the boot clock, ms.
    pub(super) const fn due_at(&self) -> Option<u64> {
        self.due
    }
}

impl Clerk {
    /// Tells the sender of a letter where it stands, within milliseconds. Lost receipts are made good by its next attempt.
    pub(super) fn send_receipt(&mut self, letter: Arc<Envelope>, receipt: Receipt) {
        // Nobody waits for one of a letter that was put here by hand.
        if letter.sig.is_none() {
            return;
        }
        let owner = party_unit(&letter.source_agent).and_then(|unit| self.parts.places.of(&unit)).filter(|place| place.alive).map(|place| place.gateway);
        let gateway = owner.unwrap_or_else(|| letter.source_gateway.clone());
        let now = self.parts.now().mono_ms;
        let due = if receipt.kind == ReceiptType::Delivered { now + HOLD_MS } else { now };
        let to = (gateway, letter.source_agent.clone(), letter.target_agent.clone(), receipt.receiver_epoch);
        let pile = self.receipts.piles.entry(to).or_insert_with(|| Pile { letter, receipts: BTreeMap::new() });
        pile.receipts.insert(receipt.of.clone(), (due, receipt));
        self.receipts.due = Some(self.receipts.due.map_or(due, |before| before.min(due)));
        if pile.receipts.len() >= RECEIPTS_MAX {
            self.send_receipts(u64::MAX);
        }
    }

    /// Sends what is due.
    pub(super) fn send_receipts(&mut self, now_ms: u64) {
        self.receipts.due = None;
        for (to, mut pile) in std::mem::take(&mut self.receipts.piles) {
            let held: BTreeMap<_, _> = pile.receipts.extract_if(.., |_, (due, _)| *due > now_ms).collect();
            if let Some(first) = held.values().map(|(due, _)| *due).min() {
                self.receipts.due = Some(self.receipts.due.map_or(first, |before| before.min(first)));
                self.receipts.piles.insert(to.clone(), Pile { letter: Arc::clone(&pile.letter), receipts: held });
            }
            if pile.receipts.is_empty() {
                continue;
            }
            let (gateway, ..) = to;
            let parts = Arc::clone(&self.parts);
            clawstead_world::spawn(async move {
                let now = parts.world.clock.now();
                let id = parts.world.rng.uuid_v7(now);
                let receipts: Vec<Receipt> = pile.receipts.into_values().map(|(_, receipt)| receipt).collect();
                let sealed =
                    receipts_for(&pile.letter, &receipts, id.clone(), now, &parts.key.load(), Some(gateway.clone())).and_then(|envelope| envelope.to_bytes());
                match sealed {
                    Ok(bytes) => {
                        if let Err(err) = parts.bus.publish(&MailBox::Gateway(gateway), &Sealed { message_id: id, attempt: 0, bytes: bytes.into() }).await {
                            tracing::debug!(%err, "receipts were not carried; the letters come again");
                        }
                    }
                    Err(refusal) => tracing::error!(err = %refusal, "receipts cannot be signed"),
                }
            });
        }
    }
}
