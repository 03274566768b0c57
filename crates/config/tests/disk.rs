//! Includes, secrets, changes and writing, on real files.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{fs, path::Path};

use clawstead_config::*;
use serde_json::json;

struct Home {
    dir: tempfile::TempDir,
    env: Env,
    paths: Paths,
}

fn home(files: &[(&str, &str)]) -> Home {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join(".openclaw");
    fs::create_dir_all(&state).unwrap();
    for (name, text) in files {
        let path = state.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let env = Env::from_pairs([("HOME", dir.path().to_str().unwrap())]);
    let paths = Paths::resolve(Profile::Main, &env);
    Home { dir, env, paths }
}

impl Home {
    fn read(&self) -> Snapshot {
        Snapshot::read(&self.paths, &self.env, ReadOptions::default())
    }

    fn edit(&self, edits: &[Edit]) -> Result<Planned, EditError> {
        plan_edit(&self.read(), edits, &self.env, EditOptions::default())
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.paths.state_dir.join(name)).unwrap()
    }
}

fn set(path: &str, value: serde_json::Value) -> Edit {
    Edit::Set { path: split_path(path).unwrap(), value, mode: MapWrite::Protect }
}

fn patch(patch: serde_json::Value) -> Edit {
    Edit::Patch { patch, replace_paths: vec![] }
}

#[test]
fn includes_are_put_in() {
    let h = home(&[
        ("openclaw.json", "{ $include: ['a.json5', 'b.json5'], gateway: { port: 3 },\n agents: { $include: './sub/agents.json5' } }"),
        ("a.json5", "{ gateway: { port: 1, bind: 'lan', auth: { token: 'x' } }, bindings: [{ agentId: 'a', match: { channel: 'x' } }] }"),
        ("b.json5", "{ gateway: { port: 2 }, bindings: [{ agentId: 'b', match: { channel: 'x' } }] }"),
        ("sub/agents.json5", "{\n list: [{ id: 'a' }, { id: 'b',\n foo: 1 }] }"),
    ]);
    let s = h.read();
    let c = s.load(Strictness::Tolerant, SecretOptions::default()).unwrap().config;
    assert_eq!((c.gateway.port, c.gateway.bind, c.bindings.len(), c.agents.list.len()), (3, Bind::Lan, 2, 2));
    let i = s.issues.iter().find(|i| i.message.contains("foo")).unwrap();
    assert!(i.file.as_ref().unwrap().ends_with("sub/agents.json5"), "{i:?}");
    assert_eq!(i.line, Some(3));

    for (text, other, part) in [
        ("{ $include: 'none.json5' }", "{}", "not found"),
        ("{ $include: '../../x.json5' }", "{}", "escapes"),
        ("{ $include: '/etc/hostname' }", "{}", "escapes"),
        ("{ $include: 'o.json5' }", "{ $include: 'o.json5' }", "Circular"),
        ("{ $include: 'o.json5' }", "{ ", "Failed to parse include file"),
        ("{ $include: 5 }", "{}", "Invalid $include"),
    ] {
        let h = home(&[("openclaw.json", text), ("o.json5", other)]);
        assert!(h.read().blocking(Strictness::Tolerant).iter().any(|i| i.message.contains(part)), "{text}: {:?}", h.read().issues);
    }
    let h = home(&[("openclaw.json", "{ $include: '0.json5' }")]);
    for n in 0..12 {
        fs::write(h.paths.state_dir.join(format!("{n}.json5")), format!("{{ $include: '{}.json5' }}", n + 1)).unwrap();
    }
    assert!(h.read().issues.iter().any(|i| i.message.contains("Maximum include depth")));
}

#[test]
fn an_include_may_come_from_a_named_root() {
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("x.json5"), "{ gateway: { port: 7 } }").unwrap();
    let mut h = home(&[("openclaw.json", &format!("{{ $include: '{}/x.json5' }}", other.path().display()))]);
    assert!(!h.read().blocking(Strictness::Tolerant).is_empty());
    h.env.set("OPENCLAW_INCLUDE_ROOTS", other.path().to_str().unwrap());
    h.paths = Paths::resolve(Profile::Main, &h.env);
    assert!(h.read().blocking(Strictness::Tolerant).is_empty());
}

