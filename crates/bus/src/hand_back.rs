//! Letters a subscriber holds. An engine learns from here which of them were dropped without being settled, so that
//! they come again soon instead of after the engine's own long wait.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// The letters of one subscription that are in somebody's hands. Bounded by what the subscriber chooses to hold: the
/// subscription reads only when it is asked for more.
#[derive(Debug)]
pub(crate) struct Hands<T> {
    inner: Mutex<Inner<T>>,
    changed: Notify,
    again_after: Duration,
}

#[derive(Debug)]
struct Inner<T> {
    held: BTreeSet<T>,
    dropped: Vec<(Instant, T)>,
}

impl<T: Ord + Clone> Hands<T> {
    /// None held. A dropped letter is due after `again_after`, so that a reader who drops everything does not spin.
    pub(crate) fn new(again_after: Duration) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner { held: BTreeSet::new(), dropped: Vec::new() }), changed: Notify::new(), again_after })
    }

    /// Hands a letter out.
    pub(crate) fn give(self: &Arc<Self>, letter: T) -> InHand<T> {
        self.lock().held.insert(letter.clone());
        InHand { letter: Some(letter), hands: self.clone() }
    }

    /// Is it in somebody's hands?
    pub(crate) fn holds(&self, letter: &T) -> bool {
        self.lock().held.contains(letter)
    }

    /// Takes the dropped letters that are due.
    pub(crate) fn due(&self) -> Vec<T> {
        let now = Instant::now();
        let mut inner = self.lock();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut inner.dropped).into_iter().partition(|(at, _)| *at <= now);
        inner.dropped = later;
        due.into_iter().map(|(_, letter)| letter).collect()
    }

    /// When the next dropped letter is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.lock().dropped.iter().map(|(at, _)| *at).min()
    }

    /// Returns when a letter was dropped since the last call.
    pub(crate) async fn dropped(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One letter in somebody's hands. Dropping it hands the letter back.
#[derive(Debug)]
pub(crate) struct InHand<T: Ord + Clone> {
    letter: Option<T>,
    hands: Arc<Hands<T>>,
}

impl<T: Ord + Clone> InHand<T> {
    /// The letter is being settled: it is not handed back.
    pub(crate) fn settled(mut self) {
        if let Some(letter) = self.letter.take() {
            self.hands.lock().held.remove(&letter);
        }
    }
}

impl<T: Ord + Clone> Drop for InHand<T> {
    fn drop(&mut self) {
        if let Some(letter) = self.letter.take() {
            let at = Instant::now() + self.hands.again_after;
            let mut inner = self.hands.lock();
            inner.held.remove(&letter);
            inner.dropped.push((at, letter));
            drop(inner);
            self.hands.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_dropped_letter_is_due_after_its_wait_and_a_settled_one_never() {
        let hands = Hands::new(Duration::from_secs(1));
        let (first, second) = (hands.give(1), hands.give(2));
        assert!(hands.holds(&1) && hands.holds(&2));
        first.settled();
        drop(second);
        hands.dropped().await;
        assert!(!hands.holds(&1) && !hands.holds(&2));
        assert_eq!(hands.due(), Vec::<i32>::new());
        tokio::time::sleep_until(hands.next_due().unwrap()).await;
        assert_eq!(hands.due(), vec![2]);
        assert_eq!((hands.due(), hands.next_due()), (Vec::new(), None));
    }
}
