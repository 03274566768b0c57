//! Connections: several hosts, the one that takes writes, time limits, TLS, schema.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clawstead_world::{TaskKind, Tasks, World};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
    time::timeout,
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Error, NoTls,
    config::{Host, SslMode, TargetSessionAttrs},
    error::SqlState,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{ENGINE, Settings, schema};
use crate::{CasError, CoordError, Tls, coord::REQUEST_TIMEOUT};

/// Longest name of a schema: its channel has a longer one, and names have at most 63 bytes.
const SCHEMA_MAX: usize = 50;
/// A host is given up for the next one after this time at least.
const HOST_TIMEOUT_MIN: Duration = Duration::from_millis(200);

/// How connections are made, and the one for requests.
pub(super) struct Link {
    /// One for each host. The driver's own list waits for ever for a host that takes connections and then hangs.
    hosts: Vec<Config>,
    /// The host that worked last.
    first: AtomicUsize,
    /// Longest time for one host.
    host_timeout: Duration,
    tls: Option<MakeRustlsConnect>,
    pub(super) schema: String,
    /// The hosts, for messages.
    at: String,
    tasks: Tasks,
    shared: Mutex<Option<Arc<Client>>>,
}

/// What a connection tells besides answers. It is told from the task that drives the connection.
pub(super) type Told = Box<dyn FnMut(AsyncMessage) + Send>;

/// Why a request failed.
pub(super) struct Fault {
    pub(super) err: CoordError,
    /// It may have been carried out.
    pub(super) maybe: bool,
}

impl From<Fault> for CoordError {
    fn from(fault: Fault) -> Self {
        fault.err
    }
}

impl From<Fault> for CasError {
    fn from(fault: Fault) -> Self {
        if fault.maybe { Self::Unknown(fault.err) } else { Self::Coord(fault.err) }
    }
}

