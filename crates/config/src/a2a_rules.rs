//! Rules of `a2a`: nobody calls without a token, and what stands there can be used.

use serde_json::Value;

use crate::{
    issue::Severity,
    normalise::own,
    secret::SecretRef,
    sections::a2a::TOKEN_CHARS_MIN,
    validate::{Sink, type_name},
    view::View,
};

pub(crate) fn check(root: View<'_>, sink: &mut Sink<'_>) {
    let a2a = root.at("a2a");
    if !a2a.present() {
        return;
    }
    if a2a.object().is_none() {
        let received = a2a.0.map_or("undefined", type_name);
        sink.error(&own(&["a2a"]), format!("Invalid input: expected object, received {received}"));
        return;
    }
    peers(a2a, sink);
    remotes(a2a, sink);
    targets(a2a, sink);
    signing(a2a, sink);
    if let Some(text) = a2a.at("publicUrl").word()
        && !is_address(&text)
    {
        sink.error(&own(&["a2a", "publicUrl"]), "invalid address (expected https://host or http://host:port, without credentials and query)");
    }
    let enabled = a2a.at("enabled").bool() == Some(true);
    if enabled && !a2a.at("publicUrl").present() && root.path("gateway.bind").str().is_some_and(|bind| !matches!(bind, "loopback" | "auto")) {
        let note = "a2a.publicUrl is not set: the agent cards name 127.0.0.1, which nobody else can call";
        sink.push(Severity::Warning, &own(&["a2a", "publicUrl"]), note);
    }
}

fn peers(a2a: View<'_>, sink: &mut Sink<'_>) {
    let enabled = a2a.at("enabled").bool() == Some(true);
    if enabled && a2a.at("peers").list().next().is_none() {
        sink.error(&own(&["a2a", "peers"]), "a2a.enabled needs a2a.peers, a list of {name, token}: there is no access without a token");
    }
    let (mut names, mut tokens) = (Vec::new(), Vec::new());
    for (i, peer) in a2a.at("peers").list().enumerate() {
        let at = |key: &str| own(&["a2a", "peers", &i.to_string(), key]);
        match peer.at("name").word() {
            Some(name) if !is_name(&name) => {
                sink.error(&at("name"), format!("the name of a peer is 1 to 64 of letters, digits, '.', '_', '-' and '@'; {name:?} is not"));
            }
            Some(name) if names.contains(&name) => {
                sink.error(&at("name"), format!("the peer {name} stands there twice"));
            }
            Some(name) => names.push(name),
            None => {
                sink.error(&at("name"), "a peer needs a name");
            }
        }
        match peer.at("token").0 {
            None | Some(Value::Null) => {
                sink.error(&at("token"), "a peer needs a token (it may be a secret reference): nobody calls without one");
            }
            Some(Value::String(text)) if SecretRef::from_short(text).is_none() && !text.contains("${") => {
                if text.chars().count() < TOKEN_CHARS_MIN {
                    sink.error(&at("token"), format!("the token is shorter than {TOKEN_CHARS_MIN} characters; make one with: openssl rand -hex 32"));
                } else if tokens.contains(text) {
                    sink.error(&at("token"), "two peers have this token; the token says who calls");
                }
                tokens.push(text.clone());
            }
            Some(_) => {}
        }
    }
}

fn remotes(a2a: View<'_>, sink: &mut Sink<'_>) {
    let mut names = Vec::new();
    for (i, remote) in a2a.at("remotes").list().enumerate() {
        let at = |key: &str| own(&["a2a", "remotes", &i.to_string(), key]);
        match remote.at("name").word() {
            Some(name) if !is_name(&name) => {
                sink.error(&at("name"), format!("the name of a remote agent is 1 to 64 of letters, digits, '.', '_', '-' and '@'; {name:?} is not"));
            }
            Some(name) if names.contains(&name) => {
                sink.error(&at("name"), format!("the remote agent {name} stands there twice"));
            }
            Some(name) => names.push(name),
            None => {
                sink.error(&at("name"), "a remote agent needs a name, by which agents call it");
            }
        }
        match remote.at("url").word() {
            Some(text) if is_address(&text) => {}
            Some(_) => {
                sink.error(&at("url"), "invalid address (expected http or https, without credentials; a token stands beside it)");
            }
            None => {
                sink.error(&at("url"), "a remote agent needs a url: its address, or that of its card");
            }
        }
    }
}

fn signing(a2a: View<'_>, sink: &mut Sink<'_>) {
    let mut kids = Vec::new();
    for (i, key) in a2a.path("signing.keys").list().enumerate() {
        let at = |key: &str| own(&["a2a", "signing", "keys", &i.to_string(), key]);
        if key.at("file").word().is_none() {
            sink.error(&at("file"), "a signing key needs a file: a P-256 or Ed25519 key as PEM (openssl genpkey -algorithm ED25519 -out card.pem)");
        }
        if let Some(kid) = key.at("kid").word() {
            if kids.contains(&kid) {
                sink.error(&at("kid"), format!("two signing keys are called {kid}; a reader could not tell them apart"));
            }
            kids.push(kid);
        }
    }
}

fn targets(a2a: View<'_>, sink: &mut Sink<'_>) {
    for (i, text) in a2a.path("push.targets").texts().unwrap_or_default().iter().enumerate() {
        let host = url::Url::parse(&format!("http://{text}"));
        let is_host = host.is_ok_and(|url| url.path() == "/" && url.query().is_none() && url.username().is_empty());
        if !is_host && !is_network(text) {
            sink.error(&own(&["a2a", "push", "targets", &i.to_string()]), "expected host, host:port or a network like 10.0.0.0/8");
        }
    }
}

fn is_network(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| match (address.parse::<std::net::IpAddr>(), bits.parse::<u8>()) {
        (Ok(std::net::IpAddr::V4(_)), Ok(bits)) => bits <= 32,
        (Ok(std::net::IpAddr::V6(_)), Ok(bits)) => bits <= 128,
        _ => false,
    })
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@".contains(&b))
}

fn is_address(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty() && url.password().is_none() && url.query().is_none()
    })
}
