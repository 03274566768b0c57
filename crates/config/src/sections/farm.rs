//! `farm`: several gateways that act as one. Absent means an ordinary gateway: nothing listens, nothing is shared.

use std::{collections::BTreeMap, path::PathBuf};

use clawstead_terms::AgentId;

use super::Cx;
use crate::{secret::Secret, view::View};

/// Where the agent of a Consul server or cluster answers, unless `farm.coord.addr` says otherwise.
pub const CONSUL_ADDR: &str = "http://127.0.0.1:8500";
/// The PostgreSQL schema of the farm, unless `farm.state.schema` says otherwise.
pub const STATE_SCHEMA: &str = "clawstead";
/// How long a letter waits for its target where `farm.letterTtl` is not set, in milliseconds: an hour.
pub const LETTER_TTL_MS: u64 = 3_600_000;
/// How long a letter may wait at most, in milliseconds: a day.
pub const LETTER_TTL_MAX_MS: u64 = 86_400_000;
/// The vault's folder below the state folder, where the config names none.
pub const VAULT_FOLDER: &str = "shared-vault";

/// What keeps ownership, membership and keys (`farm.coord.kind`). Redis is refused: its failover can forget a
/// compare-and-swap, and two gateways would own one agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CoordKind {
    /// This gateway alone.
    #[default]
    Embedded,
    /// Consul KV.
    Consul,
    /// Rows of a PostgreSQL server.
    Postgres,
}

impl CoordKind {
    /// Reads the config word; none for a word that cannot keep ownership.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "embedded" => Self::Embedded,
            "consul" => Self::Consul,
            "postgres" | "postgresql" => Self::Postgres,
            _ => return None,
        })
    }
}

/// What carries letters between gateways (`farm.bus.kind`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusKind {
    /// Inside this gateway only.
    #[default]
    Embedded,
    /// Consul KV; up to about 50 letters a second.
    Consul,
    /// Redis Streams.
    Redis,
    /// NATS JetStream.
    Nats,
    /// The link between gateways itself (`farm.peer`).
    Peer,
}

impl BusKind {
    /// Reads the config word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "embedded" => Self::Embedded,
            "consul" => Self::Consul,
            "redis" => Self::Redis,
            "nats" => Self::Nats,
            "peer" => Self::Peer,
            _ => return None,
        })
    }
}

/// Where a gateway keeps what it must not lose (`farm.state.kind`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateKind {
    /// A file in the state folder: agents are pinned to this gateway.
    #[default]
    Sqlite,
    /// A PostgreSQL server: agents can move.
    Postgres,
}

impl StateKind {
    /// Reads the config word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "sqlite" => Self::Sqlite,
            "postgres" | "postgresql" => Self::Postgres,
            _ => return None,
        })
    }
}

/// How soon the silence of a gateway counts as its end (`farm.lease`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseProfile {
    /// Tests, one switch: others take over after 2 s.
    Fast,
    /// One site: after 6 s.
    #[default]
    Lan,
    /// Over the internet: after 18 s.
    Wan,
}

/// What happens to an agent whose gateway is silent (`farm.failover.<agent>`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailoverKind {
    /// Another gateway takes it.
    #[default]
    Auto,
    /// It waits until `openclaw farm move` says who takes it.
    Manual,
    /// It waits for its gateway.
    None,
}

impl FailoverKind {
    /// Reads the config word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "auto" => Self::Auto,
            "manual" => Self::Manual,
            "none" => Self::None,
            _ => return None,
        })
    }
}

impl LeaseProfile {
    /// Reads the config word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "fast" => Self::Fast,
            "lan" => Self::Lan,
            "wan" => Self::Wan,
            _ => return None,
        })
    }

    /// A gateway renews its lease so often, in milliseconds.
    #[must_use]
    pub const fn renew_ms(self) -> u64 {
        match self {
            Self::Fast => 500,
            Self::Lan => 1_000,
            Self::Wan => 3_000,
        }
    }

    /// Without a renewal for so long it starts no effect any more, in milliseconds.
    #[must_use]
    pub const fn stop_ms(self) -> u64 {
        match self {
            Self::Fast => 1_500,
            Self::Lan => 4_000,
            Self::Wan => 12_000,
        }
    }

    /// Others wait for so long before they claim what it owned, in milliseconds.
    #[must_use]
    pub const fn claim_ms(self) -> u64 {
        match self {
            Self::Fast => 2_000,
            Self::Lan => 6_000,
            Self::Wan => 18_000,
        }
    }
}

