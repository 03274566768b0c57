//! Two agents that say what you say, over A2A. For the compatibility kit, the SDK for Python, and for trying things out.
//!
//! ```text
//! cargo run -p clawstead-a2a --example echo_agent -- --port 9999 --anonymous --push-host localhost:8080
//! ```
//!
//! `--store <file>` keeps tasks over restarts, `--peer <name>=<token>` adds a caller, `--anonymous` serves everybody,
//! `--push-host <host[:port]>` allows a private push target, `--signed` signs the cards, `--plain` offers neither
//! streams nor push notifications, `--extended` offers longer cards, `--require-extension <uri>` needs an extension,
//! `--takes <media type>` replaces the media types the agents take.
//! Listens on loopback only; port 0 takes a free one. The first line it prints is its address.

use std::{error::Error, path::PathBuf, sync::Arc};

use clawstead_a2a::{
    proto::AgentExtension,
    server::{A2a, Access, Anonymous, Host, KEYS_PATH, MemoryTasks, Offer, Settings, Tasks},
    sign::CardKey,
};
use clawstead_world::World;
use echo::{
    host::{EchoHost, House},
    store::FileTasks,
};

#[expect(dead_code, reason = "the tests look at more of the house than this program does")]
mod echo;

#[derive(Default)]
struct Wishes {
    port: u16,
    store: Option<PathBuf>,
    peers: Vec<(String, String)>,
    anonymous: bool,
    push_hosts: Vec<String>,
    signed: bool,
    plain: bool,
    extended: bool,
    extensions: Vec<String>,
    takes: Vec<String>,
}

fn wishes() -> Result<Wishes, Box<dyn Error>> {
    let mut wishes = Wishes::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--port" => wishes.port = value()?.parse()?,
            "--store" => wishes.store = Some(value()?.into()),
            "--peer" => {
                let pair = value()?;
                let (name, token) = pair.split_once('=').ok_or("--peer needs <name>=<token>")?;
                wishes.peers.push((name.into(), token.into()));
            }
            "--push-host" => wishes.push_hosts.push(value()?),
            "--require-extension" => wishes.extensions.push(value()?),
            "--takes" => wishes.takes.push(value()?),
            "--anonymous" => wishes.anonymous = true,
            "--signed" => wishes.signed = true,
            "--plain" => wishes.plain = true,
            "--extended" => wishes.extended = true,
            _ => return Err(format!("{word} is not known").into()),
        }
    }
    Ok(wishes)
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let wishes = wishes()?;
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "a TLS provider is already there")?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", wishes.port)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let anonymous = if wishes.anonymous { Anonymous::Served } else { Anonymous::Refused };
    let access = Access::new(wishes.peers.iter().map(|(name, token)| (name.as_str(), token.as_str())), anonymous)?;
    let mut settings = Settings::new(&url, access)?;
    settings.push_targets.hosts = wishes.push_hosts;
    if wishes.plain {
        settings.streaming = Offer::No;
        settings.push = Offer::No;
    }
    if wishes.extended {
        settings.extended_card = Offer::Yes;
    }
    settings.extensions = wishes.extensions.into_iter().map(|uri| AgentExtension { uri, required: true, ..AgentExtension::default() }).collect();
    if wishes.signed {
        let jku = format!("{url}{KEYS_PATH}");
        let one = CardKey::es256("es256", &CardKey::new_es256()?)?.published_at(&jku);
        let two = CardKey::ed25519("ed25519", ed25519_dalek::SigningKey::from_bytes(&[7; 32])).published_at(&jku);
        settings.card_keys = vec![Arc::new(one), Arc::new(two)];
    }
    let tasks: Arc<dyn Tasks> = match &wishes.store {
        Some(path) => Arc::new(FileTasks::open(path)?),
        None => Arc::new(MemoryTasks::default()),
    };
    let house = Arc::new(House { agents: Arc::new(EchoHost::default()), takes: wishes.takes });
    let a2a = A2a::new(Arc::clone(&house) as _, tasks, World::real()?, settings);
    for agent in house.agents() {
        a2a.recover(&agent.id).await?;
    }
    println!("{url}");
    axum::serve(listener, a2a.router()).await?;
    Ok(())
}
