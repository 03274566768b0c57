//! The hub at this gateway: programs that are no gateways join the farm here, by MCP at `/mcp`. See `farm.hub` in the
//! config; nothing is served unless it is enabled. Works the same at a gateway that stands alone.

mod asks;
mod follow;
mod front;
mod guests;
mod host;
mod letters;
mod rows;
mod vault;

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use clawstead_config::{Bind, Config, HubMemory};
use clawstead_hub::{
    Hub, Peer, Scope, SharedMemory,
    mcp::http::HttpSettings,
    memory::{CoordMemory, LocalMemory, RedisMemory},
    peers::PeerList,
    vault::Vault,
};

pub use front::Front;
pub use guests::{tell_of_ours, units};
pub use host::{Host, Parts};
pub use vault::{open as open_vault, tools as vault_tools};

/// The hub's agents and their letters, once they are there; empty for ever while the hub is off.
pub type Cell = Arc<OnceLock<Host>>;

/// Where the hub is served.
pub const PATH: &str = "/mcp";
/// `Host` values of this machine.
const OWN_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The hub's agents, where the config enables it: before letters of the farm come in.
#[must_use]
pub fn open(parts: Parts) -> Option<Host> {
    let enabled = parts.config.load().farm.as_ref().is_some_and(|farm| farm.hub.enabled);
    enabled.then(|| Host::new(parts))
}

/// The routes below [`PATH`], and what to say at the start. None when the hub cannot be served.
pub fn routes(host: &Host, vault: Option<Vault>, notices: &mut Vec<String>) -> Option<axum::Router> {
    let config = host.config.load_full();
    let settings = config.farm.as_ref().map(|farm| &farm.hub).filter(|hub| hub.enabled)?;
    let mut peers = PeerList::default();
    for peer in &settings.peers {
        let Some(token) = &peer.token else {
            notices.push(format!("farm.hub: the token of peer \"{}\" has no value; the peer is not let in", peer.name));
            continue;
        };
        let scopes = peer.scopes.as_ref().map_or_else(Scope::usual, |names| scopes(names));
        if let Err(err) = peers.add(Arc::new(Peer { name: peer.name.clone(), scopes }), token.expose()) {
            notices.push(format!("farm.hub: {err}; the peer is not let in"));
        }
    }
    let memory = match memory(host, &config) {
        Ok(memory) => memory,
        Err(why) => {
            notices.push(format!("farm.hub is not served: {why}"));
            return None;
        }
    };
    let hosts = match (config.gateway.bind, settings.hosts.is_empty()) {
        // Beyond this machine only its operator knows its names.
        (Bind::Lan | Bind::Tailnet | Bind::Custom | Bind::Auto, true) => Vec::new(),
        _ => OWN_HOSTS.iter().map(|host| (*host).to_owned()).chain(settings.hosts.iter().cloned()).collect(),
    };
    let stop = host.world.tasks.stopping();
    host.start();
    let mut hub = Hub::new(Arc::new(host.clone()), memory, host.world.clone());
    if let Some(vault) = vault {
        hub = hub.with_vault(vault);
    }
    let served = hub.router(Arc::new(peers), HttpSettings { hosts, origins: Vec::new(), stop });
    Some(axum::Router::new().nest(PATH, served))
}

fn scopes(names: &[String]) -> BTreeSet<Scope> {
    Scope::ALL.into_iter().filter(|scope| names.iter().any(|name| name == scope.name())).collect()
}

fn memory(parts: &Parts, config: &Config) -> Result<Arc<dyn SharedMemory>, String> {
    let Some(farm) = &config.farm else { return Ok(Arc::new(LocalMemory::new(parts.world.clone()))) };
    let world = parts.world.clone();
    match farm.hub.memory.settled(farm.coord.kind, farm.bus.kind) {
        HubMemory::Coord => {
            let joined = parts.farm.get().ok_or("farm.hub.memory=\"coord\" needs a gateway that joined a farm")?;
            Ok(Arc::new(CoordMemory::new(joined.coord(), world)))
        }
        HubMemory::Redis => {
            let url = clawstead_farm::engines::redis_address(&farm.bus).map_err(|err| err.to_string())?;
            Ok(Arc::new(RedisMemory::new(&url, world).map_err(|err| err.to_string())?))
        }
        HubMemory::Auto | HubMemory::Local => Ok(Arc::new(LocalMemory::new(world))),
    }
}
