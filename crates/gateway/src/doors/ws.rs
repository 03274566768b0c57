//! One WebSocket: challenge, handshake, requests, keep-alive, close.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _, poll, stream::SplitSink};
use serde_json::{Value, json, value::RawValue};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Error as WsError, Message,
        protocol::{CloseFrame, Role as WsRole, WebSocketConfig},
    },
};
use tokio_util::sync::CancellationToken;

use clawstead_wire::{
    ErrorShape,
    connect::{Challenge, ConnectParams, Refusal},
    frame::{EventText, FrameFault, Request, response_text},
    limits::{self, close, close_reason},
};

use super::{
    Doors,
    auth::Peer,
    handshake::{Admission, claims_worker},
    limits::SocketPlace,
};
use crate::{
    fanout::{Farewell, Item, Listener, Next, Outbox, Subscriptions},
    observe,
    presence::{blank, is_ephemeral},
    rpc::{Cx, Readiness, Role},
};

/// Requests of one connection that run at once; more are told to come again.
pub const REQUESTS_AT_ONCE_MAX: usize = 128;
/// Bytes buffered each way in the WebSocket library, for one socket.
const SOCKET_BUFFER_BYTES: usize = 8 * 1024;
/// Bytes read from a socket before it is authenticated: the queued handshake frames and some framing.
const PREAUTH_BYTES_MAX: usize = limits::PREAUTH_FRAME_BYTES_MAX * (limits::HANDSHAKE_QUEUE_MAX + 2);
/// How long the other side has to answer our close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// How long nothing must come before a connection that sends garbage is let go.
const DRAIN_IDLE: Duration = Duration::from_millis(200);

/// A byte stream that stops reading after [`PREAUTH_BYTES_MAX`] until it is opened.
pub struct Gate<S> {
    inner: S,
    read: usize,
    open: Arc<AtomicBool>,
}

