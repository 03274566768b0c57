use std::{
    convert::Infallible,
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    Entry, Options,
    ask::{Ask, Deed, Dialect, Plan, cut, mark_of, plan},
    dialect::{Counts, events, whole},
};

/// Largest request body taken, bytes.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Entries remembered in memory at most; later ones go to the ledger file only.
const REMEMBERED_MAX: usize = 100_000;

/// A running model server. Dropping it stops it.
pub struct MockModel {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    options: Options,
    count: AtomicU64,
    seen: Mutex<Vec<Entry>>,
    ledger: Mutex<Option<std::fs::File>>,
}

impl MockModel {
    /// Starts on 127.0.0.1.
    ///
    /// # Errors
    /// When the port is taken or the ledger cannot be opened.
    pub async fn start(options: Options) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        let address = listener.local_addr()?;
        let ledger = options.ledger.as_ref().map(|path| std::fs::File::options().create(true).append(true).open(path)).transpose()?;
        let shared = Arc::new(Shared { options, count: AtomicU64::new(0), seen: Mutex::default(), ledger: Mutex::new(ledger) });
        let task = tokio::spawn(serve(listener, shared.clone()));
        Ok(Self { address, shared, task })
    }

    /// `http://127.0.0.1:<port>`: the base for Anthropic; OpenAI's dialects want `/v1` after it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `http://127.0.0.1:<port>/v1`.
    #[must_use]
    pub fn v1(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Requests so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// The requests remembered so far (only with `remember`).
    #[must_use]
    pub fn seen(&self) -> Vec<Entry> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs until the process ends.
    pub async fn join(mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for MockModel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Piece = Result<Frame<Bytes>, std::io::Error>;
type Answer = std::pin::Pin<Box<dyn Stream<Item = Piece> + Send>>;

/// A response body over a stream of pieces; an error piece cuts the connection.
struct Flow(Answer);

impl Body for Flow {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Piece>> {
        self.0.poll_next_unpin(cx)
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let _ = socket.set_nodelay(true);
        let shared = shared.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, shared.clone()));
            // A client that goes away in the middle is part of the tests.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Flow>, Infallible> {
    let path = request.uri().path().trim_end_matches('/').to_owned();
    let dialect = match path.rsplit('/').next() {
        Some("completions") => Dialect::Chat,
        Some("responses") => Dialect::Responses,
        Some("messages") => Dialect::Messages,
        Some("models") if request.method() == Method::GET => {
            return Ok(json_response(StatusCode::OK, &json!({"object": "list", "data": [{"id": "mock-1", "object": "model", "owned_by": "mock"}]})));
        }
        Some("count") => return Ok(json_response(StatusCode::OK, &json!({"count": shared.count.load(Ordering::Relaxed)}))),
        _ => return Ok(json_response(StatusCode::NOT_FOUND, &json!({"error": {"message": format!("no such path: {path}"), "type": "not_found_error"}}))),
    };
    let key = key_of(request.headers());
    let body = match collect(request.into_body()).await {
        Ok(body) => body,
        Err(why) => return Ok(failure(dialect, StatusCode::BAD_REQUEST, &why)),
    };
    let n = shared.count.fetch_add(1, Ordering::Relaxed) + 1;
    let ask = match Ask::read(dialect, &body) {
        Ok(ask) => ask,
        Err(why) => return Ok(failure(dialect, StatusCode::BAD_REQUEST, &why)),
    };
    let plan = plan(&ask, &shared.options, n);
    shared.note(entry(n, dialect, &ask, &plan, &body, key, shared.options.remember_bodies));
    Ok(perform(dialect, n, &ask, plan, body.len()).await)
}

async fn collect(mut body: Incoming) -> Result<Bytes, String> {
    let mut all = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
            if all.len() + data.len() > BODY_BYTES_MAX {
                return Err("body too large".into());
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.into())
}

async fn perform(dialect: Dialect, n: u64, ask: &Ask, plan: Plan, bytes: usize) -> Response<Flow> {
    if plan.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(plan.delay_ms)).await;
    }
    let said = if let Deed::Say(text) = &plan.deed { text.len() } else { 40 };
    let counts = Counts { input: bytes / 4 + 1, output: said / 4 + 1 };
    match &plan.deed {
        Deed::Status(code) => {
            let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = failure(dialect, status, &format!("the mock was told to answer {code}"));
            if *code == 429 {
                response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
            }
            response
        }
        Deed::Hang => flow("text/event-stream", stream::pending().boxed()),
        Deed::Garbage => flow("application/json", once(Bytes::from_static(b"\xff\xfe<html>this is not JSON</html>\n\n"))),
        Deed::Cut => {
            let mut parts = events(dialect, &ask.model, n, &plan.deed, plan.pieces, counts);
            parts.truncate(parts.len() / 2);
            let first = stream::iter([Ok(Frame::data(Bytes::from(parts.concat())))]);
            // The pause lets the first half reach the wire: hyper drops what it still holds when a body fails.
            let end = stream::once(async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Err(std::io::Error::other("cut"))
            });
            flow("text/event-stream", first.chain(end).boxed())
        }
        deed if ask.stream => {
            let parts = events(dialect, &ask.model, n, deed, plan.pieces, counts);
            if plan.pace_ms == 0 {
                return flow("text/event-stream", once(Bytes::from(parts.concat())));
            }
            let pace = Duration::from_millis(plan.pace_ms);
            let paced = stream::iter(parts).then(move |part| async move {
                tokio::time::sleep(pace).await;
                Ok(Frame::data(Bytes::from(part)))
            });
            flow("text/event-stream", paced.boxed())
        }
        deed => json_response(StatusCode::OK, &whole(dialect, &ask.model, n, deed, counts)),
    }
}

