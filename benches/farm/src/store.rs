//! The coordination store: how long a write takes, how soon the others know of a new agent, how many heartbeats are taken.

use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clawstead_bus::{
    Coord,
    consul::{Consul, Settings},
};
use clawstead_cluster::keys::{FarmRoot, KeyRing};
use clawstead_farm::membership::{AgentFacts, Me, Membership};
use clawstead_state::{
    MemoryStore,
    keeper::{Claims, Keeper},
};
use clawstead_terms::Fence;
use clawstead_world::{SeededRng, World};

use crate::{
    engines::Engine,
    report::{Line, Times},
    room::{FARM, unit},
};

/// Gateways that tell and watch.
const GATEWAYS: usize = 3;
/// Between two heartbeats, as `farm.lease` has it by default.
const RENEW: Duration = Duration::from_secs(1);

fn coord(engine: &Engine, first: usize, world: &World) -> anyhow::Result<Arc<dyn Coord>> {
    // Each gateway asks another server first, as where every node has its own.
    let mut urls = engine.urls.clone();
    let at = first % urls.len().max(1);
    urls.rotate_left(at);
    Ok(Consul::new(&Settings::at(urls), world)?.coord())
}

struct Node {
    membership: Membership,
    keeper: Keeper,
    world: World,
    agents: Vec<AgentFacts>,
    name: String,
}

impl Node {
    async fn start(engine: &Engine, at: usize) -> anyhow::Result<Self> {
        let (world, name) = (World::real()?, format!("gateway-{at}"));
        let keeper = Keeper { store: Arc::new(MemoryStore::new()), claims: Arc::new(Claims::default()) };
        let ring = Arc::new(RwLock::new(KeyRing::new(vec![FarmRoot::generate(&SeededRng::new(7)).pin()])?));
        let me = Me {
            farm: FARM.into(),
            gateway: name.clone(),
            url: format!("ws://127.0.0.1:{}", 18_789 + at),
            address: ("127.0.0.1".into(), u16::try_from(18_789 + at)?),
            peer: None,
            version: "bench".into(),
            incarnation: 1,
            renew: RENEW,
            check_url: None,
            tags: Vec::new(),
        };
        let membership = Membership::start(me, coord(engine, at, &world)?, &world, keeper.clone(), ring, Vec::new(), None);
        let mut node = Self { membership, keeper, world, agents: Vec::new(), name };
        node.add(format!("first-{at}")).await?;
        Ok(node)
    }

    /// A new agent, told to the others.
    async fn add(&mut self, id: String) -> anyhow::Result<()> {
        let fence = Fence { epoch: 1, owner: self.name.clone(), incarnation: 1 };
        self.keeper.store.claim(&unit(&id), &fence).await?;
        self.keeper.claims.hold(unit(&id), fence);
        self.agents.push(AgentFacts { id, capabilities: vec!["sessions.send".into()], model: Some("mock/mock-1".into()), heartbeat: false });
        self.membership.set_agents(self.agents.clone()).await;
        Ok(())
    }
}

/// Until a gateway lists the agent as one that can be reached.
async fn knows(membership: Membership, id: String) -> anyhow::Result<Instant> {
    let mut changes = membership.changes();
    let known = async {
        loop {
            if membership.agents().iter().any(|agent| agent.id == id && agent.gateway.is_some() && agent.healthy) {
                return Ok(Instant::now());
            }
            changes.changed().await.context("the membership ended")?;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known).await.with_context(|| format!("{id} did not become known"))?
}

/// Measures all three.
pub async fn measure(writes: usize, agents: usize, beats: Duration) -> anyhow::Result<Vec<Line>> {
    let engine = Engine::consul(3).await?;
    let world = World::real()?;
    let store = coord(&engine, 0, &world)?;
    let (mut times, value) = (Vec::new(), bytes(1024));
    store.put("openclaw/bench/warm", value.clone().into()).await?;
    for n in 0..writes {
        let began = Instant::now();
        store.put(&format!("openclaw/bench/{}", n % 64), value.clone().into()).await?;
        times.push(began.elapsed());
    }
    let mut lines = vec![Times::new(times).line(
        "a write to the store (Consul, 3 servers)",
        Duration::from_millis(50),
        format!("{writes} values of 1 KiB, one after another, through the gateway's own client; until the leader's answer, which a majority has on disk"),
    )];

    let began = Instant::now();
    let mut nodes = Vec::new();
    for at in 0..GATEWAYS {
        nodes.push(Node::start(&engine, at).await?);
    }
    for node in &nodes {
        for at in 0..GATEWAYS {
            knows(node.membership.clone(), format!("first-{at}")).await?;
        }
    }
    let mut times = Vec::new();
    for n in 0..agents {
        let (id, at) = (format!("agent-{n}"), n % GATEWAYS);
        let others: Vec<_> =
            nodes.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, node)| tokio::spawn(knows(node.membership.clone(), id.clone()))).collect();
        let began = Instant::now();
        nodes.get_mut(at).context("a gateway")?.add(id).await?;
        for other in others {
            times.push(other.await??.duration_since(began));
        }
        // Agents do not come in a row: the watches are back at the store before the next.
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Few agents at a gateway, as on a node.
        if n % 24 == 23 {
            for node in &mut nodes {
                node.agents.truncate(1);
                for (unit, _) in node.keeper.claims.all().into_iter().filter(|(unit, _)| unit.to_string().contains("agent-")) {
                    node.keeper.claims.give_up(&unit);
                }
            }
        }
    }
    lines.push(Times::new(times).line(
        "discovery of a new agent by all gateways (Consul, 3 servers)",
        Duration::from_millis(50),
        format!("{agents} agents, added in turn at {GATEWAYS} gateways with up to 9 agents each; from the moment a gateway has it until each other one lists it as reachable, a sample for each"),
    ));
    tokio::time::sleep(beats.saturating_sub(began.elapsed())).await;
    let (sent, missed) = nodes.iter().map(|node| node.membership.heartbeats()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let share = if sent == 0 { 0.0 } else { (sent - missed) as f64 * 100.0 / sent as f64 };
    lines.push(Line {
        what: "heartbeats taken".into(),
        bar: "≥ 99.9 %".into(),
        value: format!("{share:.2} % ({missed} of {sent} not taken)"),
        met: Some(share >= 99.9),
        method: format!("{GATEWAYS} gateways, one a second each, over {} s of which the first part is the discovery above; a heartbeat that the store did not take counts as missed", began.elapsed().as_secs()),
    });
    for node in nodes {
        node.world.tasks.stop(Duration::from_secs(3)).await;
    }
    Ok(lines)
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| b'a' + u8::try_from(n % 26).unwrap_or(0)).collect()
}
