use std::collections::BTreeSet;

use clawstead_terms::{Address, AgentId, Envelope as Letter, EnvelopeId, EnvelopeKind, Origin, Part, RunId, SessionKey, TurnOptions, Unit};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testkit::{Farm, T0, at};

fn believed(farm: &Farm, bytes: &[u8]) -> Result<Envelope, Refusal> {
    let opened = open(bytes)?;
    let sig = opened.envelope.sig.clone().unwrap();
    opened.verify_letter(farm.ring.key(&sig.kid, &opened.envelope.source_gateway, at(0))?)?;
    opened.verify_hop(farm.ring.keys_of(&opened.envelope.hop.sender_gateway, at(0))?)?;
    Ok(opened.envelope)
}

fn code(farm: &Farm, value: &Value) -> &'static str {
    believed(farm, value.to_string().as_bytes()).map_or_else(|refusal| refusal.code(), |_| "ok")
}

#[test]
fn a_signed_letter_is_read_back_as_it_was_written() {
    let farm = Farm::new(1);
    let mut letter = farm.draft();
    letter.extra.insert("x_team".into(), json!({"b": null, "a": [1, "ü", 1e-9]}));
    letter.schema_version = "ignored".into();
    letter.sign(&farm.jerry).unwrap();
    let bytes = letter.to_bytes().unwrap();
    assert_eq!(believed(&farm, &bytes).unwrap(), letter);
    // Other spellings of the same letter are the same letter.
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(believed(&farm, serde_json::to_string_pretty(&value).unwrap().as_bytes()).unwrap(), letter);
    // Defaults are not written down, and hold.
    assert_eq!((letter.ttl_ms(), letter.max_hops(), letter.priority(), letter.no_rebroadcast()), (300_000, 4, Priority::Normal, false));
    assert_eq!(letter.idempotency_key(), letter.message_id);
    assert_eq!(value.get("ttl"), None);
}

/// The signed bytes are those of the design, whoever computes them.
#[test]
fn the_signed_bytes_are_those_of_the_design() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use ed25519_dalek::Signature;
    let farm = Farm::new(2);
    let letter = farm.letter();
    let id = &letter.message_id;
    let text = format!(
        "openclaw-farm-envelope-v1\n{{\"body\":{{\"ratio\":0.25,\"text\":\"Any failed allocations?\"}},\"capability\":\"infra.query\",\"correlation_id\":\"{id}\",\
         \"created_at\":\"2026-11-20T11:00:00.000Z\",\"farm_id\":\"octant\",\"kind\":\"request\",\"message_id\":\"{id}\",\"schema_version\":\"1.0\",\
         \"source_agent\":\"jerry\",\"source_epoch\":7,\"source_gateway\":\"jerry-gateway\",\"target_agent\":\"bobby\"}}"
    );
    let raw = URL_SAFE_NO_PAD.decode(&letter.sig.as_ref().unwrap().value).unwrap();
    farm.jerry.public().verify_strict(text.as_bytes(), &Signature::from_slice(&raw).unwrap()).unwrap();
    let hop = format!(
        "openclaw-farm-hop-v1\n{id}{{\"hops\":[\"jerry-gateway\"],\"retry_count\":0,\"sender_epoch\":7,\"sender_gateway\":\"jerry-gateway\",\"state\":\"queued\",\"target_gateway\":\"bobby-gateway\"}}"
    );
    let raw = URL_SAFE_NO_PAD.decode(letter.hop_sig.as_ref().unwrap()).unwrap();
    farm.jerry.public().verify_strict(hop.as_bytes(), &Signature::from_slice(&raw).unwrap()).unwrap();
}

/// Every byte of a letter replaced by every other byte: nothing that means something else is believed.
#[test]
fn no_altered_byte_is_believed() {
    let farm = Farm::new(3);
    let letter = farm.letter();
    let bytes = letter.to_bytes().unwrap();
    let mut codes = BTreeSet::new();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x02, 0x20, 0x80] {
            let mut altered = bytes.clone();
            altered[at] ^= flip;
            match believed(&farm, &altered) {
                Ok(same) => assert_eq!(same, letter, "byte {at} ^ {flip:#x}"),
                Err(refusal) => drop(codes.insert(refusal.code())),
            }
        }
        assert!(believed(&farm, &bytes[..at]).is_err());
    }
    assert_eq!(codes, BTreeSet::from(["malformed", "bad_signature", "key_unknown", "schema_unsupported"]));
}

