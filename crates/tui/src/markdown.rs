//! A light renderer for the Markdown that models write: headings, emphasis, code, lists, quotes, rules, links,
//! tables that fit.
//! Anything else is shown as it is.

use ratatui::{
    style::Style,
    text::{Line, Span},
};
use unicode_width::UnicodeWidthStr as _;

use crate::{
    text::{Indent, clean, wrap},
    view::Theme,
};

/// Renders `text` to lines of at most `width` columns.
#[must_use]
pub fn render(text: &str, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let cleaned = clean(text);
    let mut out = Vec::new();
    let mut fence: Option<Fence> = None;
    let mut lines = cleaned.split('\n').peekable();
    while let Some(line) = lines.next() {
        if let Some(open) = &fence {
            if open.closes(line) {
                fence = None;
            } else {
                out.extend(code_line(line, width, theme));
            }
            continue;
        }
        if let Some(opened) = Fence::opens(line) {
            if !opened.language.is_empty() {
                out.push(Line::from(Span::styled(format!("│ {}", opened.language), theme.dim)));
            }
            fence = Some(opened);
            continue;
        }
        if is_row(line) {
            let mut rows = vec![line];
            while let Some(next) = lines.next_if(|next| is_row(next)) {
                rows.push(next);
            }
            out.extend(table(&rows, width, theme));
            continue;
        }
        out.extend(block(line, width, theme));
    }
    while out.last().is_some_and(|line| line.spans.iter().all(|span| span.content.trim().is_empty())) {
        out.pop();
    }
    out
}

struct Fence {
    mark: char,
    length: usize,
    language: String,
}

impl Fence {
    fn opens(line: &str) -> Option<Self> {
        let rest = line.trim_start();
        let mark = rest.chars().next().filter(|c| matches!(c, '`' | '~'))?;
        let length = rest.chars().take_while(|c| *c == mark).count();
        let language = rest[length..].trim();
        // One line with closing marks is inline code.
        (length >= 3 && !language.contains('`')).then(|| Self { mark, length, language: language.to_owned() })
    }

    fn closes(&self, line: &str) -> bool {
        let line = line.trim();
        line.chars().count() >= self.length && line.chars().all(|c| c == self.mark)
    }
}

fn code_line(line: &str, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    wrap(&[Span::styled(line.to_owned(), theme.code)], width, &Indent::all("│ ", theme.dim))
}

fn block(line: &str, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let lead = line.len() - line.trim_start().len();
    let body = line.trim();
    if body.is_empty() {
        return vec![Line::default()];
    }
    if let Some(heading) = heading(body) {
        return wrap(&inline(heading, theme.heading, theme), width, &Indent::default());
    }
    if is_rule(body) {
        return vec![Line::from(Span::styled("─".repeat(width.min(40)), theme.dim))];
    }
    if let Some(quoted) = body.strip_prefix('>') {
        return wrap(&inline(quoted.trim_start(), theme.dim, theme), width, &Indent::all("▎ ", theme.dim));
    }
    let pad = " ".repeat(lead.min(width / 3));
    if let Some((mark, rest)) = item(body) {
        let hang = " ".repeat(pad.len() + mark.chars().count() + 1);
        let indent = Indent { first: vec![Span::raw(format!("{pad}{mark} "))], rest: vec![Span::raw(hang)] };
        return wrap(&inline(rest, Style::default(), theme), width, &indent);
    }
    let indent = Indent { first: vec![Span::raw(pad.clone())], rest: vec![Span::raw(pad)] };
    wrap(&inline(body, Style::default(), theme), width, &indent)
}

fn is_row(line: &str) -> bool {
    let line = line.trim();
    line.len() > 2 && line.starts_with('|') && line.ends_with('|')
}

fn cells(row: &str) -> Vec<&str> {
    row.trim().trim_matches('|').split('|').map(str::trim).collect()
}

