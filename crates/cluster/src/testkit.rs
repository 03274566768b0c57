//! A small farm for tests: two gateways, a root, a letter.

use clawstead_terms::Millis;
use clawstead_world::{Rng, SeededRng};
use serde_json::json;

use crate::{
    Now,
    envelope::{Envelope, Hop, Kind},
    keys::{ApprovedKey, FarmRoot, GatewayKey, KeyRing, KeyStatus},
};

pub(crate) const T0: Millis = Millis(1_795_172_400_000);
pub(crate) const YEAR: i64 = 365 * 86_400_000;

pub(crate) struct Farm {
    pub rng: SeededRng,
    pub root: FarmRoot,
    pub jerry: GatewayKey,
    pub bobby: GatewayKey,
    pub approved: Vec<ApprovedKey>,
    pub ring: KeyRing,
}

pub(crate) const fn at(ms: i64) -> Now {
    Now { wall: Millis(T0.0 + ms), mono_ms: 1_000_000_u64.saturating_add_signed(ms) }
}

impl Farm {
    pub fn new(seed: u64) -> Self {
        let rng = SeededRng::new(seed);
        let root = FarmRoot::generate(&rng);
        let jerry = GatewayKey::generate("jerry-gateway", &rng).unwrap();
        let bobby = GatewayKey::generate("bobby-gateway", &rng).unwrap();
        let approved: Vec<_> = [&jerry, &bobby].iter().map(|key| root.approve(key.gateway(), &key.public(), T0.plus(-1000), T0.plus(YEAR))).collect();
        let mut ring = KeyRing::new(vec![root.pin()]).unwrap();
        let skipped = ring.replace(approved.iter().map(|key| key.stage(KeyStatus::Active)), at(0).mono_ms);
        assert_eq!(skipped, []);
        Self { rng, root, jerry, bobby, approved, ring }
    }

    /// An unsigned letter from jerry to bobby.
    pub fn draft(&self) -> Envelope {
        let id = self.rng.uuid_v7(T0);
        Envelope {
            schema_version: String::new(),
            farm_id: "octant".into(),
            correlation_id: id.clone(),
            causation_id: None,
            idempotency_key: None,
            message_id: id,
            kind: Kind::Request,
            source_gateway: "jerry-gateway".into(),
            source_agent: "jerry".into(),
            source_epoch: 7,
            target_agent: "bobby".into(),
            capability: "infra.query".into(),
            created_at: T0,
            ttl: None,
            max_hops: None,
            no_rebroadcast: None,
            priority: None,
            session_key: None,
            reply_to: None,
            content_type: None,
            body: Some(json!({"text": "Any failed allocations?", "ratio": 0.25})),
            body_ref: None,
            traceparent: None,
            hop: Hop {
                hops: vec!["jerry-gateway".into()],
                sender_gateway: "jerry-gateway".into(),
                sender_epoch: 7,
                target_gateway: Some("bobby-gateway".into()),
                ..Hop::default()
            },
            sig: None,
            hop_sig: None,
            extra: serde_json::Map::default(),
        }
    }

    /// The same, signed.
    pub fn letter(&self) -> Envelope {
        let mut letter = self.draft();
        letter.sign(&self.jerry).unwrap();
        letter
    }
}
