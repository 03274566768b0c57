//! Text as it streams, in pieces of a useful size: the first at once, then at most one every 25 ms, or sooner when
//! much has come. What is copied stays linear in the length of the text.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two pieces.
const GAP: Duration = Duration::from_millis(25);
/// Bytes that make a piece before its time.
const BYTES_MIN: usize = 256;
/// Every piece carries the whole text so far; a piece before its time must be at least this part of it.
const SHARE: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Deltas {
    item_id: String,
    text: String,
    shown: usize,
    shown_at: Option<Instant>,
}

impl Deltas {
    /// Adds text; true when it should be shown now.
    pub fn add(&mut self, item_id: String, text: &str, now: Instant) -> bool {
        if item_id != self.item_id {
            *self = Self { item_id, ..Self::default() };
        }
        self.text.push_str(text);
        let waiting = self.text.len() - self.shown;
        match self.shown_at {
            None => true,
            Some(at) => now.duration_since(at) >= GAP || waiting >= BYTES_MIN.max(self.text.len() / SHARE),
        }
    }

    /// When what waits should be shown.
    pub fn due(&self) -> Option<Instant> {
        (self.shown < self.text.len()).then(|| self.shown_at.map_or_else(Instant::now, |at| at + GAP))
    }

    /// What waits: item, whole text, new text.
    pub fn take(&mut self, now: Instant) -> Option<(String, String, String)> {
        if self.shown >= self.text.len() {
            return None;
        }
        let delta = self.text[self.shown..].to_owned();
        self.shown = self.text.len();
        self.shown_at = Some(now);
        Some((self.item_id.clone(), self.text.clone(), delta))
    }

    /// The answer is void.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::Deltas;
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn the_first_piece_comes_at_once_and_the_rest_in_linear_work() {
        let mut deltas = Deltas::default();
        let start = Instant::now();
        assert!(deltas.add("a".into(), "He", start));
        assert_eq!(deltas.take(start).unwrap(), ("a".into(), "He".into(), "He".into()));
        assert!(!deltas.add("a".into(), "llo", start));
        assert_eq!(deltas.due(), Some(start + Duration::from_millis(25)));
        assert!(deltas.add("a".into(), "!", start + Duration::from_millis(25)));
        assert_eq!(deltas.take(start).unwrap(), ("a".into(), "Hello!".into(), "llo!".into()));
        assert!(deltas.add("b".into(), "x", start), "another item begins anew");

        let mut copied = 0;
        for _ in 0..200_000 {
            if deltas.add("b".into(), "word ", start)
                && let Some((_, text, delta)) = deltas.take(start)
            {
                copied += text.len() + delta.len();
            }
        }
        assert!(copied < 1_000_000 * 40, "{copied} bytes copied for a text of 1 MB");
    }
}
