//! How many letters a second two gateways and their engine carry, all three on this machine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use clawstead_bus::{
    Bus,
    nats::{NatsBus, NatsConfig},
    redis::{RedisBus, RedisConfig},
};
use clawstead_cluster::{
    envelope::Envelope,
    letter::{Event, HandlerEnd},
};
use clawstead_farm::mailroom::{Handled, Handler, Head, Incoming, Witness};
use clawstead_state::StoreCounters;
use clawstead_terms::EnvelopeKind;
use clawstead_world::World;
use tokio::sync::{Notify, Semaphore};

use crate::{
    engines::Engine,
    room::{self, FARM, Map, Room, Setup, Trust},
};

/// Agents at each of the two gateways.
pub const AGENTS: usize = 4;
/// Letters on their way at once.
pub const WINDOW: usize = 128;

/// Does nothing, at once: what is measured is the letter and not the work.
struct Null;

#[async_trait]
impl Handler for Null {
    async fn handle(&self, _: &Envelope, _: Incoming) -> Handled {
        Handled { end: HandlerEnd::Done, outcome: None }
    }

    async fn knows(&self, _: &Envelope, _: &Incoming) -> bool {
        false
    }
}

/// Counts ends.
#[derive(Default)]
struct Count {
    acked: AtomicU64,
    dead: AtomicU64,
    places: std::sync::OnceLock<Arc<Semaphore>>,
    changed: Notify,
}

impl Witness for Count {
    fn told(&self, _: &Head, event: &Event) {
        match event {
            Event::Acked => &self.acked,
            Event::DeadLetter { .. } => &self.dead,
            _ => return,
        }
        .fetch_add(1, Ordering::Relaxed);
        if let Some(places) = self.places.get() {
            places.add_permits(1);
        }
        self.changed.notify_one();
    }

    fn rejected(&self, _: Option<&Head>, code: &'static str, why: &str) {
        eprintln!("refused: {code}: {why}");
    }
}

/// What came out.
#[derive(Debug)]
pub struct Figures {
    pub per_second: f64,
    pub dead: u64,
    /// Of both gateways together, without the engine.
    pub cpu_per_letter: Duration,
    pub stores: [StoreCounters; 2],
}

pub fn bus(kind: &str, port: u16, world: &World) -> anyhow::Result<Arc<dyn Bus>> {
    Ok(match kind {
        "nats" => Arc::new(NatsBus::new(NatsConfig::new(FARM, vec![format!("nats://127.0.0.1:{port}")]), world.clock.clone())?),
        _ => Arc::new(RedisBus::new(RedisConfig::new(FARM, vec![format!("redis://127.0.0.1:{port}")]), world.clock.clone())?),
    })
}

/// Sends `letters` letters over `lanes` lanes and waits until the last one is acknowledged.
pub async fn run(kind: &str, letters: usize, lanes: usize) -> anyhow::Result<Figures> {
    let engine = Engine::start(kind).await?;
    let port = engine.port;
    let (trust, map) = (Trust::new(&["jerry-gateway", "bobby-gateway"])?, Map::default());
    let names = |base: &str| -> Vec<String> { (0..AGENTS).map(|n| format!("{base}-{n}")).collect() };
    let (jerrys, bobbys) = (names("jerry"), names("bobby"));
    map.put("jerry-gateway", &jerrys, 1);
    map.put("bobby-gateway", &bobbys, 1);
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let count = Arc::new(Count::default());
    let places = Arc::new(Semaphore::new(WINDOW));
    let _ = count.places.set(places.clone());
    let mut rooms = Vec::new();
    for (at, (gateway, agents)) in [("jerry-gateway", &jerrys), ("bobby-gateway", &bobbys)].into_iter().enumerate() {
        let world = World::real()?;
        let witness: Arc<dyn Witness> = if at == 0 { count.clone() } else { Arc::new(Count::default()) };
        let setup = Setup {
            gateway,
            agents,
            folder: folders[at].path(),
            epoch: 1,
            trust: &trust,
            map: &map,
            bus: bus(kind, port, &world)?,
            world,
            handler: Arc::new(Null),
            witness,
            opened: None,
        };
        rooms.push(Room::open(setup).await?);
    }
    let jerry = &rooms[0];
    let before = clawstead_harness::process::fine_cpu(std::process::id()).unwrap_or_default();
    let began = Instant::now();
    for n in 0..letters {
        places.clone().acquire_owned().await?.forget();
        let lane = n % lanes;
        let letter = room::letter(&jerry.world, EnvelopeKind::Event, &jerrys[lane % AGENTS], &bobbys[(lane / AGENTS) % AGENTS], lane, &format!("run-{n}"))?;
        let mail = jerry.mail.clone();
        tokio::spawn(async move {
            if let Err(failure) = mail.send(letter).await {
                eprintln!("not taken: {failure:?}");
            }
        });
    }
    while count.acked.load(Ordering::Relaxed) + count.dead.load(Ordering::Relaxed) < letters as u64 {
        if tokio::time::timeout(Duration::from_secs(60), count.changed.notified()).await.is_err() {
            anyhow::bail!("{} of {letters} letters were acknowledged, then nothing more came", count.acked.load(Ordering::Relaxed));
        }
    }
    let took = began.elapsed();
    let figures = Figures {
        per_second: letters as f64 / took.as_secs_f64(),
        dead: count.dead.load(Ordering::Relaxed),
        cpu_per_letter: clawstead_harness::process::fine_cpu(std::process::id()).unwrap_or_default().saturating_sub(before) / u32::try_from(letters)?,
        stores: [rooms[0].keeper.store.counters(), rooms[1].keeper.store.counters()],
    };
    for room in rooms {
        room.close().await;
    }
    drop(engine);
    Ok(figures)
}
