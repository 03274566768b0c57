//! The engines that a config names, opened. Opening asks nothing of them: an engine that is away at the start is no
//! reason not to start.

use std::sync::Arc;

use clawstead_bus::{
    Bus, Coord, Tls,
    consul::{Consul, Settings},
    memory::Memory,
    nats::{NatsBus, NatsConfig},
    postgres::{self, Postgres},
    redis::{RedisBus, RedisConfig},
};
use clawstead_config::{BusConfig, BusKind, CoordKind, FarmConfig, Secret, TlsFiles};
use clawstead_world::World;
use url::Url;

use crate::metered::Metered;

/// The engines of one gateway.
#[derive(Clone)]
pub struct Engines {
    /// Ownership, membership, keys.
    pub coord: Arc<dyn Coord>,
    /// Letters; none when they go over the peer link.
    pub bus: Option<Arc<dyn Bus>>,
}

/// Why the engines of a config cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// A part of the config.
    #[error("farm.{path}: {why}")]
    Config {
        /// Path below `farm`.
        path: &'static str,
        /// What is wrong, without secrets.
        why: String,
    },
}

fn wrong(path: &'static str, why: impl ToString) -> EngineError {
    EngineError::Config { path, why: why.to_string() }
}

/// Opens what `farm` names. `farm_id` is part of every name that a bus makes; `gateway` is who we are.
///
/// # Errors
/// When a part of the config cannot be used, with its path.
pub fn open(config: &FarmConfig, farm_id: &str, gateway: &str, world: &World) -> Result<Engines, EngineError> {
    let embedded = Memory::new();
    let coord: Arc<dyn Coord> = match config.coord.kind {
        CoordKind::Embedded => embedded.coord(gateway),
        CoordKind::Consul => {
            let tls = tls("coord", &config.coord.tls)?;
            consul(&config.coord.addrs, config.coord.token.as_ref(), tls, world).map_err(|why| wrong("coord", why))?.coord()
        }
        CoordKind::Postgres => {
            let url = config.coord.url.as_ref().ok_or_else(|| wrong("coord.url", "needs a postgres:// address"))?;
            let settings = postgres::Settings { tls: tls("coord", &config.coord.tls)?, ..postgres::Settings::at(url.expose()) };
            Postgres::new(&settings, world).map_err(|why| wrong("coord.url", why))?.coord()
        }
    };
    let bus: Option<Arc<dyn Bus>> = match config.bus.kind {
        BusKind::Embedded => Some(embedded.bus(gateway)),
        BusKind::Peer => None,
        BusKind::Consul => {
            let tls = tls("bus", &config.bus.tls)?;
            Some(consul(&config.bus.addrs, config.bus.token.as_ref(), tls, world).map_err(|why| wrong("bus", why))?.bus())
        }
        BusKind::Redis => {
            let settings = RedisConfig { tls: tls("bus", &config.bus.tls)?, ..RedisConfig::new(farm_id, addresses(&config.bus)?) };
            Some(Arc::new(RedisBus::new(settings, world.clock.clone()).map_err(|why| wrong("bus", why))?))
        }
        BusKind::Nats => {
            let mut settings = NatsConfig::new(farm_id, addresses(&config.bus)?);
            settings.replicas = config.bus.replicas;
            settings.tls = tls("bus", &config.bus.tls)?;
            Some(Arc::new(NatsBus::new(settings, world.clock.clone()).map_err(|why| wrong("bus", why))?))
        }
    };
    Ok(Engines { coord: Metered::over(coord, world.metrics.clone()), bus })
}

/// The files of a connection. A certificate without its key, or a key alone, is a mistake that would show as a refusal
/// much later.
fn tls(path: &'static str, files: &TlsFiles) -> Result<Tls, EngineError> {
    let identity = match (&files.cert, &files.key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        _ => return Err(wrong(path, "certFile and keyFile belong together: set both or none")),
    };
    Ok(Tls { ca: files.ca.clone(), identity })
}

fn consul(addrs: &[String], token: Option<&Secret>, tls: Tls, world: &World) -> Result<Consul, clawstead_bus::CoordError> {
    let settings = Settings { token: token.map(|token| token.expose().to_owned()), tls, ..Settings::at(addrs.iter().cloned()) };
    Consul::new(&settings, world)
}

/// Addresses with their credentials, as the libraries want them. The result is a secret.
fn addresses(bus: &BusConfig) -> Result<Vec<String>, EngineError> {
    if bus.addrs.is_empty() {
        return Err(wrong("bus.addr", "needs the engine's address"));
    }
    bus.addrs.iter().map(|addr| with_credentials(addr, bus)).collect()
}

/// The first Redis server of a bus with its credentials, for what else is kept there. The result is a secret.
///
/// # Errors
/// When there is none.
pub fn redis_address(bus: &BusConfig) -> Result<String, EngineError> {
    if bus.kind != BusKind::Redis {
        return Err(wrong("bus.kind", "is not \"redis\""));
    }
    addresses(bus)?.into_iter().next().ok_or_else(|| wrong("bus.addr", "needs the engine's address"))
}

fn with_credentials(addr: &str, bus: &BusConfig) -> Result<String, EngineError> {
    let (user, password) = match (&bus.token, &bus.user, &bus.password) {
        (Some(token), _, _) => (Some(token.expose()), None),
        (None, user, password) => (user.as_deref(), password.as_ref().map(Secret::expose)),
    };
    if user.is_none() && password.is_none() {
        return Ok(addr.to_owned());
    }
    let mut url = Url::parse(addr).map_err(|_| wrong("bus.addr", "an address is not a URL like redis://host:6379 or nats://host:4222"))?;
    let set = url.set_username(user.unwrap_or_default()).and_then(|()| url.set_password(password));
    set.map_err(|()| wrong("bus.addr", "an address of this kind cannot carry a user"))?;
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use clawstead_config::{BusConfig, Secret};

    use super::with_credentials;

    #[test]
    fn credentials_come_into_the_address_escaped() {
        let redis = BusConfig { user: Some("farm".into()), password: Some(Secret::new("p@ss/word")), ..BusConfig::default() };
        assert_eq!(with_credentials("redis://10.0.0.1:6379", &redis).unwrap(), "redis://farm:p%40ss%2Fword@10.0.0.1:6379");
        let nats = BusConfig { token: Some(Secret::new("t0ken")), ..BusConfig::default() };
        assert_eq!(with_credentials("nats://n1:4222", &nats).unwrap(), "nats://t0ken@n1:4222");
        assert_eq!(with_credentials("nats://n1:4222", &BusConfig::default()).unwrap(), "nats://n1:4222");
        assert!(with_credentials("10.0.0.1", &nats).unwrap_err().to_string().starts_with("farm.bus.addr: "));
    }
}
