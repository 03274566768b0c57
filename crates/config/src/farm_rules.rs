//! Rules of `farm`: what the engines cannot promise, and what one key needs of another.

use base64::{Engine as _, engine::general_purpose};
use serde_json::Value;

use crate::{
    issue::Severity,
    normalise::own,
    sections::farm::{BusKind, CoordKind, HubMemory, LETTER_TTL_MAX_MS, StateKind},
    validate::{Sink, nearest, type_name},
    view::View,
};

/// What a peer of the hub may be allowed.
const HUB_SCOPES: [&str; 11] =
    ["register", "discover", "send", "inbox", "memory-read", "memory-write", "tasks", "vault-read", "vault-write", "dlq", "operator"];
/// Bytes of a peer's token at least: shorter ones can be guessed.
const HUB_TOKEN_MIN: usize = 24;
/// Root keys that may be pinned at the same time: the one in force and its successor.
const ROOTS_MAX: usize = 2;

pub(crate) fn check(root: View<'_>, sink: &mut Sink<'_>) {
    let farm = root.at("farm");
    if !farm.present() {
        return;
    }
    if farm.object().is_none() {
        let received = farm.0.map_or("undefined", type_name);
        sink.error(&own(&["farm"]), format!("Invalid input: expected object, received {received}"));
        return;
    }
    let coord = coord(farm, sink);
    let bus = bus(farm, coord, sink);
    state(farm, coord, sink);
    let others = coord != CoordKind::Embedded || bus != BusKind::Embedded || farm.at("peer").present();
    for key in ["id", "gateway"] {
        match farm.at(key).word() {
            Some(name) if !is_name(&name) => {
                let said = format!("farm.{key} must be 2 to 40 of a-z, 0-9 and -, without - at either end; {name:?} is not");
                sink.error(&own(&["farm", key]), said);
            }
            None if others => {
                sink.error(&own(&["farm", key]), format!("farm.{key} is needed as soon as farm.coord, farm.bus or farm.peer names other gateways"));
            }
            _ => {}
        }
    }
    if let Some(text) = farm.at("advertise").word() {
        let fits = url::Url::parse(&format!("ws://{text}")).is_ok_and(|url| {
            url.has_host() && url.username().is_empty() && matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none()
        });
        let everywhere = text.starts_with("0.0.0.0") || text.starts_with("[::]");
        if !fits || everywhere || text.contains('/') {
            sink.error(&own(&["farm", "advertise"]), "invalid address (expected host or host:port that other nodes reach this gateway at, like 10.0.0.5)");
        }
    }
    if let Some(text) = farm.at("letterTtl").str() {
        match crate::units::duration_ms(text, 60_000) {
            None => {
                sink.error(&own(&["farm", "letterTtl"]), "invalid duration (use s, m, h, like \"12h\")");
            }
            Some(ms) if !(1_000..=LETTER_TTL_MAX_MS).contains(&ms) => {
                sink.error(&own(&["farm", "letterTtl"]), "a letter may wait between 1s and 24h: repeats are known for two days only");
            }
            Some(_) => {}
        }
    }
    peer(farm, bus, sink);
    lists(farm, sink);
    hub(farm.at("hub"), coord, bus, sink);
}

