//! Dialling peers, and asking them.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use clawstead_bus::{Depth, MailBox, Sealed};
use clawstead_terms::{Failure, FailureCode};
use rustls::pki_types::ServerName;
use serde_json::Value;
use thiserror::Error;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::{
    CALL_DEADLINE_MAX_MS, Call, Direction, Event, Links, Progress,
    certificate::{CertificateError, certificate_name},
    connection::{Caller, Held, Link, NotSent, Waiting},
    frame::{self, BlobPart, Frame},
    links::Inner,
    server,
};

/// Time a peer has to answer anything but a call.
const REQUEST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
/// Time a peer has for a piece of a blob: a quarter of a MiB over a slow line.
const BLOB_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15);

/// A blob that did not come whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{failure}")]
pub struct BlobError {
    /// What went wrong.
    pub failure: Failure,
    /// What came so far: hand it to [`Links::fetch_blob`] again to go on behind it.
    pub have: Vec<u8>,
}

impl Links {
    /// Calls a peer and waits for the answer; events are passed over.
    ///
    /// # Errors
    /// What the peer's desk says; `Unavailable` when there is no link or it was lost before the answer came (the call
    /// may have been done then), `Busy` when the link is full, `Timeout` when the call's time is over.
    pub async fn call(&self, peer: &str, call: Call) -> Result<Value, Failure> {
        self.open(peer, call).await?.answer().await
    }

    /// Calls a peer and gives what comes: events and the answer. Dropping the result cancels the call at the peer.
    ///
    /// # Errors
    /// When the call cannot be sent: `Unavailable`, `Busy`, or `InvalidRequest` when it is too large.
    pub async fn open(&self, peer: &str, call: Call) -> Result<Running, Failure> {
        let deadline = Instant::now() + std::time::Duration::from_millis(call.deadline_ms.min(CALL_DEADLINE_MAX_MS));
        let (to, from) = mpsc::unbounded_channel();
        let held = Arc::new(Held::default());
        let (link, id) = self
            .ask(
                peer,
                deadline,
                |id| {
                    Frame::Call(frame::Call {
                        id,
                        method: call.method.clone(),
                        params: call.params.clone(),
                        caller: call.caller.clone(),
                        traceparent: call.traceparent.clone(),
                        deadline_ms: u64::try_from(deadline.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX),
                    })
                },
                || Waiting::Call(Caller { to: to.clone(), held: held.clone() }),
            )
            .await?;
        Ok(Running { link, id, from, held, deadline, over: false })
    }

