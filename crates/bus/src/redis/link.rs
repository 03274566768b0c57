//! The connection everybody shares, and the search for the server that takes writes.

use std::{
    sync::{Mutex as Blocking, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesOrdered};
use redis::{AsyncConnectionConfig, Client, ClientTlsConfig, ErrorKind, RedisError, RedisResult, ServerErrorKind, TlsCertificates, aio::MultiplexedConnection};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{ENGINE, RedisConfig, RedisConfigError};
use crate::mail::BusError;

/// After a search that found no master, requests fail at once for this long instead of searching each for itself.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);
/// How often it is asked whether another server is the master now.
const ROLE_CHECK: Duration = Duration::from_secs(5);

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The server has no memory left.
    Full(String),
    /// Anything else.
    Bus(BusError),
}

/// A connection to the master.
#[derive(Clone)]
pub(super) struct Open {
    /// Shared, pipelined.
    pub(super) connection: MultiplexedConnection,
    /// Grows with each connection made.
    pub(super) generation: u64,
    server: usize,
}

struct Server {
    client: Client,
    /// Without credentials.
    at: String,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    generation: u64,
    failed: Option<(Instant, Fault)>,
}

/// The servers and the shared connection.
pub(super) struct Link {
    servers: Vec<Server>,
    /// All addresses, for messages.
    at: String,
    request_timeout: Duration,
    connect_timeout: Duration,
    state: Mutex<State>,
    role_checked: Blocking<Option<Instant>>,
}

/// The certificates of the settings, as the client wants them.
fn certificates(config: &RedisConfig) -> Result<TlsCertificates, RedisConfigError> {
    let identity = config.tls.identity_pem().map_err(RedisConfigError::Tls)?;
    let client_tls = identity.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    Ok(TlsCertificates { client_tls, root_cert: config.tls.ca_pem().map_err(RedisConfigError::Tls)? })
}

