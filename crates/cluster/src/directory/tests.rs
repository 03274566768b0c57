use std::collections::BTreeMap;

use bytes::Bytes;
use clawstead_bus::{Change, Entry, Version};
use clawstead_terms::Millis;

use super::*;

fn entry(key: &str, value: &str) -> Entry {
    Entry { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), version: Version(1) }
}

fn put(directory: &mut Directory, key: &str, value: &str, ms: u64) {
    directory.apply("openclaw/", &Change::Put(entry(key, value)), ms);
}

fn snapshot(pairs: &[(&str, &str)]) -> Change {
    Change::Snapshot(pairs.iter().map(|(key, value)| ((*key).to_owned(), entry(key, value))).collect())
}

fn lease(nonce: &str, incarnation: u64, beat: u64) -> String {
    serde_json::to_string(&MemberRecord { incarnation, nonce: nonce.into(), load: 0, version: "0.1.0".into(), peer: None, beat, state_lost: false }).unwrap()
}

/// The example of the mission text, read and written again.
#[test]
fn the_published_schema_is_read_and_written_as_it_is() {
    let published = [
        ("openclaw/agents/billy/capabilities", r#"["cron","automation","scheduled-tasks"]"#),
        ("openclaw/agents/billy/gateway", "jerry-gateway"),
        ("openclaw/agents/billy/model_provider", "litellm-macbook"),
        ("openclaw/agents/bobby/capabilities", r#"["consul","nomad","infra-monitoring"]"#),
        ("openclaw/agents/bobby/gateway", "jerry-gateway"),
        ("openclaw/agents/bobby/heartbeat_enabled", "true"),
        ("openclaw/agents/bobby/last_check", "2026-02-16T12:00:00Z"),
        ("openclaw/agents/bobby/last_check_result", "all-healthy"),
        ("openclaw/cluster/deployment", "option-3-hybrid"),
        ("openclaw/cluster/id", "octant-homelab"),
        ("openclaw/cluster/members", r#"["jerry-gateway"]"#),
        ("openclaw/gateways/jerry-gateway/agents", r#"["jerry","bobby","billy"]"#),
        ("openclaw/gateways/jerry-gateway/last_heartbeat", "2026-02-16T12:00:00Z"),
        ("openclaw/gateways/jerry-gateway/status", "healthy"),
        ("openclaw/gateways/jerry-gateway/url", "wss://jerry.tailscale:18789"),
    ];
    let mut directory = Directory::default();
    directory.apply("openclaw/", &snapshot(&published), 0);
    assert_eq!(directory.problems().len(), 0);
    let mut written: Vec<_> = directory.cluster().pairs();
    written.extend(directory.gateways().iter().flat_map(|(name, view)| view.entry.pairs(name)));
    written.extend(directory.agents().iter().flat_map(|(id, view)| view.entry.pairs(id)));
    written.sort();
    let texts: Vec<_> = written.iter().map(|(key, value)| (key.as_str(), std::str::from_utf8(value).unwrap())).collect();
    assert_eq!(texts, published);
    assert_eq!((directory.home("bobby"), directory.home("jerry"), directory.home("eve")), (Some("jerry-gateway"), Some("jerry-gateway"), None));
    assert_eq!(published_stamp(Millis(1_771_243_200_999)), "2026-02-16T12:00:00Z");
    // Letters below an agent are no fields, quoted texts are texts.
    put(&mut directory, "openclaw/agents/bobby/inbox/msg-1", "{}", 1);
    put(&mut directory, "openclaw/agents/bobby/status", "\"active\"", 1);
    assert_eq!(directory.agents()["bobby"].entry.status.as_deref(), Some("active"));
    directory.apply("openclaw/", &Change::Delete("openclaw/agents/bobby/status".into()), 2);
    assert_eq!(directory.agents()["bobby"].entry.status, None);
    // A later snapshot takes away what is not in it.
    directory.apply(AGENTS, &snapshot(&[]), 3);
    assert_eq!((directory.agents().len(), directory.gateways().len()), (0, 1));
    directory.apply("openclaw/", &snapshot(&[]), 4);
    assert_eq!(directory.gateways().len(), 0);
}

#[test]
fn health_is_what_we_saw_by_our_own_clock() {
    let (mut directory, key) = (Directory::default(), "openclaw/gateways/g1/last_heartbeat");
    directory.apply(GATEWAYS, &snapshot(&[(key, "2001-01-01T00:00:00Z")]), 1_000);
    let health = |directory: &Directory, ms| directory.health("g1", ms);
    // A record that was there already says nothing yet, whatever time it shows.
    assert_eq!(health(&directory, 31_000), Health::Unknown);
    assert_eq!(health(&directory, 31_001), Health::Silent { since_ms: 1_000 });
    put(&mut directory, key, "1999-01-01T00:00:00Z", 40_000);
    assert_eq!(health(&directory, 40_000), Health::Healthy { since_ms: 40_000 });
    put(&mut directory, key, "1999-01-01T00:00:10Z", 60_000);
    assert_eq!(health(&directory, 90_000), Health::Healthy { since_ms: 40_000 });
    // The same value again is no sign of life.
    put(&mut directory, key, "1999-01-01T00:00:10Z", 90_000);
    assert_eq!(health(&directory, 90_001), Health::Silent { since_ms: 60_000 });
    put(&mut directory, key, "x", 100_000);
    assert_eq!(health(&directory, 100_001), Health::Healthy { since_ms: 100_000 });
    // While the store is away nobody is silent; afterwards the count begins again.
    directory.apply(GATEWAYS, &Change::Lost("no leader".into()), 101_000);
    assert_eq!((health(&directory, 500_000), directory.lost()), (Health::Unknown, Some("no leader")));
    directory.apply(GATEWAYS, &snapshot(&[(key, "x")]), 500_000);
    assert_eq!(health(&directory, 530_000), Health::Healthy { since_ms: 100_000 });
    assert_eq!(health(&directory, 530_001), Health::Silent { since_ms: 500_000 });
    put(&mut directory, "openclaw/gateways/g1/status", "stopped", 530_002);
    assert_eq!(health(&directory, 530_003), Health::Stopped);
    assert_eq!(directory.health("nobody", 0), Health::Unknown);
}

#[test]
fn two_processes_with_one_name_are_noticed() {
    let mut directory = Directory::default();
    let key = MemberRecord::store_key("g1");
    put(&mut directory, &key, &lease("a", 1, 1), 0);
    put(&mut directory, &key, &lease("b", 2, 1), 1);
    // A restart is no conflict.
    assert_eq!(directory.name_conflicts(), Vec::<&str>::new());
    put(&mut directory, &key, &lease("a", 1, 2), 2);
    assert_eq!(directory.name_conflicts(), ["g1"]);
    let ours =
        |nonce: &str, incarnation| MemberRecord { incarnation, nonce: nonce.into(), load: 0, version: String::new(), peer: None, beat: 0, state_lost: false };
    assert!(directory.is_name_taken("g1", &ours("c", 1)));
    assert!(!directory.is_name_taken("g1", &ours("a", 1)) && !directory.is_name_taken("g1", &ours("c", 2)) && !directory.is_name_taken("g2", &ours("c", 1)));
    // One agent at two gateways.
    put(&mut directory, "openclaw/gateways/g1/agents", r#"["bobby"]"#, 3);
    put(&mut directory, "openclaw/gateways/g2/agents", r#"["bobby","eve"]"#, 3);
    assert_eq!(directory.agents_listed_twice(), BTreeMap::from([("bobby", vec!["g1", "g2"])]));
    assert_eq!((directory.home("bobby"), directory.home("eve")), (None, Some("g2")));
}

#[test]
fn what_cannot_be_read_is_listed_and_changes_nothing() {
    let mut directory = Directory::default();
    put(&mut directory, "openclaw/gateways/g1/agents", r#"["bobby"]"#, 0);
    for (key, value) in [
        ("openclaw/gateways/g1/agents", "bobby"),
        ("openclaw/gateways/Bad Name/url", "x"),
        ("openclaw/agents/bobby/heartbeat_enabled", "maybe"),
        ("openclaw/farm/v1/members/g1", "{}"),
        ("openclaw/farm/v1/keys/g1/k", "[]"),
    ] {
        put(&mut directory, key, value, 1);
        assert!(directory.problems().contains_key(key), "{key}");
    }
    assert_eq!(directory.gateways()["g1"].entry.agents, ["bobby"]);
    put(&mut directory, "openclaw/gateways/g1/agents", "[]", 2);
    assert!(!directory.problems().contains_key("openclaw/gateways/g1/agents"));
    for n in 0..PROBLEMS_MAX * 2 {
        put(&mut directory, &format!("openclaw/gateways/g1-{n}/agents"), "no list", 3);
    }
    assert_eq!(directory.problems().len(), PROBLEMS_MAX);
}
