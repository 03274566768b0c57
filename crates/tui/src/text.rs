//! Text for a terminal: cleaned, measured, wrapped.

use ratatui::{
    style::Style,
    text::{Line, Span},
};
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

/// Columns of a tab stop in shown text.
const TAB: &str = "    ";

/// Text without anything a terminal would obey: control characters and marks that turn the writing direction are
/// left out, tabs become spaces. Line breaks stay.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push('\n'),
            '\t' => out.push_str(TAB),
            c if c.is_control() => {}
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}' => {}
            c => out.push(c),
        }
    }
    out
}

/// The first line of `text`, cut to `width` columns with `…`.
#[must_use]
pub fn one_line(text: &str, width: usize) -> String {
    let cleaned = clean(text);
    let line = cleaned.split('\n').find(|line| !line.trim().is_empty()).unwrap_or("").trim();
    fit(line, width)
}

/// `line` cut to `width` columns with `…`.
#[must_use]
pub fn fit(line: &str, width: usize) -> String {
    if line.width() <= width {
        return line.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for grapheme in line.graphemes(true) {
        let columns = grapheme.width();
        if used + columns + 1 > width {
            break;
        }
        used += columns;
        out.push_str(grapheme);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

/// Where lines begin: what stands before the first one and before those that follow.
#[derive(Clone, Debug, Default)]
pub struct Indent {
    /// Before the first line.
    pub first: Vec<Span<'static>>,
    /// Before each further line.
    pub rest: Vec<Span<'static>>,
}

impl Indent {
    /// The same text before all lines.
    #[must_use]
    pub fn all(text: &'static str, style: Style) -> Self {
        let span = vec![Span::styled(text, style)];
        Self { first: span.clone(), rest: span }
    }
}

fn columns(spans: &[Span<'_>]) -> usize {
    spans.iter().map(|span| span.content.width()).sum()
}

/// Wraps styled text at spaces, and inside words that are wider than a line. At least one line comes out; no line is
/// wider than `width` unless the indent or one character alone is.
#[must_use]
pub fn wrap(spans: &[Span<'static>], width: usize, indent: &Indent) -> Vec<Line<'static>> {
    let mut lines = Lines { width, rest: &indent.rest, done: Vec::new(), now: indent.first.clone(), used: columns(&indent.first), empty: true };
    for span in spans {
        for piece in pieces(&span.content) {
            lines.add(piece, span.style);
        }
    }
    lines.finish()
}

/// Words and the blanks between them, in order.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let blank = rest.chars().next()?.is_whitespace();
        let end = rest.find(|c: char| c.is_whitespace() != blank).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

struct Lines<'a> {
    width: usize,
    rest: &'a [Span<'static>],
    done: Vec<Line<'static>>,
    now: Vec<Span<'static>>,
    used: usize,
    empty: bool,
}

impl Lines<'_> {
    fn add(&mut self, piece: &str, style: Style) {
        let wide = piece.width();
        let blank = piece.chars().all(char::is_whitespace);
        if self.used + wide <= self.width {
            if !(blank && self.empty && !self.done.is_empty()) {
                self.push(piece, style, wide);
            }
            return;
        }
        if blank {
            if !self.empty {
                self.next_line();
            }
            return;
        }
        if !self.empty && columns(self.rest) + wide <= self.width {
            self.next_line();
            self.push(piece, style, wide);
            return;
        }
        for grapheme in piece.graphemes(true) {
            let wide = grapheme.width();
            if self.used + wide > self.width && !self.empty {
                self.next_line();
            }
            self.push(grapheme, style, wide);
        }
    }

    fn push(&mut self, text: &str, style: Style, wide: usize) {
        self.used += wide;
        self.empty = false;
        match self.now.last_mut() {
            Some(last) if last.style == style && !matches!(last.content, std::borrow::Cow::Borrowed(_)) => last.content.to_mut().push_str(text),
            _ => self.now.push(Span::styled(text.to_owned(), style)),
        }
    }

    fn next_line(&mut self) {
        if let Some(last) = self.now.last_mut() {
            let kept = last.content.trim_end().len();
            last.content.to_mut().truncate(kept);
        }
        self.done.push(Line::from(std::mem::replace(&mut self.now, self.rest.to_vec())));
        self.used = columns(self.rest);
        self.empty = true;
    }

    fn finish(mut self) -> Vec<Line<'static>> {
        if !self.empty || self.done.is_empty() {
            self.done.push(Line::from(self.now));
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::{Indent, clean, fit, one_line, wrap};
    use proptest::prelude::*;
    use ratatui::text::{Line, Span};
    use unicode_width::UnicodeWidthStr as _;

    fn texts(lines: &[Line<'_>]) -> Vec<String> {
        lines.iter().map(|line| line.spans.iter().map(|span| &*span.content).collect()).collect()
    }

    fn wrapped(text: &str, width: usize) -> Vec<String> {
        texts(&wrap(&[Span::raw(text.to_owned())], width, &Indent::default()))
    }

    #[test]
    fn words_move_to_the_next_line_and_long_ones_break() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("", 4), [""]);
        assert_eq!(wrapped("漢字漢字", 5), ["漢字", "漢字"]);
    }

    #[test]
    fn further_lines_hang_under_the_first() {
        let indent = Indent { first: vec![Span::raw("- ")], rest: vec![Span::raw("  ")] };
        assert_eq!(texts(&wrap(&[Span::raw("aa bb cc".to_owned())], 6, &indent)), ["- aa", "  bb", "  cc"]);
    }

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        assert_eq!(clean("a\u{1b}[31mred\u{7}\u{9b}2J\u{202e}x\ty\r\n"), "a[31mred2Jx    y\n");
        assert_eq!(one_line("\n  hello there\nmore", 8), "hello t…");
        assert_eq!(fit("漢字", 3), "漢…");
    }

    proptest! {
        #[test]
        fn no_line_is_too_wide_and_no_letter_is_lost(text in "[a-z漢é 👍-]{0,80}", width in 2usize..20) {
            let lines = wrapped(&text, width);
            for line in &lines {
                prop_assert!(line.width() <= width, "{line:?}");
            }
            let letters = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }
    }
}
