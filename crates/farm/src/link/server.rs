//! Letting peers in, and answering what comes over a link, whoever opened it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clawstead_terms::{Failure, FailureCode};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::{
    io::{ReadHalf, WriteHalf, split},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::TlsStream;
use tokio_util::{codec::FramedRead, sync::CancellationToken};

use super::{
    CALL_DEADLINE_MAX_MS, CALLS_MAX, Call, Desk, Direction, Event, LinkError, Validity,
    certificate::Presented,
    client,
    connection::{About, FULL_RETRY_MS, Heard, Incoming, Link, Listening},
    frame::{Answer, Blob, Bye, FRAME_BYTES_MAX, Frame, HELLO_BYTES_MAX, Id, PROTOCOL_MAJOR, codec},
    links::Inner,
    writer::{Outbox, write_all, write_one},
};

/// Handshakes under way at once; further connections are closed.
const HANDSHAKES_MAX: usize = 64;
/// Wait after the system could not hand over a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Things told without a call that wait for the desk; more are dropped, and the log says so.
const TOLD_MAX: usize = 256;

/// Listens and lets peers in.
pub(super) async fn listen(inner: &Arc<Inner>, address: SocketAddr) -> Result<SocketAddr, LinkError> {
    let failed = |err: std::io::Error| LinkError::Listen { address, why: err.to_string() };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    let own = inner.clone();
    inner.spawn("farm-link-listen", async move {
        let doors = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let accepted = tokio::select! {
                biased;
                () = own.leaving.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((tcp, from)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(door) = doors.clone().try_acquire_owned() else {
                own.refuse(&from.to_string(), "too many handshakes at once");
                continue;
            };
            let inner = own.clone();
            own.spawn("farm-link-in", async move {
                let from = from.to_string();
                let entering = tokio::select! {
                    biased;
                    () = inner.stopping.cancelled() => return,
                    entered = timeout(inner.timing.dial_timeout, enter(&inner, tcp, &from)) => entered,
                };
                drop(door);
                match entering.unwrap_or_else(|_| Err("the handshake took too long".into())) {
                    Ok((link, conversation)) => match inner.register(&link) {
                        Ok(()) => conversation.await,
                        Err(why) => {
                            inner.refuse(&from, &why);
                            link.farewell(&why);
                            conversation.await;
                        }
                    },
                    Err(why) => inner.refuse(&from, &why),
                }
            });
        }
    });
    Ok(at)
}

async fn enter(inner: &Arc<Inner>, tcp: TcpStream, from: &str) -> Result<(Arc<Link>, impl Future<Output = ()> + Send + use<>), String> {
    let _ = tcp.set_nodelay(true);
    let own = inner.identity();
    let tls = inner.acceptor.accept(tcp).await.map_err(|err| client::words(&err))?;
    greet(inner, tls.into(), Direction::In, from, &own).await
}

type Tls = TlsStream<TcpStream>;

/// Both sides say who they are. Gives the link, and what has to run for it.
pub(super) async fn greet(
    inner: &Arc<Inner>,
    tls: Tls,
    direction: Direction,
    address: &str,
    own: &Validity,
) -> Result<(Arc<Link>, impl Future<Output = ()> + Send + use<>), String> {
    let (_, session) = tls.get_ref();
    let certificate = session.peer_certificates().and_then(<[_]>::first).ok_or("it showed no certificate")?;
    let presented = Presented::read(certificate).map_err(|err| err.to_string())?;
    if session.alpn_protocol() != Some(super::ALPN) {
        return Err("it does not speak openclaw-farm/1".into());
    }
    let heard = Heard::new();
    let (reader, mut writer) = split(tls);
    let mut incoming = FramedRead::new(Listening::new(reader, heard.clone()), codec(HELLO_BYTES_MAX));
    write_one(&mut writer, &Frame::Hello(inner.hello())).await?;
    let first = incoming.next().await.ok_or("it closed the connection")?.map_err(|err| client::words(&err))?;
    let hello = match Frame::decode(&first).map_err(|err| err.to_string())? {
        Some(Frame::Hello(hello)) => hello,
        Some(Frame::Bye(bye)) => return Err(format!("it refuses us: {}", bye.why)),
        _ => return Err("it did not say who it is".into()),
    };
    let gateway = &presented.gateway;
    let wrong = if hello.farm != inner.farm {
        Some(format!("{gateway} belongs to farm {:?}, {} to {:?}", hello.farm, inner.gateway, inner.farm))
    } else if hello.major != PROTOCOL_MAJOR {
        Some(format!("{gateway} ({}) speaks version {} of links, {} speaks {PROTOCOL_MAJOR}: update one of them", hello.build, hello.major, inner.gateway))
    } else if hello.gateway != *gateway {
        Some(format!("{:?} showed the certificate of {gateway}", hello.gateway))
    } else if hello.gateway == inner.gateway {
        Some(format!("{gateway} would be linked with itself: two gateways with one name?"))
    } else {
        None
    };
    if let Some(why) = wrong {
        // It may have found the same and be gone: our words count then.
        let _ = write_one(&mut writer, &Frame::Bye(Bye { why: why.clone() })).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
        return Err(why);
    }
    incoming.decoder_mut().set_max_frame_length(FRAME_BYTES_MAX);
    let about = About {
        number: inner.numbers.fetch_add(1, Ordering::Relaxed),
        direction,
        address: address.to_owned(),
        presented,
        own_kid: own.kid.clone(),
        own_serial: inner.identity().serial,
        hello,
        since: inner.world.clock.now(),
    };
    let (link, outbox) = Link::new(about, heard);
    Ok((link.clone(), converse(inner.clone(), link, incoming, writer, outbox)))
}

/// Everything that happens on one link until it ends.
async fn converse(inner: Arc<Inner>, link: Arc<Link>, incoming: Incoming<ReadHalf<Tls>>, writer: WriteHalf<Tls>, outbox: Outbox) {
    let (tell, mut told) = mpsc::channel::<Event>(TOLD_MAX);
    let listener = async {
        while let Some(event) = told.recv().await {
            if let Some(desk) = inner.desk.get() {
                desk.event(link.peer(), event).await;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut expected = false;
    let why = tokio::select! {
        biased;
        () = link.closed.cancelled() => link.why_closed().unwrap_or_default(),
        () = inner.stopping.cancelled() => "this gateway stops".to_owned(),
        (why, bye) = read(&inner, &link, incoming, &tell) => {
            expected = bye;
            why
        }
        done = write_all(writer, outbox) => {
            expected = done.is_ok();
            done.err().unwrap_or_else(|| "said goodbye".to_owned())
        }
        why = keep(&inner, &link) => why,
        () = listener => String::new(),
    };
    link.close(&why);
    inner.forget(&link, &why, expected);
}

/// Looks after a link: pings, silence, keys, age.
async fn keep(inner: &Arc<Inner>, link: &Arc<Link>) -> String {
    loop {
        link.ping();
        tokio::time::sleep(inner.timing.ping_every).await;
        let silent = link.silent_for();
        if silent >= inner.timing.dead_after {
            return format!("nothing was heard of {} for {} ms", link.peer(), silent.as_millis());
        }
        if let Err(why) = inner.still_believed(link) {
            return why;
        }
        if link.about.direction == Direction::Out && link.is_open() && inner.is_stale(link) {
            inner.replace(link.peer());
        }
    }
}

/// Reads until the link ends. Answers why, and whether the other side said goodbye.
async fn read(inner: &Arc<Inner>, link: &Arc<Link>, mut incoming: Incoming<ReadHalf<Tls>>, tell: &mpsc::Sender<Event>) -> (String, bool) {
    loop {
        let frame = match incoming.next().await {
            None => return ("the other side closed the connection".into(), false),
            Some(Err(err)) => return (client::words(&err), false),
            Some(Ok(bytes)) => Frame::decode(&bytes).map(|frame| (frame, bytes.len())),
        };
        let (frame, bytes) = match frame {
            Ok((Some(frame), bytes)) => (frame, bytes),
            Ok((None, _)) => continue,
            Err(err) => return (format!("{} does not keep to the protocol: {err}", link.peer()), false),
        };
        match frame {
            Frame::Hello(_) => {}
            Frame::Ping(Id { id }) => drop(link.urge(&Frame::Pong(Id { id }))),
            Frame::Pong(Id { id }) => link.pong(id),
            Frame::Answer(answer) | Frame::Took(answer) => link.answered(answer.id, answer.outcome()),
            Frame::Blob(blob) => link.blob_came(blob.id, blob.open()),
            Frame::Cancel(Id { id }) => link.cancel(id),
            Frame::Event(event) => {
                let (id, event) = (event.id, Event { topic: event.topic, payload: event.payload });
                match id {
                    Some(id) => link.event_came(id, event, bytes),
                    None if tell.try_send(event).is_ok() => {}
                    None => tracing::warn!(peer = link.peer(), "something told was dropped: more than {TOLD_MAX} wait"),
                }
            }
            Frame::Drain => {
                if link.drain_came() {
                    let link = link.clone();
                    inner.spawn("farm-link-drain", async move { link.drain().await });
                }
            }
            Frame::Bye(bye) => return (format!("{} said goodbye: {}", link.peer(), bye.why), true),
            asked @ (Frame::Call(_) | Frame::Letter(_) | Frame::Depth(_) | Frame::BlobAsk(_)) => {
                if let Err(why) = serve(inner, link, asked) {
                    return (why, false);
                }
            }
        }
    }
}

/// Starts what answers a question. `Err` when the other side does not keep to the protocol.
fn serve(inner: &Arc<Inner>, link: &Arc<Link>, asked: Frame) -> Result<(), String> {
    let id = match &asked {
        Frame::Call(call) => call.id,
        Frame::Letter(letter) => letter.id,
        Frame::Depth(ask) => ask.id,
        Frame::BlobAsk(ask) => ask.id,
        _ => return Ok(()),
    };
    let asked = match asked {
        Frame::Letter(letter) => {
            let (_, to, letter) = letter.open().map_err(|err| err.to_string())?;
            Asked::Letter(to, letter)
        }
        Frame::Call(call) => {
            Asked::Call(Call { method: call.method, params: call.params, caller: call.caller, traceparent: call.traceparent, deadline_ms: call.deadline_ms })
        }
        Frame::Depth(ask) => Asked::Depth(ask.of.into()),
        Frame::BlobAsk(ask) => Asked::Blob(ask.hash, ask.offset),
        _ => return Ok(()),
    };
    let (token, busy) = match link.begin(id, CALLS_MAX) {
        Ok(token) => (token, None),
        Err(running) => (CancellationToken::new(), Some(running)),
    };
    inner.count_served(link.peer());
    let mut serving = Serving { link: link.clone(), id, begun: busy.is_none(), owed: true };
    let (desk, gateway) = (inner.desk.get().cloned(), inner.gateway.clone());
    inner.spawn("farm-link-serve", async move {
        if let Some(running) = busy {
            let failure = Failure::busy(format!("the gateway {gateway} runs {running} calls of this link already"), FULL_RETRY_MS);
            serving.say(asked.refused(id, failure)).await;
            return;
        }
        let Some(desk) = desk else {
            serving.say(asked.refused(id, Failure::unavailable(format!("the gateway {gateway} starts"), 1000))).await;
            return;
        };
        let link = serving.link.clone();
        let answer = tokio::select! {
            biased;
            () = token.cancelled() => None,
            answer = asked.answer(id, &link, &*desk, &token) => Some(answer),
        };
        match answer {
            Some(answer) => serving.say(answer).await,
            // Nobody waits any more.
            None => serving.forgo(),
        }
    });
    Ok(())
}

enum Asked {
    Call(Call),
    Letter(clawstead_bus::MailBox, clawstead_bus::Sealed),
    Depth(clawstead_bus::MailBox),
    Blob(String, u64),
}

impl Asked {
    fn refused(&self, id: u64, failure: Failure) -> Frame {
        match self {
            Self::Blob(..) => Frame::Blob(Blob::new(id, Err(failure))),
            Self::Letter(_, letter) => Frame::Took(took(id, letter.message_id.clone(), Err(failure))),
            _ => Frame::Answer(Answer::new(id, Err(failure))),
        }
    }

    async fn answer(self, id: u64, link: &Arc<Link>, desk: &dyn Desk, token: &CancellationToken) -> Frame {
        let peer = link.peer();
        match self {
            Self::Call(call) => {
                let limit = Duration::from_millis(call.deadline_ms.min(CALL_DEADLINE_MAX_MS));
                let ended = Arc::new(AtomicBool::new(false));
                let events = EventSink { link: link.clone(), id, ended: ended.clone(), token: token.clone() };
                let method = call.method.clone();
                let outcome = timeout(limit, desk.call(peer, call, events)).await;
                ended.store(true, Ordering::Relaxed);
                let late = || Err(Failure::new(FailureCode::Timeout, format!("{method} took longer than the {} ms it had", limit.as_millis())));
                Frame::Answer(Answer::new(id, outcome.unwrap_or_else(|_| late())))
            }
            Self::Letter(to, letter) => {
                let message_id = letter.message_id.clone();
                Frame::Took(took(id, message_id, desk.letter(peer, to, letter).await))
            }
            Self::Depth(of) => {
                let depth = desk.depth(peer, of).await;
                Frame::Answer(Answer::new(id, Ok(json!({"letters": depth.letters, "bytes": depth.bytes}))))
            }
            Self::Blob(hash, offset) => Frame::Blob(Blob::new(id, desk.blob(peer, &hash, offset).await)),
        }
    }
}

fn took(id: u64, message_id: String, outcome: Result<(), Failure>) -> Answer {
    Answer { message_id: Some(message_id), ..Answer::new(id, outcome.map(|()| Value::Null)) }
}

/// One question under way. When its task ends without an answer (it panicked), the peer is told.
struct Serving {
    link: Arc<Link>,
    id: u64,
    begun: bool,
    owed: bool,
}

impl Serving {
    fn forgo(&mut self) {
        self.owed = false;
    }

    async fn say(&mut self, answer: Frame) {
        self.owed = false;
        if let Err(failure) = self.link.tell(&answer).await
            && failure.code == FailureCode::InvalidRequest
        {
            // Too large for a frame: the caller hears that instead.
            let _ = self.link.tell(&Frame::Answer(Answer::new(self.id, Err(failure)))).await;
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.owed {
            self.link.urge(&Frame::Answer(Answer::new(self.id, Err(Failure::internal("the call failed without an answer; the log of its gateway says why")))));
        }
        if self.begun {
            self.link.ended(self.id);
        }
    }
}

/// Where a desk tells what happens while a call runs.
#[derive(Clone)]
pub struct EventSink {
    link: Arc<Link>,
    id: u64,
    ended: Arc<AtomicBool>,
    token: CancellationToken,
}

impl EventSink {
    /// Tells the caller something. Waits while the link is full, so that nothing is lost and nothing grows.
    ///
    /// # Errors
    /// `Unavailable` when the call is over, cancelled, or its link lost: nobody listens any more.
    pub async fn send(&self, topic: &str, payload: Value) -> Result<(), Failure> {
        if self.ended.load(Ordering::Relaxed) || self.token.is_cancelled() {
            return Err(Failure::new(FailureCode::Unavailable, "the call is over; nobody listens to its events"));
        }
        self.link.tell(&Frame::Event(super::frame::Event { id: Some(self.id), topic: topic.to_owned(), payload })).await
    }

    /// Returns when the caller cancelled or its link is lost.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }
}
