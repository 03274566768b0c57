//! A typed client: connect, call, listen. Used by the command line, the terminal interface and tests.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_tungstenite::tungstenite::{
    Error as WsError, Message,
    client::IntoClientRequest as _,
    http::{HeaderName, HeaderValue},
    protocol::{CloseFrame, WebSocketConfig},
};

use crate::{
    connect::{Challenge, ClientId, ClientInfo, ClientMode, ConnectAuth, ConnectParams, HelloOk},
    device::DeviceIdentity,
    error::ErrorShape,
    frame::{Event, RequestFrame, Response, ServerFrame},
    limits,
    method::Method,
};

/// Events kept for a listener that is slow; older ones are lost and it is told how many.
pub const EVENTS_BUFFERED_MAX: usize = 4096;
/// Requests that wait to be written.
const WRITES_QUEUED_MAX: usize = 256;

/// How to connect.
#[derive(Clone)]
pub struct ConnectOptions {
    /// `ws://host:port` or `wss://host:port`.
    pub url: String,
    /// Who we are.
    pub client: ClientInfo,
    /// `operator` or `node`.
    pub role: String,
    /// The scopes wanted.
    pub scopes: Vec<String>,
    /// Capabilities, such as `tool-events`.
    pub caps: Vec<String>,
    /// Credentials.
    pub auth: ConnectAuth,
    /// Our key pair, to be paired; none connects without a device.
    pub device: Option<DeviceIdentity>,
    /// Further headers of the upgrade request, such as `Origin`.
    pub headers: Vec<(String, String)>,
    /// Protocol versions spoken.
    pub protocol: std::ops::RangeInclusive<u64>,
    /// Time for the whole handshake.
    pub connect_timeout: Duration,
    /// Time for a call that sets none itself.
    pub call_timeout: Duration,
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions").field("url", &self.url).field("client", &self.client).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

impl ConnectOptions {
    /// Options for a command line that speaks for an operator. `version` is the program's.
    pub fn cli(url: impl Into<String>, version: impl Into<String>) -> Self {
        Self::new(url, ClientId::Cli, ClientMode::Cli, version)
    }

    /// Options for any client.
    pub fn new(url: impl Into<String>, id: ClientId, mode: ClientMode, version: impl Into<String>) -> Self {
        let family = match std::env::consts::OS {
            "linux" => "Linux",
            "macos" => "Mac",
            "windows" => "Windows",
            other => other,
        };
        Self {
            url: url.into(),
            client: ClientInfo {
                id,
                display_name: None,
                version: version.into(),
                build_id: None,
                platform: std::env::consts::OS.to_owned(),
                device_family: Some(family.to_owned()),
                model_identifier: None,
                time_zone: None,
                mode,
                instance_id: None,
            },
            role: "operator".into(),
            scopes: Vec::new(),
            caps: Vec::new(),
            auth: ConnectAuth::default(),
            device: None,
            headers: Vec::new(),
            protocol: u64::from(limits::PROTOCOL)..=u64::from(limits::PROTOCOL),
            connect_timeout: Duration::from_millis(limits::HANDSHAKE_MS),
            call_timeout: Duration::from_secs(30),
        }
    }

    /// The same with scopes.
    #[must_use]
    pub fn scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// The same with the gateway's token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.auth.token = Some(token.into());
        self
    }