/// PEM files for a TLS connection to an engine. Relative to the folder of the config file; `~` is understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate authorities; none means those of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate chain, where the engine wants one.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// `farm.coord`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoordConfig {
    /// Default embedded.
    pub kind: CoordKind,
    /// Consul: its HTTP addresses, tried in order; default [`CONSUL_ADDR`]. Empty for the others.
    pub addrs: Vec<String>,
    /// Consul: the ACL token, where there is one.
    pub token: Option<Secret>,
    /// PostgreSQL: the connection; default that of `farm.state`.
    pub url: Option<Secret>,
    /// TLS to the engine.
    pub tls: TlsFiles,
}

/// `farm.bus`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BusConfig {
    /// Default embedded.
    pub kind: BusKind,
    /// The engine's addresses, tried in order. Consul: default those of `farm.coord`.
    pub addrs: Vec<String>,
    /// Consul (default that of `farm.coord`) and NATS: the token.
    pub token: Option<Secret>,
    /// Redis and NATS: the user.
    pub user: Option<String>,
    /// Redis and NATS: the password.
    pub password: Option<Secret>,
    /// TLS to the engine.
    pub tls: TlsFiles,
    /// NATS: copies of each letter, 1, 3 or 5; default 1.
    pub replicas: usize,
    /// Letters go over the peer link while the engine is away (`fallback: "peer"`); default false.
    pub fallback_peer: bool,
}

/// `farm.state`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateConfig {
    /// Default sqlite.
    pub kind: StateKind,
    /// PostgreSQL: `postgres://user:password@host1,host2/database?sslmode=require`. None when there is none, or when
    /// its reference has no value.
    pub url: Option<Secret>,
    /// PostgreSQL: the schema; default [`STATE_SCHEMA`].
    pub schema: String,
    /// PostgreSQL: certificate authorities (PEM); none means those of the system.
    pub ca_file: Option<PathBuf>,
}

/// `farm.peer`: the link between gateways. Nothing listens without it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerConfig {
    /// `address:port` to listen on; none means only outgoing links.
    pub listen: Option<String>,
    /// `host:port` or `wss://host:port` that others use; default `listen`.
    pub advertise: Option<String>,
}

/// What a rule of `farm.policy` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyEffect {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
}

/// One end of a rule; both are globs, `*` when not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyEnd {
    /// Gateway id.
    pub gateway: String,
    /// Agent id.
    pub agent: String,
}

/// One rule of `farm.policy`. The first that matches decides; without any, a letter from another gateway is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Who writes.
    pub from: PolicyEnd,
    /// Who is written to.
    pub to: PolicyEnd,
    /// Globs of capabilities; default all.
    pub capabilities: Vec<String>,
    /// What it says.
    pub effect: PolicyEffect,
    /// Letters a minute at most.
    pub per_minute: Option<u32>,
    /// Letters may not live longer, in milliseconds.
    pub max_ttl_ms: Option<u64>,
}

/// What keeps the hub's shared memory (`farm.hub.memory`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HubMemory {
    /// Coord where `farm.coord` is an engine, else Redis where letters go over it, else local.
    #[default]
    Auto,
    /// The engine of `farm.coord`.
    Coord,
    /// The Redis of `farm.bus`.
    Redis,
    /// This process: it forgets at the end.
    Local,
}

impl HubMemory {
    /// Reads the config word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "auto" => Self::Auto,
            "coord" => Self::Coord,
            "redis" => Self::Redis,
            "local" => Self::Local,
            _ => return None,
        })
    }

    /// What it stands for with these engines; never [`Self::Auto`].
    #[must_use]
    pub const fn settled(self, coord: CoordKind, bus: BusKind) -> Self {
        match (self, coord, bus) {
            (Self::Auto, CoordKind::Consul | CoordKind::Postgres, _) => Self::Coord,
            (Self::Auto, CoordKind::Embedded, BusKind::Redis) => Self::Redis,
            (Self::Auto, CoordKind::Embedded, _) => Self::Local,
            (named, ..) => named,
        }
    }
}

/// A program that may call the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubPeer {
    /// Its name; owner of the agents it registers. May stand there twice, with two tokens, while one replaces the other.
    pub name: String,
    /// Its bearer token; none when a reference has no value: the peer is not let in.
    pub token: Option<Secret>,
    /// What it may do; none means everything but `operator`.
    pub scopes: Option<Vec<String>>,
}

