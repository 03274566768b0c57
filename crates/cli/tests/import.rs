//! `openclaw sessions import` over a folder as March left it.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::{fs, path::Path};

use common::Home;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy(&path, &target) } else { assert!(fs::copy(&path, &target).is_ok()) }
    }
}

fn march() -> Home {
    let home = Home::with_config(
        "{gateway: {mode: 'local', auth: {mode: 'none'}}, agents: {defaults: {heartbeat: {every: '0m'}}, list: [{id: 'main', default: true}]}}",
    );
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/tests/fixtures/import/march"), &home.state());
    home
}

#[test]
fn a_dry_run_counts_and_an_import_stores_the_same_once() {
    let home = march();
    let plan = home.run(&["sessions", "import", "--dry-run", "--json"]);
    let plan = plan.json();
    let (sessions, messages) = (plan["sessions"].as_u64().unwrap(), plan["messages"].as_u64().unwrap());
    assert!(sessions > 0 && messages > 0 && plan["dryRun"] == true, "{plan}");
    assert!(!home.state().join("clawstead.sqlite").exists(), "a dry run makes nothing");
    let ran = home.run(&["sessions", "import", "--json"]);
    let done = ran.json();
    assert_eq!((ran.code, done["sessions"].as_u64(), done["messages"].as_u64()), (0, Some(sessions), Some(messages)), "{done}");
    let again = home.run(&["sessions", "import"]);
    assert!(again.code == 0 && again.out.contains("Took over 0 sessions with 0 messages") && again.out.contains("There already"), "{}", again.out);
    let listed = home.run(&["sessions", "list", "--all-agents", "--json"]).json();
    assert_eq!(listed["count"].as_u64(), Some(sessions), "{listed}");
}

#[test]
fn an_empty_folder_says_so_and_a_running_gateway_keeps_its_folder() {
    let home = Home::with_config("{gateway: {mode: 'local'}}");
    let ran = home.run(&["sessions", "import"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "Nothing of an older OpenClaw was found.\n"), "{}", ran.err);
    let _gateway = home.gateway(common::free_port());
    let ran = home.run(&["sessions", "import", "--json"]);
    assert!(ran.code == 1 && ran.json()["error"]["message"].as_str().unwrap().contains("--dry-run"), "{}", ran.out);
    assert_eq!(home.run(&["sessions", "import", "--dry-run"]).code, 0);
}
