//! A proxy for NATS that loses, doubles, delays and reorders single messages.
//!
//! A TCP stream with a hole is a broken stream, so what happens to messages cannot be done to bytes: this proxy reads the
//! frames of the client protocol (`PUB`, `HPUB`, `MSG`, `HMSG`) and does it to those. Only messages whose subject begins as
//! asked are touched; requests to JetStream, acknowledgements and everything else pass as they are, in order. A letter that
//! is lost on its way to the server was never taken; one that is lost on its way back was, and is with the subscriber's
//! unsettled ones. Redis and Consul have no such proxy: there connections are cut, delayed and frozen ([`crate::fault_proxy`]).

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use crate::fault_proxy::{Delay, Direction};

/// Frames on their way to one side of a connection; then the other side is held up.
const UNDER_WAY: usize = 1024;
/// A message that waits to be overtaken goes on after this long.
const HELD_MAX: Duration = Duration::from_secs(2);

/// What happens to messages. Chances are 0..=1; the default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MessageFaults {
    /// It is lost.
    pub drop: f64,
    /// A copy follows.
    pub duplicate: f64,
    /// How late it is. Each message for itself, so that they overtake each other.
    pub delay: Delay,
    /// It waits until up to `window` others overtook it.
    pub reorder: f64,
    /// How many overtake it at most.
    pub window: u32,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Messages that could have been touched.
    pub messages: u64,
    /// Lost.
    pub dropped: u64,
    /// Doubled.
    pub duplicated: u64,
    /// Late.
    pub delayed: u64,
    /// Overtaken.
    pub reordered: u64,
}

struct State {
    to_server: MessageFaults,
    to_client: MessageFaults,
    rng: StdRng,
    done: Done,
}

struct Shared {
    upstream: SocketAddr,
    subjects: String,
    state: Mutex<State>,
    cuts: watch::Sender<u64>,
}

/// A running proxy. Dropping it closes everything.
pub struct NatsProxy {
    at: SocketAddr,
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
}

impl NatsProxy {
    /// Listens on a free port of 127.0.0.1. Messages whose subject begins with `subjects` can be touched.
    ///
    /// # Errors
    /// When the system gives no port.
    pub async fn start(upstream: SocketAddr, subjects: &str, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let at = listener.local_addr()?;
        let state = State { to_server: MessageFaults::default(), to_client: MessageFaults::default(), rng: StdRng::seed_from_u64(seed), done: Done::default() };
        let shared = Arc::new(Shared { upstream, subjects: subjects.to_owned(), state: Mutex::new(state), cuts: watch::Sender::new(0) });
        let listener = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { at, shared, listener })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.at
    }

    /// What happens in one direction from now on.
    pub fn set(&self, direction: Direction, faults: MessageFaults) {
        let mut state = self.shared.lock();
        match direction {
            Direction::ToServer => state.to_server = faults,
            Direction::ToClient => state.to_client = faults,
        }
    }

    /// No faults from now on. Messages that are late still come.
    pub fn heal(&self) {
        self.set(Direction::ToServer, MessageFaults::default());
        self.set(Direction::ToClient, MessageFaults::default());
    }

    /// Cuts every connection that is open.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// What was done so far.
    #[must_use]
    pub fn done(&self) -> Done {
        self.shared.lock().done
    }
}

impl Drop for NatsProxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// What becomes of one message.
#[derive(Default)]
struct Fate {
    lost: bool,
    copies: usize,
    late: Duration,
    overtakers: u32,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, direction: Direction) -> Fate {
        let state = &mut *self.lock();
        let faults = if direction == Direction::ToServer { state.to_server } else { state.to_client };
        let rng = &mut state.rng;
        let (drop, double, late, held) = (rng.random::<f64>(), rng.random::<f64>(), rng.random::<f64>(), rng.random::<f64>());
        let window = rng.random_range(1..=faults.window.max(1));
        let mut fate = Fate { lost: drop < faults.drop, copies: 1 + usize::from(double < faults.duplicate), ..Fate::default() };
        fate.late = match faults.delay {
            Delay::None => Duration::ZERO,
            Delay::Fixed(always) => always,
            Delay::Exponential { mean, max } => mean.mul_f64(-(1.0 - late).max(f64::MIN_POSITIVE).ln()).min(max),
        };
        fate.overtakers = if held < faults.reorder { window } else { 0 };
        state.done.messages += 1;
        state.done.dropped += u64::from(fate.lost);
        state.done.duplicated += u64::from(!fate.lost && fate.copies > 1);
        state.done.delayed += u64::from(!fate.lost && !fate.late.is_zero());
        state.done.reordered += u64::from(!fate.lost && fate.overtakers > 0);
        fate
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                connections.spawn(connection(client, shared.clone()));
            },
        }
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    cuts.mark_unchanged();
    let Ok(server) = TcpStream::connect(shared.upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    tokio::select! {
        biased;
        _ = cuts.changed() => {}
        _ = direction(client_in, server_out, Direction::ToServer, shared.clone()) => {}
        _ = direction(server_in, client_out, Direction::ToClient, shared.clone()) => {}
    }
}

