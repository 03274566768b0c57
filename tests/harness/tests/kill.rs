//! SIGKILL at random moments under load: what the gateway said `ok` to is answered exactly once or marked, never lost.
//!
//! `CLAWSTEAD_KILLS` (default 20; `cargo xtask soak` takes 200) and `CLAWSTEAD_SEED` choose how often and when.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clawstead_harness::{
    client::Client,
    free_port,
    gateway::{Gateway, Setup, config},
    mock::{MockModel, Options},
    platform::Platform,
    soak::{Accepted, judge},
    until,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

/// Clients that send at the same time.
const CLIENTS: usize = 4;
/// Chats on the platform.
const CHATS: u64 = 5;
/// Kills after which the clients go on in new sessions, so that no history outgrows what can be read back.
const KILLS_A_SESSION: usize = 10;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct Load {
    accepted: Mutex<Vec<Accepted>>,
    next_mark: AtomicU64,
}

impl Load {
    fn mark(&self) -> String {
        format!("msg-{:06}", self.next_mark.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Sends numbered messages until the connection breaks. A message whose `ok` did not come is sent again, with the same
/// key, by the next client, as every real client does.
async fn send_until_killed(port: u16, session: String, load: Arc<Load>, open: Arc<Mutex<Option<Accepted>>>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    // Whoever started this task ends it when the gateway is gone.
    let mut client = loop {
        match Client::connect(port).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(Duration::from_millis(3)).await,
        }
    };
    loop {
        let kept = open.lock().unwrap().take();
        let message = kept.unwrap_or_else(|| {
            let mark = load.mark();
            Accepted { run: format!("run-{mark}"), session: session.clone(), mark }
        });
        *open.lock().unwrap() = Some(message.clone());
        let text = format!("{} !pace 3 !pieces 4", message.mark);
        let sent = client.call("chat.send", json!({"sessionKey": message.session, "message": text, "idempotencyKey": message.run})).await;
        if sent.is_err() {
            return;
        }
        *open.lock().unwrap() = None;
        load.accepted.lock().unwrap().push(message);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
    }
}

/// The messages of a history around those that hold a mark, for whoever reads a failure.
async fn surroundings(port: u16, session: &str, mark: &str) -> String {
    // The first client may have been sent away by now, since it did not read.
    let Ok(mut other) = Client::connect(port).await else { return "the gateway is not there".into() };
    let history = match other.call("chat.history", json!({"sessionKey": session, "limit": 1000})).await {
        Ok(history) => history,
        Err(err) => return format!("{err:#}"),
    };
    let messages = history["messages"].as_array().cloned().unwrap_or_default();
    let at: Vec<usize> = (0..messages.len()).filter(|at| messages[*at].to_string().contains(mark)).collect();
    let (Some(first), Some(last)) = (at.first(), at.last()) else { return format!("not among its {} messages", messages.len()) };
    messages[first.saturating_sub(3)..messages.len().min(last + 4)].iter().map(|message| format!("  {message}\n")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_or_answered_twice() {
    let kills = usize::try_from(setting("CLAWSTEAD_KILLS", 20)).unwrap();
    let seed = setting("CLAWSTEAD_SEED", 7);
    println!("{kills} kills, seed {seed}: CLAWSTEAD_KILLS={kills} CLAWSTEAD_SEED={seed} cargo test -p clawstead-harness --test kill");
    let mut random = StdRng::seed_from_u64(seed);
    let model = MockModel::start(Options::default()).await.unwrap();
    let platform = Platform::start().await.unwrap();
    let port = free_port().unwrap();
    let mut config = config(port, &model.v1(), &["a0", "a1"]);
    config["channels"] = json!({"loopback": {"enabled": true, "url": platform.url(), "dmPolicy": "open", "allowFrom": ["*"]}});
    config["bindings"] = json!([{"agentId": "a1", "match": {"channel": "loopback"}}]);
    config["session"] = json!({"dmScope": "per-channel-peer"});
    let home = tempfile::tempdir().unwrap();
    let setup = Setup { port, ..Setup::ours(&config).home(home.path()) };
    let load = Arc::new(Load { accepted: Mutex::default(), next_mark: AtomicU64::new(0) });
    let open: Vec<Arc<Mutex<Option<Accepted>>>> = (0..CLIENTS).map(|_| Arc::default()).collect();

    for kill in 0..kills {
        let gateway = Gateway::launch(setup.clone()).await.unwrap();
        let mut clients = tokio::task::JoinSet::new();
        for (client, open) in open.iter().enumerate() {
            let session = format!("agent:a0:soak-{client}-{}", kill / KILLS_A_SESSION);
            clients.spawn(send_until_killed(port, session, load.clone(), open.clone(), random.random()));
        }
        // Some kills hit the start, most hit work.
        let life = Duration::from_millis(if random.random_bool(0.2) { random.random_range(0..60) } else { random.random_range(60..900) });
        let end = tokio::time::Instant::now() + life;
        while tokio::time::Instant::now() < end {
            platform.write(&format!("U{}", random.random_range(0..CHATS)), &format!("{} !pace 3 !pieces 4", load.mark()));
            tokio::time::sleep(Duration::from_millis(random.random_range(5..60))).await;
        }
        drop(gateway.kill().await);
        clients.abort_all();
        while clients.join_next().await.is_some() {}
    }

    let gateway = Gateway::start(setup).await.unwrap();
    let mut client = Client::connect(port).await.unwrap();
    // What was open at the last kill is sent once more.
    for open in &open {
        let message = open.lock().unwrap().take();
        if let Some(message) = message {
            let text = format!("{} !pace 3 !pieces 4", message.mark);
            client.call("chat.send", json!({"sessionKey": message.session, "message": text, "idempotencyKey": message.run})).await.unwrap();
            load.accepted.lock().unwrap().push(message);
        }
    }
    let accepted = load.accepted.lock().unwrap().clone();
    assert!(accepted.len() > kills, "too little load to prove anything: {} messages", accepted.len());
    for one in &accepted {
        let end = client.call("agent.wait", json!({"runId": one.run, "timeoutMs": 30_000})).await.unwrap();
        assert_ne!(end["status"], "timeout", "{} never came to rest: {end}\n{}", one.mark, gateway.log_tail(30));
    }
    let verdict = judge(&mut client, &accepted).await.unwrap();
    println!("chat: {} accepted, {} answered, marked {:?}, {} broken", accepted.len(), verdict.answered, verdict.marked, verdict.broken.len());

    let written = platform.written();
    let rest = until(Duration::from_secs(60), async || (platform.all_confirmed() && platform.shown_marks().len() >= written).then_some(())).await;
    let shown = platform.shown_marks();
    let twice: BTreeMap<_, _> = shown.iter().filter(|(_, times)| **times > 1).collect();
    println!("platform: {written} written, {} answered, {} sends tried, {} shown twice", shown.len(), platform.attempts(), twice.len());

    let first: Vec<_> = verdict.broken.iter().take(10).collect();
    for (mark, _) in &first {
        if let Some(one) = accepted.iter().find(|one| one.mark == *mark) {
            println!("{mark} in {}:\n{}", one.session, surroundings(port, &one.session, mark).await);
        }
    }
    if rest.is_none() {
        let missing = (1..=load.next_mark.load(Ordering::Relaxed)).map(|number| format!("msg-{number:06}"));
        let missing: Vec<_> = missing.filter(|mark| !shown.contains_key(mark) && !accepted.iter().any(|one| one.mark == *mark)).collect();
        println!("not shown on the platform: {} messages, {:?} ...", missing.len(), &missing[..missing.len().min(8)]);
        for mark in missing.iter().take(2) {
            for chat in 0..CHATS {
                let session = format!("agent:a1:loopback:direct:u{chat}");
                println!("{mark} in {session}:\n{}", surroundings(port, &session, mark).await);
            }
        }
    }
    assert!(verdict.broken.is_empty(), "of {} accepted: {first:?}\n{}", accepted.len(), gateway.log_tail(30));
    assert!(twice.is_empty(), "shown twice: {twice:?}");
    // A message on the platform may end as an apology instead of an answer, but the chat sees something for each.
    let silent = platform.shown().len() < written;
    assert!(rest.is_some() || !silent, "{written} written, {} shown\n{}", platform.shown().len(), gateway.log_tail(30));
}

/// The original loses what it has accepted when it is killed within a second. Our `ok` means stored.
#[tokio::test]
async fn killed_right_after_ok() {
    let model = MockModel::start(Options::default()).await.unwrap();
    let port = free_port().unwrap();
    let home = tempfile::tempdir().unwrap();
    let setup = Setup { port, ..Setup::ours(&config(port, &model.v1(), &["main"])).home(home.path()) };
    for round in 1..=7 {
        let gateway = Gateway::start(setup.clone()).await.unwrap();
        let mut client = Client::connect(port).await.unwrap();
        let (mark, run) = (format!("msg-{round:06}"), format!("run-{round}"));
        let message = format!("{mark} !delay 200");
        client.call("chat.send", json!({"sessionKey": "agent:main:crash", "message": message, "idempotencyKey": run})).await.unwrap();
        drop(gateway.kill().await);

        let gateway = Gateway::start(setup.clone()).await.unwrap();
        let mut client = Client::connect(port).await.unwrap();
        let end = client.call("agent.wait", json!({"runId": run, "timeoutMs": 30_000})).await.unwrap();
        assert_ne!(end["status"], "timeout", "round {round}: {end}\n{}", gateway.log_tail(20));
        let accepted = [Accepted { mark, session: "agent:main:crash".into(), run }];
        let verdict = judge(&mut client, &accepted).await.unwrap();
        assert!(verdict.broken.is_empty(), "round {round}: {:?}\n{}", verdict.broken, gateway.log_tail(20));
        drop(gateway.kill().await);
    }
}

/// A turn that was in the middle of a tool call when the process died is not run a second time in silence.
#[tokio::test]
async fn a_tool_that_ran_is_not_run_again() {
    let model = MockModel::start(Options::default()).await.unwrap();
    let port = free_port().unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut config = config(port, &model.v1(), &["main"]);
    config["tools"] = json!({"exec": {"security": "full", "ask": "off"}});
    let setup = Setup { port, ..Setup::ours(&config).home(home.path()) };
    let gateway = Gateway::start(setup.clone()).await.unwrap();
    let mut client = Client::connect(port).await.unwrap();
    let trace = home.path().join("trace");
    let command = format!("echo ran >> {}; sleep 5; echo done", trace.display());
    let message = format!("!tool exec {}", json!({"command": command}));
    client.call("chat.send", json!({"sessionKey": "main", "message": message, "idempotencyKey": "tool"})).await.unwrap();
    let began = until(Duration::from_secs(20), async || trace.exists().then_some(())).await;
    assert!(began.is_some(), "the tool never ran:\n{}", gateway.log_tail(30));
    drop(gateway.kill().await);

    let gateway = Gateway::start(setup).await.unwrap();
    let mut client = Client::connect(port).await.unwrap();
    let end = client.call("agent.wait", json!({"runId": "tool", "timeoutMs": 30_000})).await.unwrap();
    assert_ne!(end["status"], "timeout", "{end}\n{}", gateway.log_tail(20));
    let runs = std::fs::read_to_string(&trace).unwrap().lines().count();
    assert_eq!(runs, 1, "the command ran {runs} times");
    // Whatever became of the turn, the transcript is valid: the next turn works.
    assert_eq!(client.turn("main", "!say next", "next").await.unwrap().text, "next");
}
