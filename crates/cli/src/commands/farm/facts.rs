//! What a gateway must know of a farm before it can ask to join, and the invitation that carries it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::builder::PossibleValuesParser;
use clawstead_cluster::{
    names::{GATEWAY_NAME_MAX, is_gateway},
    policy::{Rule, starter_policy},
};
use clawstead_config::{BusKind, Config, CoordKind, Edit, FarmConfig, MapWrite, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::site::pin;
use crate::fail::Fail;

const PREFIX: &str = "ocfarm1.";
/// Bytes that an invitation may have.
const TEXT_MAX: usize = 8192;

/// Flags that say where a farm is.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "The farm")]
pub struct Flags {
    /// Name of the farm
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// Name of this gateway in it [default: host name and "-gateway"]
    #[arg(long, value_name = "NAME")]
    pub gateway: Option<String>,
    /// What keeps ownership, membership and keys
    #[arg(long, value_name = "ENGINE", value_parser = PossibleValuesParser::new(["consul", "postgres"]))]
    pub coord: Option<String>,
    /// Its address; for PostgreSQL the connection, best as ${NAME} of a variable
    #[arg(long, value_name = "ADDR")]
    pub coord_addr: Option<String>,
    /// ACL token of Consul, best as ${NAME} of a variable
    #[arg(long, value_name = "TOKEN")]
    pub coord_token: Option<String>,
    /// What carries letters [default: Consul with Consul, else the peer link]
    #[arg(long, value_name = "ENGINE", value_parser = PossibleValuesParser::new(["consul", "redis", "nats", "peer"]))]
    pub bus: Option<String>,
    /// Its address
    #[arg(long, value_name = "ADDR")]
    pub bus_addr: Option<String>,
    /// Listen here for links of other gateways
    #[arg(long, value_name = "ADDR:PORT")]
    pub peer_listen: Option<String>,
    /// What others call for it, when it is not the same
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_advertise: Option<String>,
}

impl Flags {
    /// Whether a flag says what this key of the section is.
    fn names(&self, part: &str, key: &str) -> bool {
        let flag = match (part, key) {
            ("coord", "addr" | "url") => &self.coord_addr,
            ("coord", "token") => &self.coord_token,
            ("bus", "addr") => &self.bus_addr,
            ("peer", "listen") => &self.peer_listen,
            ("peer", "advertise") => &self.peer_advertise,
            _ => return false,
        };
        flag.is_some()
    }
}

/// A value of the config in a message; addresses of databases and tokens may hold secrets.
fn shown(key: &str, value: &Value) -> String {
    if matches!(key, "url" | "token") { "set".into() } else { value.to_string() }
}

/// What is known of a farm. It holds no credentials of engines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Its name.
    pub farm: String,
    /// The gateway that is meant.
    pub gateway: String,
    /// `consul`, `postgres`.
    pub coord: String,
    /// Consul: its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coord_addr: Vec<String>,
    /// `consul`, `redis`, `nats`, `peer`.
    pub bus: String,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bus_addr: Vec<String>,
    /// The farm's roots.
    pub roots: Vec<String>,
    /// What the one who was invited proves itself with: 32 bytes, hex. It never lies in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl Facts {
    /// Of a farm that is configured here, for another gateway.
    #[must_use]
    pub fn of(farm: &FarmConfig, id: &str, gateway: &str) -> Self {
        let coord = if farm.coord.kind == CoordKind::Postgres { "postgres" } else { "consul" };
        let bus = match farm.bus.kind {
            BusKind::Consul | BusKind::Embedded => "consul",
            BusKind::Redis => "redis",
            BusKind::Nats => "nats",
            BusKind::Peer => "peer",
        };
        Self {
            farm: id.into(),
            gateway: gateway.into(),
            coord: coord.into(),
            coord_addr: farm.coord.addrs.clone(),
            bus: bus.into(),
            bus_addr: farm.bus.addrs.clone(),
            roots: farm.roots.clone(),
            secret: None,
        }
    }

    /// As one word to paste.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default()))
    }

    /// Reads the text of [`Facts::text`].
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(text: &str) -> Result<Self, Fail> {
        let bad =
            |why: &str| Fail::new(format!("This is not an invitation of a farm: {why}.")).hint("openclaw farm invite <gateway>, on a gateway of the farm");
        let body = text.trim().strip_prefix(PREFIX).ok_or_else(|| bad("it does not begin with ocfarm1."))?;
        if body.len() > TEXT_MAX {
            return Err(bad("it is too long"));
        }
        let raw = URL_SAFE_NO_PAD.decode(body).map_err(|_| bad("a part of it is missing or was changed"))?;
        let facts: Self = serde_json::from_slice(&raw).map_err(|_| bad("a part of it is missing or was changed"))?;
        for root in &facts.roots {
            pin(root).map_err(|_| bad("its root is no key"))?;
        }
        Ok(facts)
    }

    /// The 32 bytes of the secret.
    ///
    /// # Errors
    /// When they are not that.
    pub fn secret(&self) -> Result<Option<[u8; 32]>, Fail> {
        let Some(text) = &self.secret else { return Ok(None) };
        let raw = hex::decode(text).ok().and_then(|raw| <[u8; 32]>::try_from(raw).ok());
        raw.map(Some).ok_or_else(|| Fail::new("The secret in the invitation is damaged.").hint("openclaw farm invite <gateway>, once more"))
    }
}

