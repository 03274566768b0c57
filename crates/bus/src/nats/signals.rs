//! What the client tells about its connection while nobody asks: losses and refusals.

use std::sync::{Mutex, PoisonError};

use async_nats::{Event, ServerError};
use tokio::{sync::watch, time::Instant};

use super::ENGINE;

/// The line to the servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// How often it was lost.
    pub(super) losses: u64,
}

/// The state of the connection.
#[derive(Default)]
pub(super) struct Signals {
    /// Changes with each loss.
    pub(super) line: watch::Sender<Line>,
    refusal: Mutex<Option<(Instant, String)>>,
}

impl Signals {
    /// The last refusal since the last connection, and when.
    pub(super) fn refusal(&self) -> Option<(Instant, String)> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes an event in.
    pub(super) fn heard(&self, event: &Event) {
        let refused = |why: &str| {
            tracing::warn!(engine = ENGINE, why, "NATS refuses us");
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), why.to_owned()));
        };
        match event {
            Event::Connected => *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = None,
            Event::Disconnected => self.line.send_modify(|line| line.losses += 1),
            Event::ServerError(ServerError::AuthorizationViolation) => refused("authorization violation"),
            Event::ServerError(ServerError::Other(why)) if why.to_ascii_lowercase().contains("violation") => refused(why),
            Event::ClientError(error) if error.to_string().to_ascii_lowercase().contains("authorization violation") => refused("authorization violation"),
            _ => {}
        }
    }
}

/// Percent signs of an address undone.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok())).flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_undone() {
        for (text, expected) in [("plain", "plain"), ("a%40b%3A", "a@b:"), ("%C3%A4", "ä"), ("100%", "100%"), ("%zz", "%zz"), ("%2", "%2")] {
            assert_eq!(decoded(text), expected);
        }
    }

    #[test]
    fn a_refusal_is_known_until_the_next_connection() {
        let signals = Signals::default();
        let losses = signals.line.subscribe();
        signals.heard(&Event::ServerError(ServerError::Other("Permissions Violation for Publish to \"openclaw.x\"".into())));
        assert!(signals.refusal().is_some_and(|(_, why)| why.starts_with("Permissions Violation")));
        signals.heard(&Event::Connected);
        assert!(signals.refusal().is_none());
        signals.heard(&Event::ServerError(ServerError::Other("slow consumer".into())));
        signals.heard(&Event::Disconnected);
        assert!(signals.refusal().is_none());
        assert_eq!(losses.borrow().losses, 1);
    }
}