    /// The same with the gateway's password.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.auth.password = Some(password.into());
        self
    }

    /// The same with a device identity.
    #[must_use]
    pub fn device(mut self, device: DeviceIdentity) -> Self {
        self.device = Some(device);
        self
    }

    /// The same with capabilities.
    #[must_use]
    pub fn caps<S: Into<String>>(mut self, caps: impl IntoIterator<Item = S>) -> Self {
        self.caps = caps.into_iter().map(Into::into).collect();
        self
    }

    fn params(&self, challenge: &Challenge) -> ConnectParams {
        let mut params = ConnectParams {
            min_protocol: *self.protocol.start(),
            max_protocol: *self.protocol.end(),
            client: self.client.clone(),
            role: Some(self.role.clone()),
            scopes: Some(self.scopes.clone()),
            caps: Some(self.caps.clone()),
            commands: None,
            permissions: None,
            path_env: None,
            computer_use: None,
            worker_runs: None,
            model_catalog: None,
            device: None,
            auth: (self.auth != ConnectAuth::default()).then(|| self.auth.clone()),
            locale: None,
            user_agent: None,
        };
        if let Some(device) = &self.device {
            params.device = Some(device.prove(&params, &challenge.nonce, challenge.ts));
        }
        params
    }
}

/// Why something did not work.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ClientError {
    /// The address is not one.
    #[error("{url} is not a gateway address: {why}")]
    BadUrl {
        /// The address.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody answers there.
    #[error("no gateway answers at {url}: {why}")]
    NotReachable {
        /// The address.
        url: String,
        /// The cause.
        why: String,
    },
    /// The gateway refused the upgrade.
    #[error("{url} answered HTTP {status} instead of a WebSocket")]
    Refused {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The gateway refused `connect`.
    #[error("the gateway refused the connection: {0}")]
    Auth(ErrorShape),
    /// The gateway closed the socket.
    #[error("the gateway closed the connection ({code}{})", if reason.is_empty() { String::new() } else { format!(": {reason}") })]
    Closed {
        /// The close code; 1006 when the socket just ended.
        code: u16,
        /// The reason given.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer to {what} within {ms} ms")]
    Timeout {
        /// The method or step.
        what: String,
        /// The limit.
        ms: u128,
    },
    /// The gateway answered with an error.
    #[error("{0}")]
    Failed(ErrorShape),
    /// What came is not the protocol.
    #[error("the gateway sent something unexpected: {0}")]
    Protocol(String),
}

impl ClientError {
    /// The error the gateway answered with, where it did.
    #[must_use]
    pub const fn shape(&self) -> Option<&ErrorShape> {
        match self {
            Self::Auth(shape) | Self::Failed(shape) => Some(shape),
            _ => None,
        }
    }
}

/// A connected client. Clones share the socket; it closes when the last one goes.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    hello: HelloOk,
    writes: mpsc::Sender<Write>,
    waiting: Waiting,
    /// Weak, so that listeners hear of the end when the pump ends.
    events: broadcast::WeakSender<Event>,
    first_events: Mutex<Option<broadcast::Receiver<Event>>>,
    ended: Ended,
    counter: AtomicU64,
    id_tail: String,
    call_timeout: Duration,
}

type Waiting = Arc<Mutex<BTreeMap<String, mpsc::Sender<Response>>>>;
type Ended = Arc<Mutex<Option<ClientError>>>;

enum Write {
    Text(String),
    Close(oneshot::Sender<()>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("conn_id", &self.shared.hello.server.conn_id).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects over TCP (TLS for `wss`, which needs an installed rustls provider) and completes the handshake.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn connect(options: ConnectOptions) -> Result<Self, ClientError> {
        let url = options.url.clone();
        let bad = |why: String| ClientError::BadUrl { url: url.clone(), why };
        let mut request = url.as_str().into_client_request().map_err(|err| bad(err.to_string()))?;
        for (name, value) in &options.headers {
            let name: HeaderName = name.parse().map_err(|_| bad(format!("{name} is not a header name")))?;
            let value: HeaderValue = value.parse().map_err(|_| bad(format!("the value of {name} is not a header value")))?;
            request.headers_mut().insert(name, value);
        }
        let config = WebSocketConfig::default().max_message_size(Some(limits::FRAME_BYTES_MAX)).max_frame_size(Some(limits::FRAME_BYTES_MAX));
        let opened = tokio::time::timeout(options.connect_timeout, tokio_tungstenite::connect_async_with_config(request, Some(config), true)).await;
        let stream = match opened {
            Ok(Ok((stream, _))) => stream,
            Ok(Err(WsError::Http(response))) => return Err(ClientError::Refused { url, status: response.status().as_u16() }),
            Ok(Err(err)) => return Err(ClientError::NotReachable { url, why: err.to_string() }),
            Err(_) => return Err(ClientError::NotReachable { url, why: format!("no connection within {} ms", options.connect_timeout.as_millis()) }),
        };
        Self::over(stream, options).await
    }

    /// Completes the handshake over an open frame stream.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn over<S>(stream: S, options: ConnectOptions) -> Result<Self, ClientError>
    where
        S: Stream<Item = Result<Message, WsError>> + Sink<Message, Error = WsError> + Send + Unpin + 'static,
    {
        let limit = options.connect_timeout;
        tokio::time::timeout(limit, handshake(stream, options))
            .await
            .unwrap_or_else(|_| Err(ClientError::Timeout { what: "connect".into(), ms: limit.as_millis() }))
    }

    /// What the gateway said at the start.
    #[must_use]
    pub fn hello(&self) -> &HelloOk {
        &self.shared.hello
    }

    /// Calls a method and waits for its answer; for methods that answer twice, for the last one.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn call<M: Method>(&self, params: M::Params) -> Result<M::Result, ClientError> {
        let payload = if M::SPEC.flags.has(crate::method::Flags::TWICE) {
            self.call_final(M::SPEC.name, &params, self.shared.call_timeout).await?
        } else {
            self.request(M::SPEC.name, &params, Last::First, self.shared.call_timeout).await?
        };
        serde_json::from_value(payload).map_err(|err| ClientError::Protocol(format!("the result of {}: {err}", M::SPEC.name)))
    }

    /// Calls any method.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn call_raw(&self, method: &str, params: Value) -> Result<Value, ClientError> {
        self.request(method, &params, Last::First, self.shared.call_timeout).await
    }

    /// Calls any method with its own time limit.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn call_within(&self, method: &str, params: Value, limit: Duration) -> Result<Value, ClientError> {
        self.request(method, &params, Last::First, limit).await
    }

    /// Calls a method that answers `accepted` first, and waits for the second answer.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn call_final<P: Serialize + Sync>(&self, method: &str, params: &P, limit: Duration) -> Result<Value, ClientError> {
        self.request(method, params, Last::Settled, limit).await
    }

    /// Events. The first caller gets everything since the handshake, later ones what comes from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        let first = lock(&self.shared.first_events).take();
        let receiver = first.unwrap_or_else(|| self.shared.events.upgrade().map_or_else(|| broadcast::channel(1).1, |events| events.subscribe()));
        Events { receiver, ended: Arc::clone(&self.shared.ended) }
    }

    /// Why the connection ended, if it did.
    #[must_use]
    pub fn ended(&self) -> Option<ClientError> {
        lock(&self.shared.ended).clone()
    }

    /// Says goodbye and closes the socket.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.shared.writes.send(Write::Close(done)).await.is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(2), closed).await;
        }
    }

    async fn request<P: Serialize>(&self, method: &str, params: &P, last: Last, limit: Duration) -> Result<Value, ClientError> {
        let shared = &self.shared;
        let id = format!("{}:{}", shared.counter.fetch_add(1, Ordering::Relaxed), shared.id_tail);
        let text =
            serde_json::to_string(&RequestFrame::new(&id, method, params)).map_err(|err| ClientError::Protocol(format!("parameters of {method}: {err}")))?;
        // Two answers at most come for one id; a late third one is dropped by the reader.
        let (answers, mut answered) = mpsc::channel(2);
        lock(&shared.waiting).insert(id.clone(), answers);
        let _guard = Forget { waiting: &shared.waiting, id: &id };
        let talk = async {
            shared.writes.send(Write::Text(text)).await.map_err(|_| self.end_reason())?;
            loop {
                let Some(response) = answered.recv().await else { return Err(self.end_reason()) };
                if !response.ok {
                    return Err(ClientError::Failed(response.error.unwrap_or_else(|| ErrorShape::unavailable("no error given"))));
                }
                let payload = response.payload.unwrap_or(Value::Null);
                let accepted = payload.get("status").is_some_and(|status| status == "accepted");
                if last == Last::First || !accepted {
                    return Ok(payload);
                }
            }
        };
        tokio::time::timeout(limit, talk).await.unwrap_or_else(|_| Err(ClientError::Timeout { what: method.to_owned(), ms: limit.as_millis() }))
    }

    fn end_reason(&self) -> ClientError {
        self.ended().unwrap_or(ClientError::Closed { code: 1006, reason: String::new() })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    First,
    Settled,
}