/// What the secret of an invitation vouches for: this key in this farm. A request that names another key is not
/// covered, so that whoever reads the request in the store can do nothing with what it says.
#[must_use]
pub fn vouched(farm: &str, kid: &str) -> String {
    format!("{farm} {kid}")
}

/// The name of a gateway when none is given: that of the host, made legal, and `-gateway`.
#[must_use]
pub fn gateway_name(host: &str) -> String {
    const END: &str = "-gateway";
    let short = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let legal: String = short.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).take(GATEWAY_NAME_MAX - END.len()).collect();
    let legal = legal.trim_matches('-');
    if legal.is_empty() { "first-gateway".into() } else { format!("{legal}{END}") }
}

/// The name of this machine.
#[must_use]
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where the connection of PostgreSQL is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Connection {
    /// In the flags.
    Flag,
    /// In the config already.
    Config,
}

/// The `farm` section for a gateway that has none.
///
/// # Errors
/// When a name cannot be one, or something is missing.
#[cfg(test)]
fn section(facts: &Facts, flags: &Flags, policy: &[Rule]) -> Result<Value, Fail> {
    section_with(facts, flags, policy, Connection::Flag)
}

fn section_with(facts: &Facts, flags: &Flags, policy: &[Rule], connection: Connection) -> Result<Value, Fail> {
    if !is_gateway(&facts.gateway) {
        return Err(
            Fail::new(format!("{:?} is not a gateway's name: 2 to 40 of a-z, 0-9 and -, the ends a letter or digit.", facts.gateway)).hint("--gateway <name>")
        );
    }
    let one = |list: &[String]| if let [one] = list { json!(one) } else { json!(list) };
    let mut coord = Map::from_iter([("kind".to_owned(), json!(facts.coord))]);
    if facts.coord == "postgres" {
        match (&flags.coord_addr, connection) {
            (Some(url), _) => drop(coord.insert("url".into(), json!(url))),
            (None, Connection::Config) => {}
            (None, Connection::Flag) => {
                return Err(Fail::new("With PostgreSQL this gateway needs the connection.")
                    .hint("--coord-addr '${FARM_DATABASE_URL}', with the variable set for the gateway"));
            }
        }
    } else if !facts.coord_addr.is_empty() {
        coord.insert("addr".into(), one(&facts.coord_addr));
    }
    if let Some(token) = &flags.coord_token {
        coord.insert("token".into(), json!(token));
    }
    let mut bus = Map::from_iter([("kind".to_owned(), json!(facts.bus))]);
    // A bus on the Consul of farm.coord takes that address by itself.
    let same = facts.bus == "consul" && facts.bus_addr == facts.coord_addr;
    if !facts.bus_addr.is_empty() && !same {
        bus.insert("addr".into(), one(&facts.bus_addr));
    }
    let mut section = json!({"id": facts.farm, "gateway": facts.gateway, "coord": coord, "bus": bus});
    if let Some(peer) = peer(flags, &facts.bus) {
        section["peer"] = peer;
    }
    section["roots"] = json!(facts.roots);
    section["policy"] = policy.iter().map(rule_value).collect();
    Ok(section)
}

fn peer(flags: &Flags, bus: &str) -> Option<Value> {
    let mut peer = Map::new();
    for (key, value) in [("listen", &flags.peer_listen), ("advertise", &flags.peer_advertise)] {
        if let Some(value) = value {
            peer.insert(key.into(), json!(value));
        }
    }
    (!peer.is_empty() || bus == "peer").then_some(Value::Object(peer))
}

/// A rule as a person would write it: nothing that says what is so anyway.
#[must_use]
pub fn rule_value(rule: &Rule) -> Value {
    let mut value = serde_json::to_value(rule).unwrap_or_default();
    if let Some(map) = value.as_object_mut()
        && map.get("limits").and_then(Value::as_object).is_some_and(Map::is_empty)
    {
        map.remove("limits");
    }
    value
}

/// The starter policy for the agents of a config and others of the farm.
#[must_use]
pub fn starter(config: &Config, others: &[String]) -> Vec<Rule> {
    starter_policy(config.agents.list.iter().map(|agent| agent.id.as_str()).chain(others.iter().map(String::as_str)))
}

