//! A TCP proxy that misbehaves on demand: cuts, delays, slows, swallows, corrupts, refuses, or says nothing at all.
//!
//! Faults are set per direction and take effect at once, also on connections that are open. What chance decides comes
//! from a seed. The proxy sees a stream of bytes, no messages: what is to happen to single messages is done a level
//! above it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

/// Bytes read at once; what chance decides is decided per piece.
const PIECE: usize = 16 * 1024;
/// Pieces on the way in one direction of one connection; then the sender is held up.
const UNDER_WAY: usize = 256;
/// Connections waiting to be accepted.
const BACKLOG: u32 = 1024;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// How long each piece is under way. The order of bytes stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delay {
    /// Not at all.
    #[default]
    None,
    /// Always this long.
    Fixed(Duration),
    /// Exponential around the mean, never longer than the maximum.
    Exponential {
        /// The mean.
        mean: Duration,
        /// Never longer.
        max: Duration,
    },
}

/// What happens to the bytes of one direction. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// How long each piece is under way.
    pub delay: Delay,
    /// Not faster than this, per connection.
    pub bytes_per_second: Option<u32>,
    /// Chance (0..=1) that a piece is swallowed. The stream has a hole then.
    pub drop: f64,
    /// Chance that one byte of a piece is changed.
    pub corrupt: f64,
    /// Chance that the connection is cut instead of passing a piece on.
    pub cut: f64,
    /// Everything is swallowed: the connection stays open and nothing comes.
    pub silent: bool,
}

/// What becomes of new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Door {
    /// They are passed on.
    #[default]
    Open,
    /// They are accepted, and nothing ever comes: half-open.
    HalfOpen,
    /// They are refused by the system, as where nobody listens.
    Refuse,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections cut by a fault.
    pub cut: u64,
    /// Connections that never got an answer.
    pub half_open: u64,
    /// Bytes passed on to the server.
    pub to_server: u64,
    /// Bytes passed on to the client.
    pub to_client: u64,
    /// Bytes swallowed.
    pub dropped: u64,
    /// Bytes changed.
    pub corrupted: u64,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    cut: AtomicU64,
    half_open: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    dropped: AtomicU64,
    corrupted: AtomicU64,
}

struct Settings {
    to_server: Faults,
    to_client: Faults,
    rng: StdRng,
}

struct Shared {
    upstream: SocketAddr,
    settings: Mutex<Settings>,
    counts: Counts,
    /// Grows with each cut of everything.
    cuts: watch::Sender<u64>,
    /// Told to the listener.
    door: watch::Sender<Door>,
    /// What the listener has done about it.
    applied: watch::Sender<Door>,
}

