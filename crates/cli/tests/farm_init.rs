//! `openclaw farm init` where the config says something of a farm already, the root alone, and roots of every look.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::os::unix::fs::PermissionsExt as _;

use clawstead_cluster::keys::FarmRoot;
use clawstead_world::SeededRng;
use common::{Home, consul::Consul, free_port};

/// No farm of several yet: a hub, and an address that others are told.
const BEGUN: &str = "{\n  gateway: {mode: 'local'},\n  farm: {\n    // for the laptop\n    hub: {enabled: true, peers: [{name: 'laptop', token: '0123456789abcdef01234567'}]},\n    gateway: 'jerry-gateway', // as the others know it\n    advertise: '127.0.0.2',\n  },\n  agents: {list: [{id: 'jerry', default: true}]},\n}\n";

#[test]
fn a_section_that_is_no_farm_yet_is_completed_in_place() {
    let home = Home::with_config(BEGUN);
    let url = format!("http://127.0.0.1:{}", free_port());
    let listen = format!("127.0.0.1:{}", free_port());
    let made = home.run(&["farm", "init", "--id", "octant", "--coord-addr", &url, "--peer-listen", &listen, "--agent", "bobby", "--json"]);
    assert_eq!(made.code, 0, "{} {}", made.out, made.err);
    assert_eq!(made.json()["gateway"], "jerry-gateway", "the name of the section stands");
    let text = home.text();
    for kept in ["// for the laptop", "// as the others know it", "token: '0123456789abcdef01234567'", "advertise: '127.0.0.2'"] {
        assert!(text.contains(kept), "{kept} in:\n{text}");
    }
    assert_eq!(home.run(&["config", "validate"]).code, 0);
    let farm = home.run(&["config", "get", "farm", "--json"]).json();
    assert_eq!((farm["id"].as_str(), farm["coord"]["addr"].as_str(), farm["peer"]["listen"].as_str()), (Some("octant"), Some(&*url), Some(&*listen)), "{farm}");
    assert_eq!((farm["roots"].as_array().map(Vec::len), farm["policy"].as_array().map(Vec::len)), (Some(1), Some(6)), "{farm}");

    // Now it is one, and is not replaced.
    let again = home.run(&["farm", "init", "--yes"]);
    assert!(again.code == 1 && again.err.contains("already (the farm octant)") && again.err.contains("config unset farm"), "{}", again.err);
    assert_eq!(home.text(), text);
}

#[test]
fn what_the_section_says_is_not_contradicted_in_silence() {
    let begun = "{farm: {id: 'lab', coord: {kind: 'consul', addr: 'http://127.0.0.1:1'}, gateway: 'a-gateway'}}\n";
    for (args, says) in [
        (&["--id", "octant"][..], "farm.id is \"lab\" in the config"),
        (&["--coord", "postgres", "--coord-addr", "postgres://h/d", "--bus", "peer", "--peer-listen", "127.0.0.1:1"], "farm.coord.kind is \"consul\""),
        (&["--coord-addr", "http://10.0.0.1:8500"], "farm.coord.addr is \"http://127.0.0.1:1\""),
    ] {
        let home = Home::with_config(begun);
        let ran = home.run(&[&["farm", "init", "--yes"], args].concat());
        assert!(ran.code == 1 && ran.err.contains(says), "{args:?}: {}", ran.err);
        assert!(home.text() == begun && !home.state().join("farm-root.pem").exists(), "nothing is left behind");
    }
    // Without a contradiction the section's own store is used.
    let home = Home::with_config(begun);
    let made = home.run(&["farm", "init", "--json"]).json();
    assert_eq!((made["farm"].as_str(), made["gateway"].as_str(), made["approved"].as_bool()), (Some("lab"), Some("a-gateway"), Some(false)), "{made}");
    assert!(made["why"].as_str().unwrap().contains("127.0.0.1:1"), "{made}");
}

#[test]
fn the_root_alone_is_made_without_a_config() {
    let home = Home::new();
    let file = home.state().join("drawer/root.pem").display().to_string();
    std::fs::create_dir_all(home.state().join("drawer")).unwrap();
    let made = home.run(&["farm", "init", "--root-only", "--root-file", &file, "--json"]).json();
    let pin = made["root"]["pin"].as_str().unwrap().to_owned();
    assert!(made["root"]["made"] == true && made["next"][0].as_str().unwrap().contains(&pin), "{made}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = home.run(&["farm", "init", "--root-only", "--root-file", &file]);
    assert!(again.code == 0 && again.out.contains(&pin) && again.out.contains("was there already"), "{}", again.out);
    assert!(!home.state().join("openclaw.json").exists() && !home.state().join("identity").exists(), "nothing else is made");
}

#[test]
fn a_root_that_begins_with_a_dash_is_a_root() {
    let Some(consul) = Consul::start("cli farm dash root") else { return };
    let dashed = (0..).map(|seed| FarmRoot::generate(&SeededRng::new(seed)).pin().text()).find(|pin| pin.starts_with('-')).unwrap();
    let home = Home::with_config("{gateway: {mode: 'local'}, agents: {list: [{id: 'bobby', default: true}]}}\n");
    let url = consul.url();
    let ran = home.run(&["farm", "enroll", "--id", "octant", "--gateway", "bobby-gateway", "--coord-addr", &url, "--root", &dashed, "--json"]);
    assert_eq!((ran.code, ran.json()["approved"].as_bool()), (0, Some(false)), "{} {}", ran.out, ran.err);
    assert_eq!(home.run(&["config", "get", "farm.roots", "--json"]).json()[0], dashed.as_str());
    let ran = home.run(&["farm", "enroll", "--root", "-short", "--id", "octant"]);
    assert!(ran.code == 1 && ran.err.contains("no root of a farm"), "what looks like a flag is read as a root: {}", ran.err);
}
