//! `openclaw farm` on a real coordination store, and what it does without one.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
};

use common::{Home, consul::Consul, free_port};
use serde_json::{Value, json};

const CONFIG: &str = "{\n  // the first gateway\n  gateway: {mode: 'local'},\n  agents: {list: [{id: 'jerry', default: true}]}, // one agent\n}\n";

fn init(home: &Home, url: &str) -> Value {
    let listen = format!("127.0.0.1:{}", free_port());
    let ran = home.run(&[
        "farm",
        "init",
        "--id",
        "octant",
        "--gateway",
        "jerry-gateway",
        "--coord-addr",
        url,
        "--peer-listen",
        &listen,
        "--agent",
        "bobby",
        "--json",
    ]);
    assert_eq!(ran.code, 0, "{} {}", ran.out, ran.err);
    ran.json()
}

fn other(agent: &str) -> Home {
    Home::with_config(&format!("{{gateway: {{mode: 'local'}}, agents: {{list: [{{id: '{agent}', default: true}}]}}}}\n"))
}

/// An agent on a second node that asked to join.
fn enrolled(url: &str, made: &Value) -> (Home, String) {
    let home = other("bobby");
    let root = made["root"]["pin"].as_str().unwrap();
    let ran = home.run(&["farm", "enroll", "--id", "octant", "--gateway", "bobby-gateway", "--coord-addr", url, "--root", root, "--agent", "jerry", "--json"]);
    assert_eq!((ran.code, ran.json()["approved"].as_bool()), (0, Some(false)), "{} {}", ran.out, ran.err);
    let kid = ran.json()["kid"].as_str().unwrap().to_owned();
    (home, kid)
}

fn keys(home: &Home) -> Vec<Value> {
    home.run(&["farm", "keys", "--json"]).json()["keys"].as_array().unwrap().clone()
}

fn key(home: &Home, kid: &str) -> Value {
    keys(home).into_iter().find(|key| key["kid"] == kid).unwrap_or_else(|| panic!("no key {kid}"))
}

fn doctor(home: &Home) -> Vec<(String, String)> {
    let found = home.run(&["doctor", "--json", "--all", "--only", "farm"]).json();
    found["findings"].as_array().unwrap().iter().map(|f| (f["severity"].as_str().unwrap().to_owned(), f["message"].as_str().unwrap().to_owned())).collect()
}

fn has(found: &[(String, String)], severity: &str, part: &str) -> bool {
    found.iter().any(|(s, message)| s == severity && message.contains(part))
}