impl Link {
    /// Reads the addresses.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, RedisConfigError> {
        let mut servers = Vec::with_capacity(config.servers.len());
        for (index, address) in config.servers.iter().enumerate() {
            let secured = address.starts_with("rediss:") && !config.tls.is_default();
            let opened = if secured { Client::build_with_tls(address.as_str(), certificates(config)?) } else { Client::open(address.as_str()) };
            let client = opened.map_err(|error| {
                if secured {
                    return RedisConfigError::Tls(words(&error));
                }
                // The error's own text is general, but nothing of it is shown that could hold the address.
                let why = if error.kind() == ErrorKind::InvalidClientConfig { "not a Redis address" } else { "not understood" };
                RedisConfigError::Address { position: index + 1, why: why.to_owned() }
            })?;
            let at = client.get_connection_info().addr().to_string();
            servers.push(Server { client, at });
        }
        if servers.is_empty() {
            return Err(RedisConfigError::NoServer);
        }
        let at = servers.iter().map(|server| server.at.as_str()).collect::<Vec<_>>().join(", ");
        Ok(Self {
            servers,
            at,
            request_timeout: config.request_timeout,
            connect_timeout: config.request_timeout / 2,
            state: Mutex::default(),
            role_checked: Blocking::new(None),
        })
    }

    /// Asks the master, within the request timeout. A connection that turns out to be broken, or a server that is no
    /// master any more, is replaced and the question asked once more: asking twice is harmless for all we ask.
    pub(super) async fn run<T, Asked>(&self, ask: impl Fn(MultiplexedConnection) -> Asked + Send) -> Result<T, Fault>
    where
        Asked: Future<Output = RedisResult<T>> + Send,
    {
        let mut used = None;
        let asking = async {
            let mut first = true;
            loop {
                let open = self.open().await?;
                used = Some(open.generation);
                let error = match ask(open.connection.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                let lost = is_lost(&error);
                if lost {
                    self.lost(open.generation).await;
                }
                if !(lost && std::mem::take(&mut first)) {
                    return Err(self.fault(open.server, &error));
                }
            }
        };
        if let Ok(answer) = timeout(self.request_timeout, asking).await {
            return answer;
        }
        if let Some(generation) = used {
            self.lost(generation).await;
        }
        Err(Fault::Bus(self.unavailable(&self.at, format!("no answer within {:?}", self.request_timeout))))
    }

    /// A connection of its own to the master, for requests that block up to `block`.
    pub(super) async fn own(&self, block: Duration) -> Result<Open, BusError> {
        let making = async {
            let shared = self.open().await.map_err(Fault::into_bus)?;
            let Some(server) = self.servers.get(shared.server) else { return Ok(shared) };
            match self.connect(server, block + self.request_timeout).await {
                Ok(connection) => Ok(Open { connection, ..shared }),
                Err(error) => {
                    // The shared connection to this server is no better, it has only not been used.
                    self.lost(shared.generation).await;
                    Err(self.fault(shared.server, &error).into_bus())
                }
            }
        };
        match timeout(self.request_timeout, making).await {
            Ok(made) => made,
            Err(_) => Err(self.unavailable(&self.at, format!("no connection within {:?}", self.request_timeout))),
        }
    }

    /// Looks, not more often than every 5 s and only where there is a choice, whether another server is the master
    /// now. Answers whether the server of `open` is still the one that is used.
    pub(super) async fn still_master(&self, open: &Open) -> bool {
        let now = Instant::now();
        let due = {
            let mut checked = self.role_checked.lock().unwrap_or_else(PoisonError::into_inner);
            let due = self.servers.len() > 1 && checked.is_none_or(|at| now.duration_since(at) >= ROLE_CHECK);
            if due {
                *checked = Some(now);
            }
            due
        };
        let found = if due { self.search().await.ok() } else { None };
        let mut state = self.state.lock().await;
        // Where no master answers, the requests find out for themselves.
        if let Some((server, connection)) = found
            && state.open.as_ref().is_none_or(|current| current.server != server)
        {
            tracing::info!(engine = ENGINE, at = self.servers.get(server).map_or("", |server| &server.at), "another server is the master now");
            install(&mut state, server, connection);
        }
        state.open.as_ref().is_none_or(|current| current.server == open.server)
    }

    /// Forgets a connection that broke.
    pub(super) async fn lost(&self, generation: u64) {
        let mut state = self.state.lock().await;
        if state.open.as_ref().is_some_and(|open| open.generation == generation) {
            state.open = None;
        }
    }

    /// A fault in our words; `server` is whom we asked.
    pub(super) fn fault(&self, server: usize, error: &RedisError) -> Fault {
        let at = self.servers.get(server).map_or(self.at.as_str(), |server| server.at.as_str());
        let why = words(error);
        match error.code() {
            Some("OOM") => Fault::Full(why),
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => Fault::Bus(BusError::Denied { engine: ENGINE, at: at.to_owned(), why }),
            _ if error.kind() == ErrorKind::AuthenticationFailed => Fault::Bus(BusError::Denied { engine: ENGINE, at: at.to_owned(), why }),
            _ => Fault::Bus(self.unavailable(at, why)),
        }
    }

    /// A fault of a subscription's own connection.
    pub(super) fn fault_on(&self, open: &Open, error: &RedisError) -> BusError {
        self.fault(open.server, error).into_bus()
    }

    /// The error for an engine that does not serve us, told with all addresses.
    pub(super) fn away(&self, why: impl Into<String>) -> BusError {
        self.unavailable(&self.at, why.into())
    }

    fn unavailable(&self, at: &str, why: String) -> BusError {
        BusError::Unavailable { engine: ENGINE, at: at.to_owned(), why }
    }

    async fn open(&self) -> Result<Open, Fault> {
        let mut state = self.state.lock().await;
        if let Some(open) = &state.open {
            return Ok(open.clone());
        }
        if let Some((_, fault)) = state.failed.as_ref().filter(|(at, _)| at.elapsed() < SEARCH_PAUSE) {
            return Err(fault.clone());
        }
        match self.search().await {
            Ok((server, connection)) => Ok(install(&mut state, server, connection)),
            Err(fault) => {
                state.failed = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    /// Asks all servers at once for their role and takes the first master in the order of the list.
    async fn search(&self) -> Result<(usize, MultiplexedConnection), Fault> {
        let mut asked: FuturesOrdered<_> = self.servers.iter().enumerate().map(|(index, server)| async move { (index, self.role(server).await) }).collect();
        let mut reasons = Vec::new();
        let mut denied = None;
        while let Some((index, answer)) = asked.next().await {
            let why = match answer {
                Ok((connection, role)) if role == "master" => return Ok((index, connection)),
                Ok((_, role)) => format!("is a {role}"),
                Err(error) => {
                    if let Fault::Bus(error @ BusError::Denied { .. }) = self.fault(index, &error) {
                        denied = Some(error);
                    }
                    words(&error)
                }
            };
            let at = self.servers.get(index).map_or("", |server| &server.at);
            reasons.push(if self.servers.len() == 1 { why } else { format!("{at}: {why}") });
        }
        let none = || self.unavailable(&self.at, format!("no master: {}", reasons.join("; ")));
        Err(Fault::Bus(denied.unwrap_or_else(none)))
    }

    async fn role(&self, server: &Server) -> RedisResult<(MultiplexedConnection, String)> {
        let asking = async {
            let mut connection = self.connect(server, self.request_timeout).await?;
            // `master, offset, replicas` or `slave, host, port, state, offset`.
            let answer: Vec<redis::Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
            let role = answer.into_iter().next().map(redis::from_redis_value::<String>).transpose()?;
            Ok((connection, if role.as_deref() == Some("slave") { "replica".to_owned() } else { role.unwrap_or_default() }))
        };
        match timeout(self.connect_timeout, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))),
        }
    }

    async fn connect(&self, server: &Server, response_timeout: Duration) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(self.connect_timeout)).set_response_timeout(Some(response_timeout));
        server.client.get_multiplexed_async_connection_with_config(&config).await
    }
}

impl Fault {
    /// As an error, for requests that store nothing.
    pub(super) fn into_bus(self) -> BusError {
        match self {
            Self::Full(why) => BusError::Unavailable { engine: ENGINE, at: "its memory limit".to_owned(), why },
            Self::Bus(error) => error,
        }
    }
}

fn install(state: &mut State, server: usize, connection: MultiplexedConnection) -> Open {
    state.generation += 1;
    state.failed = None;
    let open = Open { connection, generation: state.generation, server };
    state.open = Some(open.clone());
    open
}

/// The connection is of no more use: broken, or to a server that is no master.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error() || is_replica(error)
}

/// The server was the master once.
pub(super) fn is_replica(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// What the server or the system said. Redis never repeats credentials.
fn words(error: &RedisError) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}