/// A frame, and whether it is a message that may be touched.
async fn frame(from: &mut BufReader<OwnedReadHalf>, subjects: &str) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    if from.read_until(b'\n', &mut bytes).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = String::from_utf8_lossy(&bytes).into_owned();
    let mut words = line.split_whitespace();
    let verb = words.next().unwrap_or_default().to_ascii_uppercase();
    if !matches!(verb.as_str(), "PUB" | "HPUB" | "MSG" | "HMSG") {
        return Ok((bytes, false));
    }
    let subject = words.next().unwrap_or_default().to_owned();
    let size: usize = words.last().and_then(|word| word.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let head = bytes.len();
    bytes.resize(head + size + 2, 0);
    from.read_exact(&mut bytes[head..]).await?;
    Ok((bytes, subject.starts_with(subjects)))
}

async fn direction(from: OwnedReadHalf, to: OwnedWriteHalf, direction: Direction, shared: Arc<Shared>) -> io::Result<()> {
    let (out, due) = mpsc::channel::<Vec<u8>>(UNDER_WAY);
    let (give, frames) = mpsc::channel(UNDER_WAY);
    tokio::try_join!(read(from, &shared.subjects, give), treat(frames, out, direction, &shared), write(to, due)).map(|((), (), ())| ())
}

/// Reads frames for as long as the connection lives.
async fn read(from: OwnedReadHalf, subjects: &str, give: mpsc::Sender<(Vec<u8>, bool)>) -> io::Result<()> {
    let mut from = BufReader::new(from);
    loop {
        let one = frame(&mut from, subjects).await?;
        give.send(one).await.map_err(|_| gone())?;
    }
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

/// Lets happen to messages what is to happen to them.
async fn treat(mut frames: mpsc::Receiver<(Vec<u8>, bool)>, out: mpsc::Sender<Vec<u8>>, direction: Direction, shared: &Shared) -> io::Result<()> {
    let mut late = JoinSet::new();
    let mut held: Vec<(u32, Instant, Vec<u8>)> = Vec::new();
    loop {
        let wake = held.iter().map(|(_, until, _)| *until).min();
        let next = tokio::select! {
            biased;
            Some(_) = late.join_next() => continue,
            next = frames.recv() => Some(next.ok_or_else(gone)?),
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => None,
        };
        match next {
            None => {}
            Some((bytes, false)) => out.send(bytes).await.map_err(|_| gone())?,
            Some((bytes, true)) => {
                let fate = shared.decide(direction);
                for (left, ..) in &mut held {
                    *left = left.saturating_sub(1);
                }
                match fate {
                    Fate { lost: true, .. } => {}
                    Fate { overtakers: 1.., .. } => held.push((fate.overtakers, Instant::now() + HELD_MAX, bytes)),
                    Fate { copies, late: Duration::ZERO, .. } => {
                        for _ in 0..copies {
                            out.send(bytes.clone()).await.map_err(|_| gone())?;
                        }
                    }
                    Fate { copies, late: pause, .. } => {
                        let out = out.clone();
                        late.spawn(async move {
                            sleep(pause).await;
                            for _ in 0..copies {
                                // Fails when the connection is gone, with everything that was under way on it.
                                let _ = out.send(bytes.clone()).await;
                            }
                        });
                    }
                }
            }
        }
        let now = Instant::now();
        for (_, _, bytes) in held.extract_if(.., |(left, until, _)| *left == 0 || *until <= now) {
            out.send(bytes).await.map_err(|_| gone())?;
        }
    }
}

async fn write(mut to: OwnedWriteHalf, mut due: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(bytes) = due.recv().await {
        to.write_all(&bytes).await?;
    }
    to.shutdown().await
}