#[test]
fn a_farm_is_made_joined_and_left() {
    let Some(consul) = Consul::start("cli farm") else { return };
    let jerry = Home::with_config(CONFIG);
    let made = init(&jerry, &consul.url());
    assert_eq!((made["approved"].as_bool(), made["farm"].as_str(), made["gateway"].as_str()), (Some(true), Some("octant"), Some("jerry-gateway")), "{made}");
    let kid = made["kid"].as_str().unwrap();
    assert_eq!(key(&jerry, kid)["status"], "active");
    assert!(jerry.text().contains("// the first gateway") && jerry.text().contains("// one agent"), "{}", jerry.text());
    assert_eq!(jerry.run(&["config", "validate"]).code, 0);
    let found = doctor(&jerry);
    assert!(has(&found, "warning", "root key lies beside the gateway") && has(&found, "ok", "consul answers") && has(&found, "ok", "is approved"), "{found:?}");

    // A second farm in the same store is refused, and leaves nothing behind.
    let second = Home::with_config(CONFIG);
    let ran = second.run(&["farm", "init", "--gateway", "other-gateway", "--coord-addr", &consul.url(), "--yes"]);
    assert!(ran.code == 1 && ran.err.contains("already, with jerry-gateway"), "{}", ran.err);
    assert_eq!(second.text(), CONFIG);
    assert!(!second.state().join("farm-root.pem").exists());

    let (bobby, asked) = enrolled(&consul.url(), &made);
    let again = bobby.run(&["farm", "enroll", "--json"]).json();
    assert_eq!(again["kid"], asked.as_str(), "asking again asks with the same key");
    assert!(has(&doctor(&bobby), "error", "is not approved"));
    let requests = jerry.run(&["farm", "requests", "--json"]).json();
    assert_eq!((requests["requests"][0]["gateway"].as_str(), requests["requests"][0]["kid"].as_str()), (Some("bobby-gateway"), Some(asked.as_str())));

    // Without somebody to ask, with the wrong key, for nobody, with another farm's root: not approved.
    let stranger = Home::new();
    assert_eq!(stranger.run(&["farm", "init", "--coord-addr", "http://127.0.0.1:1", "--gateway", "x-gateway", "--json"]).code, 0);
    let foreign = stranger.state().join("farm-root.pem").display().to_string();
    for (args, says) in [
        (&["farm", "approve", "bobby-gateway"][..], "needs --yes"),
        (&["farm", "approve", "bobby-gateway", "--kid", "bobby-gateway.0000000000000000"], "is not let in"),
        (&["farm", "approve", "billy-gateway", "--yes"], "these do: bobby-gateway"),
        (&["farm", "approve", "bobby-gateway", "--yes", "--root-file", &foreign], "believed nowhere"),
        (&["farm", "approve", "bobby-gateway", "--yes", "--root-file", "/nonexistent/root.pem"], "does not exist"),
    ] {
        let ran = jerry.run(args);
        assert!(ran.code == 1 && ran.err.contains(says), "{args:?}: {}", ran.err);
    }
    assert_eq!(keys(&jerry).len(), 1);

    let ran = jerry.run(&["farm", "approve", "bobby-gateway", "--kid", &asked, "--days", "7", "--json"]);
    assert_eq!((ran.code, ran.json()["record"]["status"].as_str()), (0, Some("active")), "{}", ran.err);
    assert!(bobby.run(&["farm", "enroll"]).out.contains("approved already"));
    let found = doctor(&bobby);
    assert!(has(&found, "warning", &format!("{asked} ends in 8d")) || has(&found, "warning", &format!("{asked} ends in 7d")), "{found:?}");
    let shown = bobby.run(&["farm", "keys"]).out;
    assert!(shown.contains("jerry-gateway") && shown.contains("signs here"), "{shown}");

    // Revoked at once, finally; the gateway comes back with another key only.
    let ran = jerry.run(&["farm", "revoke", &asked]);
    assert!(ran.code == 1 && ran.err.contains("needs --yes"), "{}", ran.err);
    let ran = jerry.run(&["farm", "revoke", &asked, "--yes"]);
    assert!(ran.code == 0 && ran.out.contains("within 60 s"), "{} {}", ran.out, ran.err);
    assert_eq!(key(&jerry, &asked)["status"], "revoked");
    assert!(has(&doctor(&bobby), "error", "revoked"));
    assert_eq!(jerry.run(&["farm", "revoke", &asked, "--yes"]).code, 0, "once more changes nothing");
    let ran = jerry.run(&["farm", "revoke", "nobody.1", "--yes"]);
    assert!(ran.code == 1 && ran.err.contains("nobody.1"), "{}", ran.err);
    let fresh = bobby.run(&["farm", "enroll", "--json"]).json();
    assert_ne!(fresh["kid"], asked.as_str(), "{fresh}");
    assert_eq!(jerry.run(&["farm", "approve", "bobby-gateway", "--yes", "--json"]).json()["record"]["status"], "active");

    // A record that nobody signed is shown as what it is.
    let mut forged = key(&jerry, kid);
    forged["status"] = "revoked".into();
    consul.put(&format!("openclaw/farm/v1/keys/jerry-gateway/{kid}"), &forged);
    let shown = key(&bobby, kid);
    assert!(shown["believed"] == false && shown["why"].as_str().unwrap().contains("no pinned root"), "{shown}");
    assert!(has(&doctor(&jerry), "error", "is not believed"));
}

