//! One gateway's mailroom as a process that can be killed. It tells its parent, line by line, what it was told and what it
//! did: `T <n>` letter `n` was taken, `H <n> new|known` letter `n` was worked on, `E` everything ended. A line that was
//! written survives the process.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use clawstead_bus::{
    Bus,
    faulty::{Delay, FaultyBus, MailFaults},
    nats::{NatsBus, NatsConfig},
};
use clawstead_cluster::{
    envelope::{Envelope, MailState},
    letter::HandlerEnd,
};
use clawstead_farm::mailroom::{Handled, Handler, Incoming, Mailroom, Silent};
use clawstead_state::{Batch, Op, Table, TxError, keeper::Keeper};
use clawstead_terms::{EnvelopeKind, FailureCode};
use clawstead_world::{SeededRng, World};
use tokio::{io::AsyncWriteExt as _, sync::mpsc};

use crate::room::{self, FARM, Map, Room, Setup, Trust, unit};

/// Letters asked for at once.
const AT_ONCE: usize = 64;
/// Sessions of the target.
const LANES: usize = 512;

/// What the parent says.
#[derive(clap::Args)]
pub struct Args {
    /// `jerry-gateway` writes, `bobby-gateway` is written to.
    #[arg(long)]
    gateway: String,
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    epoch: u64,
    #[arg(long)]
    nats: String,
    #[arg(long)]
    seed: u64,
    /// The first letter that may not have been taken yet.
    #[arg(long, default_value_t = 0)]
    from: usize,
    /// How many letters there are; none for the one that is written to.
    #[arg(long, default_value_t = 0)]
    letters: usize,
    /// No faults of single messages any more.
    #[arg(long)]
    calm: bool,
}

/// The work: a row of the agent's own, as a run is one in a gateway. Whether it is there already says whether a repeat came
/// this far before.
struct Work {
    keeper: tokio::sync::OnceCell<Keeper>,
    lines: mpsc::UnboundedSender<String>,
}

