//! One TLS connection between two gateways: a queue to write from, what waits for answers, and what is being served.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use clawstead_terms::{Failure, Millis};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::{
    codec::{FramedRead, LengthDelimitedCodec},
    sync::CancellationToken,
};

use super::{
    Direction, Event, Progress,
    certificate::Presented,
    frame::{BlobPart, Frame, Hello, Id},
    writer::{Outbox, Outgoing, WRITE_STALL},
};

/// Frames that wait to be written on one link.
pub(crate) const QUEUE_FRAMES_MAX: usize = 1024;
/// KiB that wait to be written on one link: two of the largest frames and a little.
const QUEUE_KIB_MAX: usize = 64 * 1024;
/// Pings, pongs and cancels that wait to be written; they go first.
const URGENT_MAX: usize = 256;
/// Events of one call that wait for its caller, and their bytes. Beyond it the call is given up, so that one slow
/// caller does not hold up the others on the link.
const EVENTS_MAX: usize = 4096;
const EVENTS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// When a caller may try again after the queue was full, ms.
pub(crate) const FULL_RETRY_MS: u64 = 200;

/// What waits for an answer.
pub(crate) enum Waiting {
    Call(Caller),
    Value(oneshot::Sender<Result<Value, Failure>>),
    Blob(oneshot::Sender<Result<BlobPart, Failure>>),
}

impl Waiting {
    fn fail(self, failure: Failure) {
        // Who does not wait any more needs no answer.
        match self {
            Self::Call(caller) => caller.finish(Err(failure)),
            Self::Value(to) => drop(to.send(Err(failure))),
            Self::Blob(to) => drop(to.send(Err(failure))),
        }
    }
}

/// The caller of a call, as the link sees it.
pub(crate) struct Caller {
    pub to: mpsc::UnboundedSender<(usize, Progress)>,
    pub held: Arc<Held>,
}

/// Events that wait for a caller.
#[derive(Default)]
pub(crate) struct Held {
    pub events: AtomicUsize,
    pub bytes: AtomicUsize,
}

impl Caller {
    fn finish(self, outcome: Result<Value, Failure>) {
        let _ = self.to.send((0, Progress::Answer(outcome)));
    }

    /// False when too much waits already.
    fn event(&self, event: Event, bytes: usize) -> bool {
        if self.held.events.fetch_add(1, Ordering::Relaxed) >= EVENTS_MAX || self.held.bytes.fetch_add(bytes, Ordering::Relaxed) >= EVENTS_BYTES_MAX {
            return false;
        }
        let _ = self.to.send((bytes, Progress::Event(event)));
        true
    }
}

/// Why something did not get onto a link.
pub(crate) enum NotSent {
    /// The link takes no more calls; another one may.
    Gone,
    /// Final.
    Failed(Failure),
}

#[derive(Default)]
struct Inner {
    waiting: BTreeMap<u64, Waiting>,
    serving: BTreeMap<u64, CancellationToken>,
    drain_sent: bool,
    drain_got: bool,
    closed: Option<String>,
    pings: BTreeMap<u64, Instant>,
}

/// Who is at the other end, and how it came.
pub(crate) struct About {
    pub number: u64,
    pub direction: Direction,
    pub address: String,
    pub presented: Presented,
    pub own_kid: String,
    pub own_serial: String,
    pub hello: Hello,
    pub since: Millis,
}

/// One connection.
pub(crate) struct Link {
    pub about: About,
    pub opened: Instant,
    peer_text: String,
    queue: mpsc::Sender<Outgoing>,
    urgent: mpsc::Sender<Bytes>,
    room: Arc<Semaphore>,
    inner: Mutex<Inner>,
    ids: AtomicU64,
    pub closed: CancellationToken,
    /// Microseconds; 0 while unknown.
    pub rtt_us: AtomicU64,
    heard: Heard,
}

/// When the other side was heard last.
#[derive(Clone)]
pub(crate) struct Heard(Arc<Mutex<Instant>>);

impl Heard {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader that notes when bytes come: a large frame on a slow line is a sign of life too.
pub(crate) struct Listening<R> {
    reader: R,
    heard: Heard,
}

impl<R> Listening<R> {
    pub(crate) fn new(reader: R, heard: Heard) -> Self {
        Self { reader, heard }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Listening<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.reader).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            *self.heard.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        done
    }
}