/// Forgets a request when its caller stops waiting.
struct Forget<'a> {
    waiting: &'a Mutex<BTreeMap<String, mpsc::Sender<Response>>>,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(self.id);
    }
}

/// A listener's events.
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    ended: Ended,
}

/// What a listener gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// An event.
    Event(Box<Event>),
    /// This many events were lost because the listener was slow: read the state again.
    Missed(u64),
}

impl Events {
    /// The next event.
    ///
    /// # Errors
    /// The reason when the connection ended.
    pub async fn next(&mut self) -> Result<Heard, ClientError> {
        match self.receiver.recv().await {
            Ok(event) => Ok(Heard::Event(Box::new(event))),
            Err(broadcast::error::RecvError::Lagged(count)) => Ok(Heard::Missed(count)),
            Err(broadcast::error::RecvError::Closed) => Err(lock(&self.ended).clone().unwrap_or(ClientError::Closed { code: 1006, reason: String::new() })),
        }
    }

    /// The next event with this name.
    ///
    /// # Errors
    /// The reason when the connection ended.
    pub async fn named(&mut self, name: &str) -> Result<Event, ClientError> {
        loop {
            if let Heard::Event(event) = self.next().await?
                && event.event == name
            {
                return Ok(*event);
            }
        }
    }
}

