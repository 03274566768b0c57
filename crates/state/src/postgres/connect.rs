//! Connections: several hosts, the one that takes writes, time limits, TLS, schema.

use std::{path::Path, sync::Arc, time::Duration};

use clawstead_world::{Rng, SystemRng, TaskKind, Tasks};
use futures_util::{StreamExt, stream::FuturesUnordered};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use tokio::time::Instant;
use tokio_postgres::{
    Client, Config, NoTls,
    config::{Host, SslMode, TargetSessionAttrs},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Options, fault,
    hosts::{self, GRACE, Known, MARKER_DAYS, Refused, Standing},
    recall::Recall,
};
use crate::{TxError, rules};

/// Each step is run once, in one transaction with its number. Steps only add; a released step never changes.
/// Keys compare by bytes, as in the other backends: `COLLATE "C"`.
const STEPS: [&str; 2] = [
    r#"
CREATE TABLE fence(unit text COLLATE "C" PRIMARY KEY, epoch bigint NOT NULL, owner text NOT NULL, incarnation bigint NOT NULL) WITH (fillfactor=50);
CREATE TABLE doc(unit text COLLATE "C" NOT NULL, tbl text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, value text NOT NULL, version bigint NOT NULL,
  PRIMARY KEY(unit, tbl, key)) WITH (fillfactor=80);
CREATE TABLE journal(unit text COLLATE "C" NOT NULL, stream text COLLATE "C" NOT NULL, seq bigint NOT NULL, event text NOT NULL, PRIMARY KEY(unit, stream, seq));
CREATE TABLE commit_marker(writer text COLLATE "C" PRIMARY KEY, n bigint NOT NULL, at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor=50);
"#,
    // Which store this is; a copy of its files is the same one, another schema is not.
    r#"
CREATE TABLE store_id(id text NOT NULL);
INSERT INTO store_id VALUES(md5(random()::text || clock_timestamp()::text || pg_backend_pid()::text || current_schema()));
"#,
];
/// Serialises migrations of all gateways of a farm: "Claw".
const MIGRATION_LOCK: i64 = 0x436c_6177;
/// Pause before the second try; doubles up to [`PAUSE_MAX_MS`], a quarter of it at random.
const PAUSE_MIN_MS: u64 = 50;
const PAUSE_MAX_MS: u64 = 1_000;

/// How connections are made.
pub(super) struct Connector {
    hosts: Vec<Config>,
    tls: Option<MakeRustlsConnect>,
    pub(super) schema: String,
    pub(super) options: Options,
    pub(super) name: String,
    pub(super) known: Known,
}

/// A limit in time for one operation with its retries.
pub(super) struct Patience {
    end: Instant,
    pause_ms: u64,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { end: Instant::now() + limit, pause_ms: PAUSE_MIN_MS }
    }

    /// Waits before the next try; false when the time is over.
    pub(super) async fn pause(&mut self) -> bool {
        let pause = Duration::from_millis(self.pause_ms * 3 / 4 + SystemRng.below(self.pause_ms / 4));
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MAX_MS);
        if Instant::now() + pause >= self.end {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}