/// Rows with their columns under each other; as they are when they do not fit.
fn table(rows: &[&str], width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let is_line = |row: &[&str]| row.iter().all(|cell| !cell.is_empty() && cell.chars().all(|c| matches!(c, '-' | ':')));
    let all: Vec<Vec<&str>> = rows.iter().map(|row| cells(row)).collect();
    let shown: Vec<Vec<Vec<Span<'static>>>> =
        all.iter().filter(|row| !is_line(row)).map(|row| row.iter().map(|cell| inline(cell, Style::default(), theme)).collect()).collect();
    let wide = |cell: &[Span<'static>]| cell.iter().map(|span| span.content.width()).sum::<usize>();
    let columns = shown.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(|at| shown.iter().filter_map(|row| row.get(at)).map(|cell| wide(cell)).max().unwrap_or(0)).collect();
    let total = widths.iter().sum::<usize>() + 3 * columns.saturating_sub(1);
    if total > width || all.len() < 2 || !is_line(&all[1]) {
        return rows.iter().flat_map(|row| wrap(&inline(row.trim(), Style::default(), theme), width, &Indent::default())).collect();
    }
    let mut out = Vec::new();
    for (at, row) in shown.into_iter().enumerate() {
        let mut spans = Vec::new();
        for (column, held) in widths.iter().enumerate() {
            let cell = row.get(column).cloned().unwrap_or_default();
            let gap = held.saturating_sub(wide(&cell));
            if column > 0 {
                spans.push(Span::styled(" │ ", theme.dim));
            }
            let style = if at == 0 { theme.bold } else { Style::default() };
            spans.extend(cell.into_iter().map(|span| Span::styled(span.content, span.style.patch(style))));
            spans.push(Span::raw(" ".repeat(gap)));
        }
        out.push(Line::from(spans));
        if at == 0 {
            let rules: Vec<String> = widths.iter().map(|held| "─".repeat(*held)).collect();
            out.push(Line::from(Span::styled(rules.join("─┼─"), theme.dim)));
        }
    }
    out
}

fn heading(body: &str) -> Option<&str> {
    let level = body.chars().take_while(|c| *c == '#').count();
    let rest = body.get(level..)?;
    ((1..=6).contains(&level) && rest.starts_with(' ')).then(|| rest.trim().trim_end_matches('#').trim_end())
}

fn is_rule(body: &str) -> bool {
    body.len() >= 3 && ['-', '*', '_'].iter().any(|mark| body.chars().all(|c| c == *mark || c == ' ') && body.chars().filter(|c| c == mark).count() >= 3)
}

/// The mark to show and the text of a list item.
fn item(body: &str) -> Option<(String, &str)> {
    for mark in ["- ", "* ", "+ "] {
        if let Some(rest) = body.strip_prefix(mark) {
            let rest = rest.trim_start();
            for (tick, shown) in [("[ ] ", "☐"), ("[x] ", "☑"), ("[X] ", "☑")] {
                if let Some(task) = rest.strip_prefix(tick) {
                    return Some((shown.to_owned(), task));
                }
            }
            return Some(("•".to_owned(), rest));
        }
    }
    let digits = body.chars().take_while(char::is_ascii_digit).count();
    let rest = body.get(digits..)?;
    let rest = rest.strip_prefix(". ").or_else(|| rest.strip_prefix(") "))?;
    (1..=4).contains(&digits).then(|| (format!("{}.", &body[..digits]), rest.trim_start()))
}

/// Marks inside a line, tried in this order.
const MARKS: [&str; 6] = ["**", "__", "~~", "`", "*", "_"];

/// Splits a line at its marks. A mark without its partner is shown as it is.
fn inline(text: &str, base: Style, theme: &Theme) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first == '\\'
            && let Some(escaped) = rest[1..].chars().next().filter(char::is_ascii_punctuation)
        {
            plain.push(escaped);
            rest = &rest[1 + escaped.len_utf8()..];
            continue;
        }
        if first == '['
            && let Some((label, target, after)) = link(rest)
        {
            flush(&mut plain, base, &mut spans);
            spans.push(Span::styled(label.to_owned(), base.patch(theme.link)));
            if label != target {
                spans.push(Span::styled(format!(" ({target})"), base.patch(theme.dim)));
            }
            rest = after;
            continue;
        }
        if let Some((mark, inner, after)) = marked(rest, plain.chars().last()) {
            flush(&mut plain, base, &mut spans);
            match mark {
                "`" => spans.push(Span::styled(inner.to_owned(), base.patch(theme.code))),
                "**" | "__" => spans.extend(inline(inner, base.patch(theme.bold), theme)),
                "~~" => spans.extend(inline(inner, base.patch(theme.struck), theme)),
                _ => spans.extend(inline(inner, base.patch(theme.italic), theme)),
            }
            rest = after;
            continue;
        }
        plain.push(first);
        rest = &rest[first.len_utf8()..];
    }
    flush(&mut plain, base, &mut spans);
    spans
}