impl Link {
    pub(super) fn new(settings: &Settings, world: &World) -> Result<Self, CoordError> {
        // What cannot be read as an address is not repeated: it may hold a password.
        let wrong = |why: &str| CoordError::Invalid(format!("the PostgreSQL address is wrong: {why}"));
        let mut config: Config = settings.url.parse().map_err(|_| wrong("it is like postgres://user@host1,host2/database"))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(wrong("it names no host"));
        }
        let schema = &settings.schema;
        let fits = (1..=SCHEMA_MAX).contains(&schema.len())
            && schema.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
            && !schema.starts_with(|first: char| first.is_ascii_digit());
        if !fits {
            return Err(CoordError::Invalid(format!("the schema name {schema:?} is wrong: letters a-z, digits and _, at most {SCHEMA_MAX}, first no digit")));
        }
        let count = u32::try_from(config.get_hosts().len().max(1)).unwrap_or(1);
        let host_timeout = (REQUEST_TIMEOUT * 9 / 10 / count).max(HOST_TIMEOUT_MIN);
        config
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(host_timeout)
            .tcp_user_timeout(REQUEST_TIMEOUT * 2)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(3))
            .keepalives_retries(3);
        if config.get_application_name().is_none() {
            config.application_name("openclaw farm");
        }
        let names = config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        });
        let at = names.collect::<Vec<_>>().join(",");
        let local = config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
            #[cfg(unix)]
            Host::Unix(_) => true,
        });
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            SslMode::Prefer if local => None,
            _ => Some(connector(&settings.tls).map_err(CoordError::Invalid)?),
        };
        Ok(Self {
            hosts: one_by_one(&config),
            first: AtomicUsize::new(0),
            host_timeout,
            tls,
            schema: schema.clone(),
            at,
            tasks: world.tasks.clone(),
            shared: Mutex::default(),
        })
    }

    /// Does a request on the shared connection, connecting where needed, within the request timeout.
    pub(super) async fn request<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<T, Fault> {
        let mut sent = false;
        let mut used = None;
        let outcome = timeout(REQUEST_TIMEOUT, async {
            let client = self.client().await?;
            used = Some(client.clone());
            sent = true;
            work(&client).await.map_err(|err| self.explain(&err))
        })
        .await;
        let fault = match outcome {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(fault)) => Fault { maybe: fault.maybe && sent, ..fault },
            Err(_) => Fault { err: self.unavailable(&format!("no answer within {} ms", REQUEST_TIMEOUT.as_millis())), maybe: sent },
        };
        // A connection that failed may lead to a server that hangs, or that takes no writes any more.
        if let (CoordError::Unavailable { .. }, Some(used)) = (&fault.err, used) {
            let mut shared = self.shared.lock().await;
            if shared.as_ref().is_some_and(|client| Arc::ptr_eq(client, &used)) {
                *shared = None;
            }
        }
        Err(fault)
    }

    async fn client(&self) -> Result<Arc<Client>, Fault> {
        let mut shared = self.shared.lock().await;
        if let Some(client) = shared.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let client = Arc::new(self.connect(|| Box::new(|_| {})).await?);
        *shared = Some(client.clone());
        Ok(client)
    }

    /// A new connection to the host that takes writes, with its session and the schema set up.
    pub(super) async fn connect(&self, told: impl Fn() -> Told) -> Result<Client, Fault> {
        let mut last: Option<Fault> = None;
        let first = self.first.load(Ordering::Relaxed);
        for at in (0..self.hosts.len()).map(|n| (first + n) % self.hosts.len()) {
            let fault = match timeout(self.host_timeout, self.connect_to(&self.hosts[at], told())).await {
                Ok(Ok(mut client)) => {
                    self.first.store(at, Ordering::Relaxed);
                    self.migrate(&mut client).await?;
                    return Ok(client);
                }
                Ok(Err(fault)) => fault,
                Err(_) => Fault { err: self.unavailable(&format!("no connection within {} ms", self.host_timeout.as_millis())), maybe: false },
            };
            // What somebody has to put right is told rather than what may pass.
            if last.as_ref().is_none_or(|last| matches!(last.err, CoordError::Unavailable { .. })) {
                last = Some(fault);
            }
        }
        Err(last.unwrap_or_else(|| Fault { err: self.unavailable("no host is configured"), maybe: false }))
    }

    async fn connect_to(&self, host: &Config, told: Told) -> Result<Client, Fault> {
        let connected = match &self.tls {
            None => host.connect(NoTls).await.map(|(client, connection)| {
                self.drive(connection, told);
                client
            }),
            Some(tls) => host.connect(tls.clone()).await.map(|(client, connection)| {
                self.drive(connection, told);
                client
            }),
        };
        let client = connected.map_err(|err| self.explain(&err))?;
        // `local` and `off` answer before the disk has it; stricter settings of the server are kept.
        let session = format!(
            "SET statement_timeout={}; SET idle_in_transaction_session_timeout=1000; SET search_path=\"{}\"; SET client_min_messages=warning;
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')",
            REQUEST_TIMEOUT.as_millis(),
            self.schema
        );
        client.batch_execute(&session).await.map_err(|err| self.explain(&err))?;
        Ok(client)
    }

    async fn migrate(&self, client: &mut Client) -> Result<(), Fault> {
        let explain = |err: Error| self.explain(&err);
        let refuse = |why: String| Fault { err: CoordError::Invalid(why), maybe: false };
        let row = client.query_one("SELECT current_setting('server_encoding'), to_regclass('schema_version') IS NOT NULL", &[]).await.map_err(explain)?;
        let (encoding, made): (String, bool) = (row.get(0), row.get(1));
        if encoding != "UTF8" {
            return Err(refuse(format!("the encoding of the database at {} is {encoding}: make it with ENCODING 'UTF8'", self.at)));
        }
        let version = async |client: &Client| -> Result<i64, Fault> {
            Ok(client.query_opt("SELECT version FROM schema_version", &[]).await.map_err(explain)?.map_or(0, |row| row.get(0)))
        };
        let found = if made { version(client).await? } else { 0 };
        if found > schema::KNOWN {
            return Err(refuse(format!("schema {} at {} has version {found}, this program knows {}: use a newer one", self.schema, self.at, schema::KNOWN)));
        }
        if found == schema::KNOWN {
            return Ok(());
        }
        let tx = client.transaction().await.map_err(explain)?;
        tx.execute("SELECT pg_advisory_xact_lock($1)", &[&schema::MIGRATION_LOCK]).await.map_err(explain)?;
        // Asked first: CREATE SCHEMA needs a right that a schema made by the administrator makes unnecessary.
        if tx.query_opt("SELECT 1 FROM pg_namespace WHERE nspname=$1", &[&self.schema]).await.map_err(explain)?.is_none() {
            tx.batch_execute(&format!("CREATE SCHEMA \"{}\"", self.schema)).await.map_err(explain)?;
        }
        tx.batch_execute("CREATE TABLE IF NOT EXISTS schema_version(version bigint NOT NULL)").await.map_err(explain)?;
        let found: i64 = tx.query_opt("SELECT version FROM schema_version", &[]).await.map_err(explain)?.map_or(0, |row| row.get(0));
        let mut at = usize::try_from(found).unwrap_or(0);
        while let Some(sql) = schema::step(at, &self.schema) {
            tx.batch_execute(&sql).await.map_err(explain)?;
            at += 1;
        }
        tx.batch_execute(&format!("DELETE FROM schema_version; INSERT INTO schema_version VALUES({at})")).await.map_err(explain)?;
        tx.commit().await.map_err(explain)
    }

    fn drive<S, T>(&self, mut connection: Connection<S, T>, mut told: Told)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let at = self.at.clone();
        self.tasks.spawn::<_, std::convert::Infallible>(TaskKind::logged("farm database connection"), async move {
            loop {
                match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(message)) => told(message),
                    Some(Err(err)) => {
                        tracing::warn!(%at, %err, "a connection to the farm's database ended");
                        return Ok(());
                    }
                    None => return Ok(()),
                }
            }
        });
    }

    /// An error of the server or the driver.
    pub(super) fn explain(&self, err: &Error) -> Fault {
        let why = match err.as_db_error() {
            // The detail of an error may quote values; the message does not.
            Some(db) => format!("{} ({})", db.message(), db.code().code()),
            None => std::error::Error::source(err).map_or_else(|| err.to_string(), |cause| format!("{err}: {cause}")),
        };
        let denied = |code: &SqlState| code.code().starts_with("28") || *code == SqlState::INSUFFICIENT_PRIVILEGE || *code == SqlState::INVALID_CATALOG_NAME;
        match err.code() {
            Some(code) if denied(code) => Fault { err: CoordError::Denied { engine: ENGINE, at: self.at.clone(), why }, maybe: false },
            // What the server says is certain; except that it goes down, which it may say after a commit.
            Some(code) => Fault { err: self.unavailable(&why), maybe: code.code().starts_with("57P") || code.code().starts_with("08") },
            None if why.contains("error serializing") || why.contains("authentication") || why.contains("TLS") => {
                Fault { err: CoordError::Denied { engine: ENGINE, at: self.at.clone(), why }, maybe: false }
            }
            None => Fault { err: self.unavailable(&why), maybe: true },
        }
    }

    pub(super) fn unavailable(&self, why: &str) -> CoordError {
        CoordError::Unavailable { engine: ENGINE, at: self.at.clone(), why: why.to_owned() }
    }
}

