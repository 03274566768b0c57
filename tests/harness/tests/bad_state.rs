//! Config files, disks, ports and databases that are not as they should be: a clear word, the right exit code, and
//! nothing that was accepted is lost.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clawstead_harness::{
    PATIENCE,
    cli::Cli,
    client::Client,
    engines::skipped,
    free_port,
    gateway::{Gateway, Setup, TOKEN, Whose, config},
    mock::{MockModel, Options},
    until,
};
use serde_json::{Value, json};

/// The exit code for a config that cannot be used (systemd does not restart on it).
const BAD_CONFIG: i32 = 78;

async fn model() -> MockModel {
    MockModel::start(Options::default()).await.unwrap()
}

fn setup(model: &MockModel) -> Setup {
    let port = free_port().unwrap();
    Setup { port, ..Setup::ours(&config(port, &model.v1(), &["main"])) }
}

/// Starts a gateway that must not come up. Answers its exit code and what it said.
async fn refused(setup: Setup) -> (Option<i32>, String) {
    let mut gateway = Gateway::launch(setup).await.unwrap();
    let code = gateway.ended(PATIENCE).await.expect("the gateway runs although it must not start");
    (code, gateway.log_text())
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let model = model().await;
    let holder = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = holder.local_addr().unwrap().port();
    let setup = Setup { port, ..Setup::ours(&config(port, &model.v1(), &["main"])) };
    let (code, said) = refused(setup).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&port.to_string()) && said.to_lowercase().contains("use"), "{said}");
}

#[tokio::test]
async fn a_second_gateway_on_the_same_state_is_refused_with_the_holders_name() {
    let model = model().await;
    let first = Gateway::start(setup(&model)).await.unwrap();
    let port = free_port().unwrap();
    let second = Setup { port, config: None, ..setup(&model) }.home(&first.home);
    let (code, said) = refused(second).await;
    assert_eq!(code, Some(1), "{said}");
    let tail = said.lines().rev().take(6).collect::<Vec<_>>().join("\n");
    assert!(tail.contains(&first.pid().to_string()), "the holder's process id {} is not named:\n{tail}", first.pid());
    // The first one was not disturbed.
    let mut client = Client::connect(first.port).await.unwrap();
    assert_eq!(client.turn("main", "!say mine", "mine").await.unwrap().text, "mine");
}

#[tokio::test]
async fn profiles_run_side_by_side() {
    let model = model().await;
    let home = tempfile::tempdir().unwrap();
    let mut running = Vec::new();
    for profile in ["main", "rescue"] {
        let port = free_port().unwrap();
        let state = home.path().join(format!(".openclaw-{profile}"));
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("openclaw.json"), config(port, &model.v1(), &["main"]).to_string()).unwrap();
        let setup = Setup { port, config: None, args: vec!["--profile".into(), profile.into()], ..setup(&model) }.home(home.path());
        running.push(Gateway::start(setup).await.unwrap());
    }
    for gateway in &running {
        let mut client = Client::connect(gateway.port).await.unwrap();
        assert_eq!(client.turn("main", "!say hello", &format!("p{}", gateway.port)).await.unwrap().text, "hello");
    }
}

#[tokio::test]
async fn a_broken_config_is_refused_with_file_and_line_and_the_tools_still_work() {
    let model = model().await;
    let home = tempfile::tempdir().unwrap();
    let good = fs::canonicalize(home.path()).unwrap().join(".openclaw/openclaw.json");
    for (text, words) in [
        ("{\n  gateway: {\n    mode: \"local\",\n    port: ,\n  },\n}\n", &["openclaw.json", "4"][..]),
        ("{\n  gateway: {\n    mode: \"local\",\n    port: \"many\",\n  },\n}\n", &["openclaw.json", "4", "gateway.port"]),
        ("{\n  gateway: {\n    mode: \"local\",\n    bind: \"everywhere\",\n  },\n}\n", &["openclaw.json", "4", "gateway.bind", "loopback"]),
    ] {
        let setup = Setup { config: Some(text.into()), ..setup(&model) }.home(home.path());
        let _ = fs::remove_file(home.path().join("gateway.log"));
        let (code, said) = refused(setup).await;
        assert_eq!(code, Some(BAD_CONFIG), "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is missing:\n{said}");
        }
        assert_eq!(fs::read_to_string(&good).unwrap(), text, "the user's file was changed");
        let cli = Cli::in_home(Whose::Ours, home.path());
        let validate = cli.run(&["config", "validate", "--json"]).await.unwrap();
        assert_eq!((validate.code, &validate.json()["valid"]), (Some(1), &json!(false)), "{} {}", validate.stdout, validate.stderr);
        for args in [&["doctor", "--non-interactive"][..], &["config", "file"], &["status", "--json"], &["logs", "--limit", "1"]] {
            let ran = cli.run(args).await.unwrap();
            assert!(ran.code.is_some_and(|code| code < 2), "{args:?}: {:?} {}", ran.code, ran.stderr);
            assert!(!ran.stderr.contains("panicked"), "{args:?}: {}", ran.stderr);
        }
    }
}