/// `farm.hub.vault`: the shared vault, Markdown notes that agents write and people read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultConfig {
    /// Its folder; default `shared-vault` in the state folder.
    pub path: PathBuf,
    /// The program that commits each change, where changes are committed; default none.
    pub git: Option<String>,
}

/// `farm.hub`: programs that are no gateways join here, by MCP. Nothing is served unless it is enabled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubConfig {
    /// Default false.
    pub enabled: bool,
    /// Who may call.
    pub peers: Vec<HubPeer>,
    /// Default auto.
    pub memory: HubMemory,
    /// `Host` values that are taken besides this machine's own. Default: any where the gateway listens beyond this
    /// machine, none where it does not.
    pub hosts: Vec<String>,
    /// The shared vault; none without the section.
    pub vault: Option<VaultConfig>,
}

/// `farm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FarmConfig {
    /// The farm's name; none only where nothing is shared with other gateways.
    pub id: Option<String>,
    /// This gateway's name in it; none as with `id`.
    pub gateway: Option<String>,
    /// `host` or `host:port` where clients and routers of other nodes reach this gateway; default the address that
    /// `gateway.bind` names, else the one of the network that leads to the engine of `coord`.
    pub advertise: Option<String>,
    /// Further tags of this gateway's service in the engine's catalogue, for routers that read them. Default none.
    pub tags: Vec<String>,
    /// Ownership.
    pub coord: CoordConfig,
    /// Letters.
    pub bus: BusConfig,
    /// Rows and journals.
    pub state: StateConfig,
    /// Links between gateways; none means none.
    pub peer: Option<PeerConfig>,
    /// Default lan.
    pub lease: LeaseProfile,
    /// Agent to the gateways that should run it, best first; the others may where none of these lives.
    pub home: BTreeMap<AgentId, Vec<String>>,
    /// What happens to an agent whose gateway is silent; default auto where the state is shared, else none.
    pub failover: BTreeMap<AgentId, FailoverKind>,
    /// True: agents go back to the gateway of their home only when an operator says so (`farm.failback: "manual"`).
    /// Default: when it was healthy for ten minutes and the agent had nothing to do for one.
    pub failback_manual: bool,
    /// In order.
    pub policy: Vec<PolicyRule>,
    /// Key prefixes below which unsigned letters are accepted, without any authority. Default none.
    pub accept_unsigned: Vec<String>,
    /// How long a letter waits for its target, in milliseconds; default an hour, at most a day (`farm.letterTtl`).
    pub letter_ttl_ms: u64,
    /// Public keys of the farm's root, one or two (while it changes), as hex or base64 of 32 bytes.
    pub roots: Vec<String>,
    /// MCP for programs that are no gateways.
    pub hub: HubConfig,
}

impl FarmConfig {
    /// True when something is shared with other gateways, or listened for: then `id` and `gateway` are there.
    #[must_use]
    pub fn has_others(&self) -> bool {
        self.coord.kind != CoordKind::Embedded || self.bus.kind != BusKind::Embedded || self.peer.is_some()
    }
}

pub(crate) fn read(cx: &Cx<'_>) -> Option<FarmConfig> {
    let farm = cx.root.at("farm");
    if !farm.present() {
        return None;
    }
    let state = state(farm.at("state"), cx);
    let coord = coord(farm.at("coord"), &state, cx);
    Some(FarmConfig {
        id: farm.at("id").word(),
        gateway: farm.at("gateway").word(),
        advertise: farm.at("advertise").word(),
        tags: farm.at("tags").texts().unwrap_or_default(),
        bus: bus(farm.at("bus"), &coord, cx),
        peer: farm.at("peer").object().map(|_| PeerConfig { listen: farm.path("peer.listen").word(), advertise: farm.path("peer.advertise").word() }),
        lease: farm.at("lease").str().and_then(LeaseProfile::parse).unwrap_or_default(),
        home: farm.at("home").map().map(|(agent, gateways)| (AgentId::normalise(agent), gateways.texts().unwrap_or_default())).collect(),
        failover: farm.at("failover").map().filter_map(|(agent, word)| Some((AgentId::normalise(agent), FailoverKind::parse(word.str()?)?))).collect(),
        failback_manual: farm.at("failback").str() == Some("manual"),
        policy: farm.at("policy").list().map(rule).collect(),
        accept_unsigned: farm.at("acceptUnsigned").texts().unwrap_or_default(),
        letter_ttl_ms: farm.at("letterTtl").duration_ms(60_000).unwrap_or(LETTER_TTL_MS).clamp(1_000, LETTER_TTL_MAX_MS),
        roots: farm.at("roots").texts().unwrap_or_default(),
        hub: hub(farm.at("hub"), cx),
        coord,
        state,
    })
}