async fn handshake<S>(mut stream: S, options: ConnectOptions) -> Result<Client, ClientError>
where
    S: Stream<Item = Result<Message, WsError>> + Sink<Message, Error = WsError> + Send + Unpin + 'static,
{
    let challenge: Challenge = loop {
        match read_frame(&mut stream).await? {
            ServerFrame::Event(event) if event.event == "connect.challenge" => {
                break serde_json::from_value(event.payload.unwrap_or_default()).map_err(|err| ClientError::Protocol(format!("the challenge: {err}")))?;
            }
            ServerFrame::Event(_) => {}
            ServerFrame::Res(_) => return Err(ClientError::Protocol("an answer before any question".into())),
        }
    };
    let id_tail: String = challenge.nonce.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    let id = format!("0:{id_tail}");
    let params = options.params(&challenge);
    let text = serde_json::to_string(&RequestFrame::new(&id, "connect", &params)).map_err(|err| ClientError::Protocol(err.to_string()))?;
    stream.send(Message::text(text)).await.map_err(|err| lost(&err))?;
    let (events, first_events) = broadcast::channel(EVENTS_BUFFERED_MAX);
    let hello = loop {
        match read_frame(&mut stream).await? {
            ServerFrame::Event(event) => {
                let _ = events.send(event);
            }
            ServerFrame::Res(response) if response.ok => {
                break serde_json::from_value(response.payload.unwrap_or_default()).map_err(|err| ClientError::Protocol(format!("hello-ok: {err}")))?;
            }
            ServerFrame::Res(response) => {
                return Err(ClientError::Auth(response.error.unwrap_or_else(|| ErrorShape::unavailable("no error given"))));
            }
        }
    };
    let (writes, queue) = mpsc::channel(WRITES_QUEUED_MAX);
    let waiting: Waiting = Arc::default();
    let ended: Ended = Arc::default();
    let weak_events = events.downgrade();
    tokio::spawn(pump(stream, queue, Arc::clone(&waiting), events, Arc::clone(&ended)));
    let shared = Shared {
        hello,
        writes,
        waiting,
        events: weak_events,
        first_events: Mutex::new(Some(first_events)),
        ended,
        counter: AtomicU64::new(1),
        id_tail,
        call_timeout: options.call_timeout,
    };
    Ok(Client { shared: Arc::new(shared) })
}

