use std::collections::{BTreeMap, BTreeSet};

use clawstead_terms::Unit;
use serde_json::{Value, json};

use super::*;
use crate::{
    Now,
    envelope::{BYTES_MAX, Envelope, Hop, Kind, Receipt, ReceiptType, Refusal, receipt_for},
    keys::{FarmRoot, GatewayKey, KeyRing, KeyStatus},
    letter::{STATUS_CAPABILITY, status_query},
    policy::{Limiter, Policy, Rule},
    testkit::{Farm, T0, YEAR, at},
};

struct View {
    ring: KeyRing,
    policy: Policy,
    us: &'static str,
    seen: BTreeMap<String, u64>,
    owners: BTreeMap<String, (String, u64)>,
    held: BTreeMap<String, u64>,
    known: BTreeMap<String, Known>,
    sent: BTreeMap<String, String>,
}

impl Checks for View {
    fn farm(&self) -> &'static str {
        "octant"
    }
    fn gateway(&self) -> &str {
        self.us
    }
    fn keys(&self) -> &KeyRing {
        &self.ring
    }
    fn policy(&self) -> &Policy {
        &self.policy
    }
    fn epoch_seen(&self, source: &Unit) -> Option<u64> {
        self.seen.get(&source.to_string()).copied()
    }
    fn owner(&self, unit: &Unit) -> Option<(String, u64)> {
        self.owners.get(&unit.to_string()).cloned()
    }
    fn held(&self, unit: &Unit) -> Option<u64> {
        self.held.get(&unit.to_string()).copied()
    }
    fn known(&self, letter: &Envelope) -> Known {
        self.known.get(&letter.message_id).copied().unwrap_or(Known::New)
    }
    fn sent_to(&self, message_id: &str) -> Option<String> {
        self.sent.get(message_id).cloned()
    }
}

/// Bobby's gateway.
fn view(farm: &Farm) -> View {
    let rules: Vec<Rule> =
        serde_json::from_value(json!([{"from": {"agent": "jerry"}, "to": {"agent": "bobby"}, "capabilities": ["infra.*"], "effect": "allow"}])).unwrap();
    View {
        ring: farm.ring.clone(),
        policy: Policy::new(rules).unwrap(),
        us: "bobby-gateway",
        seen: BTreeMap::from([("agent.jerry".into(), 7)]),
        owners: BTreeMap::from([("agent.jerry".into(), ("jerry-gateway".into(), 7)), ("agent.bobby".into(), ("bobby-gateway".into(), 4))]),
        held: BTreeMap::from([("agent.bobby".into(), 4)]),
        known: BTreeMap::new(),
        sent: BTreeMap::new(),
    }
}

fn look(raw: &[u8], view: &View, now: Now) -> Verdict {
    examine(raw, view, &mut Limiter::default(), now)
}

fn code(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Take(_) => "take",
        Verdict::Reopen(_) => "reopen",
        Verdict::Repeat(_) => "repeat",
        Verdict::Asked(..) => "asked",
        Verdict::Receipt(..) => "receipt",
        Verdict::Forward(..) => "forward",
        Verdict::Refuse { refusal, .. } => refusal.code(),
    }
}

fn sealed(farm: &Farm, alter: impl FnOnce(&mut Envelope)) -> Vec<u8> {
    let mut letter = farm.draft();
    alter(&mut letter);
    letter.sign(&farm.jerry).unwrap();
    letter.to_bytes().unwrap()
}

/// Fault row M7, first half: each byte of a letter altered in several ways, each prefix of it. Nothing altered is taken.
#[test]
fn no_altered_byte_is_taken() {
    let farm = Farm::new(1);
    let view = view(&farm);
    let letter = farm.letter();
    let bytes = letter.to_bytes().unwrap();
    assert_eq!(look(&bytes, &view, at(10)), Verdict::Take(Box::new(letter.clone())));
    let mut reasons = BTreeSet::new();
    for place in 0..bytes.len() {
        for flip in [0x01, 0x04, 0x20, 0x80] {
            let mut altered = bytes.clone();
            altered[place] ^= flip;
            let verdict = look(&altered, &view, at(10));
            match &verdict {
                // The same letter in another spelling (none is met here, were one to be, it must be the same).
                Verdict::Take(same) => assert_eq!(**same, letter),
                Verdict::Refuse { answer, .. } => assert_eq!(*answer, None, "nobody answers what was not authentic"),
                other => panic!("byte {place} ^ {flip:#x}: {other:?}"),
            }
            reasons.insert(code(&verdict));
        }
        assert_eq!(code(&look(&bytes[..place], &view, at(10))), "malformed");
    }
    assert_eq!(reasons, BTreeSet::from(["bad_signature", "key_unknown", "malformed", "schema_unsupported", "wrong_farm"]));
}