pub(crate) type Incoming<R> = FramedRead<Listening<R>, LengthDelimitedCodec>;

impl Link {
    pub(crate) fn new(about: About, heard: Heard) -> (Arc<Self>, Outbox) {
        let (queue, queue_end) = mpsc::channel(QUEUE_FRAMES_MAX);
        let (urgent, urgent_end) = mpsc::channel(URGENT_MAX);
        let link = Self {
            peer_text: about.hello.gateway.clone(),
            about,
            opened: Instant::now(),
            queue,
            urgent,
            room: Arc::new(Semaphore::new(QUEUE_KIB_MAX)),
            inner: Mutex::default(),
            ids: AtomicU64::new(1),
            closed: CancellationToken::new(),
            rtt_us: AtomicU64::new(0),
            heard,
        };
        (Arc::new(link), Outbox { queue: queue_end, urgent: urgent_end })
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer_text
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes calls still?
    pub(crate) fn is_open(&self) -> bool {
        let inner = self.lock();
        inner.closed.is_none() && !inner.drain_sent
    }

    /// Calls that wait for the other side, and calls of the other side that run here.
    pub(crate) fn load(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.waiting.len(), inner.serving.len())
    }

    pub(crate) fn silent_for(&self) -> std::time::Duration {
        self.heard.at().elapsed()
    }

