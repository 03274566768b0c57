//! The connection: made by the first request, kept up by the client, and asked with bounds of ours.

use std::{error::Error as _, sync::Arc, time::Duration};

use async_nats::{
    Client, ConnectOptions, ServerAddr,
    client::{Request, RequestErrorKind},
    connection::State,
    jetstream::{
        self, Context, ErrorCode,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
        response::Response,
        stream::{self, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    sync::{OnceCell, watch},
    time::{Instant, timeout},
};

use super::{
    BUSY, ENGINE, NatsConfig, NatsConfigError, names,
    signals::{Line, Signals, decoded},
};
use crate::Tls;
use crate::mail::{BusError, Published};

/// How long the stream remembers what it has, to recognise repeats.
const DEDUPE_WINDOW: Duration = Duration::from_secs(120);
/// The oldest letter kept: the longest a letter is valid (24 h) and the skew of two clocks.
const LETTER_AGE_MAX: Duration = Duration::from_secs(24 * 3600 + 600);
/// Waits between attempts to connect: the first and the longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Between two attempts of one request, while the cluster elects.
const RETRY: Duration = Duration::from_millis(50);
/// JetStream has no room: no space in its limits, for this stream or at all. (`STREAM_STORE_FAILED`, insufficient
/// resources, storage resources, memory resources.)
const FULL: [u64; 4] = [10077, 10023, 10047, 10028];

/// Why JetStream did not do what was asked.
#[derive(Debug)]
pub(super) enum Fault {
    /// It answered with an error.
    Refused(jetstream::Error),
    /// Nobody answers to the subject: no stream, no consumer, or no leader now.
    Nobody,
    /// Told as it is.
    Bus(BusError),
}

/// What goes with a request of JetStream's interface.
enum Body<'a> {
    Empty,
    Json(&'a Value),
    Stream(&'a stream::Config),
}

impl Body<'_> {
    fn bytes(&self) -> serde_json::Result<Bytes> {
        Ok(match self {
            Self::Empty => Bytes::new(),
            Self::Json(value) => serde_json::to_vec(value)?.into(),
            Self::Stream(config) => serde_json::to_vec(config)?.into(),
        })
    }
}

/// Client and JetStream over it.
#[derive(Clone)]
pub(super) struct Ready {
    pub(super) client: Client,
    pub(super) jetstream: Context,
}

/// The servers and the connection.
pub(super) struct Link {
    servers: Vec<ServerAddr>,
    tls: Tls,
    /// All addresses, without credentials.
    at: String,
    stream: stream::Config,
    request_timeout: Duration,
    ready: OnceCell<Ready>,
    signals: Arc<Signals>,
}

impl Link {
    /// Reads the addresses.
    pub(super) fn new(config: &NatsConfig) -> Result<Self, NatsConfigError> {
        let mut servers = Vec::with_capacity(config.servers.len());
        for (index, address) in config.servers.iter().enumerate() {
            let parsed: Option<ServerAddr> = address.parse().ok();
            let fits = parsed.filter(|server| matches!(server.scheme(), "nats" | "tls") && !server.host().is_empty());
            servers.push(fits.ok_or(NatsConfigError::Address { position: index + 1 })?);
        }
        if servers.is_empty() {
            return Err(NatsConfigError::NoServer);
        }
        let at = servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect::<Vec<_>>().join(", ");
        let stream = stream::Config {
            name: names::stream(&config.farm_id),
            subjects: vec![names::subjects(&config.farm_id)],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            num_replicas: config.replicas,
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            max_messages_per_subject: i64::from(config.box_letters_max),
            max_age: LETTER_AGE_MAX,
            duplicate_window: DEDUPE_WINDOW,
            ..stream::Config::default()
        };
        config.tls.check().map_err(NatsConfigError::Tls)?;
        Ok(Self { servers, tls: config.tls.clone(), at, stream, request_timeout: config.request_timeout, ready: OnceCell::new(), signals: Arc::default() })
    }

    /// The name of the farm's stream.
    pub(super) fn stream(&self) -> &str {
        &self.stream.name
    }

    /// Tells each loss of the connection.
    pub(super) fn line(&self) -> watch::Receiver<Line> {
        self.signals.line.subscribe()
    }

    /// The connection, when there is one within the request timeout.
    pub(super) async fn up(&self) -> Result<Ready, BusError> {
        self.within(self.connected()).await
    }

    /// Appends a letter. Repeated within the request timeout when the connection breaks or the stream has to be made:
    /// the id makes that harmless.
    pub(super) async fn publish(&self, subject: &str, id: &str, letter: &Bytes) -> Result<Published, BusError> {
        self.within(async {
            loop {
                let sent = self.through(|ready| append(ready, subject.to_owned(), id.to_owned(), letter.clone())).await?;
                match sent {
                    Ok(ack) if ack.duplicate => return Ok(Published::Duplicate),
                    Ok(_) => return Ok(Published::Accepted),
                    Err(error) => match error.kind() {
                        PublishErrorKind::StreamNotFound => {
                            self.ensure_stream().await?;
                            tokio::time::sleep(RETRY).await;
                        }
                        PublishErrorKind::MaxPayloadExceeded => {
                            let max = self.connected().await?.client.max_payload();
                            return Err(BusError::TooLarge { engine: ENGINE, max, size: letter.len() });
                        }
                        _ => return self.not_appended(&error),
                    },
                }
            }
        })
        .await
    }

    fn not_appended(&self, error: &PublishError) -> Result<Published, BusError> {
        let refused = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
        match refused {
            Some(refused) if FULL.contains(&refused.error_code().0) => Ok(Published::Busy(BUSY)),
            Some(refused) => Err(self.away(refused.to_string())),
            None => Err(self.away(error.to_string())),
        }
    }

    /// The server forgets a letter.
    pub(super) async fn settle(&self, reply: &str) -> Result<(), BusError> {
        let request_timeout = self.request_timeout;
        let asked = |ready: Ready| {
            let request = Request::new().payload(Bytes::from_static(b"+ACK")).timeout(Some(request_timeout));
            let subject = reply.to_owned();
            async move { ready.client.send_request(subject, request).await }
        };
        match self.within(self.through(asked)).await? {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                Err(self.away("nobody knows this delivery any more: the box has a new owner, or the stream was lost"))
            }
            Err(error) => Err(self.away(error.to_string())),
        }
    }

    /// Letters of a subject: unread and in somebody's hands.
    pub(super) async fn waiting(&self, subject: &str) -> Result<u64, BusError> {
        let asked: Result<Value, Fault> = self.api(format!("STREAM.INFO.{}", self.stream()), Body::Json(&json!({ "subjects_filter": subject }))).await;
        match asked {
            Ok(info) => Ok(info.pointer("/state/subjects").and_then(Value::as_object).map_or(0, |all| all.values().filter_map(Value::as_u64).sum())),
            Err(Fault::Refused(error)) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(0),
            Err(fault) => Err(self.told(fault)),
        }
    }

    /// The last message of a subject; none when there is none.
    pub(super) async fn last_of(&self, subject: &str) -> Result<Option<Bytes>, BusError> {
        let asked: Result<Value, Fault> = self.api(format!("STREAM.MSG.GET.{}", self.stream()), Body::Json(&json!({ "last_by_subj": subject }))).await;
        match asked {
            Ok(answer) => Ok(super::blobs::data_of(&answer)),
            Err(Fault::Refused(error)) if matches!(error.error_code(), ErrorCode::STREAM_NOT_FOUND | ErrorCode::NO_MESSAGE_FOUND) => Ok(None),
            Err(fault) => Err(self.told(fault)),
        }
    }

    /// Removes all messages of these subjects.
    pub(super) async fn purge(&self, subjects: &str) -> Result<(), BusError> {
        let asked: Result<Value, Fault> = self.api(format!("STREAM.PURGE.{}", self.stream()), Body::Json(&json!({ "filter": subjects }))).await;
        match asked {
            Ok(_) => Ok(()),
            Err(Fault::Refused(error)) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(()),
            Err(fault) => Err(self.told(fault)),
        }
    }

    /// The owners of whom consumers of a box are there.
    pub(super) async fn owners(&self, of: &crate::MailBox) -> Result<Vec<names::Owner>, BusError> {
        let mut owners = Vec::new();
        let mut offset = 0;
        loop {
            let page: Value =
                self.api(format!("CONSUMER.NAMES.{}", self.stream()), Body::Json(&json!({ "offset": offset }))).await.map_err(|fault| self.told(fault))?;
            let names = page.get("consumers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            owners.extend(names.iter().filter_map(Value::as_str).filter_map(|name| names::Owner::of_consumer(name, of)));
            offset += names.len() as u64;
            if names.is_empty() || offset >= page.get("total").and_then(Value::as_u64).unwrap_or(0) {
                return Ok(owners);
            }
        }
    }

    /// Removes a consumer. What it had unsettled waits again.
    pub(super) async fn remove_consumer(&self, name: &str) -> Result<(), BusError> {
        match self.api::<Value>(format!("CONSUMER.DELETE.{}.{name}", self.stream()), Body::Empty).await {
            Ok(_) => Ok(()),
            Err(Fault::Refused(error)) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(()),
            Err(fault) => Err(self.told(fault)),
        }
    }

    /// Makes the farm's stream where it is missing, and gives it the number of copies that is configured.
    pub(super) async fn ensure_stream(&self) -> Result<(), BusError> {
        let name = self.stream();
        let asked: Result<stream::Info, Fault> = self.api(format!("STREAM.INFO.{name}"), Body::Empty).await;
        let changed: Result<Value, Fault> = match asked {
            Ok(info) if info.config.num_replicas == self.stream.num_replicas => return Ok(()),
            Ok(info) => {
                tracing::info!(engine = ENGINE, stream = name, from = info.config.num_replicas, to = self.stream.num_replicas, "copies of the stream");
                let config = stream::Config { num_replicas: self.stream.num_replicas, ..info.config };
                self.api(format!("STREAM.UPDATE.{name}"), Body::Stream(&config)).await
            }
            Err(Fault::Refused(error)) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                tracing::info!(engine = ENGINE, stream = name, "the stream of the farm is not there; it is made");
                self.api(format!("STREAM.CREATE.{name}"), Body::Stream(&self.stream)).await
            }
            Err(fault) => Err(fault),
        };
        match changed {
            Ok(_) => Ok(()),
            // Somebody else was faster.
            Err(Fault::Refused(error)) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => Ok(()),
            Err(fault) => Err(self.told(fault)),
        }
    }

    /// The error for an engine that does not serve us.
    pub(super) fn away(&self, why: impl Into<String>) -> BusError {
        BusError::Unavailable { engine: ENGINE, at: self.at.clone(), why: why.into() }
    }

    fn told(&self, fault: Fault) -> BusError {
        match fault {
            Fault::Refused(error) => self.away(error.to_string()),
            Fault::Nobody => self.away("JetStream does not answer: it is not switched on, or its cluster has no leader now"),
            Fault::Bus(error) => error,
        }
    }

    /// One request of JetStream's interface. Several of them take no body at all, not even `null`.
    async fn api<Answer: DeserializeOwned + Send>(&self, subject: String, body: Body<'_>) -> Result<Answer, Fault> {
        let payload = body.bytes().map_err(|error| Fault::Bus(self.away(error.to_string())))?;
        let subject = format!("$JS.API.{subject}");
        let asked = |ready: Ready| {
            let request = Request::new().payload(payload.clone()).timeout(Some(self.request_timeout));
            let subject = subject.clone();
            async move { ready.client.send_request(subject, request).await }
        };
        let message = match self.within(self.through(asked)).await {
            Ok(Ok(message)) => message,
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => return Err(Fault::Nobody),
            Ok(Err(error)) => return Err(Fault::Bus(self.away(error.to_string()))),
            Err(error) => return Err(Fault::Bus(error)),
        };
        match serde_json::from_slice(&message.payload) {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(Fault::Refused(error)),
            Err(error) => Err(Fault::Bus(self.away(format!("its answer is not understood: {error}")))),
        }
    }

    /// Asks over a live connection, and once more over the next one when it breaks meanwhile.
    async fn through<Answer, Asked: Future<Output = Answer> + Send>(&self, ask: impl Fn(Ready) -> Asked + Send + Sync) -> Result<Answer, BusError> {
        loop {
            let mut line = self.line();
            let ready = self.connected().await?;
            let losses = line.borrow_and_update().losses;
            tokio::select! {
                biased;
                answer = ask(ready) => return Ok(answer),
                Ok(_) = line.wait_for(|line| line.losses > losses) => {}
            }
        }
    }

    async fn connected(&self) -> Result<Ready, BusError> {
        let ready = self.ready.get_or_try_init(|| self.connect()).await?;
        while ready.client.connection_state() != State::Connected {
            tokio::time::sleep(RECONNECT.0).await;
        }
        Ok(ready.clone())
    }

    async fn connect(&self) -> Result<Ready, BusError> {
        let signals = self.signals.clone();
        let mut options = ConnectOptions::new()
            .name("clawstead-bus")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .request_timeout(Some(self.request_timeout))
            .connection_timeout(self.request_timeout / 2)
            // A server that says nothing is given up after three of these.
            .ping_interval(self.request_timeout / 2)
            .reconnect_delay_callback(|attempt| RECONNECT.0.saturating_mul(1 << attempt.min(10)).min(RECONNECT.1))
            .event_callback(move |event| {
                signals.heard(&event);
                std::future::ready(())
            });
        if let Some(server) = self.servers.iter().find(|server| server.has_user_pass())
            && let Some(user) = server.username()
        {
            options = match server.password() {
                Some(password) => options.user_and_password(decoded(user), decoded(password)),
                None => options.token(decoded(user)),
            };
        }
        if let Some(ca) = &self.tls.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((certificate, key)) = &self.tls.identity {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        if self.servers.iter().any(|server| server.scheme() == "tls") {
            options = options.require_tls(true);
        }
        let client = options.connect(self.servers.as_slice()).await.map_err(|error| self.away(error.to_string()))?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(self.request_timeout);
        Ok(Ready { client, jetstream })
    }

    /// Bounds a request, and finds the reason where there was none in time.
    async fn within<T>(&self, asking: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        let began = Instant::now();
        if let Ok(answer) = timeout(self.request_timeout, asking).await {
            return answer;
        }
        let up = self.ready.get().is_some_and(|ready| ready.client.connection_state() == State::Connected);
        if let Some((_, why)) = self.signals.refusal().filter(|(at, _)| !up || *at >= began) {
            return Err(BusError::Denied { engine: ENGINE, at: self.at.clone(), why });
        }
        let what = if up { "no answer" } else { "no connection" };
        Err(self.away(format!("{what} within {:?}", self.request_timeout)))
    }
}

async fn append(ready: Ready, subject: String, id: String, letter: Bytes) -> Result<jetstream::publish::PublishAck, PublishError> {
    let message = PublishMessage::build().payload(letter).message_id(id);
    ready.jetstream.send_publish(subject, message).await?.await
}