#[test]
fn variables_come_in_order() {
    let h = home(&[
        ("openclaw.json", "{ env: { vars: { A: 'file', B: 'file', C: 'file' } }, gateway: { auth: { mode: 'token', token: '${A}${B}${C}${D}' } } }"),
        (".env", "B=dotenv\nC=dotenv\n# x\nexport D=\"d\" \n"),
    ]);
    let cwd = tempfile::tempdir().unwrap();
    fs::write(cwd.path().join(".env"), "C=cwd\nA=cwd\nOPENCLAW_GATEWAY_PORT=5\n").unwrap();
    let mut env = h.env.clone();
    env.set("A", "process");
    let s = Snapshot::read(&h.paths, &env, ReadOptions { cwd: Some(cwd.path()), ..ReadOptions::default() });
    let c = s.load(Strictness::Tolerant, SecretOptions::default()).unwrap().config;
    assert_eq!(c.gateway.auth.token.as_ref().unwrap().expose(), "processdotenvcwdd");
    assert_eq!(c.env.get("OPENCLAW_GATEWAY_PORT"), None);
}

#[cfg(unix)]
#[test]
fn secrets_come_from_files_and_programs() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |p: &Path, m: u32| fs::set_permissions(p, fs::Permissions::from_mode(m)).unwrap();
    let h = home(&[
        ("s.json", "{\"a\": {\"b\": \"from-file\"}}"),
        (
            "helper",
            "#!/bin/sh\nread -r line || true\ncase \"$line\" in *'\"ids\":[\"x\",\"y\"]'*) echo '{\"protocolVersion\":1,\"values\":{\"x\":\"from-program\"},\"errors\":{\"y\":{\"code\":\"NOT_FOUND\"}}}';; *) exit 3;; esac\n",
        ),
    ]);
    let state = &h.paths.state_dir;
    mode(&state.join("s.json"), 0o600);
    mode(&state.join("helper"), 0o700);
    let text = format!(
        "{{ secrets: {{ providers: {{ f: {{ source: 'file', path: '{0}/s.json' }}, e: {{ source: 'exec', command: '{0}/helper' }} }} }},
            gateway: {{ auth: {{ mode: 'token', token: {{ source: 'file', provider: 'f', id: '/a/b' }}, password: {{ source: 'exec', provider: 'e', id: 'x' }} }}, remote: {{ token: {{ source: 'exec', provider: 'e', id: 'y' }} }} }} }}",
        state.display()
    );
    fs::write(&h.paths.config_path, text).unwrap();
    let l = h.read().load(Strictness::Strict, SecretOptions { exec: ExecRefs::Run, store: None }).unwrap();
    assert_eq!(l.config.gateway.auth.token.as_ref().unwrap().expose(), "from-file");
    assert_eq!(l.config.gateway.auth.password.as_ref().map(Secret::expose), Some("from-program"), "{:?}", l.unresolved);
    assert_eq!(l.unresolved.len(), 1);
    assert!(l.unresolved[0].reason.contains("NOT_FOUND"));
    mode(&state.join("s.json"), 0o644);
    mode(&state.join("helper"), 0o722);
    let l = h.read().load(Strictness::Strict, SecretOptions { exec: ExecRefs::Run, store: None }).unwrap();
    assert!(l.unresolved.iter().any(|u| u.reason.contains("0600")) && l.unresolved.iter().any(|u| u.reason.contains("writable")), "{:?}", l.unresolved);
}

