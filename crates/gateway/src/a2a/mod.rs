//! A2A: agents of this gateway for callers of other houses, and agents of other houses for ours. The protocol is the
//! crate `clawstead_a2a`; here its tasks get runs and rows.
//!
//! - A message is a letter like any other: it passes the one door. Its run's id follows from the message, so that one
//!   that is sent again never runs twice.
//! - A caller's conversation is a session of its own, `agent:<agent>:a2a:<peer>:<conversation>`.
//! - Tasks are rows of their agent's unit, written under its fence.

mod house;
mod keys;
mod made;
mod relay;
mod rows;
mod tool;
mod turn;

use std::sync::Arc;

use arc_swap::ArcSwap;

use clawstead_a2a::server::{A2a, Access, Anonymous, Offer, PushTargets, Settings};
use clawstead_config::{A2aConfig, Config};
use clawstead_terms::{AgentId, Failure};
use clawstead_world::World;

use clawstead_wire::device::DeviceIdentity;

use crate::{desk::Desk, farm, keeper::Keeper, post_office::PostOffice, taps::Taps};

pub use made::A2aTask;
pub use relay::{Cell, Front};
pub use tool::A2aSend;

/// What the server stands on.
pub struct Parts {
    /// The config in force.
    pub config: Arc<ArcSwap<Config>>,
    /// The one door.
    pub post: Arc<PostOffice>,
    /// Runs.
    pub desk: Arc<Desk>,
    /// Who listens to runs.
    pub taps: Taps,
    /// Where tasks are kept.
    pub keeper: Keeper,
    /// Clock, ids, HTTP.
    pub world: World,
    /// The farm, where there is one: its agents are shown and reached too.
    pub farm: farm::Cell,
    /// The gateway's own key, which signs the cards where there is no farm.
    pub identity: Arc<DeviceIdentity>,
}

/// The server of a config that enables it, with things to say at the start. `port` is where this gateway listens.
///
/// # Errors
/// When the public address cannot be used.
pub fn open(a2a: Option<&A2aConfig>, port: u16, parts: Parts) -> Result<(Option<A2a>, Vec<String>), Failure> {
    let Some(a2a) = a2a.filter(|a2a| a2a.enabled) else { return Ok((None, Vec::new())) };
    let (mut settings, notices) = settings(a2a, port)?;
    settings.card_keys = keys::of_files(&a2a.signing, &settings.public_url)?;
    let own = house::OwnKey::of(a2a.signing.own, &parts.identity, &settings.public_url);
    let Parts { config, post, desk, taps, keeper, world, farm, .. } = parts;
    let house = house::House::new(house::Ground { config, post, desk, taps, farm, keeper: keeper.clone(), world: world.clone() }, own);
    Ok((Some(A2a::new(Arc::new(house), Arc::new(rows::Rows(keeper)), world, settings)), notices))
}

fn settings(a2a: &A2aConfig, port: u16) -> Result<(Settings, Vec<String>), Failure> {
    let (mut peers, mut notices) = (Vec::new(), Vec::new());
    for peer in &a2a.peers {
        let Some(token) = &peer.token else {
            notices.push(format!("a2a.peers: {} has no token, so it cannot call; set one or see that its reference has a value", peer.name));
            continue;
        };
        peers.push((peer.name.as_str(), token.expose()));
        // One that cannot be used keeps nobody else out.
        if let Err(err) = Access::new(peers.iter().copied(), Anonymous::Refused) {
            notices.push(format!("a2a.peers: {err}; it cannot call"));
            peers.pop();
        }
    }
    let wrong = |err: clawstead_a2a::server::SettingsError| Failure::invalid(err.to_string()).with_hint("see a2a in the config");
    let access = Access::new(peers, Anonymous::Refused).map_err(wrong)?;
    let here = format!("http://127.0.0.1:{port}");
    let offer = |offered: bool| if offered { Offer::Yes } else { Offer::No };
    let mut targets = PushTargets::default();
    for target in &a2a.push_targets {
        match target.parse() {
            Ok(network) => targets.networks.push(network),
            Err(_) => targets.hosts.push(target.clone()),
        }
    }
    let settings = Settings {
        streaming: offer(a2a.streaming),
        push: offer(a2a.push),
        push_targets: targets,
        ..Settings::new(a2a.public_url.as_deref().unwrap_or(&here), access).map_err(wrong)?
    };
    Ok((settings, notices))
}

/// Takes up the tasks of an agent that was just taken over.
///
/// # Errors
/// When the store is away.
pub async fn recover(a2a: Option<&A2a>, agent: &AgentId) -> Result<(), Failure> {
    let Some(a2a) = a2a else { return Ok(()) };
    let going_on = a2a.recover(agent.as_str()).await.map_err(|err| Failure::unavailable(format!("A2A tasks of {agent}: {err}"), 1_000))?;
    if going_on > 0 {
        tracing::info!(%agent, tasks = going_on, "A2A tasks go on");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clawstead_a2a::server::Offer;
    use clawstead_config::{A2aConfig, A2aPeer, Secret};

    use super::settings;

    #[test]
    fn peers_that_cannot_be_used_are_named_and_keep_nobody_out() {
        let peer = |name: &str, token: Option<&str>| A2aPeer { name: name.into(), token: token.map(Secret::new) };
        let config = A2aConfig {
            peers: vec![peer("ann", Some("a-token-of-ann-0001")), peer("bob", None), peer("eve", Some("short"))],
            push_targets: vec!["10.0.0.0/8".into(), "hooks.lan:8080".into()],
            ..A2aConfig::default()
        };
        let (made, notices) = settings(&config, 18_789).unwrap();
        assert!(made.access.needs_token() && made.streaming == Offer::No);
        assert_eq!(made.public_url, "http://127.0.0.1:18789");
        assert_eq!((made.push_targets.networks.len(), made.push_targets.hosts.as_slice()), (1, &["hooks.lan:8080".to_owned()][..]));
        assert!(notices.len() == 2 && notices[0].contains("bob") && notices[1].contains("eve"), "{notices:?}");
        let headers = http::HeaderMap::from_iter([(http::header::AUTHORIZATION, http::HeaderValue::from_static("Bearer a-token-of-ann-0001"))]);
        assert!(made.access.who(&headers).is_ok());
        let odd = A2aConfig { public_url: Some("house".into()), ..A2aConfig::default() };
        assert!(settings(&odd, 1).unwrap_err().message.contains("house"));
    }
}
