//! A chat platform for the loopback channel: hands out numbered messages, shows answers, survives every gateway.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

use crate::mock::marks_of;

/// Updates in one answer.
const BATCH: usize = 20;

/// A running platform. Dropping it stops it.
pub struct Platform {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    books: Mutex<Books>,
    news: Notify,
    next_shown: AtomicU64,
}

#[derive(Default)]
struct Books {
    /// All messages ever written here; the id is the place in the list plus one.
    updates: Vec<Value>,
    /// The highest offset a gateway asked for: everything before it counts as stored by the gateway.
    confirmed: u64,
    /// Shown messages by nonce: id, chat and text.
    shown: BTreeMap<String, Shown>,
    calls: Vec<Called>,
}

/// A call of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// When it came.
    pub at: Instant,
    /// Whose it was, where the gateway has [`Platform::url_of`]; else empty.
    pub from: String,
    /// What it wanted.
    pub what: What,
}

/// What a gateway wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Messages from here on.
    Polled {
        /// The first one not stored yet.
        offset: u64,
    },
    /// An answer shown.
    Sent {
        /// What the platform knows repeats by.
        nonce: String,
    },
    /// Whether an answer was shown.
    Looked {
        /// As above.
        nonce: String,
    },
}

/// An answer on the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The platform's id.
    pub id: String,
    /// The chat.
    pub to: String,
    /// What was said.
    pub text: String,
}

impl Platform {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(serve(listener, shared.clone()));
        Ok(Self { address, shared, task })
    }

    /// For `channels.loopback.url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same, for one of several gateways: their calls are told apart.
    #[must_use]
    pub fn url_of(&self, gateway: &str) -> String {
        format!("http://{}/of/{gateway}", self.address)
    }

    /// Every message is handed out once more, to whoever asks from now on, whatever was confirmed: as platforms do that
    /// lose a confirmation. Messages keep their ids.
    pub fn repeat_all(&self) {
        let mut books = self.shared.books();
        let again: Vec<Value> = books.updates.iter().map(|update| update["message"].clone()).collect();
        for message in again {
            let id = books.updates.len() + 1;
            books.updates.push(json!({"id": id, "message": message}));
        }
        drop(books);
        self.shared.news.notify_waiters();
    }

    /// Somebody writes.
    pub fn write(&self, chat: &str, text: &str) {
        let mut books = self.shared.books();
        let id = books.updates.len() + 1;
        let message = json!({"id": format!("m{id}"), "chat": {"kind": "direct", "id": chat}, "sender": {"id": chat, "name": "Somebody"}, "text": text});
        books.updates.push(json!({"id": id, "message": message}));
        drop(books);
        self.shared.news.notify_waiters();
    }

    /// How many messages were written.
    #[must_use]
    pub fn written(&self) -> usize {
        self.shared.books().updates.len()
    }

    /// True when a gateway has confirmed every message as stored.
    #[must_use]
    pub fn all_confirmed(&self) -> bool {
        let books = self.shared.books();
        books.confirmed > books.updates.len() as u64
    }

    /// Everything shown so far.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        self.shared.books().shown.values().cloned().collect()
    }

    /// How often each mark was shown.
    #[must_use]
    pub fn shown_marks(&self) -> BTreeMap<String, usize> {
        let mut marks = BTreeMap::new();
        for mark in self.shown().iter().flat_map(|shown| marks_of(&shown.text).collect::<Vec<_>>()) {
            *marks.entry(mark).or_default() += 1;
        }
        marks
    }

    /// Sends the gateway tried, repeats included.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.shared.books().calls.iter().filter(|call| matches!(call.what, What::Sent { .. })).count()
    }

    /// Every call so far, in the order of arrival.
    #[must_use]
    pub fn calls(&self) -> Vec<Called> {
        self.shared.books().calls.clone()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates from `offset` on, waiting up to `wait` for one.
    async fn updates(&self, offset: u64, wait: Duration) -> Value {
        let end = tokio::time::Instant::now() + wait;
        loop {
            let news = self.news.notified();
            {
                let mut books = self.books();
                books.confirmed = books.confirmed.max(offset);
                let from = usize::try_from(offset.saturating_sub(1)).unwrap_or(usize::MAX);
                let found: Vec<Value> = books.updates.iter().skip(from).take(BATCH).cloned().collect();
                if !found.is_empty() {
                    return json!({"updates": found});
                }
            }
            if tokio::time::timeout_at(end, news).await.is_err() {
                return json!({"updates": []});
            }
        }
    }

    fn send(&self, body: &Value) -> Value {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let mut books = self.books();
        let shown = books.shown.entry(text("nonce")).or_insert_with(|| Shown {
            id: format!("s{}", self.next_shown.fetch_add(1, Ordering::Relaxed) + 1),
            to: text("to"),
            text: text("text"),
        });
        json!({"messageId": shown.id})
    }

    fn sent(&self, nonce: &str) -> Option<Value> {
        self.books().shown.get(nonce).map(|shown| json!({"messageId": shown.id}))
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let shared = shared.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, shared.clone()));
            // A gateway that is killed in the middle is what these tests are about.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Once>, Infallible> {
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let number = |name: &str| query.get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    let path = request.uri().path().to_owned();
    let (from, path) = match path.strip_prefix("/of/").and_then(|rest| rest.split_once('/')) {
        Some((from, rest)) => (from.to_owned(), format!("/{rest}")),
        None => (String::new(), path),
    };
    let note = |what: What| shared.books().calls.push(Called { at: Instant::now(), from: from.clone(), what });
    let (status, body) = match path.as_str() {
        "/updates" => {
            note(What::Polled { offset: number("offset") });
            (StatusCode::OK, shared.updates(number("offset"), Duration::from_secs(number("timeout"))).await)
        }
        "/send" => {
            let body = collect(request.into_body()).await;
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            note(What::Sent { nonce: body["nonce"].as_str().unwrap_or_default().to_owned() });
            (StatusCode::OK, shared.send(&body))
        }
        "/sent" => {
            let nonce = query.get("nonce").cloned().unwrap_or_default();
            note(What::Looked { nonce: nonce.clone() });
            shared.sent(&nonce).map_or((StatusCode::NOT_FOUND, json!({"error": "not shown"})), |body| (StatusCode::OK, body))
        }
        _ => (StatusCode::NOT_FOUND, json!({"error": "no such call"})),
    };
    let mut response = Response::new(Once(Some(Bytes::from(body.to_string()))));
    *response.status_mut() = status;
    Ok(response)
}

async fn collect(mut body: Incoming) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.into_data() {
            all.extend_from_slice(&data);
        }
    }
    all
}

/// A body of one piece.
struct Once(Option<Bytes>);

impl Body for Once {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