    /// Tells a peer something without waiting for anything.
    ///
    /// # Errors
    /// When there is no link.
    pub async fn tell(&self, peer: &str, event: Event) -> Result<(), Failure> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let link = self.inner.link_to(peer, deadline).await?;
        let frame = Frame::Event(frame::Event { id: None, topic: event.topic, payload: event.payload });
        timeout_at(deadline, link.tell(&frame)).await.map_err(|_| too_slow(peer, "take an event"))?
    }

    /// Hands a letter to a peer's box. `Ok` when it is settled there or held for its subscriber.
    ///
    /// # Errors
    /// `Busy` when the box is full or nobody reads it there; `Unavailable`, `Timeout` when it is not known.
    pub async fn letter(&self, peer: &str, to: &MailBox, letter: &Sealed) -> Result<(), Failure> {
        self.ask_value(peer, "take a letter", |id| Frame::Letter(frame::Letter::new(id, to, letter))).await.map(|_| ())
    }

    /// How much waits in a peer's box.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`.
    pub async fn depth(&self, peer: &str, of: &MailBox) -> Result<Depth, Failure> {
        let answer = self.ask_value(peer, "tell the depth of a box", |id| Frame::Depth(frame::DepthAsk { id, of: of.into() })).await?;
        let number = |key: &str| answer.get(key).and_then(Value::as_u64);
        Ok(Depth { letters: number("letters").unwrap_or(0), bytes: number("bytes") })
    }

    /// A piece of a blob from `offset` on.
    ///
    /// # Errors
    /// What the peer says (`NotFound`); `Unavailable`, `Timeout`.
    pub async fn blob(&self, peer: &str, hash: &str, offset: u64) -> Result<BlobPart, Failure> {
        let deadline = Instant::now() + BLOB_TIMEOUT;
        let mut answer = None;
        let ask = |id| Frame::BlobAsk(frame::BlobAsk { id, hash: hash.to_owned(), offset });
        let (link, id) = self
            .ask(peer, deadline, ask, || {
                let (to, from) = oneshot::channel();
                answer = Some(from);
                Waiting::Blob(to)
            })
            .await?;
        wait(&link, id, deadline, answer).await.unwrap_or_else(|| Err(too_slow(peer, "send a piece of a blob")))
    }

    /// A whole blob, piece by piece, going on behind what is there already. The caller checks the hash.
    ///
    /// # Errors
    /// What went wrong, with what came so far; `InvalidRequest` when it is larger than `bytes_max`.
    pub async fn fetch_blob(&self, peer: &str, hash: &str, mut have: Vec<u8>, bytes_max: u64) -> Result<Vec<u8>, BlobError> {
        loop {
            let part = match self.blob(peer, hash, have.len() as u64).await {
                Ok(part) => part,
                Err(failure) => return Err(BlobError { failure, have }),
            };
            if part.size > bytes_max {
                let failure = Failure::invalid(format!("the blob {hash} of {peer} has {} bytes, {bytes_max} is the limit", part.size));
                return Err(BlobError { failure, have });
            }
            let whole = have.len() as u64 + part.bytes.len() as u64;
            if whole > part.size || (part.bytes.is_empty() && whole < part.size) {
                let failure = Failure::internal(format!("the blob {hash} of {peer} should have {} bytes, and its pieces do not fit", part.size));
                return Err(BlobError { failure, have });
            }
            have.extend_from_slice(&part.bytes);
            if whole == part.size {
                return Ok(have);
            }
        }
    }

    async fn ask_value(&self, peer: &str, what: &str, frame: impl Fn(u64) -> Frame) -> Result<Value, Failure> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let mut answer = None;
        let (link, id) = self
            .ask(peer, deadline, frame, || {
                let (to, from) = oneshot::channel();
                answer = Some(from);
                Waiting::Value(to)
            })
            .await?;
        wait(&link, id, deadline, answer).await.unwrap_or_else(|| Err(too_slow(peer, what)))
    }

    /// Gets a question onto a link; goes on to the next link when one closes just now.
    async fn ask(
        &self,
        peer: &str,
        deadline: Instant,
        frame: impl Fn(u64) -> Frame,
        mut waiting: impl FnMut() -> Waiting,
    ) -> Result<(Arc<Link>, u64), Failure> {
        loop {
            let link = self.inner.link_to(peer, deadline).await?;
            match link.ask(&frame, waiting()) {
                Ok(id) => return Ok((link, id)),
                Err(NotSent::Failed(failure)) => return Err(failure),
                // It is out of the list in a moment.
                Err(NotSent::Gone) => tokio::task::yield_now().await,
            }
        }
    }
}

/// None when the time is over.
async fn wait<T>(link: &Link, id: u64, deadline: Instant, answer: Option<oneshot::Receiver<Result<T, Failure>>>) -> Option<Result<T, Failure>> {
    let waiting = GiveUp { link, id };
    let answer = timeout_at(deadline, answer?).await.ok()?;
    std::mem::forget(waiting);
    Some(answer.unwrap_or_else(|_| Err(Failure::internal("a question lost its answer"))))
}

/// Dropped before the answer came: nobody waits for it any more.
struct GiveUp<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.link.give_up(self.id);
    }
}

fn too_slow(peer: &str, what: &str) -> Failure {
    Failure { retry: clawstead_terms::Retry::Now, ..Failure::new(FailureCode::Timeout, format!("the gateway {peer} took too long to {what}")) }
}

