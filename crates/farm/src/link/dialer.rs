//! Opening links when they are wanted, and again when they were lost.

use std::{sync::Arc, time::Duration};

use clawstead_terms::{Failure, Millis};
use tokio::time::Instant;

use super::{
    client,
    connection::{FULL_RETRY_MS, Link},
    links::{Inner, Peer},
};

impl Inner {
    /// Opens a new link beside the old one.
    pub fn replace(self: &Arc<Self>, name: &str) {
        if let Some(peer) = self.lock().get_mut(name) {
            self.dial_in_background(name, peer);
        }
    }

    pub(super) fn dial_in_background(self: &Arc<Self>, name: &str, peer: &mut Peer) {
        if !self.leaving.is_cancelled() && !std::mem::replace(&mut peer.dialing, true) {
            let (inner, name) = (self.clone(), name.to_owned());
            self.spawn("farm-link-dial", async move { inner.dial_until_up(&name).await });
        }
    }

    /// Dials until a link is up that need not be replaced, or nobody wants it any more.
    async fn dial_until_up(self: Arc<Self>, name: &str) {
        loop {
            let dialled = tokio::select! {
                biased;
                () = self.leaving.cancelled() => break,
                dialled = client::dial(&self, name) => dialled,
            };
            let pause = {
                let mut peers = self.lock();
                let fresh = self.usable(&peers, name).is_some_and(|link| !self.is_stale(&link));
                let peer = peers.entry(name.to_owned()).or_default();
                match dialled {
                    Ok(()) => break,
                    Err(why) => {
                        tracing::debug!(peer = name, %why, "no link");
                        peer.failures = peer.failures.saturating_add(1);
                        peer.last_error = Some((self.world.clock.now(), why));
                    }
                }
                let now = Instant::now();
                if fresh || peer.wanted_until.is_none_or(|until| until <= now) {
                    break;
                }
                let (first, longest) = self.timing.backoff;
                let full = first.saturating_mul(1 << (peer.failures - 1).min(16)).min(longest);
                let half = u64::try_from(full.as_millis() / 2).unwrap_or(0);
                let pause = Duration::from_millis(half + self.world.rng.below(half + 1));
                peer.next_dial = Some(now + pause);
                pause
            };
            self.tell();
            tokio::select! {
                biased;
                () = self.leaving.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Some(peer) = self.lock().get_mut(name) {
            (peer.dialing, peer.next_dial) = (false, None);
        }
        self.tell();
    }

    /// A link to a peer, dialled if there is none. Waits until `until` at most.
    pub async fn link_to(self: &Arc<Self>, name: &str, until: Instant) -> Result<Arc<Link>, Failure> {
        let mut changed = self.changed.subscribe();
        let until = until.min(Instant::now() + self.timing.link_wait);
        let mut first = true;
        loop {
            changed.mark_unchanged();
            {
                let mut peers = self.lock();
                if self.leaving.is_cancelled() {
                    return Err(Failure::unavailable("this gateway stops", 1000));
                }
                let known = peers.contains_key(name);
                if let Some(peer) = peers.get_mut(name) {
                    peer.wanted_until = Some(Instant::now() + self.timing.keep);
                    peer.calls += u64::from(first);
                }
                if let Some(link) = self.usable(&peers, name) {
                    return Ok(link);
                }
                self.may_dial(name)?;
                let peer = peers.entry(name.to_owned()).or_default();
                peer.wanted_until = Some(Instant::now() + self.timing.keep);
                peer.calls += u64::from(first && !known);
                if let Some(next) = peer.next_dial.filter(|next| *next > until) {
                    return Err(away(name, peer.last_error.as_ref(), next.duration_since(Instant::now())));
                }
                self.dial_in_background(name, peer);
            }
            first = false;
            if tokio::time::timeout_at(until, changed.changed()).await.is_err() {
                let peers = self.lock();
                return Err(away(name, peers.get(name).and_then(|peer| peer.last_error.as_ref()), Duration::from_millis(FULL_RETRY_MS)));
            }
        }
    }

    fn may_dial(&self, name: &str) -> Result<(), Failure> {
        if name == self.gateway {
            return Err(Failure::internal(format!("the gateway {name} called itself over a link")));
        }
        if self.resolve.address(name).is_none() {
            let hint = "start it, or set farm.peer.advertise there; a gateway that cannot be reached has to open the link itself";
            return Err(Failure::unavailable(format!("no address of the gateway {name} is known, and it has no link to us"), 1000).with_hint(hint));
        }
        Ok(())
    }
}

fn away(name: &str, last: Option<&(Millis, String)>, wait: Duration) -> Failure {
    let why = last.map_or("it does not answer", |(_, why)| why.as_str());
    let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(FULL_RETRY_MS);
    Failure::unavailable(format!("no link to the gateway {name}: {why}"), ms)
}