#[test]
fn wrong_fields_are_named() {
    let farm = Farm::new(4);
    let value = serde_json::to_value(farm.letter()).unwrap();
    assert_eq!(code(&farm, &value), "ok");
    for (field, bad) in [
        ("schema_version", json!(1)),
        ("schema_version", json!("one")),
        ("farm_id", json!("")),
        ("message_id", json!("4a1de1a4-9d3c-4b7c-8f4e-0d6f8f2a1b11")),
        ("message_id", json!("0198C1D2-7C3E-7A10-9B55-0C6A3F2B9E01")),
        ("correlation_id", json!("x")),
        ("causation_id", json!(null)),
        ("idempotency_key", json!("x".repeat(129))),
        ("kind", json!("order")),
        ("source_gateway", json!("Jerry")),
        ("source_agent", json!("chan.slack")),
        ("source_epoch", json!(-1)),
        ("target_agent", json!("a/b")),
        ("capability", json!("x".repeat(65))),
        ("created_at", json!("2026-11-20T11:00:00Z")),
        ("ttl", json!(0)),
        ("ttl", json!(86_400_001)),
        ("max_hops", json!(0)),
        ("max_hops", json!(9)),
        ("priority", json!("urgent")),
        ("session_key", json!("")),
        ("body", json!(null)),
        ("body_ref", json!({"hash": format!("sha256:{}", "0".repeat(64)), "size": 1})),
        ("hops", json!([])),
        ("hops", json!(["bobby-gateway"])),
        ("sender_epoch", json!("7")),
        ("retry_count", json!(-1)),
        ("state", json!("lost")),
        ("sig", json!({"alg": "none", "kid": "x", "value": ""})),
        ("hop_sig", json!("short")),
        ("last_error", json!("")),
    ] {
        let mut altered = value.clone();
        altered[field] = bad.clone();
        assert_eq!(code(&farm, &altered), "malformed", "{field} = {bad}");
    }
    for field in ["schema_version", "farm_id", "message_id", "kind", "source_epoch", "created_at", "body", "sig", "hop_sig", "hops", "state"] {
        let mut altered = value.clone();
        altered.as_object_mut().unwrap().shift_remove(field);
        assert_eq!(code(&farm, &altered), "malformed", "without {field}");
    }
    for version in ["2.0", "0.9", "17.3"] {
        // Another version may have quite other fields: that is said, not that they are wrong.
        assert_eq!(code(&farm, &json!({"schema_version": version, "anything": 1})), "schema_unsupported");
    }
}

#[test]
fn another_minor_version_and_unknown_fields_are_kept_and_signed() {
    let farm = Farm::new(5);
    let mut value = serde_json::to_value(farm.draft()).unwrap();
    value["schema_version"] = json!("1.7");
    value["x_new"] = json!({"deep": [null]});
    let mut letter: Envelope = serde_json::from_value(value).unwrap();
    // A newer gateway signs its own version; ours writes 1.0.
    let unsigned = letter.clone();
    letter.sign(&farm.jerry).unwrap();
    assert_eq!(letter.schema_version, "1.0");
    let signed = {
        let mut newer = unsigned;
        let bytes = [b"openclaw-farm-envelope-v1\n".as_slice(), &canonical(&signed_part(&newer)).unwrap()].concat();
        newer.sig = Some(Sig { alg: "Ed25519".into(), kid: farm.jerry.kid().into(), value: farm.jerry.sign(&bytes) });
        newer.sign_hop(&farm.jerry).unwrap();
        newer
    };
    let read = believed(&farm, &signed.to_bytes().unwrap()).unwrap();
    assert_eq!((read.schema_version.as_str(), &read.extra["x_new"]), ("1.7", &json!({"deep": [null]})));
    let mut altered = serde_json::to_value(&signed).unwrap();
    altered["x_new"]["deep"][0] = json!(false);
    assert_eq!(code(&farm, &altered), "bad_signature");
    altered.as_object_mut().unwrap().shift_remove("x_new");
    assert_eq!(code(&farm, &altered), "bad_signature");
}

fn signed_part(letter: &Envelope) -> Value {
    let mut value = serde_json::to_value(letter).unwrap();
    for field in HOP_FIELDS.iter().chain(&["sig", "hop_sig"]) {
        value.as_object_mut().unwrap().shift_remove(*field);
    }
    value
}

#[test]
fn a_relay_signs_the_hop_and_cannot_touch_the_letter() {
    let farm = Farm::new(6);
    let letter = farm.letter();
    let hop = Hop { hops: vec!["jerry-gateway".into(), "bobby-gateway".into()], sender_gateway: "bobby-gateway".into(), retry_count: 3, ..letter.hop.clone() };
    let relayed = letter.clone().with_hop(hop, &farm.bobby).unwrap();
    assert_eq!(relayed.sig, letter.sig);
    assert_eq!(believed(&farm, &relayed.to_bytes().unwrap()).unwrap(), relayed);
    // Hop data of one letter does not fit another, nor does an old one with other numbers.
    let mut other = farm.letter();
    other.hop = relayed.hop.clone();
    other.hop_sig.clone_from(&relayed.hop_sig);
    assert_eq!(believed(&farm, &other.to_bytes().unwrap()).unwrap_err(), Refusal::BadSignature { part: "hop" });
    let mut forged = relayed;
    forged.hop.sender_epoch = 99;
    assert_eq!(believed(&farm, &forged.to_bytes().unwrap()).unwrap_err(), Refusal::BadSignature { part: "hop" });
}

