//! PostgreSQL: keys as rows with versions, watches over `LISTEN`/`NOTIFY`, gateways as rows of a table.
//!
//! Every write is one call of a function in the database, so one round trip, and no transaction ever waits for us. Its
//! promise is that of the server: what is committed must not be forgotten by a failover, so a standby that may be
//! promoted must be a synchronous one (cluster design, section 2).

mod coord;
mod link;
mod listen;
mod member;
mod schema;
mod watch;

use std::{fmt, sync::Arc};

use clawstead_world::World;

use crate::{Coord, CoordError, Tls};
use link::Link;
use listen::Listener;

/// Its name in messages.
pub const ENGINE: &str = "postgresql";

/// Where `PostgreSQL` is.
#[derive(Clone)]
pub struct Settings {
    /// `postgres://user:password@host1,host2/database`; of several hosts the one that takes writes is used.
    pub url: String,
    /// The schema the tables are in; made when it is not there. Letters a-z, digits and `_`, at most 50. Default
    /// `openclaw_farm`.
    pub schema: String,
    /// The certificates that the server's is checked with (by default those of the system), and ours where it wants one.
    pub tls: Tls,
}

impl Settings {
    /// This address, everything else as by default.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), schema: "openclaw_farm".into(), tls: Tls::default() }
    }
}

impl fmt::Debug for Settings {
    /// The address may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("schema", &self.schema).field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// One gateway's way to `PostgreSQL`: one connection for requests, one for all watches.
#[derive(Clone)]
pub struct Postgres {
    link: Arc<Link>,
    listener: Arc<Listener>,
}

impl Postgres {
    /// Checks the settings. Nothing is asked yet: a database that is away is no reason not to start.
    ///
    /// # Errors
    /// [`CoordError::Invalid`] for settings that cannot be.
    pub fn new(settings: &Settings, world: &World) -> Result<Self, CoordError> {
        let link = Arc::new(Link::new(settings, world)?);
        let listener = Arc::new(Listener::new(link.clone(), world));
        Ok(Self { link, listener })
    }

    /// The keys.
    #[must_use]
    pub fn coord(&self) -> Arc<dyn Coord> {
        Arc::new(coord::PostgresCoord::new(self.link.clone(), self.listener.clone()))
    }
}
