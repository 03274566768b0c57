//! What people are shown of a farm: its state, its letters, its dead letters.

use std::collections::BTreeMap;

use clawstead_cluster::names::unit_party;
use clawstead_terms::{Failure, Unit};
use serde_json::{Value, json};

use super::{Farm, REFUSED_SHOWN, SHOWN_MAX};
use crate::troubles;

impl Farm {
    /// Everything at a glance.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub async fn status(&self) -> Result<Value, Failure> {
        let me = self.membership.me();
        let (mut queued, mut in_flight, mut delivered, mut dead) = (0_u64, 0_u64, 0_u64, 0_u64);
        for unit in self.units() {
            for sent in self.mailroom.sent(&unit, SHOWN_MAX).await? {
                use clawstead_cluster::envelope::MailState;
                match sent.row.state {
                    MailState::Queued if sent.row.sends > 0 => in_flight += 1,
                    MailState::Queued => queued += 1,
                    MailState::Delivered => delivered += 1,
                    _ => {}
                }
            }
            dead += self.mailroom.dead(&unit, SHOWN_MAX).await?.iter().filter(|dead| dead.replayed_as.is_none()).count() as u64;
        }
        let (beats, missed) = self.membership.heartbeats();
        let counts: BTreeMap<String, u64> = self.events.counts().into_iter().fold(BTreeMap::new(), |mut sums, ((name, reason), count)| {
            let name = if reason.is_empty() { name.to_owned() } else { format!("{name}.{reason}") };
            *sums.entry(name).or_default() += count;
            sums
        });
        let mut out = json!({
            "farm": me.farm,
            "gateway": me.gateway,
            "key": self.kid(),
            "coord": {},
            "bus": {},
            "gateways": self.membership.gateways(),
            "agents": self.membership.agents(),
            "letters": {"queued": queued, "inFlight": in_flight, "delivered": delivered, "dead": dead},
            "heartbeats": {"sent": beats, "missed": missed},
            "events": counts,
            "refusedLately": self.refused_lately(),
            "refusals": troubles::refused(&counts),
            "problems": self.membership.problems(),
        });
        troubles::look(self, &mut out).await;
        if let Some(links) = &self.links {
            out["links"] = serde_json::to_value(links.status()).unwrap_or_default();
        }
        Ok(out)
    }

    /// Letters that were not taken lately, newest first: when, why, from whom.
    fn refused_lately(&self) -> Vec<Value> {
        let (latest, _) = self.events.since(None, crate::events::KEPT_MAX);
        let refused = latest.iter().rev().filter(|event| event.get("event").and_then(Value::as_str) == Some("farm.msg.rejected"));
        refused
            .take(REFUSED_SHOWN)
            .map(|event| {
                json!({"at": event["at"], "reason": event["reason"], "why": event["why"], "from": event["from"], "to": event["to"],
                "fromGateway": event["fromGateway"], "messageId": event["messageId"]})
            })
            .collect()
    }

    /// Letters of our units, newest first.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub async fn letters(&self, agent: Option<&str>, limit: usize) -> Result<Vec<Value>, Failure> {
        let mut out: Vec<(clawstead_terms::Millis, Value)> = Vec::new();
        for unit in self.wanted(agent) {
            for sent in self.mailroom.sent(&unit, limit).await? {
                out.push((sent.head.created_at, sent_json(&sent)));
            }
            for taken in self.mailroom.taken(&unit, SHOWN_MAX).await? {
                out.push((taken.head.created_at, taken_json(&taken)));
            }
        }
        out.sort_by(|a, b| b.0.cmp(&a.0));
        Ok(out.into_iter().take(limit).map(|(_, value)| value).collect())
    }

    /// One letter with its life.
    ///
    /// # Errors
    /// `NotFound` when nothing is known of it here.
    pub async fn letter(&self, id: &str) -> Result<Value, Failure> {
        let all = self.letters(None, SHOWN_MAX).await?;
        let found = all.into_iter().find(|letter| letter.get("messageId").and_then(Value::as_str) == Some(id));
        found.ok_or_else(|| Failure::not_found(format!("nothing is known here of the letter {id}")))
    }

    /// Dead letters of our units, newest first, without their bodies.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub async fn dead_letters(&self, agent: Option<&str>, limit: usize) -> Result<Vec<Value>, Failure> {
        let mut out = Vec::new();
        for unit in self.wanted(agent) {
            for dead in self.mailroom.dead(&unit, limit).await? {
                out.push(json!({"messageId": dead.head.message_id, "reason": dead.reason, "from": dead.head.from, "to": dead.head.to, "kind": dead.head.kind,
                    "capability": dead.head.capability, "at": dead.at, "createdAt": dead.head.created_at, "replayedAs": dead.replayed_as}));
            }
        }
        out.truncate(limit);
        Ok(out)
    }

    /// A dead letter with its body and its life.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn dead_letter(&self, id: &str) -> Result<Value, Failure> {
        let (_, dead) = self.find_dead(id).await?;
        serde_json::to_value(&dead).map_err(|err| Failure::internal(err.to_string()))
    }

    /// Sends a new letter in place of a dead one; answers with its id.
    ///
    /// # Errors
    /// `NotFound` when there is none, `InvalidRequest` when it was replayed.
    pub async fn replay(&self, id: &str) -> Result<String, Failure> {
        let (unit, _) = self.find_dead(id).await?;
        self.mailroom.replay(&unit, id).await
    }

    /// Removes a dead letter for good.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn drop_dead(&self, id: &str) -> Result<(), Failure> {
        let (unit, _) = self.find_dead(id).await?;
        self.mailroom.drop_dead(&unit, id).await
    }

    async fn find_dead(&self, id: &str) -> Result<(Unit, crate::mailroom::DeadRow), Failure> {
        for unit in self.units() {
            let found: Option<crate::mailroom::DeadRow> = self.keeper.get(&unit, clawstead_state::Table::DeadLetters, id).await?;
            if let Some(dead) = found {
                return Ok((unit, dead));
            }
        }
        Err(Failure::not_found(format!("no dead letter {id} is kept here")).with_hint("openclaw farm dlq list"))
    }

    fn wanted(&self, agent: Option<&str>) -> Vec<Unit> {
        let all = self.units();
        match agent {
            None => all,
            Some(id) => all.into_iter().filter(|unit| unit_party(unit).as_deref() == Some(id)).collect(),
        }
    }
}

fn sent_json(sent: &crate::mailroom::SentRow) -> Value {
    json!({"direction": "out", "messageId": sent.head.message_id, "correlationId": sent.head.correlation_id, "causationId": sent.head.causation_id,
        "state": sent.row.state, "kind": sent.head.kind, "from": sent.head.from, "to": sent.head.to, "session": sent.head.session,
        "capability": sent.head.capability, "createdAt": sent.head.created_at, "expiresAt": sent.head.expires_at, "attempts": sent.row.sends,
        "gateway": sent.gateway, "run": sent.run, "lastError": sent.row.last_error, "history": sent.history})
}

fn taken_json(taken: &crate::mailroom::TakenRow) -> Value {
    json!({"direction": "in", "messageId": taken.head.message_id, "correlationId": taken.head.correlation_id, "causationId": taken.head.causation_id,
        "state": taken.row.state, "kind": taken.head.kind, "from": taken.head.from, "to": taken.head.to, "session": taken.head.session,
        "capability": taken.head.capability, "createdAt": taken.head.created_at, "expiresAt": taken.head.expires_at, "attempts": taken.row.attempt + 1,
        "gateway": taken.head.from_gateway, "lastError": Some(&taken.row.code).filter(|code| !code.is_empty()), "history": taken.history})
}