/// What is to be written so that the config says what `facts` say. What is there already stays, and must not contradict.
///
/// # Errors
/// When the config names another farm.
pub fn edits(snapshot: &Snapshot, facts: &Facts, flags: &Flags, policy: &[Rule]) -> Result<Vec<Edit>, Fail> {
    let place = |keys: &[&str]| std::iter::once("farm").chain(keys.iter().copied()).map(str::to_owned).collect::<Vec<_>>();
    // Coordination takes the connection of the state where it has none of its own.
    let known = [["coord", "url"], ["state", "url"]].iter().any(|keys| snapshot.get(&place(keys)).is_some());
    let section = section_with(facts, flags, policy, if known { Connection::Config } else { Connection::Flag })?;
    let set = |path: Vec<String>, value: Value| Edit::Set { path, value, mode: MapWrite::Merge };
    if snapshot.get(&place(&[])).is_none() {
        return Ok(vec![set(place(&[]), section)]);
    }
    let mut edits = Vec::new();
    for (key, value) in section.as_object().into_iter().flatten() {
        let here = snapshot.get(&place(&[key]));
        match (key.as_str(), here) {
            (_, None) => edits.push(set(place(&[key]), value.clone())),
            ("id" | "gateway", Some(here)) if here != value => {
                let message = format!("farm.{key} is {here} in the config, and {value} here.");
                return Err(Fail::new(message).hint(format!("openclaw config set farm.{key} {value}, if that is meant")));
            }
            ("coord" | "bus", Some(here)) if here.get("kind") != value.get("kind") => {
                let message = format!("farm.{key}.kind is {} in the config, and {} here.", here["kind"], value["kind"]);
                return Err(Fail::new(message).hint(format!("openclaw config set farm.{key}.kind {}, if that is meant", value["kind"])));
            }
            ("coord" | "bus" | "peer", Some(_)) => {
                for (inner, value) in value.as_object().into_iter().flatten() {
                    match snapshot.get(&place(&[key, inner])) {
                        None => edits.push(set(place(&[key, inner]), value.clone())),
                        // What was typed must not be dropped without a word.
                        Some(here) if here != value && flags.names(key, inner) => {
                            let message = format!("farm.{key}.{inner} is {} in the config, and another one was given.", shown(inner, here));
                            return Err(
                                Fail::new(message).hint(format!("openclaw config set farm.{key}.{inner} <value>, if that is meant; or leave the flag out"))
                            );
                        }
                        Some(_) => {}
                    }
                }
            }
            ("roots", Some(here)) if here.as_array().is_some_and(Vec::is_empty) => edits.push(set(place(&[key]), value.clone())),
            ("roots", Some(here)) => {
                let known: Vec<_> = here.as_array().into_iter().flatten().filter_map(|root| pin(root.as_str()?).ok()).collect();
                if facts.roots.iter().any(|root| pin(root).is_ok_and(|root| !known.contains(&root))) {
                    return Err(Fail::new("farm.roots in the config pins another root than this farm has.").hint("openclaw config get farm.roots"));
                }
            }
            _ => {}
        }
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use clawstead_cluster::{keys::FarmRoot, names::is_gateway};
    use clawstead_world::SeededRng;

    use super::{Facts, Flags, gateway_name, section};

    fn facts() -> Facts {
        Facts {
            farm: "octant".into(),
            gateway: "bobby-gateway".into(),
            coord: "consul".into(),
            coord_addr: vec!["http://10.0.0.1:8500".into()],
            bus: "nats".into(),
            bus_addr: vec!["nats://10.0.0.1:4222".into(), "nats://10.0.0.2:4222".into()],
            roots: vec![FarmRoot::generate(&SeededRng::new(1)).pin().text()],
            secret: Some(hex::encode([7; 32])),
        }
    }

    #[test]
    fn every_host_gets_a_legal_name() {
        for (host, name) in [("jerry", "jerry-gateway"), ("Node_1.example.org", "node-1-gateway"), ("", "first-gateway"), ("---", "first-gateway")] {
            assert_eq!(gateway_name(host), name);
        }
        let long = gateway_name(&"x".repeat(80));
        assert!(is_gateway(&long) && long.len() == 40, "{long}");
    }

    #[test]
    fn an_invitation_is_read_as_it_was_written_and_damage_is_noticed() {
        let text = facts().text();
        assert_eq!(Facts::parse(&format!(" {text}\n")).unwrap(), facts());
        assert_eq!(facts().secret().unwrap(), Some([7; 32]));
        for bad in ["", "ocjoin1.abc", "ocfarm1.", "ocfarm1.AAAA", &text[..text.len() - 3]] {
            assert!(Facts::parse(bad).unwrap_err().message.contains("not an invitation"), "{bad}");
        }
    }

    #[test]
    fn a_section_says_only_what_is_needed() {
        let made = section(&facts(), &Flags::default(), &[]).unwrap();
        assert_eq!(made["coord"], serde_json::json!({"kind": "consul", "addr": "http://10.0.0.1:8500"}));
        assert_eq!(made["bus"]["addr"].as_array().map(Vec::len), Some(2));
        assert!(made.get("peer").is_none() && !made.to_string().contains(&hex::encode([7; 32])));
        let mut same = facts();
        (same.bus, same.bus_addr) = ("consul".into(), same.coord_addr.clone());
        assert_eq!(section(&same, &Flags::default(), &[]).unwrap()["bus"], serde_json::json!({"kind": "consul"}));
        same.gateway = "Bobby".into();
        assert!(section(&same, &Flags::default(), &[]).unwrap_err().message.contains("not a gateway's name"));
        let mut sql = facts();
        sql.coord = "postgres".into();
        assert!(section(&sql, &Flags::default(), &[]).unwrap_err().hint.unwrap().contains("--coord-addr"));
    }
}