#[test]
fn an_invitation_lets_one_gateway_in_and_only_its_own_key() {
    let Some(consul) = Consul::start("cli farm invitation") else { return };
    let jerry = Home::with_config(CONFIG);
    init(&jerry, &consul.url());
    let mut inviting = jerry.command(&["farm", "invite", "bobby-gateway", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(inviting.stdout.take().unwrap()).lines();
    let mut notes = BufReader::new(inviting.stderr.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&out.next().unwrap().unwrap()).unwrap();
    let invitation = first["invitation"].as_str().unwrap().to_owned();
    assert_eq!((first["command"].as_str().unwrap(), first["validMs"].as_i64()), (format!("openclaw farm join {invitation}").as_str(), Some(600_000)));

    // Somebody who may write to the store puts a request of their own there.
    consul.put(
        "openclaw/farm/v1/enrol/bobby-gateway",
        &json!({"farm": "octant", "gateway": "bobby-gateway", "kid": "bobby-gateway.0011223344556677", "pub": "AAAA", "at": 1, "invitation": "ocjoin1.x.y"}),
    );
    let note = notes.next().unwrap().unwrap();
    assert!(note.contains("not approved, still waiting"), "{note}");

    // For another gateway, damaged, or for another farm than the config's: nothing is asked.
    let bobby = other("bobby");
    for (args, says) in [
        (&["farm", "join", &invitation, "--gateway", "billy-gateway"][..], "is for the gateway bobby-gateway"),
        (&["farm", "join", &invitation[..invitation.len() - 4]], "not an invitation"),
        (&["farm", "join", &invitation, "--coord", "consul", "--id", "other"], "is for the farm octant"),
    ] {
        let ran = bobby.run(args);
        assert!(ran.code == 1 && ran.err.contains(says), "{args:?}: {}", ran.err);
    }
    let joined = bobby.run(&["farm", "join", &invitation, "--agent", "jerry", "--json"]);
    assert_eq!((joined.code, joined.json()["approved"].as_bool()), (0, Some(true)), "{} {}", joined.out, joined.err);
    let second: Value = serde_json::from_str(&out.next().unwrap().unwrap()).unwrap();
    assert_eq!(second["record"]["kid"], joined.json()["kid"]);
    assert_eq!(inviting.wait().unwrap().code(), Some(0));
    assert!(!bobby.text().contains(&invitation), "the secret is not kept");
    assert_eq!(bobby.run(&["config", "get", "farm.coord.addr"]).out.trim(), consul.url());
    assert_eq!(keys(&bobby).len(), 2);
    let said = bobby.run(&[
        "farm",
        "policy",
        "explain",
        "--from",
        "jerry",
        "--from-gateway",
        "jerry-gateway",
        "--to",
        "bobby",
        "--capability",
        "sessions.send",
        "--json",
    ]);
    assert_eq!(said.json()["allowed"], true, "{}", said.out);

    // The same invitation once more, when nobody waits: a request that stays one.
    let third = other("eve");
    let ran = third.command(&["farm", "join", &invitation, "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let waiting = KillOnDrop(ran);
    let asked = until(|| consul.get("openclaw/farm/v1/enrol/bobby-gateway"));
    assert_eq!(asked["gateway"], "bobby-gateway");
    assert_eq!(keys(&jerry).len(), 2);
    drop(waiting);
}

#[test]
fn an_invitation_is_taken_back_and_a_key_whose_stages_are_gone_is_revoked_with_the_root() {
    let Some(consul) = Consul::start("cli farm back") else { return };
    let jerry = Home::with_config(CONFIG);
    let kid = init(&jerry, &consul.url())["kid"].as_str().unwrap().to_owned();
    let inviting = jerry.command(&["farm", "invite", "bobby-gateway"]).stdout(Stdio::piped()).spawn().unwrap();
    let (code, said) = interrupted_at(inviting, "Waiting for bobby-gateway");
    assert!(code == Some(130) && said.contains("  openclaw farm join ocfarm1.") && said.contains("taken back"), "{code:?} {said}");

    consul.ask("DELETE", &format!("/v1/kv/openclaw/farm/v1/approved/jerry-gateway/{kid}"), "").unwrap();
    let root = jerry.dir.path().join("usb.pem");
    std::fs::rename(jerry.state().join("farm-root.pem"), &root).unwrap();
    let ran = jerry.run(&["farm", "revoke", &kid, "--yes"]);
    assert!(ran.code == 1 && ran.err.contains("the farm's root must sign") && ran.err.contains("--root-file"), "{}", ran.err);
    let ran = jerry.run(&["farm", "revoke", &kid, "--yes", "--root-file", &root.display().to_string()]);
    assert!(ran.code == 0 && ran.out.contains("It was the key of this gateway"), "{} {}", ran.out, ran.err);
    let shown = key(&jerry, &kid);
    assert_eq!((shown["status"].as_str(), shown["believed"].as_bool()), (Some("revoked"), Some(true)), "{shown}");
    let ran = jerry.run(&["farm", "rotate", "gateway-key", "--yes"]);
    assert!(ran.code == 1 && ran.err.contains("no active key"), "{}", ran.err);
}

/// Sends SIGINT once the program said `mark`; answers its exit code and all it said.
fn interrupted_at(mut child: std::process::Child, mark: &str) -> (Option<i32>, String) {
    let mut said = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        said.push_str(&line);
        said.push('\n');
        if line.contains(mark) {
            // Said right before it waits; until it does, the signal would end it all the same, with the same code.
            let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        }
    }
    (child.wait().unwrap().code(), said)
}

struct KillOnDrop(std::process::Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks until there is something.
fn until<T>(look: impl Fn() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(30), "nothing came");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Lets the wait of a change be over.
fn long_ago(consul: &Consul, what: &str) {
    let key = format!("openclaw/farm/v1/rotation/{what}");
    let mut progress = consul.get(&key).unwrap();
    progress["doneAt"] = json!(progress["doneAt"].as_i64().unwrap() - 2 * 86_400_000);
    consul.put(&key, &progress);
}

#[test]
fn a_gateway_key_is_changed_step_by_step_over_several_runs() {
    let Some(consul) = Consul::start("cli farm rotate") else { return };
    let jerry = Home::with_config(CONFIG);
    let old = init(&jerry, &consul.url())["kid"].as_str().unwrap().to_owned();
    let current = jerry.state().join("identity/farm/gateway.pem");
    let first = std::fs::read_to_string(&current).unwrap();

    let dry = jerry.run(&["farm", "rotate", "gateway-key", "--dry-run"]);
    assert_eq!(
        dry.out,
        format!(
            "1. at once: publish the new key as next [farm.key.next]\n2. after 5 min: sign with the new key: it becomes active, {old} retiring [farm.key.active]\n3. after 24 h 10 min: revoke {old}: nothing it signed can still be on its way [farm.key.revoked]\n"
        )
    );
    assert!(!jerry.state().join("identity/farm/gateway-next.pem").exists() && keys(&jerry).len() == 1, "a dry run makes nothing");
    let ran = jerry.run(&["farm", "rotate", "gateway-key", "--no-wait"]);
    assert!(ran.code == 1 && ran.err.contains("needs --yes"), "{}", ran.err);

    let ran = jerry.run(&["farm", "rotate", "gateway-key", "--yes", "--no-wait", "--json"]).json();
    assert_eq!((ran["done"].as_i64(), ran["complete"].as_bool(), ran["old"].as_str()), (Some(1), Some(false), Some(old.as_str())), "{ran}");
    let new = ran["new"].as_str().unwrap().to_owned();
    assert_eq!((key(&jerry, &old)["status"].as_str(), key(&jerry, &new)["status"].as_str()), (Some("active"), Some("next")));
    // Too early: nothing happens, and it says when.
    let early = jerry.run(&["farm", "rotate", "gateway-key", "--no-wait"]);
    assert!(early.code == 0 && early.out.contains("Step 2 is due"), "{} {}", early.out, early.err);
    assert_eq!(key(&jerry, &new)["status"], "next");
    assert!(jerry.run(&["farm", "rotate", "gateway-key", "--dry-run"]).out.contains("1. done: publish"));

    long_ago(&consul, "gateway-key/jerry-gateway");
    let ran = jerry.run(&["farm", "rotate", "gateway-key", "--no-wait", "--json"]).json();
    assert_eq!(ran["done"], 2, "{ran}");
    assert_eq!((key(&jerry, &old)["status"].as_str(), key(&jerry, &new)["status"].as_str()), (Some("retiring"), Some("active")));
    assert!(std::fs::read_to_string(&current).unwrap() != first && key(&jerry, &new)["ours"] == true);
    let kept = jerry.state().join(format!("identity/farm/{old}.pem"));
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), first, "the way back, as long as there is one");

    long_ago(&consul, "gateway-key/jerry-gateway");
    let ran = jerry.run(&["farm", "rotate", "gateway-key", "--no-wait", "--json"]).json();
    assert_eq!((ran["done"].as_i64(), ran["complete"].as_bool()), (Some(3), Some(true)), "{ran}");
    assert_eq!((key(&jerry, &old)["status"].as_str(), key(&jerry, &new)["status"].as_str()), (Some("revoked"), Some("active")));
    assert!(!kept.exists() && consul.get("openclaw/farm/v1/rotation/gateway-key/jerry-gateway").is_none());
    assert!(has(&doctor(&jerry), "ok", &format!("{new} is approved")));

    // Waiting is shown, and Ctrl-C ends the waiting only.
    let waiting = jerry.command(&["farm", "rotate", "gateway-key", "--yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let (code, said) = interrupted_at(waiting, "waits until");
    assert!(code == Some(130) && said.contains("1. done: publish") && said.contains("Stopped waiting"), "{code:?} {said}");
    let third = consul.get("openclaw/farm/v1/rotation/gateway-key/jerry-gateway").unwrap();
    assert_eq!((third["done"].as_i64(), key(&jerry, third["new"].as_str().unwrap())["status"].as_str()), (Some(1), Some("next")));
    for _ in 0..2 {
        long_ago(&consul, "gateway-key/jerry-gateway");
        jerry.run(&["farm", "rotate", "gateway-key", "--no-wait"]);
    }
    assert_eq!(key(&jerry, third["new"].as_str().unwrap())["status"], "active");

    // Without the root here, the operator approves elsewhere.
    let away = jerry.dir.path().join("usb.pem");
    std::fs::rename(jerry.state().join("farm-root.pem"), &away).unwrap();
    let ran = jerry.run(&["farm", "rotate", "gateway-key", "--yes", "--no-wait"]);
    assert!(ran.code == 0 && ran.out.contains("farm approve jerry-gateway --kid"), "{} {}", ran.out, ran.err);
    let ran = jerry.run(&["farm", "approve", "jerry-gateway", "--yes", "--root-file", &away.display().to_string(), "--json"]);
    assert_eq!(ran.json()["record"]["status"], "next", "{} {}", ran.out, ran.err);
    assert_eq!(jerry.run(&["farm", "rotate", "gateway-key", "--no-wait", "--json"]).json()["done"], 1);
}

#[test]
fn a_new_root_signs_what_the_old_one_signed_and_nothing_else() {
    let Some(consul) = Consul::start("cli farm root") else { return };
    let jerry = Home::with_config(CONFIG);
    let made = init(&jerry, &consul.url());
    let (bobby, asked) = enrolled(&consul.url(), &made);
    assert_eq!(jerry.run(&["farm", "approve", "bobby-gateway", "--yes"]).code, 0);
    // Somebody laid a key of their own into the store.
    let mut planted = key(&jerry, &asked);
    for field in ["believed", "why", "ageMs", "ended", "ours"] {
        planted.as_object_mut().unwrap().remove(field);
    }
    planted["gateway"] = "eve-gateway".into();
    planted["kid"] = "eve-gateway.1122334455667788".into();
    consul.put("openclaw/farm/v1/keys/eve-gateway/eve-gateway.1122334455667788", &planted);

    let dry = jerry.run(&["farm", "rotate", "root", "--dry-run"]).out;
    assert!(dry.starts_with("1. at once: add the new root as second root") && dry.lines().count() == 3, "{dry}");
    let ran = jerry.run(&["farm", "rotate", "root", "--yes", "--no-wait"]);
    assert!(ran.code == 0 && ran.out.contains("By hand on") && ran.out.contains("Step 2 is due"), "{} {}", ran.out, ran.err);
    let roots: Value = jerry.run(&["config", "get", "farm.roots", "--json"]).json();
    assert_eq!(roots.as_array().unwrap().len(), 2, "{roots}");
    let mode = std::fs::metadata(jerry.state().join("farm-root-next.pem")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);

    long_ago(&consul, "root");
    let ran = jerry.run(&["farm", "rotate", "root", "--yes", "--no-wait"]);
    assert!(ran.code == 0 && ran.out.contains("eve-gateway.1122334455667788 is not signed again"), "{} {}", ran.out, ran.err);
    let new_root = key(&jerry, &asked)["root_kid"].as_str().unwrap().to_owned();
    assert_ne!(new_root, made["root"]["kid"].as_str().unwrap());
    assert_eq!(key(&jerry, "eve-gateway.1122334455667788")["believed"], false);
    // The other gateway, which pins the old root only, says what is wrong.
    assert!(has(&doctor(&bobby), "error", "is not believed"));

    long_ago(&consul, "root");
    // The planted record names the old root and is believed nowhere: it must not hold the change up.
    let ran = jerry.run(&["farm", "rotate", "root", "--yes", "--no-wait", "--json"]);
    assert_eq!((ran.code, ran.json()["complete"].as_bool()), (0, Some(true)), "{} {}", ran.out, ran.err);
    assert_eq!(jerry.run(&["config", "get", "farm.roots", "--json"]).json().as_array().unwrap().len(), 1);
    assert!(has(&doctor(&jerry), "ok", "is approved"));
    assert!(!jerry.state().join("farm-root-next.pem").exists() && jerry.state().join(format!("farm-{}.pem", made["root"]["kid"].as_str().unwrap())).exists());
    // The new root lets gateways in.
    let ran = jerry.run(&["farm", "requests", "--json"]);
    assert_eq!(ran.json()["requests"].as_array().unwrap().len(), 0);
}

#[test]
fn a_running_gateway_tells_of_its_farm() {
    let Some(consul) = Consul::start("cli farm status") else { return };
    let jerry = Home::with_config(CONFIG);
    init(&jerry, &consul.url());
    let port = free_port();
    let _gateway = jerry.gateway(port);
    let port = port.to_string();
    let ask = |args: &[&str]| jerry.run(&[&["farm"], args, &["--port", &port]].concat());
    let status = until(|| {
        let ran = ask(&["status", "--json"]);
        assert_eq!(ran.code, 0, "{} {}", ran.out, ran.err);
        let found = ran.json();
        let known = found["agents"][0]["healthy"] == true && found["gateways"][0]["healthy"] == true && found["gateways"][0]["keys"] == 1;
        known.then_some(found)
    });
    assert_eq!((status["farm"].as_str(), status["coord"]["ok"].as_bool(), status["bus"]["ok"].as_bool()), (Some("octant"), Some(true), Some(true)), "{status}");
    let seen = ask(&["status"]).out;
    assert!(seen.contains("octant · coordination consul ok · letters consul ok") && seen.contains("● jerry-gateway (this one)  healthy"), "{seen}");
    assert!(seen.contains("Agents    1 of 1 healthy") && seen.contains("0 dead") && seen.contains("Problems  none"), "{seen}");
    let tree = ask(&["map"]).out;
    assert!(tree.contains("└─ ● jerry-gateway (this one) · healthy") && tree.contains("   └─ ● jerry"), "{tree}");
    let rows = ask(&["gateways"]).out;
    assert!(rows.starts_with("   Gateway") && rows.contains("●  jerry-gateway (this one)") && rows.lines().count() == 2, "{rows}");
    assert!(ask(&["agents"]).out.contains("●  jerry"));
    assert_eq!(ask(&["letters"]).out, "No letters.\n");
    assert_eq!(ask(&["dlq", "list", "--agent", "jerry"]).out, "No dead letters.\n");
    for args in [&["letter", "nosuch"][..], &["dlq", "show", "nosuch"], &["dlq", "replay", "nosuch"], &["dlq", "drop", "nosuch", "--yes"]] {
        let ran = ask(args);
        assert!(ran.code == 1 && ran.err.contains("nosuch"), "{args:?}: {}", ran.err);
    }
}

#[test]
fn without_a_store_the_config_is_made_and_the_rest_is_said() {
    let home = Home::with_config(CONFIG);
    let url = format!("http://127.0.0.1:{}", free_port());
    let made = init(&home, &url);
    assert_eq!(made["approved"], false, "{made}");
    assert!(made["why"].as_str().unwrap().contains("does not answer") && made["next"][0].as_str().unwrap().contains("farm enroll"), "{made}");
    assert!(home.text().contains("// one agent") && home.text().contains("octant"), "{}", home.text());
    for file in ["farm-root.pem", "identity/farm/gateway.pem"] {
        assert_eq!(std::fs::metadata(home.state().join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let ran = home.run(&["farm", "init", "--json"]);
    assert!(ran.code == 1 && ran.out.contains("already (the farm octant)"), "{}", ran.out);
    for args in [
        &["farm", "keys"][..],
        &["farm", "requests"],
        &["farm", "enroll"],
        &["farm", "rotate", "gateway-key", "--dry-run"],
        &["farm", "invite", "bobby-gateway"],
    ] {
        let ran = home.run(args);
        assert!(ran.code == 1 && ran.err.contains("coordination store") && ran.err.contains("does not answer"), "{args:?}: {}", ran.err);
    }
    let found = doctor(&home);
    assert!(has(&found, "error", "does not answer") && has(&found, "warning", "root key lies beside"), "{found:?}");
    // A key file that others may read is named, and refused.
    std::fs::set_permissions(home.state().join("identity/farm/gateway.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(has(&doctor(&home), "error", "(mode 644)"));

    // What needs no store works all the same.
    let steps = home.run(&["farm", "rotate", "certificate", "--dry-run", "--json"]).json();
    assert_eq!(steps["steps"].as_array().unwrap().len(), 2);
    let ran = home.run(&["farm", "rotate", "consul", "--dry-run"]);
    assert!(ran.out.contains("create a second consul credential for jerry-gateway") && ran.out.lines().count() == 3, "{}", ran.out);
    assert!(home.run(&["farm", "rotate", "consul"]).out.contains("by hand: consul acl token create"));
    let ran = home.run(&["farm", "rotate", "redis"]);
    assert!(ran.code == 1 && ran.err.contains("uses no redis"), "{}", ran.err);
    let before = home.text();
    let ran = home.run_with(&["farm", "rotate", "consul", "--ref-id", "TOKEN_2", "--yes"], &[("TOKEN_2", "abc")]);
    assert!(ran.code == 1 && ran.err.contains("nothing was written") && home.text() == before, "{}", ran.err);
}

#[test]
fn the_policy_is_shown_explained_and_completed() {
    let home = Home::with_config(CONFIG);
    init(&home, &format!("http://127.0.0.1:{}", free_port()));
    let rules = home.run(&["farm", "policy", "show", "--json"]).json();
    assert_eq!(rules["rules"].as_array().unwrap().len(), 6, "{rules}");
    let explain = |from: &str, to: &str, what: &str| {
        home.run(&["farm", "policy", "explain", "--from", from, "--from-gateway", "bobby-gateway", "--to", to, "--capability", what, "--json"]).json()
    };
    let said = explain("bobby", "jerry", "sessions.send");
    assert_eq!((said["allowed"].as_bool(), said["decidedBy"]["to"]["agent"].as_str()), (Some(true), Some("jerry")), "{said}");
    let said = explain("bobby", "jerry", "infra.query");
    assert!(said["allowed"] == false && said["rule"].is_null() && said["why"].as_str().unwrap().contains("no rule lets bobby"), "{said}");
    let ran = home.run(&["farm", "policy", "explain", "--from", "bobby", "--to", "jerry", "--capability", "reply"]);
    assert!(ran.out.starts_with("Allowed: bobby on jerry-gateway asks reply of jerry (farm.policy["), "{}", ran.out);

    let ran = home.run(&["farm", "policy", "starter", "--agent", "billy", "--agent", "bobby", "--write", "--json"]).json();
    assert_eq!((ran["written"].as_bool(), ran["missing"].as_array().map(Vec::len)), (Some(true), Some(6)), "{ran}");
    assert_eq!(explain("billy", "jerry", "sessions.send")["allowed"], true);
    assert!(home.text().contains("// the first gateway"));
    let ran = home.run(&["farm", "policy", "starter", "--agent", "billy", "--agent", "bobby"]);
    assert!(ran.out.contains("the whole starter policy"), "{}", ran.out);
}

#[test]
fn a_gateway_without_a_farm_shows_the_way_to_one() {
    let home = Home::with_config(CONFIG);
    for args in [&["farm", "keys"][..], &["farm", "enroll"], &["farm", "policy", "show"], &["farm", "rotate", "redis"], &["farm", "approve", "x-gateway"]] {
        let ran = home.run(args);
        assert!(ran.code == 1 && ran.err.contains("no farm section") && ran.err.contains("openclaw farm init"), "{args:?}: {}", ran.err);
    }
    let ran = home.run(&["farm", "init", "--bus", "redis", "--yes"]);
    assert!(ran.code == 1 && ran.err.contains("needs farm.bus.addr"), "{}", ran.err);
    let ran = home.run(&["farm", "init", "--bus", "peer", "--yes"]);
    assert!(ran.code == 1 && ran.err.contains("--peer-listen"), "{}", ran.err);
    let ran = home.run(&["farm", "init", "--gateway", "Jerry", "--yes"]);
    assert!(ran.code == 1 && ran.err.contains("not a gateway's name"), "{}", ran.err);
    assert!(!home.state().join("farm-root.pem").exists() && home.text() == CONFIG, "what is refused leaves nothing behind");
    assert!(doctor(&home).is_empty());

    let port = free_port();
    let _gateway = home.gateway(port);
    for verb in ["status", "gateways", "agents", "map", "letters"] {
        let ran = home.run(&["farm", verb, "--port", &port.to_string()]);
        assert!(ran.code == 1 && ran.err.contains("is in no farm") && ran.err.contains("openclaw farm init"), "{verb}: {}", ran.err);
    }
    let ran = home.run(&["farm", "dlq", "drop", "x", "--port", &port.to_string()]);
    assert!(ran.code == 1 && ran.err.contains("needs --yes"), "{}", ran.err);
}