impl Connector {
    pub(super) fn new(url: &str, schema: &str, options: Options) -> Result<Self, TxError> {
        let wrong = |why: String| TxError::Invalid { what: "the PostgreSQL address".into(), why };
        let mut config: Config = url.parse().map_err(|err| wrong(format!("{err}; it is like postgres://user@host1,host2/database")))?;
        let fits =
            (1..=63).contains(&schema.len()) && schema.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')) && !schema.as_bytes()[0].is_ascii_digit();
        if !fits {
            return Err(TxError::Invalid { what: format!("the schema name {schema:?}"), why: "letters a-z, digits and _, at most 63, first no digit".into() });
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(wrong("it names no host".into()));
        }
        config
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(options.connect_timeout)
            .tcp_user_timeout(options.attempt_limit())
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(3))
            .keepalives_retries(3);
        if config.get_application_name().is_none() {
            config.application_name("openclaw");
        }
        let hosts: Vec<String> = config
            .get_hosts()
            .iter()
            .map(|host| match host {
                Host::Tcp(name) => name.clone(),
                #[cfg(unix)]
                Host::Unix(path) => path.display().to_string(),
            })
            .collect();
        let name = format!("postgres:{}/{}", hosts.join(","), config.get_dbname().or(config.get_user()).unwrap_or_default());
        // On this machine nobody listens between; and loading the certificates of the system takes time and memory.
        let local = config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
            #[cfg(unix)]
            Host::Unix(_) => true,
        });
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            SslMode::Prefer if local => None,
            _ => Some(tls(options.ca_file.as_deref()).map_err(wrong)?),
        };
        Ok(Self { hosts: hosts::each(&config), tls, schema: schema.into(), options, name, known: Known::new() })
    }

    /// A connection whose session is set up; tries hosts and waits until `patience` ends.
    pub(super) async fn connect(&self, patience: &mut Patience) -> Result<Client, TxError> {
        loop {
            let told = match self.connect_once().await {
                Ok(client) => return Ok(client),
                Err(Refused::Server(err)) if !fault::is_passing(&err) => return Err(fault::explain(&self.name, &err, false)),
                Err(Refused::Server(err)) => fault::explain(&self.name, &err, false),
                Err(Refused::Slow) => fault::too_slow(&self.name, false),
                Err(Refused::Stale(why)) => TxError::Away { path: self.name.clone(), why, maybe: false },
            };
            tracing::warn!(store = %self.name, err = %told, "no connection to the state store yet");
            if !patience.pause().await {
                return Err(told);
            }
        }
    }

    /// Asks every host. Of those that take writes and know what we know, the one with the highest timeline.
    async fn connect_once(&self) -> Result<Client, Refused> {
        let limit = self.options.connect_timeout + Duration::from_secs(1);
        let asked = self.hosts.iter().map(|host| async move { tokio::time::timeout(limit, self.connect_host(host)).await.unwrap_or(Err(Refused::Slow)) });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let (mut best, mut refused): (Option<(Client, Standing)>, Option<Refused>) = (None, None);
        let mut end = None;
        loop {
            let next = match end {
                None => asked.next().await,
                Some(end) => tokio::time::timeout_at(end, asked.next()).await.unwrap_or_default(),
            };
            match next {
                None => break,
                Some(Ok((client, standing))) => {
                    if best.as_ref().is_none_or(|(_, best)| best.timeline < standing.timeline) {
                        best = Some((client, standing));
                    }
                    end.get_or_insert_with(|| Instant::now() + GRACE);
                }
                // What passes is waited for, so it counts for more than what stays; and a stale one explains most.
                Some(Err(err)) => {
                    let stays = |err: &Refused| matches!(err, Refused::Server(err) if !fault::is_passing(err));
                    if refused.as_ref().is_none_or(|old| stays(old) || matches!(err, Refused::Stale(_))) {
                        refused = Some(err);
                    }
                }
            }
        }
        match (best, refused) {
            (Some((client, standing)), _) => {
                self.known.saw(standing);
                Ok(client)
            }
            (None, refused) => Err(refused.unwrap_or(Refused::Slow)),
        }
    }

    async fn connect_host(&self, host: &Config) -> Result<(Client, Standing), Refused> {
        let client = match &self.tls {
            None => {
                let (client, connection) = host.connect(NoTls).await?;
                drive(&self.options.tasks, &self.name, connection);
                client
            }
            Some(tls) => {
                let (client, connection) = host.connect(tls.clone()).await?;
                drive(&self.options.tasks, &self.name, connection);
                client
            }
        };
        // `local` and `off` answer before the disk has it; stricter settings of the server are kept. A machine that
        // vanishes keeps its locks only until the server notices.
        client
            .batch_execute(&format!(
                "SET statement_timeout={}; SET idle_in_transaction_session_timeout={}; SET search_path=\"{}\"; SET client_min_messages=warning;
                 SET tcp_keepalives_idle=5; SET tcp_keepalives_interval=2; SET tcp_keepalives_count=3;
                 SET default_transaction_isolation='read committed';
                 SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')",
                self.options.statement_timeout.as_millis(),
                self.options.idle_in_transaction_timeout.as_millis(),
                self.schema
            ))
            .await?;
        let standing = Standing::of(&client).await?;
        self.known.check(&client, standing).await?;
        Ok((client, standing))
    }

    /// Makes the schema where it is not there and brings it up to date; refuses a newer one, and one that is not the
    /// one remembered. Answers the store's id.
    pub(super) async fn migrate(&self, client: &mut Client, recall: Option<&Recall>) -> Result<String, TxError> {
        let explain = |err: tokio_postgres::Error| fault::explain(&self.name, &err, false);
        let encoding: String = client.query_one("SHOW server_encoding", &[]).await.map_err(explain)?.get(0);
        if encoding != "UTF8" {
            return Err(TxError::Invalid { what: self.name.clone(), why: format!("its encoding is {encoding}; make the database with ENCODING 'UTF8'") });
        }
        let tx = client.transaction().await.map_err(explain)?;
        tx.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await.map_err(explain)?;
        // Asked first: CREATE SCHEMA needs a right that a schema made by the administrator makes unnecessary.
        if tx.query_opt("SELECT 1 FROM pg_namespace WHERE nspname=$1", &[&self.schema]).await.map_err(explain)?.is_none() {
            tx.batch_execute(&format!("CREATE SCHEMA \"{}\"", self.schema)).await.map_err(explain)?;
        }
        tx.batch_execute("CREATE TABLE IF NOT EXISTS schema_version(version bigint NOT NULL)").await.map_err(explain)?;
        let found = tx.query_opt("SELECT version FROM schema_version", &[]).await.map_err(explain)?.map_or(0, |row| rules::unsigned(row.get(0)));
        let known = STEPS.len() as u64;
        if found > known {
            return Err(TxError::Schema { path: format!("{} schema {}", self.name, self.schema), found, known });
        }
        if let Some(recall) = recall.filter(|_| found == 0) {
            recall.check(self, tx.client(), None).await?;
        }
        for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
            tx.batch_execute(step).await.map_err(explain)?;
        }
        if found < known {
            tx.batch_execute(&format!("DELETE FROM schema_version; INSERT INTO schema_version VALUES({known})")).await.map_err(explain)?;
        }
        // A marker is of use for as long as its writer retries one commit, or a folder remembers it.
        tx.batch_execute(&format!("DELETE FROM commit_marker WHERE at < now() - interval '{MARKER_DAYS} days'")).await.map_err(explain)?;
        let id: String = tx.query_one("SELECT id FROM store_id", &[]).await.map_err(explain)?.get(0);
        if let Some(recall) = recall {
            recall.check(self, tx.client(), Some(&id)).await?;
        }
        // Before the first commit: a row that is there can be waited for, when its change is in doubt.
        tx.execute("INSERT INTO commit_marker(writer, n) VALUES($1, 0) ON CONFLICT DO NOTHING", &[&self.known.writer]).await.map_err(explain)?;
        tx.commit().await.map_err(explain)?;
        Ok(id)
    }
}

fn drive<S, T>(tasks: &Tasks, name: &str, connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let store = name.to_owned();
    tasks.spawn::<_, std::convert::Infallible>(TaskKind::logged("postgres connection"), async move {
        if let Err(err) = connection.await {
            tracing::warn!(%store, %err, "a connection to the state store ended");
        }
        Ok(())
    });
}

fn tls(ca_file: Option<&Path>) -> Result<MakeRustlsConnect, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let certificates = CertificateDer::pem_file_iter(path).map_err(|err| format!("{} cannot be read: {err}", path.display()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|err| format!("{} cannot be read: {err}", path.display()))?;
            roots.add(certificate).map_err(|err| format!("{} holds a certificate that cannot be used: {err}", path.display()))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(
            "there is no certificate authority to check the server's TLS certificate with: set the CA file, or sslmode=disable on a trusted network".into()
        );
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|err| err.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