impl<S> Gate<S> {
    /// A closed gate, and the switch that opens it.
    pub fn new(inner: S) -> (Self, Arc<AtomicBool>) {
        let open = Arc::new(AtomicBool::new(false));
        (Self { inner, read: 0, open: Arc::clone(&open) }, open)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.open.load(Ordering::Relaxed) {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        if self.read > PREAUTH_BYTES_MAX {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many bytes before authentication")));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.read += buf.filled().len() - before;
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

type Socket<S> = WebSocketStream<Gate<S>>;

/// What came from the client.
enum Heard {
    Bytes(Bytes),
    Alive,
    TooBig,
    Gone,
}

fn heard(message: Option<Result<Message, WsError>>) -> Heard {
    match message {
        Some(Ok(Message::Text(text))) => Heard::Bytes(text.into()),
        Some(Ok(Message::Binary(bytes))) => Heard::Bytes(bytes),
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Heard::Alive,
        Some(Err(WsError::Capacity(_))) => Heard::TooBig,
        Some(Err(WsError::Io(err))) if err.kind() == io::ErrorKind::QuotaExceeded => Heard::TooBig,
        Some(Ok(Message::Close(_)) | Err(_)) | None => Heard::Gone,
    }
}

/// Serves one socket from the upgrade to its end. `place` counts as long as it is not authenticated.
pub async fn serve_socket<S>(doors: Arc<Doors>, io: S, peer: Peer, place: SocketPlace)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (gate, open) = Gate::new(io);
    // The library's own buffers are 128 KiB each way and socket; a thousand idle clients must not cost that.
    let config = WebSocketConfig::default()
        .read_buffer_size(SOCKET_BUFFER_BYTES)
        .write_buffer_size(SOCKET_BUFFER_BYTES)
        .max_message_size(Some(limits::FRAME_BYTES_MAX))
        .max_frame_size(Some(limits::FRAME_BYTES_MAX));
    let mut socket = WebSocketStream::from_raw_socket(gate, WsRole::Server, Some(config)).await;
    let deadline = Instant::now() + Duration::from_millis(doors.settings().handshake_ms);
    let conn_id = doors.world().rng.uuid();
    let ended = timeout_at(deadline, handshake(&doors, &mut socket, &peer, &conn_id)).await;
    let (admission, request_id, queued) = match ended {
        Ok(Ok(done)) => done,
        Ok(Err(Parting::Silent)) => return,
        Ok(Err(Parting::Close(farewell))) => return part(socket, farewell).await,
        Err(_) => return part(socket, Farewell { code: close::NORMAL, reason: String::new() }).await,
    };
    open.store(true, Ordering::Relaxed);
    drop(place);
    operate(doors, socket, &peer, admission, request_id, queued).await;
}

/// How a handshake ends without success.
enum Parting {
    Silent,
    Close(Farewell),
}

fn goodbye(code: u16, reason: &str) -> Parting {
    Parting::Close(Farewell { code, reason: reason.to_owned() })
}

async fn part<S: AsyncRead + AsyncWrite + Unpin>(mut socket: Socket<S>, farewell: Farewell) {
    let frame = CloseFrame { code: farewell.code.into(), reason: close_reason(&farewell.reason).into() };
    if let Ok(Ok(())) = timeout(CLOSE_WAIT, socket.close(Some(frame))).await {
        linger(socket).await;
    }
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>, text: String) -> Result<(), Parting> {
    socket.send(Message::text(text)).await.map_err(|_| Parting::Silent)
}

type Admitted = (Admission, Value, VecDeque<Bytes>);

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(doors: &Arc<Doors>, socket: &mut Socket<S>, peer: &Peer, conn_id: &str) -> Result<Admitted, Parting> {
    let nonce = doors.world().rng.uuid();
    let challenge = Challenge { nonce: nonce.clone(), ts: doors.world().clock.now().0, capabilities: vec!["model-catalog-snapshot".into()] };
    send(socket, EventText::new("connect.challenge", &challenge, None).frame(None)).await?;
    let bytes = loop {
        match heard(socket.next().await) {
            Heard::Bytes(bytes) if bytes.len() > limits::PREAUTH_FRAME_BYTES_MAX => return Err(goodbye(close::TOO_BIG, "")),
            Heard::Bytes(bytes) => break bytes,
            Heard::Alive => {}
            Heard::TooBig => return Err(goodbye(close::TOO_BIG, "")),
            Heard::Gone => return Err(Parting::Silent),
        }
    };
    let request = match Request::parse(&bytes) {
        Ok(request) => request,
        Err(FrameFault::NotJson) => return Err(goodbye(close::NORMAL, "")),
        Err(FrameFault::NotRequest { .. }) => return Err(goodbye(close::POLICY, "invalid request frame")),
    };
    if request.method == "connect" && claims_worker(&request.params) {
        return Err(goodbye(close::POLICY, "invalid-handshake"));
    }
    let id = Value::String(request.id);
    let outcome = if request.method == "connect" {
        match ConnectParams::parse(request.params) {
            Ok(params) => {
                let (outcome, queued) = admit_while_reading(doors, socket, peer, &params, &nonce, conn_id).await?;
                match outcome {
                    Ok(admission) => return Ok((describe(admission, &params), id, queued)),
                    Err(refusal) => refusal,
                }
            }
            Err(detail) => Refusal::policy(ErrorShape::params("connect", &detail)),
        }
    } else {
        Refusal::policy(ErrorShape::invalid("invalid handshake: first request must be connect"))
    };
    tracing::info!(code = outcome.error.code, message = %outcome.error.message, "a connection was refused");
    send(socket, response_text(&id, Err(&outcome.error))).await?;
    Err(goodbye(outcome.close_code, &outcome.close_reason))
}

/// Keeps what the client said of itself for presence.
fn describe(mut admission: Admission, params: &ConnectParams) -> Admission {
    let client = &params.client;
    admission.about = json!({ "version": client.version, "platform": client.platform, "deviceFamily": client.device_family,
        "instanceId": client.instance_id, "displayName": client.display_name, "timeZone": client.time_zone, "modelIdentifier": client.model_identifier });
    admission.models_for = params.model_catalog.as_ref().map(|wanted| Value::Object(wanted.0.clone()));
    admission
}

/// Decides about `connect` while further frames are queued, a few at most.
async fn admit_while_reading<S: AsyncRead + AsyncWrite + Unpin>(
    doors: &Arc<Doors>,
    socket: &mut Socket<S>,
    peer: &Peer,
    params: &ConnectParams,
    nonce: &str,
    conn_id: &str,
) -> Result<(Result<Admission, Refusal>, VecDeque<Bytes>), Parting> {
    let mut queued = VecDeque::new();
    let mut admitting = std::pin::pin!(doors.admit(peer, params, nonce, conn_id));
    loop {
        tokio::select! {
            biased;
            outcome = &mut admitting => return Ok((outcome, queued)),
            message = socket.next() => match heard(message) {
                Heard::Bytes(bytes) if bytes.len() > limits::PREAUTH_FRAME_BYTES_MAX => return Err(goodbye(close::TOO_BIG, "")),
                Heard::Bytes(bytes) => {
                    if queued.len() >= limits::HANDSHAKE_QUEUE_MAX {
                        return Err(goodbye(close::POLICY, "too many pending handshake frames"));
                    }
                    queued.push_back(bytes);
                }
                Heard::Alive => {}
                Heard::TooBig => return Err(goodbye(close::TOO_BIG, "")),
                Heard::Gone => return Err(Parting::Silent),
            },
        }
    }
}

/// A connection that was admitted.
struct Line {
    doors: Arc<Doors>,
    admission: Admission,
    outbox: Arc<Outbox>,
    subscriptions: Arc<Subscriptions>,
    places: Arc<Semaphore>,
    role_faults: AtomicU32,
}

async fn operate<S>(doors: Arc<Doors>, socket: Socket<S>, peer: &Peer, admission: Admission, request_id: Value, queued: VecDeque<Bytes>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (outbox, subscriptions) = (Arc::new(Outbox::default()), Arc::new(Subscriptions::default()));
    let hello = match serde_json::value::to_raw_value(&admission.hello) {
        Ok(raw) => response_text(&request_id, Ok(&raw)),
        Err(err) => response_text(&request_id, Err(&ErrorShape::unavailable(err.to_string()))),
    };
    outbox.push_text(hello);
    let caller = Arc::clone(&admission.caller);
    doors.fanout().join(Listener::new(Arc::clone(&caller), Arc::clone(&subscriptions), Arc::clone(&outbox)));
    let presence_key = announce(&doors, &admission, peer);
    if caller.role == Role::Node {
        outbox.push_direct(&EventText::new("voicewake.changed", &json!({ "triggers": [] }), None));
    }
    let (sink, mut stream) = socket.split();
    let written = CancellationToken::new();
    let writer = tokio::spawn(write(sink, Arc::clone(&outbox), written.clone()));
    let line = Line {
        doors: Arc::clone(&doors),
        admission,
        outbox,
        subscriptions,
        places: Arc::new(Semaphore::new(REQUESTS_AT_ONCE_MAX)),
        role_faults: AtomicU32::new(0),
    };
    line.publish_models().await;
    for bytes in queued {
        line.take(&bytes).await;
    }
    let period = Duration::from_millis(limits::PING_MS);
    let mut pings = interval_at(Instant::now() + period, period);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut alive = true;
    loop {
        tokio::select! {
            biased;
            () = written.cancelled() => break,
            message = stream.next() => match heard(message) {
                Heard::Bytes(bytes) => {
                    alive = true;
                    line.take(&bytes).await;
                }
                Heard::Alive => alive = true,
                Heard::TooBig => {
                    line.outbox.abort(close::TOO_BIG, "");
                    written.cancelled().await;
                    break;
                }
                Heard::Gone => break,
            },
            _ = pings.tick() => {
                if !alive {
                    tracing::info!(conn = caller.conn_id, "a client did not answer the ping");
                    break;
                }
                alive = false;
                line.outbox.push_ping();
            }
        }
    }
    doors.fanout().leave(&caller.conn_id);
    if let Some(key) = presence_key
        && doors.presence().left(&key, doors.world().clock.now().0)
    {
        doors.send_presence();
    }
    if !written.is_cancelled() {
        return writer.abort();
    }
    // We said goodbye: let the other side answer, so that it sees our code.
    if let Ok(Ok(sink)) = timeout(CLOSE_WAIT, writer).await
        && let Ok(socket) = sink.reunite(stream)
    {
        linger(socket).await;
    }
}

/// Waits for the answer to our close. When what comes cannot be read as frames any more (a frame was too large), it
/// is read and thrown away for a moment: closing with unread data would reset the connection, and the client would
/// not see our code.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut socket: Socket<S>) {
    let wait = async {
        loop {
            match socket.next().await {
                Some(Ok(_)) => {}
                None | Some(Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) => return,
                Some(Err(_)) => break,
            }
        }
        let mut raw = socket.into_inner().inner;
        let mut waste = vec![0; 64 * 1024];
        while let Ok(Ok(read)) = timeout(DRAIN_IDLE, raw.read(&mut waste)).await {
            if read == 0 {
                return;
            }
        }
    };
    let _ = timeout(CLOSE_WAIT, wait).await;
}

/// Adds a client that stays to the presence list.
fn announce(doors: &Doors, admission: &Admission, peer: &Peer) -> Option<String> {
    let caller = &admission.caller;
    let (id, mode) = (caller.client_id?, caller.client_mode?);
    if is_ephemeral(id, mode) {
        return None;
    }
    let now = doors.world().clock.now().0;
    let about = |name: &str| admission.about.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut entry = blank(now);
    entry.host = about("displayName").or_else(|| Some(id.as_str().to_owned()));
    entry.client_id = Some(id.as_str().to_owned());
    entry.ip = (!peer.is_direct_local()).then(|| peer.client.to_string());
    (entry.version, entry.platform, entry.device_family, entry.instance_id) = (about("version"), about("platform"), about("deviceFamily"), about("instanceId"));
    entry.mode = Some(mode.as_str().to_owned());
    entry.reason = Some("connect".into());
    entry.device_id.clone_from(&caller.device_id);
    entry.roles = Some(vec![caller.role.as_str().to_owned()]);
    entry.scopes = Some(caller.scopes.clone());
    entry.online_since = Some(now);
    entry.text = Some(format!("Node: {} · mode {}", entry.host.as_deref().unwrap_or("unknown"), mode.as_str()));
    let key = caller.device_id.clone().unwrap_or_else(|| caller.conn_id.clone());
    doors.presence().joined(&key, entry);
    doors.send_presence();
    Some(key)
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<Socket<S>, Message>,
    outbox: Arc<Outbox>,
    written: CancellationToken,
) -> SplitSink<Socket<S>, Message> {
    loop {
        match outbox.next().await {
            Next::Items(items) => {
                let batch = async {
                    for item in &items {
                        let message = match item {
                            Item::Text(text) => Message::text(text.clone()),
                            Item::Event(event, seq) => Message::text(event.frame(*seq)),
                            Item::Ping => Message::Ping(Bytes::new()),
                        };
                        sink.feed(message).await?;
                    }
                    sink.flush().await
                };
                let done = tokio::select! {
                    biased;
                    done = batch => done.is_ok(),
                    () = outbox.overflowed() => false,
                };
                outbox.written(&items);
                if !done {
                    break;
                }
            }
            Next::Farewell(farewell) => {
                let frame = CloseFrame { code: farewell.code.into(), reason: close_reason(&farewell.reason).into() };
                let _ = timeout(CLOSE_WAIT, sink.send(Message::Close(Some(frame)))).await;
                break;
            }
        }
    }
    written.cancel();
    sink
}

impl Line {
    /// A client that asked for the models in its `connect` gets them at once, as `models.list` shows them.
    async fn publish_models(&self) {
        let Some(target) = &self.admission.models_for else { return };
        let cx = Cx::on_connection(Arc::clone(&self.admission.caller), Arc::clone(&self.subscriptions), Arc::clone(&self.outbox), Value::Null);
        let readiness = if self.doors.is_ready() { Readiness::Ready } else { Readiness::Starting };
        let now = self.doors.world().clock.now().0;
        let asked = self.doors.router().call(cx, "models.list", json!({ "view": "configured" }), readiness, now).await;
        if let Some(catalog) = asked.ok().and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok()) {
            self.outbox.push_direct(&EventText::new("models.snapshot", &json!({ "target": target, "scope": target, "catalog": catalog }), None));
        }
    }

    /// Takes one message of an admitted client.
    async fn take(&self, bytes: &[u8]) {
        let request = match Request::parse(bytes) {
            Ok(request) => request,
            // Text that is not JSON is ignored, as clients expect.
            Err(FrameFault::NotJson) => return,
            Err(FrameFault::NotRequest { id, detail }) => {
                return self.refuse(&id, &ErrorShape::invalid(format!("invalid request frame: {detail}")));
            }
        };
        let id = Value::String(request.id);
        if request.method == "connect" {
            return self.refuse(&id, &ErrorShape::invalid("connect is only valid as the first request"));
        }
        if request.expected_profile_id.is_some() {
            // There are no profiles here, so no client can be right about one.
            let error = ErrorShape::invalid("Selected account changed or is unavailable. Select the account again before retrying.")
                .with_details(json!({ "reason": "EXPECTED_PROFILE_MISMATCH", "execution": "not_started" }));
            return self.refuse(&id, &error);
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let mut error = ErrorShape::unavailable("The server is busy. Please try again in a moment.");
            error.retryable = Some(true);
            return self.refuse(&id, &error);
        };
        let cx = Cx::on_connection(Arc::clone(&self.admission.caller), Arc::clone(&self.subscriptions), Arc::clone(&self.outbox), id.clone());
        let doors = Arc::clone(&self.doors);
        let call = async move {
            let readiness = if doors.is_ready() { Readiness::Ready } else { Readiness::Starting };
            let now = doors.world().clock.now().0;
            let work = doors.router().call(cx, &request.method, request.params, readiness, now);
            observe::measured(doors.world(), &request.method, request.traceparent.as_deref(), work).await
        };
        let mut call: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(AssertUnwindSafe(call).catch_unwind());
        // Polled once here: handlers start in the order of their requests, and quick ones need no task.
        if let Poll::Ready(outcome) = poll!(&mut call) {
            return self.answer(&id, outcome.unwrap_or_else(|_| Err(crashed())));
        }
        self.role_faults.store(0, Ordering::Relaxed);
        let outbox = Arc::clone(&self.outbox);
        tokio::spawn(async move {
            let outcome = call.await.unwrap_or_else(|_| Err(crashed()));
            outbox.push_text(response_text(&id, outcome.as_deref()));
            drop(place);
        });
    }

    fn answer(&self, id: &Value, outcome: Result<Box<RawValue>, ErrorShape>) {
        let wrong_role = outcome.as_ref().is_err_and(|error| error.message.starts_with("unauthorized role"));
        if wrong_role {
            if self.role_faults.fetch_add(1, Ordering::Relaxed) >= limits::ROLE_FAULTS_MAX {
                return self.outbox.close(close::POLICY, "repeated unauthorized calls");
            }
        } else {
            self.role_faults.store(0, Ordering::Relaxed);
        }
        self.outbox.push_text(response_text(id, outcome.as_deref()));
    }

    fn refuse(&self, id: &Value, error: &ErrorShape) {
        self.outbox.push_text(response_text(id, Err(error)));
    }
}

fn crashed() -> ErrorShape {
    ErrorShape::unavailable("a fault in the gateway ended this request; its log says more")
}