#[tokio::test]
async fn an_unknown_key_is_one_warning() {
    let model = model().await;
    let mut setup = setup(&model);
    let mut config: Value = serde_json::from_str(setup.config.as_deref().unwrap()).unwrap();
    config["gateway"]["prot"] = json!(1);
    config["surprise"] = json!({"a": 1});
    setup.config = Some(config.to_string());
    let gateway = Gateway::start(setup).await.unwrap();
    let naming = |word: &str| gateway.log_text().lines().filter(|line| line.contains(word)).count();
    let both = until(PATIENCE, async || (naming("\"prot\"") > 0 && naming("\"surprise\"") > 0).then_some(())).await;
    assert!(both.is_some(), "{}", gateway.log_text());
    let mut client = Client::connect(gateway.port).await.unwrap();
    client.call("health", json!({})).await.unwrap();
    assert_eq!((naming("\"prot\""), naming("\"surprise\"")), (1, 1), "{}", gateway.log_text());
}

#[tokio::test]
async fn a_bad_edit_keeps_the_last_good_config_running() {
    let model = model().await;
    let gateway = Gateway::start(setup(&model)).await.unwrap();
    let file = gateway.state().join("openclaw.json");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, "{ gateway: { mode: ").unwrap();
    let noticed = until(PATIENCE, async || gateway.log_text().to_lowercase().contains("openclaw.json").then_some(())).await;
    assert!(noticed.is_some(), "nothing in the log about the broken file:\n{}", gateway.log_tail(20));
    let mut client = Client::connect(gateway.port).await.unwrap();
    assert_eq!(client.turn("main", "!say still", "still").await.unwrap().text, "still");
    fs::write(&file, good).unwrap();
    assert_eq!(client.turn("main", "!say again", "again").await.unwrap().text, "again");
}

/// A small file system of its own; `None` when we may not mount.
struct Disk {
    path: PathBuf,
    _parent: tempfile::TempDir,
}