fn flush(plain: &mut String, base: Style, spans: &mut Vec<Span<'static>>) {
    if !plain.is_empty() {
        spans.push(Span::styled(std::mem::take(plain), base));
    }
}

fn link(text: &str) -> Option<(&str, &str, &str)> {
    let (label, rest) = text.strip_prefix('[')?.split_once("](")?;
    let (target, after) = rest.split_once(')')?;
    (!label.is_empty() && !label.contains('[') && !target.is_empty() && !target.contains(' ')).then_some((label, target, after))
}

/// A marked stretch at the start of `text`: the mark, what it holds, what follows.
fn marked(text: &str, before: Option<char>) -> Option<(&'static str, &str, &str)> {
    for mark in MARKS {
        let Some(rest) = text.strip_prefix(mark) else { continue };
        // Underscores inside words are names, not emphasis.
        if mark.starts_with('_') && before.is_some_and(char::is_alphanumeric) {
            return None;
        }
        let Some(end) = rest.find(mark) else { continue };
        let (inner, after) = (&rest[..end], &rest[end + mark.len()..]);
        let tight = mark == "`" || !(inner.starts_with(' ') || inner.ends_with(' '));
        let closed = !mark.starts_with('_') || !after.chars().next().is_some_and(char::is_alphanumeric);
        if !inner.is_empty() && tight && closed {
            return Some((mark, inner, after));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::{options::Colour, view::Theme};
    use proptest::prelude::*;
    use ratatui::style::Modifier;
    use unicode_width::UnicodeWidthStr as _;

    fn shown(text: &str, width: usize) -> Vec<String> {
        let theme = Theme::new(Colour::None);
        render(text, width, &theme).iter().map(|line| line.spans.iter().map(|span| &*span.content).collect()).collect()
    }

    #[test]
    fn blocks() {
        assert_eq!(shown("# Title\n\ntext", 20), ["Title", "", "text"]);
        assert_eq!(shown("- one two three\n  - deep\n3. third", 10), ["• one two", "  three", "  • deep", "3. third"]);
        assert_eq!(shown("```rust\nfn main() {}\n  x\n```\nafter", 20), ["│ rust", "│ fn main() {}", "│   x", "after"]);
        assert_eq!(shown("> said\n---", 12), ["▎ said", "────────────"]);
        assert_eq!(shown("- [x] done\n- [ ] open", 20), ["☑ done", "☐ open"]);
    }

    #[test]
    fn tables_are_aligned_when_they_fit() {
        let text = "| a | long |\n|---|:--:|\n| **wide** | x |\nafter";
        assert_eq!(shown(text, 30), ["a    │ long", "─────┼─────", "wide │ x   ", "after"]);
        assert_eq!(shown("| a | b |\n| c |", 30), ["| a | b |", "| c |"]);
        assert_eq!(shown(text, 10)[0], "| a | long");
    }

    #[test]
    fn a_fence_that_is_not_closed_yet_is_code() {
        assert_eq!(shown("```\nlet a = **b**;", 30), ["│ let a = **b**;"]);
    }

    #[test]
    fn inline_marks() {
        let theme = Theme::new(Colour::None);
        let lines = render("a **bold _both_** `co*de` snake_case_name 2 * 3 * 4 [x](http://y) \\*no\\*", 200, &theme);
        let text: String = lines[0].spans.iter().map(|span| &*span.content).collect();
        assert_eq!(text, "a bold both co*de snake_case_name 2 * 3 * 4 x (http://y) *no*");
        let bold: String = lines[0].spans.iter().filter(|span| span.style.add_modifier.contains(Modifier::BOLD)).map(|span| &*span.content).collect();
        assert_eq!(bold, "bold both");
    }

    proptest! {
        #[test]
        fn never_wider_than_asked_and_never_a_panic(text in "[a-z|*_`#>\\[\\]()~\\\\ \n0-9.漢-]{0,120}", width in 12usize..40) {
            for line in shown(&text, width) {
                prop_assert!(line.width() <= width, "{line:?}");
            }
        }
    }
}
