//! Which of several hosts is the one: each is asked, and of those that take writes the one with the highest timeline
//! is taken. A server that lacks what this process or this state folder has seen confirmed is not the one.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use clawstead_world::{Rng, SystemRng};
use tokio::time::Instant;
use tokio_postgres::{Client, Config, Error, SimpleQueryMessage};

/// How long hosts are still waited for when one of them was found that takes writes.
pub(super) const GRACE: Duration = Duration::from_millis(300);
/// A marker row is kept this long after its writer's last commit, in days of the server's clock.
pub(super) const MARKER_DAYS: u64 = 7;
/// A marker that is missing proves a loss only within this time after the last commit.
pub(super) const MARKER_PROVES: Duration = Duration::from_secs((MARKER_DAYS - 1) * 86_400);

/// Why a connection is not used.
#[derive(Debug)]
pub(super) enum Refused {
    /// The server or the network says no.
    Server(Error),
    /// The host did not answer in time.
    Slow,
    /// It takes writes, but is not the server that we know: an old primary that came back, or a restored copy.
    Stale(String),
}

impl From<Error> for Refused {
    fn from(err: Error) -> Self {
        Self::Server(err)
    }
}

/// Where a server stands in the history of its cluster. Nothing of it where the service does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// The cluster's number, made by `initdb`.
    pub(super) system: Option<i64>,
    /// One more with each promotion.
    pub(super) timeline: Option<u32>,
}

impl Standing {
    pub(super) async fn of(client: &Client) -> Result<Self, Error> {
        let text = async |query: &str| -> Result<Option<String>, Error> {
            match client.simple_query(query).await {
                Ok(messages) => Ok(messages.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })),
                // A service that calls itself PostgreSQL and keeps no such thing.
                Err(err) if err.as_db_error().is_some() && !super::fault::is_passing(&err) => Ok(None),
                Err(err) => Err(err),
            }
        };
        // The last checkpoint knows the timeline too, but learns of a promotion late.
        let timeline = text("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)").await?;
        let system = text("SELECT system_identifier FROM pg_control_system()").await?;
        Ok(Self { system: system.and_then(|text| text.parse().ok()), timeline: timeline.and_then(|text| u32::from_str_radix(&text, 16).ok()) })
    }

    /// Whether a server that stands here may be used after `seen`; the reason when it may not.
    fn after(self, seen: Self) -> Result<(), String> {
        match (self.timeline, seen.timeline) {
            (Some(here), Some(highest)) if self.system == seen.system && here < highest => Err(format!(
                "it answers as primary on timeline {here}, but timeline {highest} has been seen: an old primary came back; shut it down, or make it a standby of the new one"
            )),
            _ => Ok(()),
        }
    }
}

/// What this process knows of the server it uses.
#[derive(Debug)]
pub(super) struct Known {
    /// Names the row in which this process counts its transactions.
    pub(super) writer: String,
    /// The number of the last transaction that was confirmed; 0 before the first.
    pub(super) confirmed: AtomicI64,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    standing: Standing,
    confirmed_at: Instant,
}

