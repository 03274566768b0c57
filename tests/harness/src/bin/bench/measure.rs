use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clawstead_harness::{
    cli::Cli,
    client::{Client, Who},
    engines::{Engine, our_binary},
    free_port,
    gateway::{Gateway, Setup, Whose, config},
    http,
    mock::{MockModel, Options},
    process,
};
use tokio::{sync::Barrier, task::JoinSet};

/// Agents in the config.
pub const AGENTS: usize = 10;
/// Clients that do nothing in the load part.
pub const IDLE_CLIENTS: usize = 1000;
/// Sessions that stream in the load part.
pub const STREAMS: usize = 200;
/// Sessions at once.
pub const AT_ONCE: usize = 16;

/// How often things are done.
#[derive(Clone, Copy)]
pub struct Counts {
    pub starts: usize,
    pub turns: usize,
    pub turns_at_once: usize,
    pub long_session: usize,
    pub commands: usize,
}

impl Counts {
    pub const FULL: Self = Self { starts: 5, turns: 200, turns_at_once: 100, long_session: 2000, commands: 20 };
    pub const QUICK: Self = Self { starts: 2, turns: 40, turns_at_once: 10, long_session: 200, commands: 5 };

    pub fn ours(self) -> Self {
        self
    }

    /// The original needs seconds where we need milliseconds: fewer repeats of what is only counted or averaged.
    pub fn original(self) -> Self {
        Self { turns_at_once: self.turns_at_once.min(4), commands: self.commands.min(5), ..self }
    }
}

/// What came out. `None` was not measured.
#[derive(Default)]
pub struct Figures {
    pub starts: Vec<Duration>,
    pub idle_rss: Option<u64>,
    pub processes: usize,
    pub rss_after: Option<u64>,
    pub turns: Vec<Duration>,
    pub accepted: Vec<Duration>,
    pub cpu_per_turn: Option<Duration>,
    pub at_once: Option<f64>,
    pub at_once_cpu: Option<Duration>,
    pub size: Option<u64>,
    pub version_start: Vec<Duration>,
    pub health_command: Vec<Duration>,
    pub list_command: Vec<Duration>,
    pub early_cpu: Option<Duration>,
    pub late_cpu: Option<Duration>,
    pub probe: Vec<Duration>,
    pub load_rss: Option<u64>,
    pub streamed: usize,
    pub fault: Option<String>,
}

/// Measures one program, part by part.
pub async fn all(whose: Whose, counts: &Counts, short: bool, figures: &mut Figures) -> anyhow::Result<()> {
    let model = MockModel::start(Options::default()).await?;
    figures.size = Some(size(whose)?);
    let home = tempfile::tempdir()?;
    starts(whose, counts, &model, home.path(), figures).await.context("start to ready")?;
    let gateway = Gateway::start(setup(whose, &model, home.path())?).await?;
    idle(&gateway, figures).await;
    turns(&gateway, counts, figures).await.context("turns")?;
    at_once(&gateway, counts, figures).await.context("sessions at once")?;
    commands(&gateway, counts, figures).await.context("commands")?;
    if !short {
        long_session(&gateway, counts, figures).await.context("a long session")?;
        load(&gateway, figures).await.context("many clients")?;
    }
    gateway.kill().await;
    Ok(())
}

