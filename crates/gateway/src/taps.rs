//! Listeners of single runs: HTTP answers that stream.
//!
//! A lane never waits for a listener. One that reads slowly loses pieces of text; that is no harm, because every
//! [`RunEventKind::Text`] carries the whole text so far. The end of a run always finds room.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

use clawstead_terms::{RunEvent, RunEventKind, RunId};

/// Events that wait for one listener at most, its last place being for the end.
const WAITING_MAX: usize = 64;

/// By run; the number tells listeners of one run apart.
type Listeners = HashMap<RunId, Vec<(u64, mpsc::Sender<RunEventKind>)>>;

#[derive(Default)]
struct Shared {
    listeners: Mutex<Listeners>,
    /// Spares the lanes a lock while nobody listens.
    count: AtomicUsize,
    next: AtomicU64,
}

/// Who listens to which run.
#[derive(Clone, Default)]
pub struct Taps(Arc<Shared>);

/// What happens in one run. Dropping it ends the listening.
pub struct Tap {
    shared: Arc<Shared>,
    run: RunId,
    id: u64,
    events: mpsc::Receiver<RunEventKind>,
}

fn lock(shared: &Shared) -> MutexGuard<'_, Listeners> {
    shared.listeners.lock().unwrap_or_else(PoisonError::into_inner)
}

const fn is_end(kind: &RunEventKind) -> bool {
    matches!(kind, RunEventKind::Finished { .. } | RunEventKind::Failed { .. } | RunEventKind::Aborted { .. })
}

impl Taps {
    /// Listens to a run from now on; it may begin later. Listen before handing its letter over to miss nothing.
    #[must_use]
    pub fn listen(&self, run: &RunId) -> Tap {
        let (sender, events) = mpsc::channel(WAITING_MAX);
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.0).entry(run.clone()).or_default().push((id, sender));
        self.0.count.fetch_add(1, Ordering::Release);
        Tap { shared: Arc::clone(&self.0), run: run.clone(), id, events }
    }

    /// Tells whoever listens to the run. Never waits.
    pub fn run(&self, event: &RunEvent) {
        if self.0.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let end = is_end(&event.kind);
        let mut all = lock(&self.0);
        if let Some(listeners) = all.get(&event.run_id) {
            for (_, sender) in listeners {
                // Sent under the lock, so the free places cannot get fewer in between.
                if end || sender.capacity() > 1 {
                    let _ = sender.try_send(event.kind.clone());
                }
            }
        }
        if end && let Some(gone) = all.remove(&event.run_id) {
            self.0.count.fetch_sub(gone.len(), Ordering::Release);
        }
    }

    /// Listeners now.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.0.count.load(Ordering::Acquire)
    }
}

impl Tap {
    /// The next event; none after the end of the run. What was lost is in the run ledger.
    pub async fn next(&mut self) -> Option<RunEventKind> {
        self.events.recv().await
    }

    /// An event that is there already.
    pub fn try_next(&mut self) -> Option<RunEventKind> {
        self.events.try_recv().ok()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut all = lock(&self.shared);
        let Some(listeners) = all.get_mut(&self.run) else { return };
        let before = listeners.len();
        listeners.retain(|(id, _)| *id != self.id);
        self.shared.count.fetch_sub(before - listeners.len(), Ordering::Release);
        if listeners.is_empty() {
            all.remove(&self.run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Taps, WAITING_MAX};
    use clawstead_terms::{AgentId, Millis, RunEvent, RunEventKind, SessionKey, StopReason, Usage};

    fn event(run: &str, kind: RunEventKind) -> RunEvent {
        let agent = AgentId::normalise("main");
        RunEvent {
            run_id: run.into(),
            session: SessionKey::main(&agent),
            agent,
            session_id: "s".into(),
            seq: 1,
            at: Millis(0),
            spawned_by: None,
            heartbeat: false,
            kind,
        }
    }

    fn text(whole: &str) -> RunEventKind {
        RunEventKind::Text { item_id: "i".into(), text: whole.into(), delta: String::new() }
    }

    fn finished() -> RunEventKind {
        RunEventKind::Finished { text: "all".into(), stop_reason: StopReason::Stop, usage: Usage::default(), started_at: Millis(0), tools_used: Vec::new() }
    }

    #[tokio::test]
    async fn a_listener_hears_its_run_to_the_end() {
        let taps = Taps::default();
        let mut tap = taps.listen(&"r".into());
        taps.run(&event("other", text("no")));
        taps.run(&event("r", text("a")));
        taps.run(&event("r", finished()));
        assert_eq!(taps.listeners(), 0, "an ended run is forgotten");
        assert_eq!(tap.next().await, Some(text("a")));
        assert_eq!(tap.next().await, Some(finished()));
        assert_eq!(tap.next().await, None);
    }

    #[tokio::test]
    async fn a_slow_listener_loses_pieces_but_never_the_end() {
        let taps = Taps::default();
        let mut tap = taps.listen(&"r".into());
        for n in 0..10 * WAITING_MAX {
            taps.run(&event("r", text(&"x".repeat(n))));
        }
        taps.run(&event("r", finished()));
        let mut heard = Vec::new();
        while let Some(kind) = tap.next().await {
            heard.push(kind);
        }
        assert_eq!(heard.len(), WAITING_MAX);
        assert_eq!(heard.last(), Some(&finished()));
    }

    #[test]
    fn whoever_goes_is_forgotten() {
        let taps = Taps::default();
        let (first, second) = (taps.listen(&"r".into()), taps.listen(&"r".into()));
        drop(first);
        assert_eq!(taps.listeners(), 1);
        drop(second);
        assert_eq!(taps.listeners(), 0);
        taps.run(&event("r", finished()));
        assert_eq!(taps.listeners(), 0);
    }
}