/// Ids of gateways and farms.
fn is_name(name: &str) -> bool {
    (2..=40).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Says that a word is none of `allowed`.
fn unknown_kind(at: &[String], word: &str, allowed: &[&str], why: &str, sink: &mut Sink<'_>) {
    let list = allowed.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let issue = sink.error(at, format!("{why} (allowed: {list})"));
    issue.suggestion = nearest(word, allowed.iter().copied());
    issue.allowed_values = allowed.iter().map(|name| (*name).to_owned()).collect();
}

fn coord(farm: View<'_>, sink: &mut Sink<'_>) -> CoordKind {
    let (v, at) = (farm.at("coord"), own(&["farm", "coord", "kind"]));
    let Some(word) = v.at("kind").str() else { return CoordKind::Embedded };
    let Some(kind) = CoordKind::parse(word) else {
        let why = match word {
            "redis" => {
                "farm.coord.kind cannot be \"redis\": a failover of Redis can forget a compare-and-swap, and then two gateways own one agent. Redis can carry the letters: farm.bus.kind"
            }
            "nats" => "farm.coord.kind cannot be \"nats\": ownership in JetStream is not supported. NATS can carry the letters: farm.bus.kind",
            "sqlite" => "farm.coord.kind cannot be \"sqlite\": other gateways cannot reach the file of this one; \"embedded\" is the gateway that is alone",
            _ => "farm.coord.kind is unknown",
        };
        unknown_kind(&at, word, &["embedded", "consul", "postgres"], why, sink);
        return CoordKind::Embedded;
    };
    if kind == CoordKind::Consul {
        addresses(v, &own(&["farm", "coord", "addr"]), &["http", "https"], sink);
    }
    if kind == CoordKind::Postgres && !v.at("url").present() && !farm.path("state.url").present() {
        sink.error(&own(&["farm", "coord", "url"]), "farm.coord.kind=\"postgres\" needs farm.coord.url, or farm.state.url for both");
    }
    kind
}

fn bus(farm: View<'_>, coord: CoordKind, sink: &mut Sink<'_>) -> BusKind {
    let v = farm.at("bus");
    let at = |key: &str| own(&["farm", "bus", key]);
    let Some(word) = v.at("kind").str() else { return BusKind::Embedded };
    let Some(kind) = BusKind::parse(word) else {
        let why = match word {
            "postgres" | "postgresql" => "farm.bus.kind cannot be \"postgres\": it keeps state and ownership, it does not carry letters",
            _ => "farm.bus.kind is unknown",
        };
        unknown_kind(&at("kind"), word, &["embedded", "consul", "redis", "nats", "peer"], why, sink);
        return BusKind::Embedded;
    };
    match kind {
        BusKind::Consul => addresses(v, &at("addr"), &["http", "https"], sink),
        BusKind::Redis => needed(v, &at("addr"), "redis", &["redis", "rediss"], sink),
        BusKind::Nats => needed(v, &at("addr"), "nats", &["nats", "tls"], sink),
        BusKind::Peer if !farm.at("peer").present() => {
            sink.error(&own(&["farm", "peer"]), "farm.bus.kind=\"peer\" needs farm.peer: letters go over the link between gateways");
        }
        BusKind::Embedded if coord != CoordKind::Embedded => {
            sink.push(Severity::Warning, &at("kind"), "farm.bus.kind is \"embedded\": gateways see each other, but no letter leaves this one");
        }
        BusKind::Peer | BusKind::Embedded => {}
    }
    if v.at("fallback").str() == Some("peer") && !farm.at("peer").present() {
        sink.error(&at("fallback"), "farm.bus.fallback=\"peer\" needs farm.peer");
    }
    kind
}

fn needed(v: View<'_>, at: &[String], kind: &str, schemes: &[&str], sink: &mut Sink<'_>) {
    if v.at("addr").texts().is_none_or(|list| list.is_empty()) {
        sink.error(at, format!("farm.bus.kind=\"{kind}\" needs farm.bus.addr, like \"{}://host\"", schemes[0]));
    }
    addresses(v, at, schemes, sink);
}

/// Addresses are shown in `farm status` and logs: credentials have keys of their own.
fn addresses(v: View<'_>, at: &[String], schemes: &[&str], sink: &mut Sink<'_>) {
    for text in v.at("addr").texts().unwrap_or_default() {
        let parsed = url::Url::parse(&text).ok().filter(|url| url.has_host());
        match parsed {
            Some(url) if !url.username().is_empty() || url.password().is_some() => {
                sink.error(at, "an address may not hold credentials: use user, password or token beside it (each may be a secret reference)");
            }
            Some(url) if schemes.contains(&url.scheme()) => {}
            _ => {
                let list = schemes.iter().map(|scheme| format!("{scheme}://host:port")).collect::<Vec<_>>().join(" or ");
                sink.error(at, format!("invalid address (expected {list})"));
            }
        }
    }
}

fn state(farm: View<'_>, coord: CoordKind, sink: &mut Sink<'_>) {
    let v = farm.at("state");
    let at = |key: &str| own(&["farm", "state", key]);
    let word = v.at("kind").str();
    let kind = match word.map(|word| (word, StateKind::parse(word))) {
        None => StateKind::Sqlite,
        Some((_, Some(kind))) => kind,
        Some((word, None)) => return unknown_kind(&at("kind"), word, &["sqlite", "postgres"], "farm.state.kind is unknown", sink),
    };
    match (kind, v.at("url").0) {
        (StateKind::Postgres, None) => {
            sink.error(&at("url"), "farm.state.kind=\"postgres\" needs farm.state.url, like postgres://user@host/database (it may be a secret reference)");
        }
        (StateKind::Postgres, Some(Value::String(text))) => {
            let plain = crate::secret::SecretRef::from_short(text).is_none();
            if plain && !text.starts_with("postgres://") && !text.starts_with("postgresql://") && !text.contains("host") {
                sink.error(&at("url"), "invalid address (expected postgres://user:password@host/database, or the key=value form with host)");
            }
        }
        (StateKind::Sqlite, Some(_)) => {
            sink.push(Severity::Warning, &at("url"), "farm.state.url is not used: farm.state.kind is \"sqlite\", whose file is in the state folder");
        }
        _ => {}
    }
    if let Some(name) = v.at("schema").word() {
        let fits =
            name.len() <= 63 && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')) && !name.starts_with(|first: char| first.is_ascii_digit());
        if !fits {
            sink.error(&at("schema"), "a schema name has letters a-z, digits and _, at most 63, and does not begin with a digit");
        }
    }
    if kind == StateKind::Sqlite && coord != CoordKind::Embedded && farm.at("home").map().any(|(_, list)| list.list().count() > 1) {
        sink.push(
            Severity::Warning,
            &own(&["farm", "home"]),
            "agents stay where their state is: with farm.state.kind=\"sqlite\" they do not move to the further gateways of farm.home",
        );
    }
}

fn peer(farm: View<'_>, bus: BusKind, sink: &mut Sink<'_>) {
    let v = farm.at("peer");
    if !v.present() {
        return;
    }
    if let Some(listen) = v.at("listen").word()
        && listen.parse::<std::net::SocketAddr>().is_err()
    {
        sink.error(&own(&["farm", "peer", "listen"]), "invalid address (expected address:port, like 0.0.0.0:18790 or [::]:18790)");
    }
    match v.at("advertise").word() {
        Some(text) => {
            let bare = text.strip_prefix("wss://").unwrap_or(&text);
            let fits = url::Url::parse(&format!("wss://{bare}"))
                .is_ok_and(|url| url.has_host() && url.username().is_empty() && matches!(url.path(), "" | "/") && url.query().is_none());
            if !fits || text.starts_with("ws:") || text.starts_with("http") {
                sink.error(&own(&["farm", "peer", "advertise"]), "invalid address (expected host:port or wss://host:port; links are always TLS)");
            }
        }
        None if v.at("listen").str().is_some_and(|text| text.starts_with("0.0.0.0:") || text.starts_with("[::]:")) => {
            sink.error(
                &own(&["farm", "peer", "advertise"]),
                "farm.peer.advertise is needed when farm.peer.listen names all interfaces: others cannot call that address",
            );
        }
        None if bus == BusKind::Peer && !v.at("listen").present() => {
            let note = "no other gateway can call this one (farm.peer.listen is not set); it calls them";
            sink.push(Severity::Info, &own(&["farm", "peer", "listen"]), note);
        }
        None => {}
    }
}

fn lists(farm: View<'_>, sink: &mut Sink<'_>) {
    for (agent, gateways) in farm.at("home").map() {
        let list = gateways.texts().unwrap_or_default();
        for (i, name) in list.iter().enumerate() {
            let at = own(&["farm", "home", agent, &i.to_string()]);
            if !is_name(name) {
                sink.error(&at, format!("{name:?} is no gateway id"));
            } else if list[..i].contains(name) {
                sink.error(&at, format!("{name:?} stands there twice"));
            }
        }
    }
    for (i, rule) in farm.at("policy").list().enumerate() {
        for key in ["from", "to", "effect"] {
            if !rule.at(key).present() {
                sink.error(&own(&["farm", "policy", &i.to_string(), key]), format!("a rule of farm.policy needs {key}"));
            }
        }
    }
    for (i, prefix) in farm.at("acceptUnsigned").texts().unwrap_or_default().iter().enumerate() {
        if !prefix.starts_with("openclaw/agents/") {
            let said = "unsigned letters are accepted only below openclaw/agents/, like openclaw/agents/bobby/inbox/";
            sink.error(&own(&["farm", "acceptUnsigned", &i.to_string()]), said);
        }
    }
    let roots = farm.at("roots").texts().unwrap_or_default();
    if roots.len() > ROOTS_MAX {
        sink.error(&own(&["farm", "roots"]), format!("at most {ROOTS_MAX} root keys: the one in force, and its successor while it changes"));
    }
    for (i, key) in roots.iter().enumerate() {
        if !is_key(key) {
            sink.error(&own(&["farm", "roots", &i.to_string()]), "a root key is the hex or base64 form of 32 bytes");
        }
    }
}

fn hub(hub: View<'_>, coord: CoordKind, bus: BusKind, sink: &mut Sink<'_>) {
    for (i, peer) in hub.at("peers").list().enumerate() {
        let at = |key: &str| own(&["farm", "hub", "peers", &i.to_string(), key]);
        let name = peer.at("name").word();
        let fits = |name: &String| name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !name.as_ref().is_some_and(fits) {
            sink.error(&at("name"), "a peer of the hub needs a name: letters, digits, dot, _ and -, at most 64");
        }
        match peer.at("token").0 {
            None => {
                sink.error(&at("token"), "a peer of the hub needs a token of its own (it may be a secret reference; try: openssl rand -hex 32)");
            }
            Some(Value::String(text)) if crate::secret::SecretRef::from_short(text).is_none() && text.len() < HUB_TOKEN_MIN => {
                sink.error(&at("token"), format!("a token has {HUB_TOKEN_MIN} bytes at least (try: openssl rand -hex 32)"));
            }
            Some(_) => {}
        }
        for scope in peer.at("scopes").texts().unwrap_or_default() {
            if !HUB_SCOPES.contains(&scope.as_str()) {
                unknown_kind(&at("scopes"), &scope, &HUB_SCOPES, &format!("{scope:?} is no scope of the hub"), sink);
            }
        }
    }
    if !hub.at("enabled").flag(false) {
        return;
    }
    if hub.at("peers").list().next().is_none() {
        sink.push(Severity::Warning, &own(&["farm", "hub", "peers"]), "farm.hub is enabled and has no peers: nobody can call it");
    }
    let memory = hub.at("memory").str().and_then(HubMemory::parse).unwrap_or_default();
    let at = own(&["farm", "hub", "memory"]);
    if memory == HubMemory::Coord && coord == CoordKind::Embedded {
        sink.error(&at, "farm.hub.memory=\"coord\" needs farm.coord.kind \"consul\" or \"postgres\"");
    }
    if memory == HubMemory::Redis && bus != BusKind::Redis {
        sink.error(&at, "farm.hub.memory=\"redis\" needs farm.bus.kind=\"redis\"");
    }
    if memory.settled(coord, bus) == HubMemory::Local {
        sink.push(Severity::Info, &at, "the hub's shared memory, events and tasks are kept in this process only: a restart forgets them");
    }
}

fn is_key(text: &str) -> bool {
    let hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let bare = text.trim_end_matches('=');
    let decoded = || general_purpose::STANDARD_NO_PAD.decode(bare).or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(bare));
    hex || decoded().is_ok_and(|bytes| bytes.len() == 32)
}