/// Carries frames both ways until the socket or the last client ends.
async fn pump<S>(mut stream: S, mut queue: mpsc::Receiver<Write>, waiting: Waiting, events: broadcast::Sender<Event>, ended: Ended)
where
    S: Stream<Item = Result<Message, WsError>> + Sink<Message, Error = WsError> + Send + Unpin + 'static,
{
    let reason = loop {
        tokio::select! {
            biased;
            write = queue.recv() => match write {
                Some(Write::Text(text)) => {
                    if let Err(err) = stream.send(Message::text(text)).await {
                        break lost(&err);
                    }
                }
                Some(Write::Close(done)) => {
                    let _ = stream.close().await;
                    let _ = done.send(());
                    break ClientError::Closed { code: 1000, reason: "closed by this client".into() };
                }
                None => {
                    let _ = stream.close().await;
                    break ClientError::Closed { code: 1000, reason: "closed by this client".into() };
                }
            },
            frame = read_frame(&mut stream) => match frame {
                Ok(ServerFrame::Event(event)) => {
                    let _ = events.send(event);
                }
                Ok(ServerFrame::Res(response)) => {
                    let caller = response.id.as_str().and_then(|id| lock(&waiting).get(id).cloned());
                    if let Some(caller) = caller {
                        let _ = caller.try_send(response);
                    }
                }
                Err(err) => break err,
            },
        }
    };
    *lock(&ended) = Some(reason);
    // Dropping the senders wakes every caller; they read the reason above.
    lock(&waiting).clear();
}

async fn read_frame<S>(stream: &mut S) -> Result<ServerFrame, ClientError>
where
    S: Stream<Item = Result<Message, WsError>> + Unpin,
{
    loop {
        let bytes = match stream.next().await {
            Some(Ok(Message::Text(text))) => bytes::Bytes::from(text),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Close(frame))) => return Err(closed(frame)),
            Some(Ok(_)) => continue,
            Some(Err(err)) => return Err(lost(&err)),
            None => return Err(ClientError::Closed { code: 1006, reason: String::new() }),
        };
        return serde_json::from_slice(&bytes).map_err(|err| ClientError::Protocol(err.to_string()));
    }
}

fn closed(frame: Option<CloseFrame>) -> ClientError {
    frame.map_or(ClientError::Closed { code: 1005, reason: String::new() }, |frame| ClientError::Closed {
        code: frame.code.into(),
        reason: frame.reason.to_string(),
    })
}

