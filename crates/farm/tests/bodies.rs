//! Large bodies with whole mailrooms (fault row M12): of every size, over the link and through the engine, with a source
//! that is gone and with bytes that are not those that were signed.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod kit;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use clawstead_cluster::envelope::{BODY_BYTES_MAX, MailState};
use clawstead_farm::mailroom::{Mailroom, Peers};
use clawstead_state::{Scan, Store as _, Table};
use clawstead_terms::{Failure, FailureCode, Unit};
use kit::{Farm, Node, Tap, agent, letter, store};

/// The link to other gateways, as far as bodies go.
#[derive(Default)]
struct Across {
    rooms: Mutex<BTreeMap<String, Mailroom>>,
    asked: AtomicU64,
    /// Bytes that are altered on the way: this many times.
    altered: AtomicU64,
}

impl Across {
    fn join(&self, node: &Node) {
        self.rooms.lock().unwrap().insert(node.name.clone(), node.room.clone());
    }
}

#[async_trait]
impl Peers for Across {
    async fn body(&self, gateway: &str, hash: &str, _: u64) -> Result<Vec<u8>, Failure> {
        let room = self.rooms.lock().unwrap().get(gateway).cloned().ok_or_else(|| Failure::unavailable(format!("{gateway} is away"), 1_000))?;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut bytes = Vec::new();
        loop {
            let part = room.body_part(hash, bytes.len() as u64).await?;
            bytes.extend_from_slice(&part.bytes);
            if bytes.len() as u64 == part.size {
                break;
            }
        }
        if self.altered.load(Ordering::Relaxed) > 0 {
            self.altered.fetch_sub(1, Ordering::Relaxed);
            bytes[7] ^= 1;
        }
        Ok(bytes)
    }
}

struct Pair {
    farm: Farm,
    jerry: Node,
    bobby: Node,
    across: Arc<Across>,
}

impl Pair {
    /// Two gateways; `linked` with a link, else through the engine.
    async fn new(linked: bool) -> Self {
        let across = Arc::new(Across::default());
        let mut farm = Farm::new(&["jerry-gateway", "bobby-gateway"]);
        if linked {
            for gateway in ["jerry-gateway", "bobby-gateway"] {
                farm.peers.insert(gateway.into(), across.clone());
            }
        }
        // With a link the engine keeps no bodies, so that nothing else can have brought them.
        let bus = |name: &str| Arc::new(Tap { blobs: !linked, ..Tap::over(farm.memory.bus(name)) });
        let bobby = farm.raise_on("bobby-gateway", &["bobby"], store(), 1, bus("bobby-gateway")).await;
        let jerry = farm.raise_on("jerry-gateway", &["jerry"], store(), 1, bus("jerry-gateway")).await;
        across.join(&jerry);
        across.join(&bobby);
        Self { farm, jerry, bobby, across }
    }

    /// A text with which the body of a letter has so many bytes.
    fn text(&self, run: &str, body_bytes: usize) -> String {
        let empty = serde_json::to_string(&letter(&self.jerry.world, "jerry", "bobby", run, "")).unwrap().len();
        "x".repeat(body_bytes - empty)
    }

    async fn ask(&self, run: &str, text: &str) -> clawstead_farm::mailroom::Outcome {
        self.jerry.send("bobby", run, text).await.unwrap();
        self.jerry.answer(run).await
    }