fn tls(v: View<'_>, cx: &Cx<'_>) -> TlsFiles {
    let file = |key: &str| v.at(key).word().map(|path| cx.paths.expand(&path));
    TlsFiles { ca: file("caFile"), cert: file("certFile"), key: file("keyFile") }
}

fn state(v: View<'_>, cx: &Cx<'_>) -> StateConfig {
    StateConfig {
        kind: v.at("kind").str().and_then(StateKind::parse).unwrap_or_default(),
        url: v.at("url").secret(),
        schema: v.at("schema").word().unwrap_or_else(|| STATE_SCHEMA.to_owned()),
        ca_file: tls(v, cx).ca,
    }
}

fn coord(v: View<'_>, state: &StateConfig, cx: &Cx<'_>) -> CoordConfig {
    let kind = v.at("kind").str().and_then(CoordKind::parse).unwrap_or_default();
    let addrs = match (kind, v.at("addr").texts()) {
        (_, Some(addrs)) => addrs,
        (CoordKind::Consul, None) => vec![CONSUL_ADDR.to_owned()],
        _ => Vec::new(),
    };
    let url = v.at("url").secret().or_else(|| (kind == CoordKind::Postgres).then(|| state.url.clone()).flatten());
    CoordConfig { kind, addrs, token: v.at("token").secret(), url, tls: tls(v, cx) }
}

fn bus(v: View<'_>, coord: &CoordConfig, cx: &Cx<'_>) -> BusConfig {
    let kind = v.at("kind").str().and_then(BusKind::parse).unwrap_or_default();
    let same = kind == BusKind::Consul && coord.kind == CoordKind::Consul && !v.at("addr").present();
    let addrs = match v.at("addr").texts() {
        Some(addrs) => addrs,
        None if same => coord.addrs.clone(),
        None if kind == BusKind::Consul => vec![CONSUL_ADDR.to_owned()],
        None => Vec::new(),
    };
    BusConfig {
        kind,
        addrs,
        // The token of one Consul is not sent to another.
        token: v.at("token").secret().or_else(|| same.then(|| coord.token.clone()).flatten()),
        user: v.at("user").word(),
        password: v.at("password").secret(),
        tls: if same && !v.at("caFile").present() { coord.tls.clone() } else { tls(v, cx) },
        replicas: v.at("replicas").u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
        fallback_peer: v.at("fallback").str() == Some("peer"),
    }
}

fn hub(v: View<'_>, cx: &Cx<'_>) -> HubConfig {
    let peer = |v: View<'_>| HubPeer { name: v.at("name").word().unwrap_or_default(), token: v.at("token").secret(), scopes: v.at("scopes").texts() };
    HubConfig {
        enabled: v.at("enabled").flag(false),
        peers: v.at("peers").list().map(peer).collect(),
        memory: v.at("memory").str().and_then(HubMemory::parse).unwrap_or_default(),
        hosts: v.at("hosts").texts().unwrap_or_default(),
        vault: v.at("vault").object().filter(|_| v.path("vault.enabled").flag(true)).map(|_| vault(v.at("vault"), cx)),
    }
}

fn vault(v: View<'_>, cx: &Cx<'_>) -> VaultConfig {
    let path = v.at("path").word().map_or_else(|| cx.paths.state_dir.join(VAULT_FOLDER), |path| cx.paths.expand(&path));
    let program = || v.at("gitProgram").word().unwrap_or_else(|| "git".to_owned());
    VaultConfig { path, git: v.at("git").flag(false).then(program) }
}

fn rule(v: View<'_>) -> PolicyRule {
    let end = |key: &str| {
        let glob = |inner: &str| v.at(key).at(inner).word().unwrap_or_else(|| "*".to_owned());
        PolicyEnd { gateway: glob("gateway"), agent: glob("agent") }
    };
    PolicyRule {
        from: end("from"),
        to: end("to"),
        capabilities: v.at("capabilities").texts().unwrap_or_else(|| vec!["*".to_owned()]),
        // Whatever is not plainly allowed is denied.
        effect: if v.at("effect").str() == Some("allow") { PolicyEffect::Allow } else { PolicyEffect::Deny },
        per_minute: v.path("limits.per_minute").u64().and_then(|n| u32::try_from(n).ok()),
        max_ttl_ms: v.path("limits.max_ttl").u64(),
    }
}
