//! Where the reader is in the conversation.

use crate::entry::EntryId;

/// What the last painting measured: the lines of every entry, and how many fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measures {
    /// Lines of each entry, in order.
    pub heights: Vec<(EntryId, usize)>,
    /// Lines that are visible at once.
    pub page: usize,
}

impl Measures {
    /// All lines.
    #[must_use]
    pub fn total(&self) -> usize {
        self.heights.iter().map(|(_, lines)| lines).sum()
    }

    /// The first visible line when the end is shown.
    #[must_use]
    pub fn bottom(&self) -> usize {
        self.total().saturating_sub(self.page)
    }

    fn line_of(&self, anchor: Anchor) -> Option<usize> {
        let mut before = 0;
        for (id, lines) in &self.heights {
            if *id == anchor.entry {
                return Some(before + anchor.line.min(lines.saturating_sub(1)));
            }
            before += lines;
        }
        None
    }

    fn anchor_at(&self, line: usize) -> Option<Anchor> {
        let mut before = 0;
        for (id, lines) in &self.heights {
            if line < before + lines {
                return Some(Anchor { entry: *id, line: line - before });
            }
            before += lines;
        }
        None
    }
}

/// The line at the top of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Its entry.
    pub entry: EntryId,
    /// Its place in the entry, from 0.
    pub line: usize,
}

/// Where the reader is. Held by an entry and not by a number, so that neither older messages coming in above nor new
/// ones below move the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scroll {
    /// The end, whatever comes.
    #[default]
    Follow,
    /// This line stays on top.
    At(Anchor),
}

impl Scroll {
    /// The first visible line.
    #[must_use]
    pub fn top(self, measures: &Measures) -> usize {
        match self {
            Self::Follow => measures.bottom(),
            Self::At(anchor) => measures.line_of(anchor).unwrap_or(0).min(measures.bottom()),
        }
    }

    /// Moves by so many lines, up is negative; reaching the end follows it.
    #[must_use]
    pub fn by(self, lines: isize, measures: &Measures) -> Self {
        let top = self.top(measures).saturating_add_signed(lines);
        if top >= measures.bottom() {
            return Self::Follow;
        }
        measures.anchor_at(top).map_or(Self::Follow, Self::At)
    }
}

#[cfg(test)]
mod tests {
    use super::{Measures, Scroll};
    use crate::entry::EntryId;

    fn measures(heights: &[(u64, usize)]) -> Measures {
        Measures { heights: heights.iter().map(|(id, lines)| (EntryId(*id), *lines)).collect(), page: 5 }
    }

    #[test]
    fn the_text_stays_where_it_is_while_both_ends_grow() {
        let before = measures(&[(1, 4), (2, 4), (3, 4)]);
        let scroll = Scroll::Follow.by(-3, &before);
        assert_eq!(scroll.top(&before), 4);
        let after = measures(&[(9, 10), (1, 4), (2, 4), (3, 6), (4, 2)]);
        assert_eq!(scroll.top(&after), 14, "entry 2 is still on top");
        assert_eq!(Scroll::Follow.top(&after), 21);
    }

    #[test]
    fn the_end_is_followed_again_and_the_top_is_a_stop() {
        let m = measures(&[(1, 4), (2, 4)]);
        let up = Scroll::Follow.by(-100, &m);
        assert_eq!(up.top(&m), 0);
        assert_eq!(up.by(3, &m), Scroll::Follow);
        assert_eq!(Scroll::Follow.by(-1, &measures(&[(1, 2)])), Scroll::Follow, "all of it is visible");
    }
}