    async fn until_acked(&self) {
        let open = async || self.jerry.room.sent(&agent("jerry"), 50).await.unwrap().iter().any(|sent| sent.row.state != MailState::Acked);
        while open().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let open = async || self.bobby.room.sent(&agent("bobby"), 50).await.unwrap().iter().any(|sent| sent.row.state != MailState::Acked);
        while open().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Bodies in all rows of both.
    async fn kept(&self) -> usize {
        let mut all = 0;
        for (node, id) in [(&self.jerry, "jerry"), (&self.bobby, "bobby")] {
            all += bodies(node, &agent(id)).await;
        }
        all
    }
}

async fn bodies(node: &Node, unit: &Unit) -> usize {
    let mut all = 0;
    for table in [Table::Outbox, Table::Inbox] {
        all += node.store.scan(unit, table, &Scan::prefix("farm/body/")).await.unwrap().len();
    }
    all
}

/// Every size, there and back: the answer is as large as the question.
async fn of_every_size(linked: bool) {
    let pair = Pair::new(linked).await;
    let limit = 1024 * 1024;
    // What an embedded bus carries inline is an envelope of 1 MiB; so the last one that goes inline is a little smaller.
    for (n, size) in [1, 60_000, limit - 1, limit, limit + 1, BODY_BYTES_MAX].into_iter().enumerate() {
        let run = format!("run-{n}");
        let text = if size < 1_000 { "x".repeat(size) } else { pair.text(&run, size) };
        let end = pair.ask(&run, &text).await;
        assert!(end.text.as_deref() == Some(&format!("echo: {text}")), "{size}: {:?}", end.failure);
    }
    assert_eq!(pair.bobby.handled().len(), 6, "each was handled once");
    assert_eq!(pair.across.asked.load(Ordering::Relaxed), if linked { 8 } else { 0 }, "two small ones went inline, the rest there and back apart");
    pair.until_acked().await;
    assert_eq!(pair.kept().await, 0, "bodies go with their rows");
    // One byte more is refused where it is written, with the bound and a way out.
    let text = pair.text("run-9", BODY_BYTES_MAX + 1);
    let refused = pair.jerry.send("bobby", "run-9", &text).await.unwrap_err();
    assert_eq!(refused.code, FailureCode::InvalidRequest);
    assert!(refused.message.contains("8388609 bytes") && refused.message.contains("8 MiB"), "{}", refused.message);
    assert_eq!(pair.kept().await, 0);
}

#[tokio::test(start_paused = true)]
async fn m12_bodies_of_every_size_go_over_the_link() {
    of_every_size(true).await;
}

#[tokio::test(start_paused = true)]
async fn m12_bodies_of_every_size_go_through_the_engine_where_there_is_no_link() {
    of_every_size(false).await;
}

/// The exact limit of the carrier: the largest letter that still goes inline, and one byte more.
#[tokio::test(start_paused = true)]
async fn m12_at_the_limit_of_the_carrier() {
    let pair = Pair::new(true).await;
    pair.bobby.world.tasks.stop(Duration::from_secs(1)).await;
    let number = AtomicU64::new(0);
    let inline = async |size: usize| {
        let run = format!("run-{:06}", number.fetch_add(1, Ordering::Relaxed));
        pair.jerry.send("bobby", &run, &"x".repeat(size)).await.unwrap();
        let before = bodies(&pair.jerry, &agent("jerry")).await;
        let sent = pair.jerry.room.sent(&agent("jerry"), 100).await.unwrap().into_iter().find(|sent| !sent.row.ended()).unwrap();
        pair.jerry.room.give_up(&sent.head.message_id, "test").await.unwrap();
        pair.jerry.room.drop_dead(&agent("jerry"), &sent.head.message_id).await.unwrap();
        before == 0
    };
    let (mut fits, mut does_not) = (900_000, 1024 * 1024);
    while does_not - fits > 1 {
        let middle = usize::midpoint(fits, does_not);
        // Ids have one length each, so only the size decides.
        if inline(middle).await { fits = middle } else { does_not = middle }
    }
    assert!(inline(fits - 1).await && inline(fits).await && !inline(fits + 1).await);
    assert_eq!(bodies(&pair.jerry, &agent("jerry")).await, 0, "a dropped dead letter takes its body along");
}

/// The source is gone: the letter comes again when it is back; when it never answers, it ends with the reason.
#[tokio::test(start_paused = true)]
async fn m12_a_body_whose_source_is_dead_is_waited_for_and_then_given_up() {
    let pair = Pair::new(true).await;
    let text = pair.text("run-1", 2_000_000);
    pair.across.rooms.lock().unwrap().remove("jerry-gateway");
    pair.jerry.send("bobby", "run-1", &text).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(pair.bobby.handled().is_empty());
    pair.across.join(&pair.jerry);
    assert_eq!(pair.jerry.answer("run-1").await.text, Some(format!("echo: {text}")));

    let text = pair.text("run-2", 2_000_000);
    pair.across.rooms.lock().unwrap().remove("jerry-gateway");
    let end = pair.ask("run-2", &text).await;
    assert!(end.failure.unwrap().message.contains("body_unavailable"));
    let dead = pair.jerry.room.dead(&agent("jerry"), 10).await.unwrap();
    assert_eq!(
        (dead.len(), dead[0].reason.as_str(), dead[0].history.iter().filter(|told| told.event.name() == "farm.msg.sent").count()),
        (1, "body_unavailable", 9)
    );
    // Sent again when the link is there, it arrives, and its body has gone with it.
    pair.across.join(&pair.jerry);
    pair.jerry.room.replay(&agent("jerry"), &dead[0].head.message_id).await.unwrap();
    while pair.bobby.handled().len() < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    pair.jerry.room.drop_dead(&agent("jerry"), &dead[0].head.message_id).await.unwrap();
    let open = async || pair.jerry.room.sent(&agent("jerry"), 50).await.unwrap().iter().any(|sent| !sent.row.ended());
    while open().await {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(bodies(&pair.jerry, &agent("jerry")).await, 0);
}

/// Bytes that are not those that were signed are refused for good, with their reason.
#[tokio::test(start_paused = true)]
async fn m12_a_body_with_another_hash_is_refused() {
    let pair = Pair::new(true).await;
    let text = pair.text("run-1", 1_500_000);
    pair.across.altered.store(1, Ordering::Relaxed);
    let end = pair.ask("run-1", &text).await;
    assert!(end.failure.unwrap().message.contains("body_mismatch"));
    assert!(pair.bobby.handled().is_empty());
    assert_eq!(pair.jerry.room.dead(&agent("jerry"), 10).await.unwrap()[0].reason, "body_mismatch");
}

/// Killed while a body is on its way, or while its work goes on: the letter is done once all the same.
#[tokio::test(start_paused = true)]
async fn m12_large_letters_survive_restarts_of_both() {
    let Pair { farm, jerry, bobby, across } = Pair::new(true).await;
    let (mut here, mut there) = (jerry.die().await, bobby.die().await);
    let ledger = Arc::new(Mutex::new(Vec::new()));
    let bus = |name: &str| Arc::new(Tap { blobs: false, ..Tap::over(farm.memory.bus(name)) });
    for round in 2..8_u64 {
        let bobby = farm.raise_with("bobby-gateway", &["bobby"], there, round, bus("bobby-gateway"), Some(Arc::clone(&ledger))).await;
        let jerry = farm.raise_with("jerry-gateway", &["jerry"], here, round, bus("jerry-gateway"), None).await;
        across.join(&jerry);
        across.join(&bobby);
        jerry.send("bobby", &format!("run-{round}"), &format!("{round}{}", "x".repeat(1_200_000))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(round * 2)).await;
        (there, here) = (bobby.die().await, jerry.die().await);
    }
    let bobby = farm.raise_with("bobby-gateway", &["bobby"], there, 99, bus("bobby-gateway"), Some(Arc::clone(&ledger))).await;
    let jerry = farm.raise_with("jerry-gateway", &["jerry"], here, 99, bus("jerry-gateway"), None).await;
    across.join(&jerry);
    across.join(&bobby);
    for round in 2..8_u64 {
        assert!(jerry.answer(&format!("run-{round}")).await.text.is_some_and(|text| text.starts_with(&format!("echo: {round}x"))));
    }
    let mut done: Vec<char> = ledger.lock().unwrap().iter().map(|text| text.chars().next().unwrap()).collect();
    done.sort_unstable();
    assert_eq!(done, ['2', '3', '4', '5', '6', '7']);
}