impl Shared {
    fn note(&self, entry: Entry) {
        if let Some(file) = self.ledger.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            let mut line = serde_json::to_vec(&entry).unwrap_or_default();
            line.push(b'\n');
            let _ = file.write_all(&line);
        }
        if self.options.remember {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() < REMEMBERED_MAX {
                seen.push(entry);
            }
        }
    }
}

fn entry(n: u64, dialect: Dialect, ask: &Ask, plan: &Plan, body: &[u8], key: Option<String>, keep: bool) -> Entry {
    let did = match &plan.deed {
        Deed::Say(_) => "say".to_owned(),
        Deed::Tool { name, .. } => format!("tool:{name}"),
        Deed::Status(code) => format!("status:{code}"),
        Deed::Hang => "hang".to_owned(),
        Deed::Cut => "cut".to_owned(),
        Deed::Garbage => "garbage".to_owned(),
    };
    Entry {
        n,
        dialect,
        model: ask.model.clone(),
        stream: ask.stream,
        messages: ask.messages,
        bytes: body.len(),
        mark: mark_of(&ask.text),
        text: cut(&ask.text, 300).to_owned(),
        results: ask.results.clone(),
        did,
        key,
        body: if keep { serde_json::from_slice(body).ok() } else { None },
    }
}

fn key_of(headers: &HeaderMap) -> Option<String> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
    bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok())).map(str::to_owned)
}

fn once(bytes: Bytes) -> Answer {
    stream::iter([Ok(Frame::data(bytes))]).boxed()
}

fn flow(kind: &'static str, answer: Answer) -> Response<Flow> {
    let mut response = Response::new(Flow(answer));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<Flow> {
    let mut response = flow("application/json", once(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
}

fn failure(dialect: Dialect, status: StatusCode, message: &str) -> Response<Flow> {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400 | 413 => "invalid_request_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    let body = match dialect {
        Dialect::Messages => json!({"type": "error", "error": {"type": kind, "message": message}}),
        _ => json!({"error": {"message": message, "type": kind, "param": null, "code": null}}),
    };
    json_response(status, &body)
}
