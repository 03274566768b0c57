//! The hub at this gateway: programs that are no gateways join the farm here, by MCP at `/mcp`. See `farm.hub` in the
//! config; nothing is served unless it is enabled. Works the same at a gateway that stands alone.

mod follow;
mod host;
mod letters;
mod rows;

use std::{collections::BTreeSet, sync::Arc};

use clawstead_config::{Bind, Config, HubMemory};
use clawstead_hub::{
    Hub, Peer, Scope, SharedMemory,
    mcp::http::HttpSettings,
    memory::{CoordMemory, LocalMemory, RedisMemory},
    peers::PeerList,
};

pub use host::{Host, Parts};

/// Where the hub is served.
pub const PATH: &str = "/mcp";
/// `Host` values of this machine.
const OWN_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The routes below [`PATH`], and what to say at the start. None when the config does not enable the hub.
#[must_use]
pub fn routes(parts: Parts, notices: &mut Vec<String>) -> Option<axum::Router> {
    let config = parts.config.load_full();
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
    let memory = match memory(&parts, &config) {
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
    let stop = parts.world.tasks.stopping();
    let world = parts.world.clone();
    let host = Host::new(parts);
    host.start();
    let hub = Hub::new(Arc::new(host), memory, world);
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