impl Work {
    async fn keeper(&self) -> Keeper {
        loop {
            if let Some(keeper) = self.keeper.get() {
                return keeper.clone();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn run_of(incoming: &Incoming) -> String {
    match incoming {
        Incoming::Letter(letter) => letter.run_id.as_str().to_owned(),
        Incoming::Call { .. } | Incoming::Plain => String::new(),
    }
}

#[async_trait]
impl Handler for Work {
    async fn handle(&self, envelope: &Envelope, incoming: Incoming) -> Handled {
        let run = run_of(&incoming);
        let batch = Batch { unit: unit(&envelope.target_agent), ops: vec![Op::Insert(Table::Meta, format!("bench/{run}"), "{}".into())] };
        let word = match self.keeper().await.commit(batch).await {
            Ok(()) => "new",
            Err(TxError::Exists { .. }) => "known",
            Err(err) => return Handled { end: HandlerEnd::Failed { code: err.to_string().chars().take(32).collect(), retryable: true }, outcome: None },
        };
        let _ = self.lines.send(format!("H {run} {word}"));
        Handled { end: HandlerEnd::Done, outcome: None }
    }

    async fn knows(&self, envelope: &Envelope, incoming: &Incoming) -> bool {
        let key = format!("bench/{}", run_of(incoming));
        let found: Result<Option<serde_json::Value>, _> = self.keeper().await.get(&unit(&envelope.target_agent), Table::Meta, &key).await;
        matches!(found, Ok(Some(_)))
    }
}

/// Runs until it is killed, or until its parent closes its input.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let (lines, mut waiting) = mpsc::unbounded_channel::<String>();
    tokio::spawn(async move {
        let mut out = tokio::io::stdout();
        while let Some(mut line) = waiting.recv().await {
            line.push('\n');
            if out.write_all(line.as_bytes()).await.is_err() || out.flush().await.is_err() {
                // The parent is gone.
                std::process::exit(0);
            }
        }
    });
    let trust = Trust::new(&["jerry-gateway", "bobby-gateway"])?;
    let (map, agents) = (Map::default(), |base: &str| -> Vec<String> { (0..4).map(|n| format!("{base}-{n}")).collect() });
    map.put("jerry-gateway", &agents("jerry"), 1);
    map.put("bobby-gateway", &agents("bobby"), 1);
    let ours = agents(args.gateway.split('-').next().unwrap_or_default());
    map.put(&args.gateway, &ours, args.epoch);
    let world = World::real()?;
    let nats = NatsBus::new(NatsConfig::new(FARM, vec![args.nats.clone()]), world.clock.clone())?;
    let faulty = FaultyBus::new(Arc::new(nats), Arc::new(SeededRng::new(args.seed.wrapping_mul(1_000).wrapping_add(args.epoch))), world.tasks.clone());
    if !args.calm {
        let delay = Delay::Exponential { mean: Duration::from_millis(15), max: Duration::from_secs(3) };
        faulty.set(MailFaults {
            drop: 0.01,
            duplicate: 0.05,
            duplicate_after: Delay::Even(Duration::from_secs(5)),
            lose_answer: 0.005,
            delay,
            reorder: 0.02,
            reorder_window: 16,
            ..MailFaults::default()
        });
    }
    let bus: Arc<dyn Bus> = Arc::new(faulty);
    let work = Arc::new(Work { keeper: tokio::sync::OnceCell::new(), lines: lines.clone() });
    let setup = Setup {
        gateway: &args.gateway,
        agents: &ours,
        folder: &args.folder,
        epoch: args.epoch,
        trust: &trust,
        map: &map,
        bus,
        world,
        handler: work.clone(),
        witness: Arc::new(Silent),
        opened: Some(&work.keeper),
    };
    let room = Room::open(setup).await?;
    let _ = lines.send("R".into());
    if args.letters > 0 {
        write(&room, &args, &lines).await?;
        ended(&room.mail, &ours).await?;
        let _ = lines.send("E".into());
    }
    std::future::pending::<()>().await;
    Ok(())
}

/// Writes every letter from the first that may be missing; those that are there already are known.
async fn write(room: &Room, args: &Args, lines: &mpsc::UnboundedSender<String>) -> anyhow::Result<()> {
    let next = Arc::new(AtomicUsize::new(args.from));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (mail, world, next, lines, letters) = (room.mail.clone(), room.world.clone(), next.clone(), lines.clone(), args.letters);
        writers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= letters {
                    return anyhow::Ok(());
                }
                loop {
                    let lane = n % LANES;
                    let letter =
                        room::letter(&world, EnvelopeKind::Event, &format!("jerry-{}", lane % 4), &format!("bobby-{}", (lane / 4) % 4), lane, &format!("{n}"))?;
                    match mail.send(letter).await {
                        Ok(_) => break,
                        Err(failure) if failure.code == FailureCode::Busy => tokio::time::sleep(Duration::from_millis(50)).await,
                        Err(failure) => anyhow::bail!("letter {n} was not taken: {}", failure.message),
                    }
                }
                let _ = lines.send(format!("T {n}"));
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(())
}

/// Until no letter is on its way.
async fn ended(mail: &Mailroom, agents: &[String]) -> anyhow::Result<()> {
    for agent in agents {
        loop {
            // Rows that ended stay for an hour: only the newest can be open, since lanes are worked off in order.
            let rows = mail.sent(&unit(agent), 50_000).await.map_err(|failure| anyhow::anyhow!(failure.message))?;
            let open: Vec<_> = rows.iter().filter(|sent| !matches!(sent.row.state, MailState::Acked | MailState::DeadLetter)).collect();
            let Some(last) = open.last() else { break };
            eprintln!(
                "storm: {} letters of {agent} are on their way; the oldest: {:?}",
                open.len(),
                last.history.iter().map(|told| told.event.name()).collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }
    Ok(())
}