/// A call under way. Dropping it before its answer cancels it.
pub struct Running {
    link: Arc<Link>,
    id: u64,
    from: mpsc::UnboundedReceiver<(usize, Progress)>,
    held: Arc<Held>,
    deadline: Instant,
    over: bool,
}

impl Running {
    /// The next event, or the answer; None after the answer. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Progress> {
        if self.over {
            return None;
        }
        let Ok(next) = timeout_at(self.deadline, self.from.recv()).await else {
            self.over = true;
            self.link.give_up(self.id);
            return Some(Progress::Answer(Err(too_slow(self.link.peer(), "answer a call"))));
        };
        let (bytes, progress) = next.unwrap_or_else(|| (0, Progress::Answer(Err(Failure::internal("a call lost its answer")))));
        match &progress {
            Progress::Event(_) => {
                self.held.events.fetch_sub(1, Ordering::Relaxed);
                self.held.bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            Progress::Answer(_) => self.over = true,
        }
        Some(progress)
    }

    /// The answer; events are passed over.
    ///
    /// # Errors
    /// As [`Links::call`].
    pub async fn answer(mut self) -> Result<Value, Failure> {
        loop {
            match self.next().await {
                Some(Progress::Event(_)) => {}
                Some(Progress::Answer(outcome)) => return outcome,
                None => return Err(Failure::internal("a call has one answer only")),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            self.link.give_up(self.id);
        }
    }
}

/// Opens one link.
pub(super) async fn dial(inner: &Arc<Inner>, peer: &str) -> Result<(), String> {
    let address = inner.resolve.address(peer).ok_or_else(|| "its address is not known any more".to_owned())?;
    let target = host_and_port(&address)?;
    let dialing = async {
        let tcp = TcpStream::connect(target).await.map_err(|err| format!("{target} cannot be reached: {err}"))?;
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(certificate_name(peer, &inner.farm)).map_err(|_| format!("{peer:?} cannot be the name of a gateway"))?;
        let own = inner.identity();
        let tls = inner.connector.connect(name, tcp).await.map_err(|err| format!("{target}: {}", words(&err)))?;
        server::greet(inner, tls.into(), Direction::Out, target, &own).await
    };
    let opened = timeout(inner.timing.dial_timeout, dialing).await;
    let (link, conversation) = opened.map_err(|_| format!("{target} did not answer within {} ms", inner.timing.dial_timeout.as_millis()))??;
    if link.peer() != peer {
        return Err(format!("{target} is {}", link.peer()));
    }
    inner.register(&link)?;
    inner.spawn("farm-link", conversation);
    Ok(())
}

fn host_and_port(address: &str) -> Result<&str, String> {
    let rest = ["wss://", "https://", "tls://"].iter().find_map(|scheme| address.strip_prefix(scheme)).unwrap_or(address).trim_end_matches('/');
    match rest.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(rest),
        _ => Err(format!("{address:?} is not like host:port; see farm.peer.advertise there")),
    }
}

/// What a TLS error means here.
pub(super) fn words(err: &io::Error) -> String {
    let inner = err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(why)))) => {
            why.downcast_ref::<CertificateError>().map_or_else(|| why.to_string(), ToString::to_string)
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("it refuses our certificate or TLS ({alert:?}): is our key approved, and does it know our key record?")
        }
        Some(rustls::Error::NoCertificatesPresented) => "it showed no certificate".to_owned(),
        Some(other) => format!("TLS: {other}"),
        None => err.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn addresses_are_hosts_and_ports() {
        for (address, want) in
            [("a:1", Some("a:1")), ("wss://gw.lan:18790/", Some("gw.lan:18790")), ("[::1]:5", Some("[::1]:5")), ("gw", None), (":5", None), ("a:99999", None)]
        {
            assert_eq!(host_and_port(address).ok(), want, "{address}");
        }
    }
}
