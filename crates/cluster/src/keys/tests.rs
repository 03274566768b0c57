use clawstead_terms::Millis;
use clawstead_world::SeededRng;

use super::*;
use crate::{
    Now,
    envelope::Refusal,
    testkit::{Farm, T0, YEAR, at},
};

fn code<T>(result: Result<T, Refusal>) -> &'static str {
    result.map_or_else(|refusal| refusal.code(), |_| "ok")
}

#[test]
fn keys_have_names_and_survive_their_files() {
    let rng = SeededRng::new(1);
    let key = GatewayKey::generate("jerry-gateway", &rng).unwrap();
    assert!(key.kid().starts_with("jerry-gateway.") && key.kid().len() == "jerry-gateway.".len() + 16);
    let again = GatewayKey::from_pem("jerry-gateway", &key.to_pem().unwrap()).unwrap();
    assert_eq!((again.kid(), again.public()), (key.kid(), key.public()));
    assert!(!format!("{key:?}").contains(key.to_pem().unwrap().lines().nth(1).unwrap()));
    let root = FarmRoot::generate(&rng);
    assert_eq!(FarmRoot::from_pem(&root.to_pem().unwrap()).unwrap().pin(), root.pin());
    assert_eq!(RootPin::parse(&root.pin().text()).unwrap(), root.pin());
    assert!(matches!(GatewayKey::generate("Jerry", &rng), Err(KeyFileError::Name(_))));
    assert!(matches!(GatewayKey::from_pem("jerry-gateway", "-----BEGIN"), Err(KeyFileError::Pem(_))));
    // The neutral element is a point of small order: every message has a signature under it.
    assert_eq!(RootPin::parse("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap_err(), KeyFileError::Public);
    assert_eq!(RootPin::parse("").unwrap_err(), KeyFileError::Public);
}

#[test]
fn only_what_a_pinned_root_signed_is_believed() {
    let farm = Farm::new(2);
    let record = farm.approved[0].active.clone();
    let stranger = FarmRoot::generate(&farm.rng);
    let mut ring = KeyRing::new(vec![farm.root.pin()]).unwrap();
    let mut refuse = |record: &KeyRecord| ring.put(record).is_err();
    assert!(refuse(stranger.approve("jerry-gateway", &farm.jerry.public(), T0, T0.plus(YEAR)).stage(KeyStatus::Active)));
    let alterations: [&dyn Fn(&mut KeyRecord); 8] = [
        &|r| r.gateway = "bobby-gateway".into(),
        &|r| r.kid.push('0'),
        &|r| r.alg = "none".into(),
        &|r| r.public = farm.approved[1].active.public.clone(),
        &|r| r.not_before = Millis(0),
        &|r| r.not_after = r.not_after.plus(1),
        &|r| r.status = KeyStatus::Next,
        &|r| r.root_sig.clear(),
    ];
    for alter in alterations {
        let mut altered = record.clone();
        alter(&mut altered);
        assert!(refuse(&altered), "{altered:?}");
    }
    assert!(!refuse(&record));
    assert_eq!(KeyRing::new(vec![]).unwrap_err(), RingError::Roots);
    assert_eq!(KeyRing::new(vec![farm.root.pin(), stranger.pin(), farm.root.pin()]).unwrap_err(), RingError::Roots);
    let json = serde_json::to_string(&record).unwrap();
    assert!(json.contains("\"pub\":") && json.contains("\"status\":\"active\""));
    assert_eq!(serde_json::from_str::<KeyRecord>(&json).unwrap(), record);
}

#[test]
fn stages_and_times_decide() {
    let farm = Farm::new(3);
    let kid = farm.jerry.kid();
    for (status, want) in [(KeyStatus::Next, "ok"), (KeyStatus::Active, "ok"), (KeyStatus::Retiring, "ok"), (KeyStatus::Revoked, "key_revoked")] {
        let mut ring = KeyRing::new(vec![farm.root.pin()]).unwrap();
        ring.replace([farm.approved[0].stage(status)], at(0).mono_ms);
        assert_eq!(code(ring.key(kid, "jerry-gateway", at(0))), want, "{status:?}");
        assert_eq!(code(ring.keys_of("jerry-gateway", at(0))), if want == "ok" { "ok" } else { "key_unknown" });
    }
    let ring = &farm.ring;
    assert_eq!(code(ring.key(kid, "bobby-gateway", at(0))), "key_unknown");
    assert_eq!(code(ring.key("jerry-gateway.0000000000000000", "jerry-gateway", at(0))), "key_unknown");
    assert_eq!(code(ring.key(kid, "jerry-gateway", Now { wall: T0.plus(-1001), ..at(0) })), "key_not_yet");
    assert_eq!(code(ring.key(kid, "jerry-gateway", Now { wall: T0.plus(YEAR + 1), ..at(0) })), "key_retired");
}

#[test]
fn what_was_heard_too_long_ago_is_not_believed() {
    let mut farm = Farm::new(4);
    let kid = farm.jerry.kid().to_owned();
    assert_eq!(code(farm.ring.key(&kid, "jerry-gateway", at(60_000))), "ok");
    assert_eq!(code(farm.ring.key(&kid, "jerry-gateway", at(60_001))), "keys_stale");
    farm.ring.touch(at(60_001).mono_ms);
    assert_eq!(code(farm.ring.key(&kid, "jerry-gateway", at(120_001))), "ok");
    // A wall clock that jumps changes nothing here.
    assert_eq!(code(farm.ring.key(&kid, "jerry-gateway", Now { wall: T0.plus(YEAR), mono_ms: at(60_001).mono_ms })), "ok");
    assert_eq!(code(KeyRing::new(vec![farm.root.pin()]).unwrap().key(&kid, "jerry-gateway", at(0))), "keys_stale");
}

#[test]
fn a_revoked_key_does_not_come_back() {
    let farm = Farm::new(5);
    let (kid, key) = (farm.jerry.kid(), &farm.approved[0]);
    let mut ring = farm.ring.clone();
    ring.put(&key.revoked).unwrap();
    assert_eq!(ring.put(&key.active).unwrap_err().why, "an earlier stage than was seen before; the later one holds");
    assert_eq!(code(ring.key(kid, "jerry-gateway", at(0))), "key_revoked");
    ring.replace([&key.active], at(1).mono_ms);
    assert_eq!(code(ring.key(kid, "jerry-gateway", at(1))), "key_revoked");
    ring.remove(kid);
    assert_eq!(code(ring.key(kid, "jerry-gateway", at(1))), "key_revoked");
    // Also not after a restart that remembers.
    let mut next = KeyRing::new(vec![farm.root.pin()]).unwrap();
    next.remember(ring.stages().clone());
    next.replace([&key.active], at(2).mono_ms);
    assert_eq!((code(next.key(kid, "jerry-gateway", at(2))), next.stage(kid)), ("key_revoked", Some(KeyStatus::Revoked)));
}

/// A change of key with letters under way: at no moment is a letter of either key refused before the old one is revoked.
#[test]
fn a_rotation_refuses_nothing_that_is_under_way() {
    let farm = Farm::new(6);
    let new = GatewayKey::generate("jerry-gateway", &farm.rng).unwrap();
    let (old_key, new_key) = (&farm.approved[0], farm.root.approve("jerry-gateway", &new.public(), T0, T0.plus(YEAR)));
    let records: Vec<_> = farm.approved.iter().map(|key| key.active.clone()).collect();
    let what = Rotation::GatewayKey { gateway: "jerry-gateway".into(), new_kid: new.kid().into() };
    let plan = rotation_plan(&what, &records).unwrap();
    assert_eq!(
        plan.iter().map(|step| (step.number, step.wait_ms, step.event)).collect::<Vec<_>>(),
        [(1, 0, "farm.key.next"), (2, 300_000, "farm.key.active"), (3, 87_000_000, "farm.key.revoked")]
    );
    assert!(plan[2].to_string().starts_with("3. after 24 h 10 min: revoke "), "{}", plan[2]);
    // A verifier that hears of each step as late as it may (60 s), a letter signed just before each step and still alive.
    let stages = [(KeyStatus::Next, KeyStatus::Active), (KeyStatus::Active, KeyStatus::Retiring), (KeyStatus::Active, KeyStatus::Revoked)];
    let (mut ring, mut time, mut signer) = (farm.ring.clone(), 0, farm.jerry.kid().to_owned());
    for (step, (new_stage, old_stage)) in plan.iter().zip(stages) {
        time += i64::try_from(step.wait_ms).unwrap();
        let before = signer.clone();
        if new_stage == KeyStatus::Active {
            new.kid().clone_into(&mut signer);
        }
        ring.touch(at(time).mono_ms);
        assert_eq!(code(ring.key(&signer, "jerry-gateway", at(time + 59_000))), "ok", "step {} signs before all heard of it", step.number);
        ring.replace([new_key.stage(new_stage), old_key.stage(old_stage)], at(time + 59_000).mono_ms);
        if old_stage != KeyStatus::Revoked {
            assert_eq!(code(ring.key(&before, "jerry-gateway", at(time + 60_000))), "ok", "step {} drops letters under way", step.number);
        }
    }
    assert_eq!(code(ring.key(farm.jerry.kid(), "jerry-gateway", at(time + 60_000))), "key_revoked");
    // What cannot begin.
    let mut busy = records.clone();
    busy.push(GatewayKey::generate("jerry-gateway", &farm.rng).map(|key| farm.root.approve("jerry-gateway", &key.public(), T0, T0.plus(1)).next).unwrap());
    assert!(matches!(rotation_plan(&what, &busy), Err(RotationError::Underway { status: "next", .. })));
    assert!(matches!(rotation_plan(&what, &[]), Err(RotationError::NoActive { .. })));
}

#[test]
fn two_roots_during_a_change_of_root() {
    let farm = Farm::new(7);
    let new_root = FarmRoot::generate(&farm.rng);
    let old = &farm.approved[0].active;
    let resigned = new_root.approve("jerry-gateway", &farm.jerry.public(), T0.plus(-1000), T0.plus(YEAR)).active;
    let mut both = KeyRing::new(vec![farm.root.pin(), new_root.pin()]).unwrap();
    assert_eq!(both.replace([old], 0), []);
    assert_eq!(both.replace([&resigned], 0), []);
    let mut new_only = KeyRing::new(vec![new_root.pin()]).unwrap();
    assert_eq!(new_only.replace([old], 0).len(), 1);
    assert_eq!(new_only.replace([&resigned], 0), []);
    let plan = rotation_plan(&Rotation::Root { new_root: new_root.pin().kid().into() }, &[]).unwrap();
    assert_eq!(plan.len(), 3);
}

#[test]
fn an_emergency_waits_for_nothing() {
    let farm = Farm::new(8);
    let records: Vec<_> = farm.approved.iter().map(|key| key.active.clone()).collect();
    let steps = emergency_revoke(farm.jerry.kid(), &records).unwrap();
    assert!(steps.iter().all(|step| step.wait_ms == 0) && steps[0].event == "farm.key.revoked");
    assert_eq!(emergency_revoke("nobody.0", &records).unwrap_err(), RotationError::UnknownKey("nobody.0".into()));
    for rotation in
        [Rotation::Certificate { gateway: "jerry-gateway".into() }, Rotation::Credentials { engine: "consul".into(), gateway: "jerry-gateway".into() }]
    {
        assert!(!rotation_plan(&rotation, &records).unwrap().is_empty());
    }
}

#[test]
fn join_tokens_work_once_for_ten_minutes_for_one_gateway() {
    let (rng, secret) = (SeededRng::new(9), [7; 32]);
    let token = issue_join_token(&secret, "octant", "billy-gateway", T0, &rng);
    let read = |farm: &str, gateway: &str, token: &str, ms: i64| read_join_token(&secret, farm, gateway, token, T0.plus(ms));
    let claim = read("octant", "billy-gateway", &token, 600_000).unwrap();
    assert_eq!(read("octant", "billy-gateway", &token, 600_001), Err(JoinError::Expired));
    assert_eq!(read("octant", "jerry-gateway", &token, 0), Err(JoinError::WrongGateway));
    assert_eq!(read("other", "billy-gateway", &token, 0), Err(JoinError::Invalid));
    assert_eq!(read_join_token(&[8; 32], "octant", "billy-gateway", &token, T0), Err(JoinError::Invalid));
    for at in 0..token.len() {
        let mut altered = token.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).unwrap();
        assert_eq!(read("octant", "billy-gateway", &altered, 0), Err(JoinError::Invalid), "{at}");
    }
    let mut spent = SpentTokens::default();
    assert_eq!(spent.spend(&claim, T0), Ok(()));
    assert_eq!(spent.spend(&claim, T0.plus(1)), Err(JoinError::Spent));
    assert!(claim.spent_key().starts_with("openclaw/farm/v1/join/"));
}