/// A running proxy. Dropping it closes everything.
pub struct FaultProxy {
    at: SocketAddr,
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
    // Keeps the port while nobody listens on it, so that connections are refused and nobody else takes it.
    _port: TcpSocket,
    cutter: Mutex<Option<JoinHandle<()>>>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and passes everything on to `upstream`, faithfully at first.
    ///
    /// # Errors
    /// When the system gives no port.
    pub fn start(upstream: SocketAddr, seed: u64) -> io::Result<Self> {
        let port = socket()?;
        port.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let at = port.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            settings: Mutex::new(Settings { to_server: Faults::default(), to_client: Faults::default(), rng: StdRng::seed_from_u64(seed) }),
            counts: Counts::default(),
            cuts: watch::Sender::new(0),
            door: watch::Sender::new(Door::Open),
            applied: watch::Sender::new(Door::Open),
        });
        let listener = tokio::spawn(listen(listener(at)?, at, shared.clone()));
        Ok(Self { at, shared, listener, _port: port, cutter: Mutex::new(None) })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.at
    }

    /// What happens in one direction from now on.
    pub fn set(&self, direction: Direction, faults: Faults) {
        let mut settings = self.shared.lock();
        match direction {
            Direction::ToServer => settings.to_server = faults,
            Direction::ToClient => settings.to_client = faults,
        }
    }

    /// The same in both directions.
    pub fn set_both(&self, faults: Faults) {
        self.set(Direction::ToServer, faults);
        self.set(Direction::ToClient, faults);
    }

    /// What becomes of new connections from now on. `Refuse` has taken effect when this returns; connections that are
    /// open stay.
    pub async fn door(&self, door: Door) {
        self.shared.door.send_replace(door);
        let mut applied = self.shared.applied.subscribe();
        // Fails only when the listener is gone, with the proxy.
        let _ = applied.wait_for(|applied| *applied == door).await;
    }

    /// Cuts every connection that is open.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts every connection again and again; `None` ends it.
    pub fn cut_every(&self, period: Option<Duration>) {
        let shared = self.shared.clone();
        let task = period.map(|period| {
            tokio::spawn(async move {
                loop {
                    sleep(period).await;
                    shared.cuts.send_modify(|cuts| *cuts += 1);
                }
            })
        });
        let before = std::mem::replace(&mut *self.cutter.lock().unwrap_or_else(PoisonError::into_inner), task);
        if let Some(before) = before {
            before.abort();
        }
    }

    /// As a dead machine: open connections and new ones are silent.
    pub async fn freeze(&self) {
        self.set_both(Faults { silent: true, ..Faults::default() });
        self.door(Door::HalfOpen).await;
    }

    /// No faults for connections made from now on; the open ones, which may have holes, are cut.
    pub async fn heal(&self) {
        self.cut_every(None);
        self.set_both(Faults::default());
        self.door(Door::Open).await;
        self.cut();
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let counts = &self.shared.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counters {
            accepted: read(&counts.accepted),
            cut: read(&counts.cut),
            half_open: read(&counts.half_open),
            to_server: read(&counts.to_server),
            to_client: read(&counts.to_client),
            dropped: read(&counts.dropped),
            corrupted: read(&counts.corrupted),
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.cut_every(None);
        // Its connections are children of the listener's task.
        self.listener.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what becomes of a piece.
    fn decide(&self, direction: Direction, piece: &mut [u8]) -> Fate {
        let settings = &mut *self.lock();
        let faults = match direction {
            Direction::ToServer => settings.to_server,
            Direction::ToClient => settings.to_client,
        };
        let rng = &mut settings.rng;
        let (cut, drop, corrupt, late) = (rng.random::<f64>(), rng.random::<f64>(), rng.random::<f64>(), rng.random::<f64>());
        if cut < faults.cut {
            return Fate::Cut;
        }
        if faults.silent || drop < faults.drop {
            return Fate::Swallow;
        }
        if corrupt < faults.corrupt && !piece.is_empty() {
            let at = rng.random_range(0..piece.len());
            // Never the same byte again.
            if let Some(byte) = piece.get_mut(at) {
                *byte ^= u8::try_from(rng.next_u32() % 255 + 1).unwrap_or(1);
            }
            self.counts.corrupted.fetch_add(1, Ordering::Relaxed);
        }
        let late = match faults.delay {
            Delay::None => Duration::ZERO,
            Delay::Fixed(always) => always,
            Delay::Exponential { mean, max } => mean.mul_f64(-(1.0 - late).max(f64::MIN_POSITIVE).ln()).min(max),
        };
        let takes = faults.bytes_per_second.map_or(Duration::ZERO, |speed| Duration::from_secs_f64(piece.len() as f64 / f64::from(speed.max(1))));
        Fate::Pass { late, takes }
    }
}

enum Fate {
    Pass { late: Duration, takes: Duration },
    Swallow,
    Cut,
}

fn socket() -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Two sockets may have one port as long as only one listens.
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

fn listener(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket()?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

/// Accepts as long as the proxy lives; listens only while the door is not closed.
async fn listen(first: TcpListener, at: SocketAddr, shared: Arc<Shared>) {
    let mut listening = Some(first);
    let mut door = shared.door.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let how = *door.borrow_and_update();
        match (how, &listening) {
            (Door::Refuse, _) => listening = None,
            // The port is ours: it cannot be taken meanwhile. Tried again below if the system is short of something.
            (_, None) => listening = listener(at).ok(),
            _ => {}
        }
        shared.applied.send_replace(how);
        tokio::select! {
            biased;
            changed = door.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
            accepted = accept(listening.as_ref()) => if let Some(client) = accepted {
                shared.counts.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(connection(client, *door.borrow(), shared.clone()));
            },
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.ok().map(|(client, _)| client),
        None => std::future::pending().await,
    }
}

async fn connection(client: TcpStream, door: Door, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    cuts.mark_unchanged();
    if door == Door::HalfOpen {
        shared.counts.half_open.fetch_add(1, Ordering::Relaxed);
        let (mut reader, _writer) = client.into_split();
        let swallow = async {
            let mut piece = vec![0; PIECE];
            while let Ok(read @ 1..) = reader.read(&mut piece).await {
                shared.counts.dropped.fetch_add(read as u64, Ordering::Relaxed);
            }
        };
        tokio::select! {
            biased;
            _ = cuts.changed() => {}
            () = swallow => {}
        }
        return;
    }
    let Ok(server) = TcpStream::connect(shared.upstream).await else { return };
    // Small pieces go at once: waiting is a fault of its own here.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let both = async {
        tokio::try_join!(direction(client_in, server_out, Direction::ToServer, &shared), direction(server_in, client_out, Direction::ToClient, &shared),)
    };
    let by_fault = tokio::select! {
        biased;
        _ = cuts.changed() => true,
        ended = both => matches!(ended, Err(End::Cut)),
    };
    if by_fault {
        shared.counts.cut.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why both directions end at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// By a fault.
    Cut,
    /// One side is gone.
    Gone,
}

/// Reads pieces, decides, and lets a second half write them when they are due, in order. Ends well when the reading
/// side said that it has no more; the other direction goes on then.
async fn direction(mut from: OwnedReadHalf, to: OwnedWriteHalf, direction: Direction, shared: &Shared) -> Result<(), End> {
    let (give, due) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let passed = match direction {
        Direction::ToServer => &shared.counts.to_server,
        Direction::ToClient => &shared.counts.to_client,
    };
    let read = async move {
        let mut buffer = vec![0; PIECE];
        let mut free_at = Instant::now();
        loop {
            let read = from.read(&mut buffer).await.map_err(|_| End::Gone)?;
            let piece = buffer.get_mut(..read).unwrap_or_default();
            if piece.is_empty() {
                return Ok(());
            }
            match shared.decide(direction, piece) {
                Fate::Cut => return Err(End::Cut),
                Fate::Swallow => {
                    shared.counts.dropped.fetch_add(read as u64, Ordering::Relaxed);
                }
                Fate::Pass { late, takes } => {
                    free_at = free_at.max(Instant::now()) + takes;
                    give.send((free_at + late, piece.to_vec())).await.map_err(|_| End::Gone)?;
                }
            }
        }
    };
    tokio::try_join!(read, write(to, due, passed)).map(|_| ())
}

async fn write(mut to: OwnedWriteHalf, mut due: mpsc::Receiver<(Instant, Vec<u8>)>, passed: &AtomicU64) -> Result<(), End> {
    while let Some((at, piece)) = due.recv().await {
        sleep_until(at).await;
        to.write_all(&piece).await.map_err(|_| End::Gone)?;
        passed.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    to.shutdown().await.map_err(|_| End::Gone)
}