#[test]
fn a_letter_that_is_too_large_is_not_sealed() {
    let farm = Farm::new(7);
    let mut letter = farm.draft();
    letter.body = Some(json!({"text": "x".repeat(BYTES_MAX)}));
    letter.sign(&farm.jerry).unwrap();
    assert_eq!(letter.to_bytes().unwrap_err().code(), "too_large");
    letter.body = Some(json!({"n": 9_007_199_254_740_992u64}));
    assert_eq!(letter.sign(&farm.jerry).unwrap_err().code(), "malformed");
}

#[test]
fn receipts_travel_as_envelopes() {
    let farm = Farm::new(8);
    let letter = farm.letter();
    let refused = Receipt::refused(&letter.message_id, &Refusal::RateLimited { per_minute: 60, wait_ms: 700 }, 4);
    let envelope = receipt_for(&letter, &refused, farm_id(&farm), T0, &farm.bobby, Some("jerry-gateway".into())).unwrap();
    let opened = open(&envelope.to_bytes().unwrap()).unwrap();
    opened.verify_letter(&farm.bobby.public()).unwrap();
    assert_eq!(Receipt::of(&opened.envelope).unwrap(), refused);
    assert_eq!((refused.code.as_str(), refused.retryable, refused.retry_after_ms), ("rate_limited", true, 700));
    assert_eq!((envelope.target_agent.as_str(), envelope.source_agent.as_str(), envelope.no_rebroadcast()), ("jerry", "bobby", true));
    assert_eq!(Receipt::of(&letter).unwrap_err().code(), "malformed");
    assert_eq!(
        serde_json::to_value(Receipt::plain("x", ReceiptType::Acked, 4)).unwrap(),
        json!({"of": "x", "type": "acked", "code": "", "retryable": false, "retry_after_ms": 0, "receiver_epoch": 4})
    );
}

fn farm_id(farm: &Farm) -> String {
    use clawstead_world::Rng as _;
    farm.rng.uuid_v7(T0)
}

fn letter(farm: &Farm, from: Origin, text: &str) -> Letter {
    let bobby = AgentId::normalise("bobby");
    Letter {
        id: EnvelopeId::from(farm_id(farm)),
        run_id: RunId::from("run-1"),
        kind: EnvelopeKind::Request,
        from,
        to: Address { session: SessionKey::main(&bobby), agent: bobby },
        reply_to: None,
        cause: None,
        body: vec![Part::text(text)],
        options: TurnOptions { extra_system_prompt: Some("obey".into()), ..TurnOptions::default() },
        path: vec![],
        at: T0,
        expires: None,
        traceparent: None,
    }
}

fn from_jerry() -> Origin {
    let jerry = AgentId::normalise("jerry");
    Origin::Agent { session: SessionKey::main(&jerry), agent: jerry }
}

fn out(unit: &Unit) -> Outbound<'_> {
    Outbound { farm_id: "octant", source: unit, epoch: 7, target_gateway: None, correlation_id: None, ttl_default_ms: 60_000, priority: Priority::Normal }
}

#[test]
fn a_letter_of_the_door_crosses_and_comes_out_as_nobodys_owner() {
    let farm = Farm::new(9);
    let unit = Unit::Agent(AgentId::normalise("jerry"));
    let sent = letter(&farm, from_jerry(), "hello");
    let envelope = seal_letter(&sent, &out(&unit), &farm.jerry).unwrap();
    assert_eq!((envelope.capability.as_str(), envelope.idempotency_key(), envelope.ttl), ("sessions.send", "bobby/run-1", Some(60_000)));
    let got = letter_of(&believed(&farm, &envelope.to_bytes().unwrap()).unwrap()).unwrap().unwrap();
    assert_eq!(got.expires, Some(T0.plus(60_000)));
    assert_eq!(got.options.extra_system_prompt, None);
    assert_eq!((got.id, got.run_id, got.body, got.from), (sent.id.clone(), sent.run_id.clone(), sent.body.clone(), sent.from.clone()));

    let person = Origin::Channel {
        channel: "slack".into(),
        account: "default".into(),
        sender_id: "U1".into(),
        sender_name: "Ann".into(),
        message_id: "1".into(),
        owner: true,
    };
    let envelope = seal_letter(&letter(&farm, person, "hi"), &out(&unit), &farm.jerry).unwrap();
    assert_eq!((envelope.source_agent.as_str(), envelope.capability.as_str()), ("chan.slack.default", "channel.deliver"));
    assert!(matches!(letter_of(&envelope).unwrap().unwrap().from, Origin::Channel { owner: false, .. }));

    for origin in [Origin::Client { client_id: "cli".into(), device_id: None, owner: true }, Origin::Heartbeat, Origin::Cron { job_id: "j".into() }] {
        assert!(matches!(seal_letter(&letter(&farm, origin, "x"), &out(&unit), &farm.jerry), Err(LetterError::Origin(_))));
    }
    let mut late = letter(&farm, from_jerry(), "x");
    late.expires = Some(T0.plus(-1));
    assert_eq!(seal_letter(&late, &out(&unit), &farm.jerry).unwrap_err(), LetterError::Expired);
}