impl Known {
    pub(super) fn new() -> Self {
        let seen = Seen { standing: Standing::default(), confirmed_at: Instant::now() };
        Self { writer: SystemRng.uuid(), confirmed: AtomicI64::new(0), seen: Mutex::new(seen) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn standing(&self) -> Standing {
        self.seen().standing
    }

    /// A server of this standing is in use, or was when the state folder was last used.
    pub(super) fn saw(&self, standing: Standing) {
        let mut seen = self.seen();
        if standing.timeline.is_some() {
            seen.standing = standing;
        }
    }

    /// The server confirmed our transaction `number`.
    pub(super) fn confirm(&self, number: i64) {
        self.confirmed.store(number, Ordering::Release);
        self.seen().confirmed_at = Instant::now();
    }

    /// Refuses a server that is behind what we know.
    pub(super) async fn check(&self, client: &Client, standing: Standing) -> Result<(), Refused> {
        standing.after(self.standing()).map_err(Refused::Stale)?;
        let confirmed = self.confirmed.load(Ordering::Acquire);
        if confirmed == 0 {
            return Ok(());
        }
        let row = client.query_opt("SELECT n FROM commit_marker WHERE writer=$1", &[&self.writer]).await?;
        match row.map(|row| row.get::<_, i64>(0)) {
            Some(there) if there >= confirmed => Ok(()),
            None if self.seen().confirmed_at.elapsed() > MARKER_PROVES => Ok(()),
            there => Err(Refused::Stale(format!(
                "it lacks writes that were confirmed (transaction {confirmed} of this process; it has {}): an old primary came back, or a standby without the last writes was promoted, or a backup was restored",
                there.unwrap_or(0)
            ))),
        }
    }
}

/// The settings of `config`, once for each of its hosts.
pub(super) fn each(config: &Config) -> Vec<Config> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len().max(addresses.len());
    if count <= 1 {
        return vec![config.clone()];
    }
    (0..count)
        .map(|at| {
            let mut one = Config::new();
            match hosts.get(at) {
                Some(tokio_postgres::config::Host::Tcp(name)) => drop(one.host(name)),
                #[cfg(unix)]
                Some(tokio_postgres::config::Host::Unix(path)) => drop(one.host_path(path)),
                None => {}
            }
            if let Some(address) = addresses.get(at) {
                one.hostaddr(*address);
            }
            if let Some(port) = ports.get(at).or_else(|| ports.first()) {
                one.port(*port);
            }
            same_settings(config, &mut one);
            one
        })
        .collect()
}

fn same_settings(from: &Config, to: &mut Config) {
    if let Some(user) = from.get_user() {
        to.user(user);
    }
    if let Some(password) = from.get_password() {
        to.password(password);
    }
    if let Some(name) = from.get_dbname() {
        to.dbname(name);
    }
    if let Some(options) = from.get_options() {
        to.options(options);
    }
    if let Some(name) = from.get_application_name() {
        to.application_name(name);
    }
    for (limit, set) in [
        (from.get_connect_timeout(), Config::connect_timeout as fn(&mut Config, Duration) -> &mut Config),
        (from.get_tcp_user_timeout(), Config::tcp_user_timeout),
    ] {
        if let Some(limit) = limit {
            set(to, *limit);
        }
    }
    if let Some(interval) = from.get_keepalives_interval() {
        to.keepalives_interval(interval);
    }
    if let Some(retries) = from.get_keepalives_retries() {
        to.keepalives_retries(retries);
    }
    to.ssl_mode(from.get_ssl_mode())
        .ssl_negotiation(from.get_ssl_negotiation())
        .keepalives(from.get_keepalives())
        .keepalives_idle(from.get_keepalives_idle())
        .target_session_attrs(from.get_target_session_attrs())
        .channel_binding(from.get_channel_binding());
}

#[cfg(test)]
mod tests {
    use super::{Standing, each};

    #[test]
    fn every_host_with_all_settings() {
        let config = "postgres://me:secret@one,two:6000,three/claw?sslmode=disable&connect_timeout=3".parse().unwrap();
        let hosts = each(&config);
        assert_eq!(hosts.len(), 3);
        let shown: Vec<String> =
            hosts.iter().map(|one| format!("{:?} {:?} {:?} {:?}", one.get_hosts(), one.get_ports(), one.get_user(), one.get_ssl_mode())).collect();
        assert!(shown[0].contains("one") && shown[1].contains("6000") && shown[2].contains("three"), "{shown:?}");
        assert!(hosts.iter().all(|one| one.get_password() == Some(b"secret") && one.get_dbname() == Some("claw")));
        assert_eq!(each(&"host=one user=me".parse().unwrap()).len(), 1);
    }

    #[test]
    fn an_older_timeline_of_the_same_cluster_is_refused() {
        let at = |system, timeline| Standing { system: Some(system), timeline: Some(timeline) };
        assert!(at(1, 3).after(at(1, 4)).is_err());
        assert!(at(1, 4).after(at(1, 4)).is_ok());
        // Another cluster: what it holds decides, not its number.
        assert!(at(2, 1).after(at(1, 4)).is_ok());
        assert!(Standing::default().after(at(1, 4)).is_ok());
    }
}