/// The same settings once for each host.
fn one_by_one(config: &Config) -> Vec<Config> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let each = (0..hosts.len().max(addresses.len())).map(|at| {
        let mut one = Config::new();
        match hosts.get(at) {
            Some(Host::Tcp(name)) => drop(one.host(name)),
            #[cfg(unix)]
            Some(Host::Unix(path)) => drop(one.host_path(path)),
            None => {}
        }
        if let Some(address) = addresses.get(at) {
            one.hostaddr(*address);
        }
        if let Some(port) = ports.get(at).or(ports.first()) {
            one.port(*port);
        }
        if let Some(user) = config.get_user() {
            one.user(user);
        }
        if let Some(password) = config.get_password() {
            one.password(password);
        }
        if let Some(name) = config.get_dbname() {
            one.dbname(name);
        }
        if let Some(options) = config.get_options() {
            one.options(options);
        }
        if let Some(name) = config.get_application_name() {
            one.application_name(name);
        }
        if let Some(limit) = config.get_connect_timeout() {
            one.connect_timeout(*limit);
        }
        if let Some(limit) = config.get_tcp_user_timeout() {
            one.tcp_user_timeout(*limit);
        }
        if let Some(interval) = config.get_keepalives_interval() {
            one.keepalives_interval(interval);
        }
        if let Some(count) = config.get_keepalives_retries() {
            one.keepalives_retries(count);
        }
        one.keepalives_idle(config.get_keepalives_idle())
            .target_session_attrs(config.get_target_session_attrs())
            .ssl_mode(config.get_ssl_mode())
            .ssl_negotiation(config.get_ssl_negotiation())
            .channel_binding(config.get_channel_binding());
        one
    });
    each.collect()
}

fn connector(tls: &Tls) -> Result<MakeRustlsConnect, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = tls.ca.as_deref() {
        let unreadable = |err: &dyn std::fmt::Display| format!("{} cannot be read: {err}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(|err| unreadable(&err))? {
            let certificate = certificate.map_err(|err| unreadable(&err))?;
            roots.add(certificate).map_err(|err| format!("{} holds a certificate that cannot be used: {err}", path.display()))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(
            "there is no certificate authority to check PostgreSQL's TLS certificate with: set the CA file, or sslmode=disable on a trusted network".into()
        );
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|err| err.to_string())?
        .with_root_certificates(roots);
    let Some((certificates, key)) = &tls.identity else { return Ok(MakeRustlsConnect::new(config.with_no_client_auth())) };
    let unreadable = |path: &Path, err: &dyn std::fmt::Display| format!("{} cannot be read: {err}", path.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificates).map_err(|err| unreadable(certificates, &err))?.collect();
    let chain = chain.map_err(|err| unreadable(certificates, &err))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|err| unreadable(key, &err))?;
    Ok(MakeRustlsConnect::new(config.with_client_auth_cert(chain, key).map_err(|err| err.to_string())?))
}
