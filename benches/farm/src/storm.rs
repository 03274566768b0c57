//! Many letters while everything goes wrong that may: single messages are lost, doubled, late and overtaken, connections to
//! the engine are cut, slow and silent, and both gateways are killed again and again. The ledger is kept outside.

use std::{
    collections::BTreeMap,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clawstead_harness::fault_proxy::{Delay, FaultProxy, Faults};
use clawstead_state::{Scan, SqliteStore, Store as _, Table};
use clawstead_world::{Rng as _, SeededRng};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

use crate::{engines::Engine, report::Line};

/// Between two faults.
const EVERY: Duration = Duration::from_secs(4);
/// How long nothing may happen before the run is given up.
const STUCK: Duration = Duration::from_secs(420);

/// What was seen from outside.
#[derive(Default)]
struct Ledger {
    taken: Vec<bool>,
    fresh: BTreeMap<usize, u32>,
    repeats: u64,
    ended: bool,
    kills: u32,
    faults: u32,
}

impl Ledger {
    fn read(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (kind, number) = (words.next().unwrap_or_default(), words.next().and_then(|word| word.parse::<usize>().ok()));
        match (kind, number) {
            ("T", Some(n)) => {
                if let Some(taken) = self.taken.get_mut(n) {
                    *taken = true;
                }
            }
            ("H", Some(n)) => {
                if words.next() == Some("new") {
                    *self.fresh.entry(n).or_default() += 1;
                } else {
                    self.repeats += 1;
                }
            }
            ("E", _) => self.ended = true,
            _ => {}
        }
    }

    /// The first letter that was not taken.
    fn next(&self) -> usize {
        self.taken.iter().position(|taken| !taken).unwrap_or(self.taken.len())
    }
}

struct Node {
    gateway: &'static str,
    folder: tempfile::TempDir,
    epoch: u64,
    child: Option<Child>,
}

impl Node {
    fn start(&mut self, nats: &str, seed: u64, from: usize, letters: usize, calm: bool, lines: &mpsc::UnboundedSender<String>) -> anyhow::Result<()> {
        self.epoch += 1;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["node", "--gateway", self.gateway, "--nats", nats]).arg("--folder").arg(self.folder.path());
        command.args(["--epoch", &self.epoch.to_string(), "--seed", &seed.to_string(), "--from", &from.to_string(), "--letters", &letters.to_string()]);
        if calm {
            command.arg("--calm");
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut said = BufReader::new(child.stdout.take().context("no output")?).lines();
        let lines = lines.clone();
        tokio::spawn(async move {
            // To the last line, also of a process that was killed.
            while let Ok(Some(line)) = said.next_line().await {
                let _ = lines.send(line);
            }
        });
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL.
    async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }
}

/// Sends `letters` letters through it.
pub async fn run(letters: usize, seed: u64) -> anyhow::Result<Line> {
    let engine = Engine::start("nats").await?;
    let behind = format!("127.0.0.1:{}", engine.port).parse()?;
    let proxies = [FaultProxy::start(behind, seed)?, FaultProxy::start(behind, seed + 1)?];
    let rng = SeededRng::new(seed);
    let (lines, mut said) = mpsc::unbounded_channel();
    let mut ledger = Ledger { taken: vec![false; letters], ..Ledger::default() };
    let node = |gateway| anyhow::Ok(Node { gateway, folder: tempfile::tempdir()?, epoch: 0, child: None });
    let mut nodes = [node("jerry-gateway")?, node("bobby-gateway")?];
    let urls = [0, 1].map(|at: usize| format!("nats://{}", proxies[at].addr()));
    nodes[1].start(&urls[1], seed, 0, 0, false, &lines)?;
    nodes[0].start(&urls[0], seed, 0, letters, false, &lines)?;
    let (began, mut heard, mut next_fault, mut calm) = (Instant::now(), Instant::now(), Instant::now() + EVERY, false);
    while !ledger.ended {
        tokio::select! {
            biased;
            Some(line) = said.recv() => {
                ledger.read(&line);
                heard = Instant::now();
            }
            () = tokio::time::sleep_until(next_fault.into()) => {
                next_fault = Instant::now() + EVERY;
                if ledger.next() >= letters && ledger.fresh.len() * 100 >= letters * 95 {
                    // The last ones come to rest without new faults.
                    if !calm {
                        calm = true;
                        for proxy in &proxies {
                            proxy.heal().await;
                        }
                        eprintln!("storm: {} of {letters} letters were worked on after {:?}; it calms down", ledger.fresh.len(), began.elapsed());
                    }
                    if heard.elapsed() > STUCK {
                        bail!("{} of {letters} letters were worked on, then nothing more came", ledger.fresh.len());
                    }
                    continue;
                }
                ledger.faults += 1;
                let at = usize::from(rng.below(2) == 1);
                match rng.below(5) {
                    0 | 1 => {
                        ledger.kills += 1;
                        nodes[at].kill().await?;
                        while let Ok(line) = said.try_recv() {
                            ledger.read(&line);
                        }
                        let (from, count) = if at == 0 { (ledger.next(), letters) } else { (0, 0) };
                        nodes[at].start(&urls[at], seed, from, count, false, &lines)?;
                    }
                    2 => proxies[at].cut(),
                    3 => {
                        let slow = Faults { delay: Delay::Exponential { mean: Duration::from_millis(30), max: Duration::from_millis(500) }, cut: 0.001, ..Faults::default() };
                        proxies[at].set_both(slow);
                        tokio::time::sleep(EVERY / 2).await;
                        proxies[at].heal().await;
                    }
                    _ => {
                        proxies[at].freeze().await;
                        tokio::time::sleep(EVERY / 2).await;
                        proxies[at].heal().await;
                    }
                }
                eprintln!("storm: {:?}: {} taken, {} worked on, {} kills", began.elapsed(), ledger.next(), ledger.fresh.len(), ledger.kills);
            }
        }
    }
    let took = began.elapsed();
    for node in &mut nodes {
        node.kill().await?;
    }
    judge(&ledger, &nodes, letters, seed, took).await
}

async fn judge(ledger: &Ledger, nodes: &[Node; 2], letters: usize, seed: u64, took: Duration) -> anyhow::Result<Line> {
    // What a gateway worked on and was killed before it said so is in its store.
    let done = keys(&nodes[1], Table::Meta, "bench/").await?;
    let dead = keys(&nodes[0], Table::DeadLetters, "").await?.len();
    let sent = keys(&nodes[0], Table::Outbox, "farm/out/").await?.len();
    let twice = ledger.fresh.values().filter(|times| **times > 1).count();
    let worked: std::collections::BTreeSet<usize> = done.iter().filter_map(|key| key.strip_prefix("bench/")?.parse().ok()).collect();
    let missing = (0..letters).filter(|n| !worked.contains(n)).count();
    // Given up with a reason is not lost: the writer was told.
    let lost = missing.saturating_sub(dead) + letters.saturating_sub(sent);
    Ok(Line {
        what: format!("{letters} letters under faults over NATS"),
        bar: "0 lost, 0 handled twice".into(),
        value: format!(
            "{lost} lost, {twice} handled twice; {dead} given up with a reason; {} asked again after a kill and known; {:.0} s",
            ledger.repeats,
            took.as_secs_f64()
        ),
        met: Some(lost == 0 && twice == 0 && worked.len() + dead >= letters),
        method: format!(
            "two mailrooms as processes with SQLite, each with a TCP fault proxy of its own before NATS; of all messages 1 % lost, 5 % doubled up to 5 s later, 0.5 % of the answers lost, every one late (exponential, 15 ms in the mean, 3 s at most), 2 % overtaken by up to 16; every {} s a connection cut, slow for 2 s or silent for 2 s, or a SIGKILL of one of the two ({} faults, {} of them kills); the handler inserts a row that can be inserted once; the ledger is what the processes said in a pipe, and the rows at the end; `--only storm --seed {seed}`",
            EVERY.as_secs(),
            ledger.faults,
            ledger.kills,
        ),
    })
}

/// All keys below a prefix, over all agents of a gateway.
async fn keys(node: &Node, table: Table, prefix: &str) -> anyhow::Result<Vec<String>> {
    let store = SqliteStore::open(node.folder.path().join("clawstead.sqlite"), clawstead_state::sqlite::Options::default())?;
    let mut out = Vec::new();
    for unit in store.units().await? {
        let mut scan = Scan::prefix(prefix).limit(1000);
        loop {
            let page = store.scan(&unit, table, &scan).await?;
            let Some(last) = page.last().map(|row| row.key.clone()) else { break };
            out.extend(page.into_iter().map(|row| row.key));
            scan = Scan::prefix(prefix).limit(1000).after(last);
        }
    }
    store.close().await;
    Ok(out)
}