impl Disk {
    fn mount(suite: &str, options: &str) -> Option<Self> {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("disk");
        fs::create_dir(&path).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).output();
        if done.is_ok_and(|output| output.status.success()) {
            return Some(Self { path, _parent: parent });
        }
        skipped(suite, "mount", "this user may not mount a file system");
        None
    }

    fn remount(&self, options: &str) {
        assert!(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.path).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

#[tokio::test]
async fn a_read_only_state_folder_is_said_so() {
    let Some(disk) = Disk::mount("read-only state folder", "size=16m") else { return };
    let model = model().await;
    let state = disk.path.join("state");
    fs::create_dir_all(&state).unwrap();
    let setup = setup(&model);
    fs::write(state.join("openclaw.json"), setup.config.as_deref().unwrap()).unwrap();
    disk.remount("ro");
    let setup = Setup { config: None, ..setup }.env("OPENCLAW_STATE_DIR", state.to_string_lossy());
    let (code, said) = refused(setup).await;
    assert!(code.is_some_and(|code| code != 0), "{code:?} {said}");
    assert!(said.to_lowercase().contains("read-only") && said.contains(&*state.to_string_lossy()), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing() {
    let Some(disk) = Disk::mount("full disk", "size=24m") else { return };
    let model = model().await;
    let state = disk.path.join("state");
    fs::create_dir_all(&state).unwrap();
    let first = setup(&model);
    fs::write(state.join("openclaw.json"), first.config.as_deref().unwrap()).unwrap();
    let port = first.port;
    let with_state = |port| Setup { port, config: None, ..setup(&model) }.env("OPENCLAW_STATE_DIR", state.to_string_lossy());
    let gateway = Gateway::start(with_state(port)).await.unwrap();
    let mut client = Client::connect(port).await.unwrap();
    client.turn("main", "!say before", "before").await.unwrap();

    // Everything but a little is taken by somebody else.
    fill(&disk.path.join("ballast"));
    let mut accepted = Vec::new();
    let mut refusals = Vec::new();
    for index in 0..200 {
        let run = format!("full-{index}");
        let text = format!("msg-{index:06} {}", "x".repeat(20_000));
        match client.call("chat.send", json!({"sessionKey": "agent:main:full", "message": text, "idempotencyKey": run})).await {
            Ok(_) => accepted.push(run),
            Err(error) => refusals.push(error.to_string()),
        }
        if refusals.len() >= 3 {
            break;
        }
    }
    assert!(!refusals.is_empty(), "200 messages of 20 kB fitted on a full disk");
    println!("{} accepted, then: {}", accepted.len(), refusals[0]);
    assert!(refusals[0].contains("UNAVAILABLE") || refusals[0].to_lowercase().contains("full"), "{}", refusals[0]);
    assert_eq!(clawstead_harness::http::get(port, "/healthz").await.unwrap().status, 200, "{}", gateway.log_tail(20));

    fs::remove_file(disk.path.join("ballast")).unwrap();
    let again = until(PATIENCE, async || {
        client.turn("main", "!say after", &format!("after-{}", rand::random::<u32>())).await.ok().filter(|turn| turn.state == "final")
    })
    .await;
    assert_eq!(again.map(|turn| turn.text).as_deref(), Some("after"), "{}", gateway.log_tail(20));
    // What was accepted is still there after a crash.
    drop(gateway.kill().await);
    let gateway = Gateway::start(with_state(port)).await.unwrap();
    let mut client = Client::connect(port).await.unwrap();
    for run in &accepted {
        let end = client.call("agent.wait", json!({"runId": run, "timeoutMs": 30_000})).await.unwrap();
        assert!(end["status"] != "timeout", "{run} was accepted and is forgotten or stuck: {end}\n{}", gateway.log_tail(20));
    }
}

/// Writes until the disk is full, then gives back a little.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let block = vec![0; 64 << 10];
    let mut size = 0_u64;
    while file.write_all(&block).is_ok() {
        size += block.len() as u64;
    }
    file.set_len(size.saturating_sub(256 << 10)).unwrap();
}

#[tokio::test]
async fn a_damaged_database_is_reported_and_not_overwritten() {
    let model = model().await;
    let gateway = Gateway::start(setup(&model)).await.unwrap();
    let port = gateway.port;
    let mut client = Client::connect(port).await.unwrap();
    for turn in 0..40 {
        client.turn("agent:main:long", &format!("!words 300 turn {turn}"), &format!("t{turn}")).await.unwrap();
    }
    let (code, home) = gateway.stop(PATIENCE).await.unwrap();
    assert_eq!(code, Some(0));
    let database =
        databases(&home.path).into_iter().max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len())).expect("no database in the state folder");
    damage(&database);
    let before = fs::read(&database).unwrap();

    let mut gateway = Gateway::launch(Setup { port, config: None, ..setup(&model) }.home(&home.path)).await.unwrap();
    // Two answers are right: refuse to start, or start, say so and go on with what can be read.
    let up = until(Duration::from_secs(20), async || {
        if gateway.ended(Duration::from_millis(1)).await.is_ok() {
            return Some(false);
        }
        clawstead_harness::http::get(port, "/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(true)
    })
    .await;
    let mut errors = Vec::new();
    if up == Some(true) {
        let mut client = Client::connect(port).await.unwrap();
        for (method, params) in [("sessions.list", json!({})), ("chat.history", json!({"sessionKey": "agent:main:long", "limit": 1000}))] {
            if let Err(error) = client.call(method, params).await {
                errors.push(error.to_string());
            }
        }
    }
    let said = format!("{}\n{}", gateway.log_text(), errors.join("\n")).to_lowercase();
    assert!(["corrupt", "malformed", "damaged"].iter().any(|word| said.contains(word)), "nobody noticed the damage:\n{}", gateway.log_tail(30));
    assert!(!said.contains("panicked"), "{said}");
    drop(gateway.kill().await);
    let kept = databases(&home.path).iter().chain(&backups(&home.path)).any(|path| fs::read(path).is_ok_and(|now| now.len() >= before.len() / 2));
    assert!(kept, "the damaged database was thrown away");
    assert!(!said.contains(TOKEN), "the token is in the log");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found
}

fn databases(home: &Path) -> Vec<PathBuf> {
    let is = |path: &PathBuf| {
        let mut head = [0; 15];
        fs::File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && &head == b"SQLite format 3"
    };
    files(home).into_iter().filter(is).collect()
}

fn backups(home: &Path) -> Vec<PathBuf> {
    files(home).into_iter().filter(|path| path.to_string_lossy().contains("corrupt")).collect()
}

/// Overwrites pages in the middle, as a dying disk does.
fn damage(database: &Path) {
    for end in ["-wal", "-shm"] {
        let beside = PathBuf::from(format!("{}{end}", database.display()));
        let _ = fs::remove_file(beside);
    }
    let size = fs::metadata(database).unwrap().len();
    assert!(size > 64 << 10, "the database is too small to damage: {size} bytes");
    let mut file = fs::File::options().write(true).open(database).unwrap();
    for page in (4..size / 4096).step_by(2) {
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0xA5; 4096]).unwrap();
    }
}
