//! One place to send a request to, and the driver that turns a streamed answer into chunks. The dialects only
//! write a body and decode events; time limits, cut streams, error bodies and secrets are handled here.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use clawstead_world::{Http, HttpError, HttpRequest, NetPolicy, Rng};
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::{
    Chunk, ChunkStream, ErrorKind, ModelSpec, ProviderError,
    sort::{self, Fault},
    sse::{SseEvent, SseParser},
};

/// Time until the response head, milliseconds, unless the provider's `timeoutSeconds` says otherwise.
pub const HEAD_TIMEOUT_MS: u64 = 60_000;
/// Time between two pieces of an answer, milliseconds, unless configured otherwise.
pub const IDLE_TIMEOUT_MS: u64 = 120_000;
/// Time without a whole event, milliseconds: ends servers that only send comments or drip bytes.
pub const EVENT_TIMEOUT_MS: u64 = 600_000;
/// After the model said why it stopped: how long to wait for usage and the end, milliseconds.
const TAIL_TIMEOUT_MS: u64 = 2_000;
/// Bytes of a whole answer at most.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of an error body that are read at most.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Said of a stream that ended before its first byte.
pub(crate) const EMPTY_STREAM: &str = "the server closed the stream without a word";

/// Where and how one model is asked: address, key, limits.
#[derive(Clone)]
pub struct Endpoint {
    /// The client.
    pub http: Http,
    /// For ids of calls that the server left without one.
    pub rng: Arc<dyn Rng>,
    /// What is known of the model.
    pub spec: Arc<ModelSpec>,
    /// Address without a trailing slash.
    pub base_url: String,
    /// Extra headers and the key's header.
    pub headers: HeaderMap,
    /// Never shown; replaced in the server's words.
    pub secrets: Vec<String>,
    /// Time until the response head, milliseconds.
    pub head_timeout_ms: u64,
    /// Time between two pieces, milliseconds.
    pub idle_timeout_ms: u64,
    /// Time without a whole event, milliseconds.
    pub event_timeout_ms: u64,
}

/// Turns events into chunks. Pure, so that recorded streams can be replayed.
pub(crate) trait Decode: Send + 'static {
    /// Takes one event.
    fn event(&mut self, event: &SseEvent, out: &mut VecDeque<Chunk>) -> Result<Progress, Fault>;
    /// Takes a whole answer from a host that does not stream.
    fn whole(&mut self, body: &Value, out: &mut VecDeque<Chunk>) -> Result<(), Fault>;
    /// The server closed the stream. Pushes what is still due, or says that the answer was cut.
    fn end(&mut self, out: &mut VecDeque<Chunk>) -> Result<(), Fault>;
}

/// Where an answer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More comes.
    More,
    /// The model stopped; usage may follow.
    Stopped,
    /// The last chunk was pushed.
    Done,
}

impl Endpoint {
    pub(crate) fn error(&self, fault: Fault) -> ProviderError {
        ProviderError {
            kind: fault.kind,
            provider: self.spec.provider.clone(),
            model: self.spec.id.clone(),
            message: sort::cut(&sort::without_secrets(&fault.message, &self.secrets)),
            status: fault.status,
            retry_after_ms: fault.retry_after_ms,
        }
    }

    pub(crate) fn http_error(&self, err: &HttpError) -> ProviderError {
        let kind = match err {
            HttpError::Timeout { .. } => ErrorKind::Timeout,
            HttpError::Connect { .. } | HttpError::Body { .. } => ErrorKind::Network,
            HttpError::Blocked { .. } | HttpError::Setup(_) => ErrorKind::Request,
        };
        self.error(Fault::new(kind, err.to_string()))
    }

    /// Posts a body and answers with the stream of chunks once the server accepted it.
    pub(crate) async fn ask(&self, path: &str, body: Vec<u8>, mut decoder: impl Decode) -> Result<ChunkStream, ProviderError> {
        let mut request = HttpRequest::new(http::Method::POST, format!("{}{path}", self.base_url), NetPolicy::Trusted);
        request.headers = self.headers.clone();
        request.headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        request.headers.insert(http::header::ACCEPT, http::HeaderValue::from_static("text/event-stream"));
        request.body = Some(Bytes::from(body));
        request.head_timeout_ms = self.head_timeout_ms;
        let response = match self.http.send(request.clone()).await {
            // A kept-alive connection that the server closed at the same moment: the usual race, one more try.
            Err(HttpError::Connect { why, .. }) if why.contains("closed before message completed") => self.http.send(request).await,
            other => other,
        }
        .map_err(|e| self.http_error(&e))?;
        let idle = Duration::from_millis(self.idle_timeout_ms);
        if !response.status.is_success() {
            let (status, headers) = (response.status.as_u16(), response.headers.clone());
            let body = match timeout(idle.min(Duration::from_secs(10)), response.read(ERROR_BYTES_MAX)).await {
                Ok(Ok((body, _))) => body,
                _ => Vec::new(),
            };
            return Err(self.error(sort::response(status, &headers, &body)));
        }
        let is_json = response.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(|t| t.starts_with("application/json"));
        if is_json {
            // The host does not stream (or hides an error behind status 200).
            let limit = Duration::from_millis(EVENT_TIMEOUT_MS.max(self.idle_timeout_ms));
            let (body, was_cut) = match timeout(limit, response.read(ANSWER_BYTES_MAX)).await {
                Ok(read) => read.map_err(|e| self.http_error(&e))?,
                Err(_) => return Err(self.error(Fault::new(ErrorKind::Timeout, "the answer did not end in time"))),
            };
            let value = if was_cut { None } else { serde_json::from_slice::<Value>(&body).ok() };
            if let Some(value) = value {
                if value.get("error").is_some_and(|e| !e.is_null()) {
                    return Err(self.error(sort::said(&value, None)));
                }
                let mut out = VecDeque::new();
                decoder.whole(&value, &mut out).map_err(|f| self.error(f))?;
                return Ok(stream::iter(out.into_iter().map(Ok)).boxed());
            }
            // Some hosts stream events under this content type.
            let bytes: stream::BoxStream<'static, Result<Bytes, HttpError>> = stream::iter([Ok(Bytes::from(body))]).boxed();
            return Ok(self.drive(bytes, decoder));
        }
        Ok(self.drive(response.body, decoder))
    }