#[test]
fn changes_keep_comments_and_backups() {
    let before = "{\n  // top\n  gateway: {\n    mode: 'local', // here\n    port: 18789,\n    auth: { token: '${TOK}' },\n  },\n  agents: { list: [{ id: 'jerry' }] }, // roster\n}\n";
    let mut h = home(&[("openclaw.json", before)]);
    h.env.set("TOK", "s3cret");
    let p = h
        .edit(&[
            set("gateway.port", json!(19000)),
            set("agents.entries.jerry.model", json!("a/b")),
            set("gateway.auth", json!({"token": REDACTED, "mode": "token"})),
        ])
        .unwrap();
    assert_eq!(p.changed.iter().map(|c| join_path(c)).collect::<Vec<_>>(), ["gateway.port", "gateway.auth.mode", "agents.entries.jerry.model"]);
    write(&p, Guard::On, 1).unwrap();
    let after = h.text("openclaw.json");
    for part in ["// top", "// here", "// roster", "'${TOK}'", "port: 19000", "\"a/b\""] {
        assert!(after.contains(part), "{part}\n{after}");
    }
    assert!(!after.contains("s3cret"));
    assert_eq!(h.text("openclaw.json.bak"), before);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&h.paths.config_path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    for n in 1..=6 {
        write(&h.edit(&[set("gateway.port", json!(19000 + n))]).unwrap(), Guard::On, 1).unwrap();
    }
    assert!(h.text("openclaw.json.bak.4").contains("19001"), "{}", h.text("openclaw.json.bak.4"));
    assert!(!h.paths.state_dir.join("openclaw.json.bak.5").exists());
    assert!(h.edit(&[set("gateway.port", json!(19006))]).unwrap().files.is_empty());
    assert!(keep_last_good(&h.read()).unwrap());
    assert_eq!(h.text("openclaw.json.last-good"), h.text("openclaw.json"));
    assert_eq!(fs::read_dir(&h.paths.state_dir).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains(".tmp.")).count(), 0);
}

#[test]
fn changes_are_refused_with_a_reason() {
    let big = format!(
        "{{ gateway: {{ mode: 'local' }}, /* {} */ models: {{ providers: {{ x: {{ baseUrl: 'http://h' }}, y: {{ baseUrl: 'http://h' }} }} }} }}",
        "c".repeat(700)
    );
    let mut h = home(&[("openclaw.json", &big)]);
    let e = |edits: &[Edit], h: &Home| h.edit(edits).unwrap_err();
    assert!(
        matches!(e(&[set("models.providers", json!({"x": {"baseUrl": "http://h"}}))], &h), EditError::WouldRemove(p, n) if p == "models.providers" && n == ["y"])
    );
    let merge = Edit::Set { path: split_path("models.providers").unwrap(), value: json!({"z": {"baseUrl": "http://z"}}), mode: MapWrite::Merge };
    assert_eq!(h.edit(&[merge]).unwrap().snapshot.normal["models"]["providers"].as_object().unwrap().len(), 3);
    let replace = Edit::Set { path: split_path("models.providers").unwrap(), value: json!({}), mode: MapWrite::Replace };
    assert!(h.edit(&[replace]).is_ok());
    let bad = e(&[set("gateway.foo", json!(1))], &h);
    assert_eq!(bad.to_string(), "Config validation failed: gateway: Unrecognized key: \"foo\"");
    assert!(
        e(&[set("gateway.reload.mode", json!("x"))], &h)
            .to_string()
            .starts_with("Config validation failed: gateway.reload.mode: Invalid input (allowed: \"off\"")
    );
    assert!(matches!(e(&[set("gateway.auth.token", json!(REDACTED))], &h), EditError::Placeholder(p) if p == "gateway.auth.token"));
    assert!(matches!(e(&[set("gateway.mode.x", json!(1))], &h), EditError::Place(_)));
    let p = h.edit(&[Edit::Unset { path: split_path("gateway.mode").unwrap() }]).unwrap();
    assert!(matches!(write(&p, Guard::On, 7), Err(EditError::Destructive(_))));
    assert!(h.paths.state_dir.join("openclaw.json.rejected.7").exists());
    assert_eq!(h.text("openclaw.json"), big);
    fs::write(&h.paths.config_path, "{}").unwrap();
    assert_eq!(write(&p, Guard::Off, 7), Err(EditError::Conflict));
    assert_eq!(plan_edit(&h.read(), &[], &h.env, EditOptions { base_hash: Some("x"), version: None }).unwrap_err(), EditError::Conflict);
    h.env.set("OPENCLAW_CONFIG_READONLY", "1");
    assert_eq!(e(&[], &h), EditError::ReadOnly);
}

