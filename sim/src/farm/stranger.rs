//! A gateway of the farm that is none of ours: it has a key that the root approved, writes letters by hand, and sends some
//! that nobody may take. Every letter has a verdict that the ledger is told before it is sent.

use std::sync::{Mutex, PoisonError};

use clawstead_bus::{MailBox, Sealed};
use clawstead_cluster::{
    envelope::{Envelope, Hop, Kind, SCHEMA_VERSION, TTL_DEFAULT_MS},
    keys::{FarmRoot, GatewayKey, KeyRecord, KeyStatus},
};
use clawstead_terms::Millis;
use clawstead_world::{Rng, SeededRng};
use serde_json::json;

use super::{
    land::{FARM, Land, approve},
    plan::{Forgery, Storage},
};
use crate::actors::{brain::CANARY, clock::BEGIN_MS};

/// The stranger's gateway.
pub const GATEWAY: &str = "eve-gateway";
/// The stranger's agent.
pub const AGENT: &str = "eve";
/// Letters whose time is over come so much too late, ms.
const LATE_MS: i64 = 3_600_000;
/// How far in the future a letter is written that nobody takes, ms: more than any clock here is wrong.
const AHEAD_MS: i64 = 7_200_000;
/// How often a letter is handed over.
const ATTEMPTS: u32 = 3;

/// See the module.
pub struct Stranger {
    good: GatewayKey,
    retired: GatewayKey,
    revoked: GatewayKey,
    unknown: GatewayKey,
    records: Vec<KeyRecord>,
    rng: SeededRng,
    last: Mutex<Option<Envelope>>,
}

impl Stranger {
    /// With keys of every kind.
    ///
    /// # Errors
    /// When a key cannot be made, which is a fault of the simulator.
    pub fn new(root: &FarmRoot, rng: &SeededRng) -> Result<Self, String> {
        let key = || GatewayKey::generate(GATEWAY, rng).map_err(|err| err.to_string());
        let (good, retired, revoked, unknown) = (key()?, key()?, key()?, key()?);
        let long_ago = Millis(BEGIN_MS - 100 * 86_400_000);
        let records = vec![
            approve(root, &good).stage(KeyStatus::Active).clone(),
            root.approve(GATEWAY, &retired.public(), long_ago, long_ago.plus(86_400_000)).stage(KeyStatus::Retiring).clone(),
            approve(root, &revoked).stage(KeyStatus::Revoked).clone(),
        ];
        Ok(Self { good, retired, revoked, unknown, records, rng: SeededRng::new(rng.below(u64::MAX)), last: Mutex::default() })
    }

    /// What the root says of its keys.
    #[must_use]
    pub fn records(&self) -> Vec<KeyRecord> {
        self.records.clone()
    }

    /// Writes one letter and hands it to the bus, three times.
    pub async fn write(&self, land: &Land, number: usize, kind: Forgery, to: &'static str) {
        // Where agents move, both may live at one gateway: then nothing is wrong with it.
        let moves = land.plan.storage == Storage::Shared;
        let kind = if moves && kind == Forgery::NotToBePassedOn { Forgery::Honest } else { kind };
        let now = Millis(BEGIN_MS + land.outside.now_ms());
        let target = match kind {
            // It waits in the box of one agent and is for another one.
            Forgery::NotToBePassedOn => {
                land.plan.agents().into_iter().find(|agent| land.plan.home(agent).map(|g| g.name) != land.plan.home(to).map(|g| g.name))
            }
            _ => None,
        };
        let mut letter = self.letter(number, kind, target.unwrap_or(to), now);
        let bytes = self.sealed(&mut letter, kind);
        {
            let mut books = land.ledger.books();
            let id = letter.message_id.clone();
            if matches!(kind, Forgery::Honest | Forgery::UnknownMinor) {
                books.honest.insert(id);
            } else {
                books.forged.insert(id, format!("{kind:?}"));
            }
        }
        land.outside.tell("strange", format!("{kind:?} {} to {to}", letter.message_id));
        let bus = land.memory.bus("stranger");
        for attempt in 0..ATTEMPTS {
            let sealed = Sealed { message_id: letter.message_id.clone(), attempt, bytes: bytes.clone().into() };
            if let Err(err) = bus.publish(&MailBox::Unit(to.to_owned()), &sealed).await {
                land.outside.log(format!("the stranger's letter was not carried: {err}"));
            }
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        }
    }

