//! Where others reach this gateway, for the engine's discovery and for routers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use clawstead_config::{CoordConfig, CoordKind, FarmConfig};
use url::Url;

/// What the engine asks to see that a gateway answers; the path tells nothing to strangers.
const CHECK_PATH: &str = "/readyz";
/// An address that is nobody's (for documentation): its route is the way out of this network.
const OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// Hosts and ports of the engine of `coord`. What cannot be read is left out.
fn engines(coord: &CoordConfig) -> Vec<(String, u16)> {
    match coord.kind {
        CoordKind::Embedded => Vec::new(),
        CoordKind::Consul => coord
            .addrs
            .iter()
            .filter_map(|text| Url::parse(text).ok())
            .filter_map(|url| Some((url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port_or_known_default()?)))
            .collect(),
        CoordKind::Postgres => {
            let url = coord.url.as_ref().and_then(|url| Url::parse(url.expose()).ok());
            let hosts = url.as_ref().and_then(Url::host_str).unwrap_or_default().to_owned();
            let port = url.and_then(|url| url.port()).unwrap_or(5432);
            hosts.split(',').filter(|host| !host.is_empty()).map(|host| (host.split(':').next().unwrap_or(host).to_owned(), port)).collect()
        }
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What the engine of `coord` may ask to see that a gateway at `address` answers: none when it is on another node and
/// the gateway listens to its own only, and for engines that ask nobody.
#[must_use]
pub fn check_url(coord: &CoordConfig, address: &(String, u16)) -> Option<String> {
    let (host, port) = address;
    let reaches = !is_local(host) || engines(coord).iter().any(|(engine, _)| is_local(engine));
    (coord.kind == CoordKind::Consul && reaches).then(|| format!("http://{}:{port}{CHECK_PATH}", bracketed(host)))
}

/// A host as an address has it.
#[must_use]
pub fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// `host` or `host:port` with a port of its own.
fn advertised(text: &str, port: u16) -> (String, u16) {
    let url = Url::parse(&format!("ws://{text}")).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or(text).trim_matches(['[', ']']).to_owned();
    // A URL forgets the usual port of its scheme.
    let named = text.rsplit_once(':').filter(|(before, _)| !before.contains(':') || before.ends_with(']')).and_then(|(_, port)| port.parse().ok());
    (host, named.unwrap_or(port))
}

/// The address of ours from which packets to `to` would go. Asks the routing table only; nothing is sent.
fn route_to(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|at| at.ip()).filter(|ip| !ip.is_unspecified())
}

/// Where clients and routers of other nodes reach this gateway, which listens on `hosts` at `port`:
///
/// 1. `farm.advertise`;
/// 2. an address that it listens on;
/// 3. where it listens everywhere: the address that leads to the engine of `farm.coord`; when that is on this node, the
///    one it listens for other gateways on (`farm.peer`), else the one that leads out.
pub async fn address(farm: &FarmConfig, hosts: &[IpAddr], port: u16) -> (String, u16) {
    if let Some(text) = &farm.advertise {
        return advertised(text, port);
    }
    let named = |ip: &&IpAddr| !ip.is_unspecified();
    let outward = hosts.iter().filter(named).find(|ip| !ip.is_loopback());
    if let Some(ip) = outward {
        return (ip.to_string(), port);
    }
    if !hosts.iter().any(IpAddr::is_unspecified) {
        return (hosts.iter().find(named).map_or_else(|| Ipv4Addr::LOCALHOST.to_string(), ToString::to_string), port);
    }
    for (host, engine_port) in engines(&farm.coord) {
        for at in tokio::net::lookup_host((host.as_str(), engine_port)).await.into_iter().flatten() {
            if let Some(ip) = route_to(at).filter(|ip| !ip.is_loopback() && at.ip() != *ip) {
                return (ip.to_string(), port);
            }
        }
    }
    let peer = farm.peer.as_ref();
    let listens =
        peer.and_then(|peer| peer.listen.as_ref()?.parse::<SocketAddr>().ok()).map(|at| at.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
    let out = || route_to(OUTSIDE).filter(|ip| !ip.is_loopback());
    let found = listens.or_else(out).unwrap_or_else(|| {
        tracing::warn!("this gateway listens everywhere and finds no network: others are told 127.0.0.1; set farm.advertise");
        Ipv4Addr::LOCALHOST.into()
    });
    (found.to_string(), port)
}

#[cfg(test)]
mod tests {
    use clawstead_config::{CoordConfig, CoordKind, Secret};

    use super::{advertised, check_url, engines, route_to};

    fn consul(addr: &str) -> CoordConfig {
        CoordConfig { kind: CoordKind::Consul, addrs: vec![addr.into()], ..CoordConfig::default() }
    }

    #[test]
    fn what_is_advertised_may_have_a_port() {
        assert_eq!(advertised("10.0.0.5", 18789), ("10.0.0.5".into(), 18789));
        assert_eq!(advertised("jerry.home:443", 18789), ("jerry.home".into(), 443));
        assert_eq!(advertised("jerry.home:80", 18789), ("jerry.home".into(), 80), "the usual port is a port");
        assert_eq!(advertised("[fd00::5]:443", 18789), ("fd00::5".into(), 443));
        assert_eq!(advertised("[fd00::5]", 18789), ("fd00::5".into(), 18789));
    }

    #[test]
    fn the_engine_asks_only_what_it_can_reach() {
        let at = |host: &str| (host.to_owned(), 18789);
        assert_eq!(check_url(&consul("http://127.0.0.1:8500"), &at("127.0.0.1")).as_deref(), Some("http://127.0.0.1:18789/readyz"));
        assert_eq!(check_url(&consul("http://10.0.0.1:8500"), &at("127.0.0.1")), None, "another node's Consul does not reach this node's loopback");
        assert_eq!(check_url(&consul("http://10.0.0.1:8500"), &at("fd00::5")).as_deref(), Some("http://[fd00::5]:18789/readyz"));
        let sql = CoordConfig { kind: CoordKind::Postgres, url: Some(Secret::new("postgres://u:p@db1,db2/x")), ..CoordConfig::default() };
        assert_eq!(check_url(&sql, &at("10.0.0.5")), None, "PostgreSQL asks nobody");
        assert_eq!(engines(&sql), [("db1".into(), 5432), ("db2".into(), 5432)]);
        assert_eq!(engines(&consul("https://[fd00::1]:8501")), [("fd00::1".into(), 8501)]);
    }

    #[test]
    fn the_routing_table_is_asked() {
        assert!(route_to("127.0.0.1:9".parse().unwrap()).is_some_and(|ip| ip.is_loopback()));
    }
}