fn lost(err: &WsError) -> ClientError {
    match err {
        WsError::ConnectionClosed | WsError::AlreadyClosed => ClientError::Closed { code: 1006, reason: String::new() },
        other => ClientError::Closed { code: 1006, reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{SinkExt as _, StreamExt as _};
    use serde_json::{Value, json};
    use tokio::io::DuplexStream;
    use tokio_tungstenite::{
        WebSocketStream,
        tungstenite::{Message, protocol::Role},
    };

    use super::{Client, ClientError, ConnectOptions};
    use crate::{device::DeviceIdentity, methods::presence};

    async fn pair() -> (WebSocketStream<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        (WebSocketStream::from_raw_socket(near, Role::Client, None).await, WebSocketStream::from_raw_socket(far, Role::Server, None).await)
    }

    async fn say(server: &mut WebSocketStream<DuplexStream>, frame: Value) {
        server.send(Message::text(frame.to_string())).await.unwrap();
    }

    async fn hear(server: &mut WebSocketStream<DuplexStream>) -> Value {
        serde_json::from_str(server.next().await.unwrap().unwrap().to_text().unwrap()).unwrap()
    }

    async fn greet(server: &mut WebSocketStream<DuplexStream>) -> Value {
        say(server, json!({"type": "event", "event": "connect.challenge", "payload": {"nonce": "aa-bb", "ts": 5}})).await;
        let connect = hear(server).await;
        say(
            server,
            json!({"type": "res", "id": connect["id"], "ok": true, "payload": {"type": "hello-ok", "protocol": 4,
            "server": {"version": "1", "connId": "c"}, "features": {"methods": [], "events": []},
            "snapshot": {"presence": [], "health": {}, "stateVersion": {"presence": 1, "health": 1}, "uptimeMs": 1},
            "auth": {"role": "operator", "scopes": []}, "policy": {"maxPayload": 1, "maxBufferedBytes": 1, "tickIntervalMs": 1}}}),
        )
        .await;
        connect
    }

    #[tokio::test]
    async fn calls_events_and_a_close_reach_their_callers() {
        let (near, mut far) = pair().await;
        let server = tokio::spawn(async move {
            let connect = greet(&mut far).await;
            assert_eq!(connect["params"]["device"]["nonce"], "aa-bb");
            let (first, second) = (hear(&mut far).await, hear(&mut far).await);
            // Answers may come in any order.
            say(&mut far, json!({"type": "res", "id": second["id"], "ok": true, "payload": {"status": "accepted"}})).await;
            say(&mut far, json!({"type": "event", "event": "tick", "payload": {"ts": 1}, "seq": 1})).await;
            say(&mut far, json!({"type": "res", "id": first["id"], "ok": true, "payload": {"deviceId": "d", "publicKey": "k"}})).await;
            say(&mut far, json!({"type": "res", "id": second["id"], "ok": true, "payload": {"status": "ok"}})).await;
            let third = hear(&mut far).await;
            say(&mut far, json!({"type": "res", "id": third["id"], "ok": false, "error": {"code": "FORBIDDEN", "message": "missing scope: operator.write"}}))
                .await;
            let _fourth = hear(&mut far).await;
            far.close(Some(tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 1012.into(), reason: "service restart".into() })).await.unwrap();
            while far.next().await.is_some() {}
        });
        let client = Client::over(near, ConnectOptions::cli("ws://x", "1").token("t").device(DeviceIdentity::from_seed(&[7; 32]))).await.unwrap();
        let mut events = client.events();
        let nothing = json!({});
        let (identity, run) = tokio::join!(
            biased;
            client.call::<presence::GatewayIdentityGet>(crate::method::Loose::default()),
            client.call_final("agent", &nothing, Duration::from_secs(5)),
        );
        assert_eq!(identity.unwrap().device_id, "d");
        assert_eq!(run.unwrap(), json!({"status": "ok"}));
        assert_eq!(events.named("tick").await.unwrap().seq, Some(1));
        assert!(matches!(client.call_raw("wake", json!({})).await, Err(ClientError::Failed(shape)) if shape.code == "FORBIDDEN"));
        let ended = client.call_raw("health", json!({})).await.unwrap_err();
        assert_eq!(ended, ClientError::Closed { code: 1012, reason: "service restart".into() });
        assert!(events.named("tick").await.is_err());
        server.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_there_and_no_address_are_told_apart() {
        let err = Client::connect(ConnectOptions::cli("ws://127.0.0.1:1", "1")).await.unwrap_err();
        assert!(matches!(err, ClientError::NotReachable { .. }), "{err}");
        let err = Client::connect(ConnectOptions::cli("not an address", "1")).await.unwrap_err();
        assert!(matches!(err, ClientError::BadUrl { .. }), "{err}");
    }
}