fn setup(whose: Whose, model: &MockModel, home: &Path) -> anyhow::Result<Setup> {
    let port = free_port()?;
    let names: Vec<String> = (0..AGENTS).map(|index| format!("a{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut config = config(port, &model.v1(), &names);
    // Both programs hold runs above eight (on two cores) back unless told otherwise; the load part wants 200 at once.
    config["agents"]["defaults"]["maxConcurrent"] = serde_json::json!(STREAMS);
    let setup = if whose == Whose::Ours { Setup::ours(&config) } else { Setup::original(&config) };
    Ok(Setup { port, home: Some(home.to_owned()), ..setup })
}

fn size(whose: Whose) -> anyhow::Result<u64> {
    let path = match whose {
        Whose::Ours => our_binary().map_err(anyhow::Error::msg)?,
        Whose::Original => {
            let program = Engine::OpenClaw.find().map_err(anyhow::Error::msg)?;
            // node_modules/openclaw/openclaw.mjs: the package and everything it depends on.
            program.ancestors().nth(2).context("the original is in no node_modules folder")?.to_owned()
        }
    };
    Ok(process::size_on_disk(&path))
}

/// Starts in a home that has been used once, as after a reboot.
async fn starts(whose: Whose, counts: &Counts, model: &MockModel, home: &Path, figures: &mut Figures) -> anyhow::Result<()> {
    Gateway::start(setup(whose, model, home)?).await?.kill().await;
    for _ in 0..counts.starts {
        let gateway = Gateway::start(setup(whose, model, home)?).await?;
        figures.starts.push(gateway.ready_after);
        gateway.kill().await;
    }
    eprintln!("{whose:?}: starts {:?}", figures.starts);
    Ok(())
}

async fn idle(gateway: &Gateway, figures: &mut Figures) {
    // Late start-up work has to be over: this is a measurement, not a condition to wait for.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let usage = gateway.usage();
    (figures.idle_rss, figures.processes) = (Some(usage.rss), usage.processes);
    eprintln!("{:?}: idle {} MiB", gateway.whose, usage.rss >> 20);
}

async fn turns(gateway: &Gateway, counts: &Counts, figures: &mut Figures) -> anyhow::Result<()> {
    let mut client = Client::connect(gateway.port).await?;
    for session in 0..10 {
        client.turn(&session_key(session), "warm up", &format!("warm-{session}")).await?;
    }
    let before = cpu(gateway);
    for turn in 0..counts.turns {
        let done = client.turn(&session_key(turn % 10), &format!("turn {turn} msg-{turn:06}"), &format!("turn-{turn}")).await?;
        anyhow::ensure!(done.state == "final", "turn {turn} ended as {}", done.state);
        figures.turns.push(done.took);
        figures.accepted.push(done.accepted_after);
    }
    let turns = u32::try_from(counts.turns)?;
    figures.cpu_per_turn = Some((cpu(gateway) - before) / turns);
    figures.rss_after = Some(gateway.usage().rss);
    client.close().await;
    eprintln!("{:?}: CPU per turn {:?}", gateway.whose, figures.cpu_per_turn);
    Ok(())
}

/// Each session has a connection of its own, and all begin together.
async fn at_once(gateway: &Gateway, counts: &Counts, figures: &mut Figures) -> anyhow::Result<()> {
    let gate = std::sync::Arc::new(Barrier::new(AT_ONCE + 1));
    let mut tasks = JoinSet::new();
    for session in 0..AT_ONCE {
        let (gate, port, turns) = (gate.clone(), gateway.port, counts.turns_at_once);
        tasks.spawn(async move {
            let mut client = Client::connect(port).await?;
            let key = format!("agent:a{}:crowd-{session}", session % AGENTS);
            gate.wait().await;
            for turn in 0..turns {
                let done = client.turn(&key, &format!("turn {turn}"), &format!("crowd-{session}-{turn}")).await?;
                anyhow::ensure!(done.state == "final", "ended as {}", done.state);
            }
            client.close().await;
            anyhow::Ok(())
        });
    }
    gate.wait().await;
    let (began, before) = (Instant::now(), cpu(gateway));
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let turns = AT_ONCE * counts.turns_at_once;
    figures.at_once = Some(f64::from(u32::try_from(turns)?) / began.elapsed().as_secs_f64());
    figures.at_once_cpu = Some((cpu(gateway) - before) / u32::try_from(turns)?);
    eprintln!("{:?}: {:.1} turns/s at once", gateway.whose, figures.at_once.unwrap_or_default());
    Ok(())
}

async fn commands(gateway: &Gateway, counts: &Counts, figures: &mut Figures) -> anyhow::Result<()> {
    let cli = Cli::remote(gateway.whose, &gateway.ws())?;
    for _ in 0..counts.commands {
        figures.version_start.push(cli.run(&["--version"]).await?.took);
        let health = cli.run(&["health", "--json"]).await?;
        anyhow::ensure!(health.code == Some(0), "health: {}", health.stderr);
        figures.health_command.push(health.took);
        figures.list_command.push(cli.run(&["cron", "list", "--json"]).await?.took);
    }
    Ok(())
}

async fn long_session(gateway: &Gateway, counts: &Counts, figures: &mut Figures) -> anyhow::Result<()> {
    const WINDOW: usize = 50;
    let mut client = Client::connect(gateway.port).await?;
    let mut mark = cpu(gateway);
    for turn in 0..counts.long_session {
        if turn == 10 || turn + WINDOW == counts.long_session {
            mark = cpu(gateway);
        }
        client.turn("agent:a0:long", &format!("turn {turn} of a long conversation"), &format!("long-{turn}")).await?;
        if turn == 10 + WINDOW - 1 {
            figures.early_cpu = Some((cpu(gateway) - mark) / u32::try_from(WINDOW)?);
        }
    }
    figures.late_cpu = Some((cpu(gateway) - mark) / u32::try_from(WINDOW)?);
    eprintln!("{:?}: CPU per turn early {:?}, late {:?}", gateway.whose, figures.early_cpu, figures.late_cpu);
    client.close().await;
    Ok(())
}

/// Idle clients and streams, while a probe asks for readiness every 20 ms.
async fn load(gateway: &Gateway, figures: &mut Figures) -> anyhow::Result<()> {
    // All clients want events of their own sessions only (`session-scoped-events`), as open chats do: every piece of
    // 200 streams to 1,200 clients would be millions of frames a second. The idle ones say nothing but read.
    let mut idle = JoinSet::new();
    for _ in 0..IDLE_CLIENTS {
        let who = Who { caps: vec!["session-scoped-events".into()], ..Who::default() };
        let mut client = Client::connect_as(gateway.port, who).await.context("an idle client")?;
        idle.spawn(async move { while client.frame().await.is_ok() {} });
    }
    let mut streams = JoinSet::new();
    for stream in 0..STREAMS {
        // One after another: a gateway lets in only so many connections that have not introduced themselves yet.
        let who = Who { caps: vec!["session-scoped-events".into()], ..Who::default() };
        let mut client = Client::connect_as(gateway.port, who).await.context("a streaming client")?;
        let key = format!("agent:a{}:stream-{stream}", stream % AGENTS);
        client.call("sessions.messages.subscribe", serde_json::json!({ "key": key })).await?;
        streams.spawn(async move {
            let done = client.turn(&key, "!pace 100 !pieces 80 !words 400", &format!("stream-{stream}")).await?;
            anyhow::ensure!(done.state == "final" && done.deltas > 10, "a stream ended as {} after {} pieces", done.state, done.deltas);
            anyhow::Ok(done.deltas)
        });
    }
    while !streams.is_empty() {
        let began = Instant::now();
        let answer = http::get(gateway.port, "/readyz").await?;
        anyhow::ensure!(answer.status == 200, "/readyz answered {}", answer.status);
        figures.probe.push(began.elapsed());
        while let Some(done) = streams.try_join_next() {
            done??;
            figures.streamed += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    figures.load_rss = Some(gateway.usage().rss);
    Ok(())
}

fn session_key(session: usize) -> String {
    format!("agent:a{}:bench", session % AGENTS)
}

/// Processor time of the whole process tree, finely where the kernel allows and there is one process.
fn cpu(gateway: &Gateway) -> Duration {
    let usage = gateway.usage();
    if usage.processes > 1 { usage.cpu } else { process::fine_cpu(gateway.pid()).unwrap_or(usage.cpu) }
}