    fn drive(&self, body: stream::BoxStream<'static, Result<Bytes, HttpError>>, decoder: impl Decode) -> ChunkStream {
        let state = Drive {
            endpoint: self.clone(),
            body,
            decoder,
            parser: SseParser::default(),
            events: VecDeque::new(),
            chunks: VecDeque::new(),
            progress: Progress::More,
            failed: None,
            bytes: 0,
            last_event: Instant::now(),
        };
        stream::unfold(state, |mut state| async move {
            let item = state.next().await?;
            Some((item, state))
        })
        .boxed()
    }
}

struct Drive<D> {
    endpoint: Endpoint,
    body: stream::BoxStream<'static, Result<Bytes, HttpError>>,
    decoder: D,
    parser: SseParser,
    events: VecDeque<SseEvent>,
    chunks: VecDeque<Chunk>,
    progress: Progress,
    failed: Option<ProviderError>,
    bytes: usize,
    last_event: Instant,
}

impl<D: Decode> Drive<D> {
    async fn next(&mut self) -> Option<Result<Chunk, ProviderError>> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Some(Ok(chunk));
            }
            if let Some(error) = self.failed.take() {
                self.progress = Progress::Done;
                return Some(Err(error));
            }
            if self.progress == Progress::Done {
                return None;
            }
            if let Err(fault) = self.step().await {
                self.failed = Some(self.endpoint.error(fault));
            }
        }
    }

    async fn step(&mut self) -> Result<(), Fault> {
        while let Some(event) = self.events.pop_front() {
            let progress = self.decoder.event(&event, &mut self.chunks)?;
            if progress != Progress::More {
                self.progress = progress;
            }
            if !self.chunks.is_empty() || self.progress == Progress::Done {
                return Ok(());
            }
        }
        let limit_ms = if self.progress == Progress::Stopped { TAIL_TIMEOUT_MS.min(self.endpoint.idle_timeout_ms) } else { self.endpoint.idle_timeout_ms };
        let next = match timeout(Duration::from_millis(limit_ms), self.body.next()).await {
            Ok(next) => next,
            Err(_) if self.progress == Progress::Stopped => None,
            Err(_) => return Err(Fault::new(ErrorKind::Timeout, format!("nothing came for {limit_ms} ms"))),
        };
        match next {
            Some(Ok(bytes)) => {
                self.bytes = self.bytes.saturating_add(bytes.len());
                if self.bytes > ANSWER_BYTES_MAX {
                    return Err(Fault::new(ErrorKind::Garbage, format!("the answer is longer than {ANSWER_BYTES_MAX} bytes")));
                }
                self.parser.feed(&bytes, &mut self.events).map_err(|e| Fault::new(ErrorKind::Garbage, e.to_string()))?;
                let now = Instant::now();
                if !self.events.is_empty() {
                    self.last_event = now;
                } else if now.duration_since(self.last_event) > Duration::from_millis(self.endpoint.event_timeout_ms) {
                    return Err(Fault::new(ErrorKind::Timeout, format!("no whole event came for {} ms", self.endpoint.event_timeout_ms)));
                }
                Ok(())
            }
            Some(Err(_)) if self.bytes == 0 => Err(Fault::new(ErrorKind::Network, EMPTY_STREAM)),
            Some(Err(err)) => {
                if self.progress == Progress::Stopped {
                    return self.finish();
                }
                Err(Fault::new(ErrorKind::Network, err.to_string()))
            }
            None if self.bytes == 0 => Err(Fault::new(ErrorKind::Network, EMPTY_STREAM)),
            None => {
                if self.progress == Progress::More {
                    self.parser.finish(&mut self.events).map_err(|e| Fault::new(ErrorKind::Garbage, e.to_string()))?;
                    while let Some(event) = self.events.pop_front() {
                        let progress = self.decoder.event(&event, &mut self.chunks)?;
                        if progress == Progress::Done {
                            self.progress = progress;
                            return Ok(());
                        }
                    }
                }
                self.finish()
            }
        }
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.decoder.end(&mut self.chunks)?;
        self.progress = Progress::Done;
        Ok(())
    }
}

/// Tool arguments as a model wrote them: parsed, `{}` when empty, a JSON string when they are no JSON.
pub(crate) fn arguments(raw: &str) -> Value {
    if raw.trim().is_empty() {
        return Value::Object(serde_json::Map::new());
    }
    serde_json::from_str(raw).unwrap_or_else(|_| Value::String(raw.to_owned()))
}