    fn letter(&self, number: usize, kind: Forgery, to: &str, now: Millis) -> Envelope {
        let id = self.rng.uuid_v7(now);
        let honest = matches!(kind, Forgery::Honest | Forgery::UnknownMinor | Forgery::Poison);
        let word = if honest { format!("#strange-{number}") } else { format!("#forged-{number}") };
        let text = if kind == Forgery::Command { format!("/new {word}") } else { format!("{word} {CANARY} @once") };
        let created_at = match kind {
            Forgery::TooLate => now.plus(-LATE_MS),
            Forgery::FromTheFuture => now.plus(AHEAD_MS),
            _ => now,
        };
        let source = match kind {
            Forgery::OtherAgent => "jerry",
            Forgery::Forbidden => "outcast",
            _ => AGENT,
        };
        let mut letter = Envelope {
            schema_version: match kind {
                Forgery::UnknownMajor => "2.0".into(),
                Forgery::UnknownMinor => "1.7".into(),
                _ => SCHEMA_VERSION.into(),
            },
            farm_id: if kind == Forgery::WrongFarm { "elsewhere".into() } else { FARM.into() },
            correlation_id: id.clone(),
            causation_id: None,
            idempotency_key: None,
            message_id: id,
            kind: Kind::Event,
            source_gateway: GATEWAY.into(),
            source_agent: source.into(),
            source_epoch: 1,
            target_agent: to.into(),
            capability: "sessions.notify".into(),
            created_at,
            ttl: Some(if kind == Forgery::TooLate { 1_000 } else { TTL_DEFAULT_MS }),
            max_hops: Some(3),
            no_rebroadcast: (kind == Forgery::NotToBePassedOn).then_some(true),
            priority: None,
            session_key: None,
            reply_to: None,
            content_type: Some("text/plain".into()),
            body: Some(json!({"text": text})),
            body_ref: None,
            traceparent: None,
            hop: Hop { hops: vec![GATEWAY.into()], sender_gateway: GATEWAY.into(), sender_epoch: 1, ..Hop::default() },
            sig: None,
            hop_sig: None,
            extra: serde_json::Map::default(),
        };
        if kind == Forgery::UnknownMinor {
            letter.extra.insert("mood".into(), json!({"level": 3}));
        }
        letter.hop.hops = match kind {
            Forgery::TooManyHops => ["a-gateway", "b-gateway", "c-gateway", "d-gateway", GATEWAY].map(str::to_owned).to_vec(),
            Forgery::Ring => [GATEWAY, "a-gateway", GATEWAY].map(str::to_owned).to_vec(),
            _ => letter.hop.hops,
        };
        letter
    }

    fn sealed(&self, letter: &mut Envelope, kind: Forgery) -> Vec<u8> {
        let key = match kind {
            Forgery::UnknownKey => &self.unknown,
            Forgery::RetiredKey => &self.retired,
            Forgery::RevokedKey => &self.revoked,
            _ => &self.good,
        };
        let version = letter.schema_version.clone();
        let signed = letter.sign(key).is_ok();
        if matches!(kind, Forgery::UnknownMajor | Forgery::UnknownMinor) && letter.schema_version != version {
            letter.schema_version = version;
        }
        match kind {
            Forgery::Altered => letter.body = Some(json!({"text": "#forged altered"})),
            Forgery::AlteredHop => letter.hop.retry_count += 1,
            Forgery::SwappedSignature => {
                let mut other = letter.clone();
                other.body = Some(json!({"text": "another one"}));
                if other.sign(&self.good).is_ok() {
                    letter.sig = other.sig;
                }
            }
            _ => {}
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = signed.then(|| letter.clone());
        match (kind, letter.to_bytes()) {
            (Forgery::Noise, Ok(bytes)) => bytes.iter().map(|byte| byte ^ 0x20).collect(),
            (_, Ok(bytes)) => bytes,
            (_, Err(_)) => b"{}".to_vec(),
        }
    }
}