#[test]
fn patches_merge_and_protect_lists() {
    let h = home(&[("openclaw.json", "{ gateway: { mode: 'local', port: 1, trustedProxies: ['1.1.1.1', '2.2.2.2'] } }")]);
    let p = h.edit(&[patch(json!({"gateway": {"port": null, "bind": "loopback"}}))]).unwrap();
    assert_eq!(p.snapshot.normal["gateway"], json!({"mode": "local", "trustedProxies": ["1.1.1.1", "2.2.2.2"], "bind": "loopback"}));
    let less = json!({"gateway": {"trustedProxies": ["2.2.2.2"]}});
    assert!(matches!(h.edit(&[patch(less.clone())]), Err(EditError::WouldRemove(..))));
    let p = h.edit(&[Edit::Patch { patch: less, replace_paths: vec!["gateway.trustedProxies".into()] }]).unwrap();
    assert_eq!(p.snapshot.normal["gateway"]["trustedProxies"], json!(["2.2.2.2"]));
}

#[test]
fn a_first_file_and_included_files_are_written() {
    let h = home(&[]);
    let p = plan_edit(&h.read(), &[set("gateway.mode", json!("local"))], &h.env, EditOptions { base_hash: None, version: Some("2026.9.6") }).unwrap();
    write(&p, Guard::On, 1).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&h.text("openclaw.json")).unwrap(),
        json!({"gateway": {"mode": "local"}, "meta": {"lastTouchedVersion": "2026.9.6"}})
    );

    let h = home(&[("openclaw.json", "{ gateway: { $include: 'g.json5' } }"), ("g.json5", "{ mode: 'local', port: 1 } // end\n")]);
    write(&h.edit(&[set("gateway.port", json!(2)), set("gateway.auth.mode", json!("token"))]).unwrap(), Guard::On, 1).unwrap();
    assert_eq!(h.text("openclaw.json"), "{ gateway: { $include: 'g.json5' } }");
    assert_eq!(h.text("g.json5"), "{ mode: 'local', port: 2, auth: {\"mode\":\"token\"} } // end\n");
    let h = home(&[("openclaw.json", "{ gateway: { $include: ['g.json5'] } }"), ("g.json5", "{ mode: 'local' }")]);
    assert!(matches!(h.edit(&[set("gateway.port", json!(2))]), Err(EditError::Place(_))));
}

#[test]
fn agents_go_where_the_file_keeps_them() {
    let h = home(&[("openclaw.json", "{ agents: { list: [{ id: 'a' }] } }")]);
    for edit in [set("agents.entries.b", json!({"name": "B"})), patch(json!({"agents": {"entries": {"b": {"name": "B"}}}}))] {
        let p = h.edit(&[edit, set("agents.entries.a.name", json!("A"))]).unwrap();
        assert_eq!(p.snapshot.parsed, json!({"agents": {"list": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}]}}));
    }
    let h = home(&[("openclaw.json", "{ agents: { entries: { a: {} } } }")]);
    let p = h.edit(&[set("agents.list[0].name", json!("A"))]).unwrap();
    assert_eq!(p.snapshot.parsed, json!({"agents": {"entries": {"a": {"name": "A"}}}}));
}

#[test]
fn a_broken_file_is_a_snapshot_too() {
    let h = home(&[("openclaw.json", "{ gateway: {")]);
    let s = h.read();
    assert!(s.exists && s.load(Strictness::Tolerant, SecretOptions::default()).is_err());
    assert!(matches!(h.edit(&[set("gateway.port", json!(2))]), Err(EditError::Unreadable(_))));
    let h = home(&[]);
    fs::create_dir(&h.paths.config_path).unwrap();
    assert!(!h.read().blocking(Strictness::Tolerant).is_empty());
    assert!(h.dir.path().exists());
}