    /// Writes a question and remembers who waits for its answer, or does neither.
    pub(crate) fn ask(&self, frame: impl FnOnce(u64) -> Frame, waiting: Waiting) -> Result<u64, NotSent> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let bytes = frame(id).encode().map_err(|err| NotSent::Failed(Failure::invalid(err.to_string())))?;
        let busy = || NotSent::Failed(Failure::busy(format!("the link to {} is full", self.peer_text), FULL_RETRY_MS));
        let room = self.room.clone().try_acquire_many_owned(kib(&bytes)).map_err(|_| busy())?;
        let slot = self.queue.try_reserve().map_err(|err| if matches!(err, mpsc::error::TrySendError::Full(())) { busy() } else { NotSent::Gone })?;
        let mut inner = self.lock();
        // Under one lock with the end of calls, so that none is written behind it.
        if inner.closed.is_some() || inner.drain_sent {
            return Err(NotSent::Gone);
        }
        inner.waiting.insert(id, waiting);
        slot.send(Outgoing { bytes, last: false, room: Some(room) });
        Ok(id)
    }

    /// Writes an answer or event; waits while the queue is full.
    pub(crate) async fn tell(&self, frame: &Frame) -> Result<(), Failure> {
        let bytes = frame.encode().map_err(|err| Failure::invalid(err.to_string()))?;
        let gone = || Failure::unavailable(format!("the link to {} is closed", self.peer_text), FULL_RETRY_MS);
        let sending = async {
            let room = self.room.clone().acquire_many_owned(kib(&bytes)).await.map_err(|_| gone())?;
            self.queue.send(Outgoing { bytes, last: false, room: Some(room) }).await.map_err(|_| gone())
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(gone()),
            sent = sending => sent,
        }
    }

    /// Writes a small frame before everything that waits. Lost when even that queue is full.
    pub(crate) fn urge(&self, frame: &Frame) -> bool {
        frame.encode().is_ok_and(|bytes| self.urgent.try_send(bytes).is_ok())
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn give_up(&self, id: u64) {
        if self.lock().waiting.remove(&id).is_some() {
            self.urge(&Frame::Cancel(Id { id }));
            self.finish_drain();
        }
    }

    /// An answer came.
    pub(crate) fn answered(&self, id: u64, outcome: Result<Value, Failure>) {
        match self.lock().waiting.remove(&id) {
            Some(Waiting::Call(caller)) => caller.finish(outcome),
            Some(Waiting::Value(to)) => drop(to.send(outcome)),
            Some(other) => other.fail(Failure::internal("the other gateway answered another question")),
            // Given up meanwhile.
            None => {}
        }
        self.finish_drain();
    }

    pub(crate) fn blob_came(&self, id: u64, part: Result<BlobPart, Failure>) {
        match self.lock().waiting.remove(&id) {
            Some(Waiting::Blob(to)) => drop(to.send(part)),
            Some(other) => other.fail(Failure::internal("the other gateway answered another question")),
            None => {}
        }
        self.finish_drain();
    }

    /// An event of a call came.
    pub(crate) fn event_came(&self, id: u64, event: Event, bytes: usize) {
        let mut inner = self.lock();
        let kept = match inner.waiting.get(&id) {
            Some(Waiting::Call(caller)) => caller.event(event, bytes),
            _ => true,
        };
        if !kept && let Some(waiting) = inner.waiting.remove(&id) {
            drop(inner);
            waiting.fail(Failure::busy(format!("more than {EVENTS_MAX} events of a call to {} waited for their reader", self.peer_text), FULL_RETRY_MS));
            self.urge(&Frame::Cancel(Id { id }));
        }
    }

    /// A call of the other side begins. `Err` when too many run, or the id is taken.
    pub(crate) fn begin(&self, id: u64, calls_max: usize) -> Result<CancellationToken, usize> {
        let mut inner = self.lock();
        let running = inner.serving.len();
        if running >= calls_max || inner.serving.contains_key(&id) || inner.closed.is_some() {
            return Err(running);
        }
        let token = self.closed.child_token();
        inner.serving.insert(id, token.clone());
        Ok(token)
    }

    pub(crate) fn ended(&self, id: u64) {
        self.lock().serving.remove(&id);
        self.finish_drain();
    }

    pub(crate) fn cancel(&self, id: u64) {
        if let Some(token) = self.lock().serving.get(&id) {
            token.cancel();
        }
    }

    pub(crate) fn ping(&self) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.lock();
        inner.pings.retain(|_, at| at.elapsed() < WRITE_STALL);
        inner.pings.insert(id, Instant::now());
        drop(inner);
        self.urge(&Frame::Ping(Id { id }));
    }

    pub(crate) fn pong(&self, id: u64) {
        if let Some(at) = self.lock().pings.remove(&id) {
            self.rtt_us.store(u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
        }
    }

    /// Takes no more calls; the link closes when those under way in both directions are done.
    pub(crate) async fn drain(&self) {
        let Ok(slot) = self.queue.reserve().await else { return };
        let Ok(bytes) = Frame::Drain.encode() else { return };
        {
            let mut inner = self.lock();
            if std::mem::replace(&mut inner.drain_sent, true) {
                return;
            }
            slot.send(Outgoing { bytes, last: false, room: None });
        }
        self.finish_drain();
    }

    /// The other side sends no more calls. True when we have not said the same.
    pub(crate) fn drain_came(&self) -> bool {
        let mut inner = self.lock();
        inner.drain_got = true;
        let answer = !inner.drain_sent;
        drop(inner);
        self.finish_drain();
        answer
    }

    /// Both sides said that no more calls come: the side that waits for nothing closes.
    fn finish_drain(&self) {
        let inner = self.lock();
        if inner.drain_sent && inner.drain_got && inner.waiting.is_empty() && inner.serving.is_empty() && inner.closed.is_none() {
            drop(inner);
            self.farewell("the link was replaced or the gateway stops");
        }
    }

    /// Writes the last frame behind everything that waits; the link ends with it.
    pub(crate) fn farewell(&self, why: &str) {
        let bye = Frame::Bye(super::frame::Bye { why: why.to_owned() }).encode();
        let sent = bye.is_ok_and(|bytes| self.queue.try_send(Outgoing { bytes, last: true, room: None }).is_ok());
        if !sent {
            self.close(why);
        }
    }

    /// The end, at once: everything that waits fails, everything served is dropped. Only the first reason counts.
    pub(crate) fn close(&self, why: &str) {
        let waiting = {
            let mut inner = self.lock();
            inner.closed.get_or_insert_with(|| why.to_owned());
            std::mem::take(&mut inner.waiting)
        };
        self.closed.cancel();
        for (_, waiting) in waiting {
            let words = format!("the link to {} was lost before the answer came ({why}); whether it was done is not known", self.peer_text);
            waiting.fail(Failure::unavailable(words, FULL_RETRY_MS));
        }
    }

    pub(crate) fn why_closed(&self) -> Option<String> {
        self.lock().closed.clone()
    }
}

fn kib(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len() / 1024 + 1).unwrap_or(u32::MAX)
}
