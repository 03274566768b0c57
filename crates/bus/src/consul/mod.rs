//! Consul: keys and mail in its key-value store, gateways as services of its catalogue. A thin client of ours over its
//! HTTP interface; works from version 1.8 on.
//!
//! - Writes go through `/v1/txn`, because only that answers with the new `ModifyIndex`, which is our [`crate::Version`].
//!   Reads ask for consistency `consistent`, watches for the default one, nothing for `stale`: a follower lags behind by
//!   50 to 100 ms.
//! - A request that a server does not answer within 2 s goes to the next one. A conditional write that may have happened
//!   is tried there too: if it succeeds, that is certain; if not, the caller is told that it is unknown.
//! - Sessions are not used: their time limits are twice what they say.

mod blobs;
mod bucket;
mod bus;
mod client;
mod coord;
mod inbox;
mod service;
mod watch;

use std::{fmt, sync::Arc, time::Duration};

use clawstead_world::{Clock, World};

use crate::{Bus, Coord, CoordError, MailBox, Tls};
use bucket::Bucket;
use client::Client;

/// Its name in messages.
pub const ENGINE: &str = "consul";
/// Largest envelope, bytes (cluster design, section 10).
pub const INLINE_MAX: usize = 64 * 1024;

/// Where Consul is and how it is used.
#[derive(Clone)]
pub struct Settings {
    /// Addresses of agents or servers like `http://127.0.0.1:8500`, the one of this node first.
    pub servers: Vec<String>,
    /// The ACL token, where the farm has access control.
    pub token: Option<String>,
    /// Certificates for `https://` addresses.
    pub tls: Tls,
    /// Names of the keys.
    pub names: Names,
    /// How long a watch waits at most before it asks again. Default 55 s.
    pub wait: Duration,
    /// Letters a second this gateway may publish for long. Default 50: each costs several writes of the whole cluster.
    pub letters_per_second: u32,
    /// Letters this gateway may publish at once after a pause. Default 200.
    pub burst: u32,
}

/// Where things are in the key-value store. The defaults are the published names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Agents: `<agents>/<id>/inbox/<message_id>`. Default `openclaw/agents`.
    pub agents: String,
    /// The farm's own: `<farm>/receipts/<gateway>/<message_id>`. Default `openclaw/farm/v1`.
    pub farm: String,
}

impl Default for Names {
    fn default() -> Self {
        Self { agents: "openclaw/agents".into(), farm: "openclaw/farm/v1".into() }
    }
}

impl Names {
    /// The beginning of the keys of a box, with a slash at its end.
    fn of(&self, mail_box: &MailBox) -> String {
        match mail_box {
            MailBox::Unit(unit) => format!("{}/{}/inbox/", self.agents, part(unit)),
            MailBox::Gateway(gateway) => format!("{}/receipts/{}/", self.farm, part(gateway)),
        }
    }
}

/// A name as one part of a key: what would make two parts of it is written as `%..`.
fn part(name: &str) -> String {
    let escaped: String = name
        .chars()
        .map(|c| match c {
            '/' | '%' => format!("%{:02X}", u32::from(c)),
            c if c.is_control() => format!("%{:02X}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    match &*escaped {
        "" | "." | ".." => format!("%{escaped}"),
        _ => escaped,
    }
}

impl Settings {
    /// These servers, everything else as by default.
    #[must_use]
    pub fn at(servers: impl IntoIterator<Item = String>) -> Self {
        Self {
            servers: servers.into_iter().collect(),
            token: None,
            tls: Tls::default(),
            names: Names::default(),
            wait: Duration::from_secs(55),
            letters_per_second: 50,
            burst: 200,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "(hidden)");
        f.debug_struct("Settings").field("servers", &self.servers).field("token", &token).field("names", &self.names).finish_non_exhaustive()
    }
}

/// One gateway's way to Consul.
#[derive(Clone)]
pub struct Consul {
    client: Arc<Client>,
    names: Arc<Names>,
    wait: Duration,
    bucket: Arc<Bucket>,
    clock: Arc<dyn Clock>,
}

impl Consul {
    /// Checks the settings. Nothing is asked yet: a Consul that is away is no reason not to start.
    ///
    /// # Errors
    /// [`CoordError::Invalid`] for settings that cannot be.
    pub fn new(settings: &Settings, world: &World) -> Result<Self, CoordError> {
        for name in [&settings.names.agents, &settings.names.farm] {
            crate::rules::key(name)?;
            if name.ends_with('/') {
                return Err(CoordError::Invalid(format!("the name {name:?} ends with a slash: leave it out")));
            }
        }
        if settings.letters_per_second == 0 || settings.burst == 0 {
            return Err(CoordError::Invalid("the budget of letters is zero: nothing could be published".into()));
        }
        Ok(Self {
            client: Arc::new(Client::new(settings, world)?),
            names: Arc::new(settings.names.clone()),
            wait: settings.wait,
            bucket: Arc::new(Bucket::new(settings.letters_per_second, settings.burst)),
            clock: world.clock.clone(),
        })
    }

    /// The keys.
    #[must_use]
    pub fn coord(&self) -> Arc<dyn Coord> {
        Arc::new(coord::ConsulCoord::new(self.client.clone(), self.wait))
    }

    /// The mail. All of this gateway's mail shares one budget.
    #[must_use]
    pub fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(bus::ConsulBus::new(self))
    }
}

#[cfg(test)]
mod tests {
    use super::{MailBox, Names, Settings, part};

    #[test]
    fn boxes_have_the_published_names() {
        let names = Names::default();
        assert_eq!(names.of(&MailBox::Unit("bobby".into())), "openclaw/agents/bobby/inbox/");
        assert_eq!(names.of(&MailBox::Unit("chan.slack.main".into())), "openclaw/agents/chan.slack.main/inbox/");
        assert_eq!(names.of(&MailBox::Gateway("jerry-gateway".into())), "openclaw/farm/v1/receipts/jerry-gateway/");
        assert_eq!([part("a/inbox/b"), part("100%"), part(".."), part("")], ["a%2Finbox%2Fb", "100%25", "%..", "%"]);
    }

    #[test]
    fn the_token_does_not_print() {
        let settings = Settings { token: Some("0d4e-secret".into()), ..Settings::at(["http://127.0.0.1:8500".into()]) };
        let shown = format!("{settings:?}");
        assert!(shown.contains("8500") && !shown.contains("0d4e"), "{shown}");
    }
}
