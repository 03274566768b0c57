//! Output of a command, bounded: its beginning and its end are kept, however much it prints.

use std::collections::VecDeque;

/// The beginning kept, bytes.
const HEAD_MAX: usize = 32 * 1024;
/// The end kept, bytes.
const TAIL_MAX: usize = 64 * 1024;

/// Output of a command.
#[derive(Debug, Default)]
pub struct Output {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Output {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = HEAD_MAX.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        self.total += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_MAX)..];
        let over = (self.tail.len() + bytes.len()).saturating_sub(TAIL_MAX);
        self.tail.drain(..over);
        self.tail.extend(bytes);
    }

    /// All bytes printed so far.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// What is kept, as text; a notice stands for what is missing.
    #[must_use]
    pub fn text(&self) -> String {
        let kept = self.tail.len() as u64;
        if self.total == kept {
            return String::from_utf8_lossy(&self.end(TAIL_MAX)).into_owned();
        }
        let before = usize::try_from(self.total - kept).unwrap_or(usize::MAX).min(self.head.len());
        let missing = self.total - kept - before as u64;
        let head = String::from_utf8_lossy(&self.head[..before]);
        let tail = self.end(TAIL_MAX);
        let tail = String::from_utf8_lossy(&tail);
        if missing == 0 { format!("{head}{tail}") } else { format!("{head}\n[... {missing} bytes left out ...]\n{tail}") }
    }

    /// The last bytes as text.
    #[must_use]
    pub fn tail(&self, bytes_max: usize) -> String {
        String::from_utf8_lossy(&self.end(bytes_max)).into_owned()
    }

    /// What came after the first `position` bytes, as far as it is kept, and how many bytes of that are lost.
    #[must_use]
    pub fn since(&self, position: u64) -> (String, u64) {
        let start = self.total - self.tail.len() as u64;
        let lost = start.saturating_sub(position);
        let want = usize::try_from(self.total.saturating_sub(position.max(start))).unwrap_or(usize::MAX);
        (self.tail(want), lost)
    }

    fn end(&self, bytes_max: usize) -> Vec<u8> {
        let mut skip = self.tail.len().saturating_sub(bytes_max);
        // Not in the middle of a character: continuation bytes are at most three.
        if skip > 0 {
            for _ in 0..3 {
                if self.tail.get(skip).is_some_and(|b| b & 0xc0 == 0x80) {
                    skip += 1;
                }
            }
        }
        self.tail.iter().skip(skip).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{HEAD_MAX, Output, TAIL_MAX};

    #[test]
    fn a_flood_keeps_both_ends() {
        let mut out = Output::default();
        out.push(b"first\n");
        for _ in 0..10_000 {
            out.push(&[b'x'; 1000]);
        }
        out.push(b"\nlast\xff");
        let text = out.text();
        assert!(text.starts_with("first\n") && text.ends_with("\nlast\u{fffd}") && text.contains("left out"));
        assert!(text.len() < HEAD_MAX + TAIL_MAX + 100);
        assert_eq!(out.tail(6), "\nlast\u{fffd}");
        let (new, lost) = out.since(out.total() - 3);
        assert_eq!((new.as_str(), lost), ("st\u{fffd}", 0));
        assert!(out.since(0).1 > 0);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_while_it_fits(parts in prop::collection::vec(prop::collection::vec(b'a'..=b'z', 0..9000), 0..10)) {
            let mut out = Output::default();
            let whole: Vec<u8> = parts.concat();
            for part in &parts { out.push(part); }
            prop_assert_eq!(out.text(), String::from_utf8(whole.clone()).unwrap());
            prop_assert_eq!(out.total(), whole.len() as u64);
        }
    }
}
