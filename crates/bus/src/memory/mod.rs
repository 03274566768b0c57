//! The engine inside one process: what a gateway without a farm uses, and what the simulator gives its gateways.
//!
//! One [`Memory`] is the engine; [`Memory::coord`] and [`Memory::bus`] make the clients of a gateway. Everything lies
//! in ordered maps behind one lock, nothing runs by itself, and time is tokio's: under paused time one seed gives one
//! history. Faults come from outside: [`Memory::cut`] takes an engine from a gateway, [`Faults`] decides about single
//! requests and letters.

mod bus;
mod coord;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{Bus, Coord, MailBox, Member, Sealed, Version};

/// Its name in messages.
pub const ENGINE: &str = "embedded";
/// Largest envelope, bytes (cluster design, section 10).
pub const INLINE_MAX: usize = 1024 * 1024;
/// Letters a box holds; then publishers are told to come again.
pub const BOX_LETTERS_MAX: usize = 10_000;
/// Bytes a box holds.
pub const BOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a publisher waits before it tries a full box again.
pub const FULL_RETRY: Duration = Duration::from_secs(1);
/// Attempts a box remembers to drop repeated ones.
pub const DEDUPE_MAX: usize = 4096;
/// A letter that was dropped unsettled comes again after this time.
pub const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Which half of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The keys.
    Coord,
    /// The mail.
    Bus,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It is answered.
    #[default]
    Answered,
    /// It is answered after this time; it takes effect in the middle of it.
    Late(Duration),
    /// It never arrives: nothing happens, and the caller waits for its time limit.
    Lost,
    /// It happens, and the answer is lost.
    AnswerLost,
}

/// What happens to one watch when it looks for changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchFate {
    /// It tells them.
    #[default]
    Told,
    /// It breaks: it tells that the store is away, and begins anew.
    Lost,
    /// Its place in the history is gone (an index that went back): it tells everything again.
    Again,
}

/// Decides about single requests and letters. Called while the engine is locked: it may not call the engine.
pub trait Faults: Send + Sync {
    /// A request of `who`.
    fn request(&self, _who: &str, _part: Part) -> Fate {
        Fate::Answered
    }

    /// When the copies of a letter arrive: none = it is lost, several = it is repeated, later = it is overtaken.
    fn copies(&self, _who: &str, _to: &MailBox, _letter: &Sealed) -> Vec<Duration> {
        vec![Duration::ZERO]
    }

    /// How much later than the change `who` hears of it from a watch.
    fn watch_delay(&self, _who: &str) -> Duration {
        Duration::ZERO
    }

    /// What happens to a watch of `who` that is about to tell a change.
    fn watch(&self, _who: &str) -> WatchFate {
        WatchFate::Told
    }
}

/// No faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faultless;

impl Faults for Faultless {}

/// The engine. Clones are the same one.
#[derive(Clone)]
pub struct Memory(Arc<Hub>);

struct Hub {
    inner: Mutex<Inner>,
    /// Says that something changed: a key, a box, a cut.
    changed: clawstead_world::Bell,
    faults: Arc<dyn Faults>,
}

#[derive(Default)]
struct Inner {
    /// The last version given.
    version: u64,
    keys: BTreeMap<String, (Bytes, Version)>,
    members: BTreeMap<(String, String), Registered>,
    boxes: BTreeMap<MailBox, bus::Held>,
    cut: BTreeSet<(String, Part)>,
    /// Blobs and until when they are kept.
    blobs: BTreeMap<String, (Bytes, Instant)>,
    /// The last subscription or letter number given.
    number: u64,
    /// How often keys or boxes were changed.
    writes: u64,
}

/// A gateway in the engine's discovery.
#[derive(Clone, Debug)]
pub struct Registered {
    /// What it told.
    pub member: Member,
    /// Beside its last sign of life.
    pub note: String,
    /// Its last sign of life; `None` before the first.
    pub beat: Option<Instant>,
}

impl Registered {
    /// True while its check passes.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.beat.is_some_and(|at| at.elapsed() < self.member.check_ttl)
    }
}

impl Memory {
    /// An empty engine without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::with_faults(Arc::new(Faultless))
    }

    /// An empty engine with faults.
    #[must_use]
    pub fn with_faults(faults: Arc<dyn Faults>) -> Self {
        Self(Arc::new(Hub { inner: Mutex::default(), changed: clawstead_world::Bell::default(), faults }))
    }

    /// The keys, as the gateway `who` reaches them.
    #[must_use]
    pub fn coord(&self, who: &str) -> Arc<dyn Coord> {
        Arc::new(coord::MemoryCoord::new(self.0.clone(), who))
    }

    /// The mail, as the gateway `who` reaches it.
    #[must_use]
    pub fn bus(&self, who: &str) -> Arc<dyn Bus> {
        Arc::new(bus::MemoryBus::new(self.0.clone(), who))
    }

    /// From now on `who` does not reach this part: requests wait for their time limit, watches tell `Lost`.
    pub fn cut(&self, who: &str, part: Part) {
        self.0.lock().cut.insert((who.to_owned(), part));
        self.0.tell();
    }

    /// `who` reaches this part again.
    pub fn heal(&self, who: &str, part: Part) {
        self.0.lock().cut.remove(&(who.to_owned(), part));
        self.0.tell();
    }

    /// Forgets all mail, as an engine does that lost its disk. Keys stay.
    pub fn lose_mail(&self) {
        self.0.lock().boxes.values_mut().for_each(bus::Held::lose);
        self.0.tell();
    }

    /// Who registered, by service and id.
    #[must_use]
    pub fn members(&self) -> Vec<Registered> {
        self.0.lock().members.values().cloned().collect()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.ring();
    }

    /// Does something while the engine is locked, and wakes who waits for a change if there was one.
    fn apply<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let before = inner.writes;
        let answer = work(&mut inner);
        let changed = inner.writes != before;
        drop(inner);
        if changed {
            self.tell();
        }
        answer
    }

    /// What happens to a request of `who`: a cut loses it.
    fn fate(&self, who: &str, part: Part) -> Fate {
        if self.is_cut(who, part) { Fate::Lost } else { self.faults.request(who, part) }
    }

    fn is_cut(&self, who: &str, part: Part) -> bool {
        self.lock().cut.contains(&(who.to_owned(), part))
    }
}