#[test]
fn a_body_that_says_something_else_than_its_envelope_is_refused() {
    let farm = Farm::new(10);
    let unit = Unit::Agent(AgentId::normalise("jerry"));
    let fine = seal_letter(&letter(&farm, from_jerry(), "hello"), &out(&unit), &farm.jerry).unwrap();
    let check = |alter: &dyn Fn(&mut Envelope)| {
        let mut altered = fine.clone();
        alter(&mut altered);
        letter_of(&altered).map_or_else(|refusal| refusal.code(), |_| "ok")
    };
    assert_eq!(check(&|_| ()), "ok");
    assert_eq!(check(&|e| e.source_agent = "billy".into()), "forbidden");
    assert_eq!(check(&|e| e.target_agent = "billy".into()), "forbidden");
    assert_eq!(check(&|e| e.session_key = Some("agent:bobby:other".into())), "forbidden");
    assert_eq!(check(&|e| e.capability = "reply".into()), "forbidden");
    assert_eq!(check(&|e| e.body = Some(json!({"text": "x"}))), "malformed");
    let client = json!({"kind": "client", "clientId": "cli", "owner": true});
    assert_eq!(check(&move |e| e.body.as_mut().unwrap()["from"] = client.clone()), "forbidden");
    let mut plain = fine.clone();
    plain.content_type = None;
    assert_eq!(letter_of(&plain).unwrap(), None);
}

#[test]
fn commands_are_seen_in_every_body() {
    let farm = Farm::new(11);
    let unit = Unit::Agent(AgentId::normalise("jerry"));
    let sealed = |text: &str| letter::begins_with_slash(&seal_letter(&letter(&farm, from_jerry(), text), &out(&unit), &farm.jerry).unwrap());
    assert!(sealed("/new") && sealed("  \n/elevated on"));
    assert!(!sealed("see /etc/hosts"));
    let plain = |body: Value, kind: Kind| {
        let mut draft = farm.draft();
        (draft.body, draft.kind) = (Some(body), kind);
        letter::begins_with_slash(&draft)
    };
    assert!(plain(json!({"text": " /reset"}), Kind::Request) && plain(json!("/reset"), Kind::Event) && plain(json!({"message": "/x"}), Kind::Request));
    assert!(!plain(json!({"text": "/var is full"}), Kind::Reply));
    assert!(!plain(json!({"n": 1}), Kind::Request));
}

#[test]
fn every_refusal_has_its_own_code() {
    assert_eq!(Refusal::CODES.iter().collect::<BTreeSet<_>>().len(), Refusal::CODES.len());
}

proptest! {
    #[test]
    fn any_fitting_letter_survives_the_wire(
        text in "\\PC{0,60}", key in proptest::option::of("[ -~]{1,128}"), ttl in proptest::option::of(1u64..=86_400_000),
        hops in proptest::option::of(1u8..=8), epoch in 0u64..=INTEGER_MAX, extra in proptest::collection::btree_map("x_[a-z]{1,8}", "\\PC{0,8}", 0..4),
        number in -1e15f64..1e15,
    ) {
        let farm = Farm::new(12);
        let mut letter = farm.draft();
        letter.body = Some(json!({"text": text, "number": number}));
        letter.idempotency_key = key;
        letter.ttl = ttl;
        letter.max_hops = hops;
        letter.source_epoch = epoch;
        letter.extra = extra.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
        letter.sign(&farm.jerry).unwrap();
        let bytes = letter.to_bytes().unwrap();
        prop_assert_eq!(believed(&farm, &bytes).unwrap().to_bytes().unwrap(), bytes);
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(open(&bytes).is_err());
    }
}