/// Fault row M7, second half, and M10: each way of not being authentic has its own reason.
#[test]
fn forgeries_are_refused_with_the_right_reason() {
    let farm = Farm::new(2);
    let base = view(&farm);
    let letter = farm.letter();
    let bytes = letter.to_bytes().unwrap();
    let other = farm.letter();
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut value = serde_json::to_value(&letter).unwrap();
        edit(&mut value);
        value.to_string().into_bytes()
    };
    let corpus: Vec<(&str, Vec<u8>, &str)> = vec![
        ("another letter's signature", edited(&|v| v["sig"] = json!(other.sig)), "bad_signature"),
        ("another letter's hop signature", edited(&|v| v["hop_sig"] = json!(other.hop_sig)), "bad_signature"),
        (
            "signatures swapped",
            edited(&|v| (v["sig"]["value"], v["hop_sig"]) = (json!(letter.hop_sig), json!(letter.sig.as_ref().unwrap().value))),
            "bad_signature",
        ),
        ("another gateway's key named", edited(&|v| v["sig"]["kid"] = json!(farm.bobby.kid())), "key_unknown"),
        ("a key nobody knows", edited(&|v| v["sig"]["kid"] = json!("jerry-gateway.0123456789abcdef")), "key_unknown"),
        ("another source gateway", edited(&|v| v["source_gateway"] = json!("bobby-gateway")), "key_unknown"),
        ("forged epoch", edited(&|v| v["sender_epoch"] = json!(99)), "bad_signature"),
        ("forged hops", edited(&|v| v["hops"] = json!(["billy-gateway", "jerry-gateway"])), "bad_signature"),
        ("forged sender", edited(&|v| (v["hops"], v["sender_gateway"]) = (json!(["bobby-gateway"]), json!("bobby-gateway"))), "bad_signature"),
        ("sender without a key", edited(&|v| (v["hops"], v["sender_gateway"]) = (json!(["ghost-gateway"]), json!("ghost-gateway"))), "key_unknown"),
        ("forged retry count", edited(&|v| v["retry_count"] = json!(5)), "bad_signature"),
        ("hop data that reopens", edited(&|v| v["state"] = json!("failed")), "bad_signature"),
        ("a field added", edited(&|v| v["x"] = json!(1)), "bad_signature"),
        ("later ttl", edited(&|v| v["ttl"] = json!(400_000)), "bad_signature"),
        ("wrong farm, rightly signed", sealed(&farm, |e| e.farm_id = "elsewhere".into()), "wrong_farm"),
        ("unknown major version", edited(&|v| v["schema_version"] = json!("2.0")), "schema_unsupported"),
        ("no schema version", edited(&|v| drop(v.as_object_mut().unwrap().shift_remove("schema_version"))), "malformed"),
        ("too large", vec![b' '; BYTES_MAX + 1], "too_large"),
        ("nested deep", [vec![b'['; 60_000], vec![b']'; 60_000]].concat(), "malformed"),
        ("nested deep inside the body", edited(&|v| v["body"] = (0..70).fold(json!(1), |inner, _| json!([inner]))), "malformed"),
        ("a key twice", [&bytes[..bytes.len() - 1], br#","kind":"request"}"#].concat(), "malformed"),
        ("a number too large", edited(&|v| v["ttl"] = json!(9_007_199_254_740_993_u64)), "malformed"),
        ("not signed", edited(&|v| drop(v.as_object_mut().unwrap().shift_remove("sig"))), "malformed"),
        ("simple object of a shell", br#"{"from":"jerry","to":"bobby","body":"hi","timestamp":"2026-02-16T12:00:00Z"}"#.to_vec(), "malformed"),
        ("nothing", vec![], "malformed"),
    ];
    for (name, raw, want) in corpus {
        let verdict = look(&raw, &base, at(10));
        assert_eq!(code(&verdict), want, "{name}");
        assert!(matches!(verdict, Verdict::Refuse { answer: None, .. }), "{name}");
    }
    // Keys in every stage, and a list that is too old.
    let with = |status, fresh| {
        let mut view = view(&farm);
        view.ring = KeyRing::new(vec![farm.root.pin()]).unwrap();
        view.ring.replace([farm.approved[0].stage(status)], fresh);
        view
    };
    let now = at(10).mono_ms;
    for (name, view, want) in [
        ("revoked", with(KeyStatus::Revoked, now), "key_revoked"),
        ("retiring", with(KeyStatus::Retiring, now), "take"),
        ("stale list", with(KeyStatus::Active, now - 60_001), "keys_stale"),
    ] {
        assert_eq!(code(&look(&bytes, &view, at(10))), want, "{name}");
    }
    let mut retired = view(&farm);
    retired.ring = KeyRing::new(vec![farm.root.pin()]).unwrap();
    retired.ring.replace([&farm.root.approve("jerry-gateway", &farm.jerry.public(), T0.plus(-YEAR), T0.plus(5)).active], now);
    assert_eq!(code(&look(&bytes, &retired, at(10))), "key_retired");
    let mut stranger = view(&farm);
    stranger.ring = KeyRing::new(vec![FarmRoot::generate(&farm.rng).pin()]).unwrap();
    stranger.ring.replace(farm.approved.iter().map(|key| &key.active), now);
    assert_eq!(code(&look(&bytes, &stranger, at(10))), "key_unknown");
}

/// Authentic letters that may not pass all the same; those that are told so.
#[test]
fn authentic_letters_are_refused_with_the_right_reason() {
    let farm = Farm::new(3);
    let base = view(&farm);
    let check = |name: &str, raw: &[u8], view: &View, now: Now, want: &str, told: bool| {
        let verdict = look(raw, view, now);
        assert_eq!(code(&verdict), want, "{name}");
        assert_eq!(matches!(verdict, Verdict::Refuse { answer: Some(_), .. }), told, "{name}");
    };
    let fine = sealed(&farm, |_| ());
    let mut fresh = view(&farm);
    fresh.ring.touch(at(300_000).mono_ms);
    check("at the last moment", &fine, &fresh, at(300_000), "take", false);
    check("over", &fine, &fresh, at(300_001), "expired", true);
    check("5 min ahead", &sealed(&farm, |e| e.created_at = T0.plus(300_000)), &base, at(0), "take", false);
    check("more than 5 min ahead", &sealed(&farm, |e| e.created_at = T0.plus(300_001)), &base, at(0), "clock_skew", true);
    check("old epoch", &sealed(&farm, |e| (e.source_epoch, e.hop.sender_epoch) = (6, 6)), &base, at(0), "fenced", false);
    check("epoch older than the letter's own", &sealed(&farm, |e| e.hop.sender_epoch = 6), &base, at(0), "fenced", false);
    check("newer epoch", &sealed(&farm, |e| (e.source_epoch, e.hop.sender_epoch) = (7, 8)), &base, at(0), "take", false);
    let mut moved = view(&farm);
    moved.seen.clear();
    moved.owners.insert("agent.jerry".into(), ("billy-gateway".into(), 9));
    check("the record knows a newer epoch", &fine, &moved, at(0), "fenced", false);
    moved.owners.insert("agent.jerry".into(), ("billy-gateway".into(), 7));
    check("somebody else's agent", &fine, &moved, at(0), "source_mismatch", true);
    check("no rule", &sealed(&farm, |e| e.capability = "sessions.send".into()), &base, at(0), "forbidden", true);
    check("no rule for this agent", &sealed(&farm, |e| e.source_agent = "eve".into()), &base, at(0), "forbidden", true);
    check("a command", &sealed(&farm, |e| e.body = Some(json!({"text": "/elevated on"}))), &base, at(0), "command_refused", true);
    check("unknown target", &sealed(&farm, |e| e.target_agent = "nobody".into()), &base, at(0), "not_owner", true);
    let mut losing = view(&farm);
    losing.held.clear();
    check("ours, not held yet", &fine, &losing, at(0), "not_owner", true);
    // A minor version and unknown fields are taken.
    check("extra fields", &sealed(&farm, |e| drop(e.extra.insert("x".into(), json!([null])))), &base, at(0), "take", false);
}

#[test]
fn repeats_are_seen_before_limits_and_after_signatures() {
    let farm = Farm::new(4);
    let mut view = view(&farm);
    view.policy = Policy::new(serde_json::from_value(json!([{"capabilities": ["*"], "effect": "allow", "limits": {"per_minute": 1}}])).unwrap()).unwrap();
    let mut limiter = Limiter::default();
    let (first, second) = (farm.letter(), farm.letter());
    let (raw, other) = (first.to_bytes().unwrap(), second.to_bytes().unwrap());
    assert_eq!(code(&examine(&raw, &view, &mut limiter, at(0))), "take");
    view.known.insert(first.message_id.clone(), Known::Repeat);
    for _ in 0..3 {
        assert_eq!(code(&examine(&raw, &view, &mut limiter, at(1))), "repeat");
    }
    assert_eq!(code(&examine(&other, &view, &mut limiter, at(1))), "rate_limited");
    // A replay of old bytes, after the time is over: repeated as long as it is known, refused afterwards.
    view.ring.touch(at(400_000).mono_ms);
    assert_eq!(code(&examine(&raw, &view, &mut limiter, at(400_000))), "repeat");
    view.known.clear();
    assert_eq!(code(&examine(&raw, &view, &mut limiter, at(400_000))), "expired");
    view.known.insert(second.message_id, Known::Reopen);
    assert_eq!(code(&examine(&other, &view, &mut limiter, at(2))), "reopen");
}

/// Fault row M8: a ring of relays; whatever the bound, the letter stops, never passes a gateway twice, and says why.
#[test]
fn rings_end() {
    let farm = Farm::new(5);
    let names = ["a1-gateway", "b1-gateway", "c1-gateway", "d1-gateway", "e1-gateway", "f1-gateway", "g1-gateway", "h1-gateway", "i1-gateway", "k1-gateway"];
    let keys: Vec<GatewayKey> = names.iter().map(|name| GatewayKey::generate(name, &farm.rng).unwrap()).collect();
    let records: Vec<_> = keys.iter().map(|key| farm.root.approve(key.gateway(), &key.public(), T0.plus(-1), T0.plus(YEAR)).active).collect();
    for ring_len in 2..=names.len() {
        for max_hops in 1..=8u8 {
            let mut letter = farm.draft();
            (letter.max_hops, letter.source_gateway) = (Some(max_hops), names[0].into());
            letter.hop = Hop { hops: vec![names[0].into()], sender_gateway: names[0].into(), sender_epoch: 7, ..Hop::default() };
            letter.sign(&keys[0]).unwrap();
            let end = (1..100).find_map(|step| {
                let us = names[step % ring_len];
                let mut view = view(&farm);
                view.ring.replace(&records, at(0).mono_ms);
                view.us = us;
                view.held.clear();
                view.owners = BTreeMap::from([("agent.bobby".into(), (names[(step + 1) % ring_len].into(), 4))]);
                match look(&letter.to_bytes().unwrap(), &view, at(0)) {
                    Verdict::Forward(envelope, to) => {
                        let mut hop = envelope.hop.clone();
                        hop.hops.push(us.into());
                        (hop.sender_gateway, hop.target_gateway) = (us.into(), Some(to));
                        assert!(hop.hops.len() <= usize::from(max_hops));
                        assert_eq!(hop.hops.iter().collect::<BTreeSet<_>>().len(), hop.hops.len());
                        letter = envelope.with_hop(hop, &keys[step % ring_len]).unwrap();
                        None
                    }
                    verdict => Some(verdict),
                }
            });
            let code = code(&end.unwrap());
            let want = if ring_len > usize::from(max_hops) { "max_hops" } else { "loop" };
            assert_eq!(code, want, "ring of {ring_len}, {max_hops} hops");
        }
    }
    // What may not be passed on is not, and its sender looks again.
    let mut elsewhere = view(&farm);
    elsewhere.held.clear();
    elsewhere.owners.insert("agent.bobby".into(), ("billy-gateway".into(), 5));
    assert_eq!(code(&look(&sealed(&farm, |_| ()), &elsewhere, at(0))), "forward");
    for raw in [sealed(&farm, |e| e.no_rebroadcast = Some(true)), sealed(&farm, |e| e.kind = Kind::Reply)] {
        let verdict = look(&raw, &elsewhere, at(0));
        assert_eq!((code(&verdict), verdict.refusal().unwrap().retryable()), ("not_owner", true));
    }
    // Hops with a gateway twice, rightly signed, and a letter of our own that we find in an inbox we took over.
    let twice = sealed(&farm, |e| e.hop.hops = vec!["jerry-gateway".into(), "bobby-gateway".into(), "jerry-gateway".into()]);
    assert_eq!(code(&look(&twice, &view(&farm), at(0))), "loop");
    let mut taken_over = view(&farm);
    taken_over.us = "jerry-gateway";
    assert_eq!(code(&look(&sealed(&farm, |_| ()), &taken_over, at(0))), "take");
}

#[test]
fn receipts_are_believed_from_the_target_of_a_letter_of_ours() {
    let farm = Farm::new(6);
    let letter = farm.letter();
    let mut view = view(&farm);
    (view.us, view.held) = ("jerry-gateway", BTreeMap::from([("agent.jerry".into(), 7)]));
    view.sent.insert(letter.message_id.clone(), "bobby".into());
    let id = || clawstead_world::Rng::uuid_v7(&farm.rng, T0);
    let receipt = Receipt::plain(&letter.message_id, ReceiptType::Delivered, 4);
    let raw = |receipt: &Receipt, about: &Envelope, key: &GatewayKey| receipt_for(about, receipt, id(), T0, key, None).unwrap().to_bytes().unwrap();
    assert!(matches!(look(&raw(&receipt, &letter, &farm.bobby), &view, at(0)), Verdict::Receipt(_, got) if got == receipt));
    // Of another agent, of a letter nobody sent, of a gateway that does not own the target, under an old epoch.
    let mut about_billy = letter.clone();
    about_billy.target_agent = "billy".into();
    assert_eq!(code(&look(&raw(&receipt, &about_billy, &farm.bobby), &view, at(0))), "receipt_unknown");
    assert_eq!(code(&look(&raw(&Receipt::plain(id(), ReceiptType::Acked, 4), &letter, &farm.bobby), &view, at(0))), "receipt_unknown");
    assert_eq!(code(&look(&raw(&receipt, &letter, &farm.jerry), &view, at(0))), "source_mismatch");
    assert_eq!(code(&look(&raw(&Receipt { receiver_epoch: 3, ..receipt.clone() }, &letter, &farm.bobby), &view, at(0))), "fenced");
    let not_owner = Receipt::refused(&letter.message_id, &Refusal::NotOwner { unit: "agent.bobby".into() }, 0);
    assert_eq!(code(&look(&raw(&not_owner, &letter, &farm.bobby), &view, at(0))), "receipt");
    let ownerless = Receipt::plain(&letter.message_id, ReceiptType::Acked, 0);
    assert_eq!(code(&look(&raw(&ownerless, &letter, &farm.bobby), &view, at(0))), "source_mismatch");
}

#[test]
fn the_source_of_a_letter_may_ask_where_it_stands() {
    let farm = Farm::new(7);
    let (view, letter) = (view(&farm), farm.letter());
    let id = || clawstead_world::Rng::uuid_v7(&farm.rng, T0);
    let query = status_query(&letter, id(), T0, 7, None, &farm.jerry).unwrap();
    let Verdict::Asked(envelope, asked) = look(&query.to_bytes().unwrap(), &view, at(0)) else { panic!("not asked") };
    assert_eq!((asked.of.as_str(), asked.dedupe_key(&envelope)), (letter.message_id.as_str(), letter.dedupe_key()));
    // In another's name, or as another kind of letter, it is none.
    assert_eq!(code(&look(&status_query(&letter, id(), T0, 7, None, &farm.bobby).unwrap().to_bytes().unwrap(), &view, at(0))), "source_mismatch");
    assert_eq!(code(&look(&sealed(&farm, |e| e.capability = STATUS_CAPABILITY.into()), &view, at(0))), "malformed");
}
