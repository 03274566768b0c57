//! Letters that people and scripts put into a box by hand, unsigned (`consul kv put openclaw/agents/<id>/inbox/<name>`):
//! taken where the config lists the box, once for each name, and removed whatever becomes of them.

use bytes::Bytes;
use clawstead_bus::Settle;
use clawstead_cluster::{
    envelope::Refusal,
    letter::{Event, Row, RowInput, busy_level},
    simple::{self, allowed, dedupe_key, row_envelope},
};
use clawstead_terms::Unit;

use super::{
    Head, TakenRow,
    clerk::{Clerk, Then},
    rows::in_key_of,
};

/// A letter that is no envelope, from the box of a unit.
pub(super) struct ByHand {
    /// The box.
    pub party: String,
    /// The last part of its key.
    pub name: String,
    /// What lies there.
    pub raw: Bytes,
    /// Why it is no envelope.
    pub refusal: Refusal,
}

impl Clerk {
    pub(super) async fn by_hand(&mut self, found: ByHand, settle: Settle) {
        let key = format!("openclaw/agents/{}/inbox/{}", found.party, found.name);
        let now = self.parts.now();
        let letter = match simple::parse(&key, &found.raw, now.wall) {
            Ok(letter) => letter,
            // Somebody meant to write an envelope, or the key is none of an agent's inbox.
            Err(simple::Refusal::Envelope | simple::Refusal::Key(_)) => {
                self.parts.witness.rejected(None, found.refusal.code(), &format!("{key}: {}", found.refusal));
                return self.settle(settle);
            }
            Err(why) => {
                self.parts.witness.rejected(None, "unsigned", &format!("{key}: {why}"));
                return self.settle(settle);
            }
        };
        let unit = Unit::Agent(letter.to.clone());
        // Not (yet) ours: whoever holds the agent reads it.
        let Some(epoch) = self.parts.keeper.claims.get(&unit).map(|fence| fence.epoch) else { return };
        let id = self.parts.world.rng.uuid_v7(now.wall);
        let envelope = row_envelope(&letter, &self.parts.farm, id, now.wall);
        let place = (unit, in_key_of(&dedupe_key(&letter)));
        match self.known(&place).await {
            Ok(None) => {}
            Ok(Some(taken)) => {
                self.parts.witness.told(&taken.head, &Event::Duplicate);
                return self.settle(settle);
            }
            Err(failure) => return tracing::warn!(err = %failure, key, "an unsigned letter cannot be checked; it is read again"),
        }
        let (bytes, letters) = self.inbox_depth(&place.0);
        if busy_level(letters, bytes).turns_away(envelope.priority()).is_some() {
            // It stays where it is until there is room: nobody would send it again.
            return;
        }
        let checked = {
            let (rules, policy) = (self.parts.rules.load(), self.parts.policy.load());
            allowed(&letter, &key, &rules.accept_unsigned, &policy, &mut self.limiter, now.mono_ms)
        };
        if let Err(refusal) = checked {
            self.parts.witness.rejected(Some(&Head::of(&envelope)), refusal.code(), &format!("{key}: {refusal}"));
            return self.settle(settle);
        }
        let (row, mut acts) = Row::arrived(&envelope, epoch, now);
        let (row, more) = row.step(&RowInput::Start, epoch, now);
        acts.extend(more);
        let taken = TakenRow { row, head: Head::of(&envelope), letter: Some(envelope.clone()), history: Vec::new() };
        self.keep(place, taken, &envelope, acts, Vec::new(), vec![Then::Settle(settle)], now);
    }
}
