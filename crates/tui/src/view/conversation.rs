//! The conversation: entries become lines, once for each change and width.

use std::collections::HashMap;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::Theme;
use crate::{
    entry::{Entry, EntryId, Kind, Level, Stage, ToolState, ToolUse},
    markdown,
    scroll::Measures,
    state::{LinkState, State},
    text::{Indent, clean, one_line, wrap},
};

/// Lines of a tool's output that are shown when it is folded open.
const OUTPUT_LINES_MAX: usize = 20;

/// Lines that were made before, by entry.
#[derive(Default)]
pub struct Painted {
    lines: HashMap<EntryId, Made>,
    shape: Shape,
}

/// What all lines depend on besides their entry.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Shape {
    width: u16,
    tools: bool,
    thinking: bool,
}

struct Made {
    revision: u32,
    lines: Vec<Line<'static>>,
}

impl Painted {
    /// Paints the visible part into `area`.
    pub fn paint(&mut self, state: &State, theme: &Theme, area: Rect, buf: &mut Buffer) -> Measures {
        let shape = Shape { width: area.width, tools: state.show_tools, thinking: state.show_thinking };
        if shape != self.shape {
            self.lines.clear();
            self.shape = shape;
        }
        if self.lines.len() > 2 * state.log.entries().len() + 64 {
            let held: std::collections::HashSet<EntryId> = state.log.entries().map(|entry| entry.id).collect();
            self.lines.retain(|id, _| held.contains(id));
        }
        let mut heights = Vec::with_capacity(state.log.entries().len());
        for entry in state.log.entries() {
            let stale = self.lines.get(&entry.id).is_none_or(|made| made.revision != entry.revision);
            if stale {
                self.lines.insert(entry.id, Made { revision: entry.revision, lines: lines(entry, shape, theme) });
            }
            heights.push((entry.id, self.lines.get(&entry.id).map_or(0, |made| made.lines.len())));
        }
        let measures = Measures { heights, page: usize::from(area.height) };
        if measures.total() == 0 {
            empty(state, theme, area, buf);
            return measures;
        }
        let top = state.scroll.top(&measures);
        let (mut skip, mut y) = (top, area.y);
        'entries: for (id, height) in &measures.heights {
            if skip >= *height {
                skip -= height;
                continue;
            }
            let made = self.lines.get(id).map(|made| made.lines.as_slice()).unwrap_or_default();
            for line in &made[skip..] {
                if y >= area.bottom() {
                    break 'entries;
                }
                buf.set_line(area.x, y, line, area.width);
                y += 1;
            }
            skip = 0;
        }
        if top == 0 && state.log.loading {
            let word = " reading older messages … ";
            let x = area.right().saturating_sub(u16::try_from(word.len()).unwrap_or(0));
            buf.set_stringn(x, area.y, word, usize::from(area.width), theme.bar);
        }
        measures
    }
}

fn empty(state: &State, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let word = match &state.link {
        LinkState::Up => "Nothing was said here yet.",
        LinkState::Connecting { .. } if !state.greeted => "Connecting …",
        LinkState::Connecting { .. } | LinkState::Down { .. } => "Not connected.",
    };
    buf.set_stringn(area.x + 1, area.y, word, usize::from(area.width.saturating_sub(1)), theme.dim);
    if let LinkState::Down { why, .. } = &state.link {
        let lines = wrap(&[Span::styled(clean(why), theme.error)], usize::from(area.width), &Indent::all(" ", Style::new()));
        for (line, y) in lines.iter().zip(area.y + 1..area.bottom()) {
            buf.set_line(area.x, y, line, area.width);
        }
    }
}

fn lines(entry: &Entry, shape: Shape, theme: &Theme) -> Vec<Line<'static>> {
    let width = usize::from(shape.width).max(8);
    let mut out = match &entry.kind {
        Kind::Said { text, from, stage } => said(text, from.as_deref(), stage, width, theme),
        Kind::Answer { text, open, .. } => {
            let mut lines = markdown::render(text, width, theme);
            if *open {
                match lines.last_mut() {
                    Some(last) if last.width() < width => last.push_span(Span::styled("▌", theme.accent)),
                    _ => lines.push(Line::from(Span::styled("▌", theme.accent))),
                }
            }
            lines
        }
        Kind::Thinking { text, open } => thinking(text, *open, shape, width, theme),
        Kind::Tool(tool) => return tool_lines(tool, shape.tools, width, theme),
        Kind::Note { text, level } => {
            let style = if *level == Level::Error { theme.error } else { theme.dim };
            paragraphs(text, style, width, "* ", "  ", style)
        }
    };
    if !out.is_empty() {
        out.push(Line::default());
    }
    out
}

fn paragraphs(text: &str, style: Style, width: usize, first: &'static str, rest: &'static str, mark: Style) -> Vec<Line<'static>> {
    let mut out = Vec::new();
    for line in clean(text).trim_end().split('\n') {
        let lead = if out.is_empty() { first } else { rest };
        let indent = Indent { first: vec![Span::styled(lead, mark)], rest: vec![Span::styled(rest, mark)] };
        out.extend(wrap(&[Span::styled(line.to_owned(), style)], width, &indent));
    }
    out
}

fn said(text: &str, from: Option<&str>, stage: &Stage, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let mut out = Vec::new();
    if let Some(from) = from {
        out.push(Line::from(Span::styled(one_line(from, width), theme.dim)));
    }
    out.extend(paragraphs(text, theme.user, width, "› ", "  ", theme.user));
    let word = match stage {
        Stage::Sending => Some(("sending …", theme.dim)),
        Stage::Refused => Some(("not sent", theme.error)),
        Stage::Stored => None,
    };
    if let Some((word, style)) = word {
        out.push(Line::from(Span::styled(format!("  {word}"), style)));
    }
    out
}

fn thinking(text: &str, open: bool, shape: Shape, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    if shape.thinking {
        return paragraphs(text, theme.dim.patch(theme.italic), width, "┊ ", "┊ ", theme.dim);
    }
    let words = text.split_whitespace().count();
    let word = if open { "thinking …".to_owned() } else { format!("thought, {words} words (Ctrl-T shows them)") };
    vec![Line::from(Span::styled(format!("┊ {}", one_line(&word, width.saturating_sub(2))), theme.dim))]
}

fn tool_lines(tool: &ToolUse, unfolded: bool, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let (mark, style) = match tool.state {
        ToolState::Running => ("◌", theme.accent),
        ToolState::Done => ("●", theme.good),
        ToolState::Failed => ("✗", theme.error),
    };
    let name = one_line(&tool.name, 40);
    let room = width.saturating_sub(name.chars().count() + 4);
    let args = one_line(&tool.args, room);
    let mut out = vec![Line::from(vec![Span::styled(format!("{mark} "), style), Span::styled(name, theme.bold), Span::styled(format!(" {args}"), theme.dim)])];
    if !unfolded {
        // The first line of a failure says why; what worked is folded.
        if tool.state == ToolState::Failed && !tool.output.is_empty() {
            out.push(Line::from(Span::styled(format!("  {}", one_line(&tool.output, width.saturating_sub(2))), theme.dim)));
        }
        out.push(Line::default());
        return out;
    }
    if tool.args.chars().count() > args.chars().count() || args.ends_with('…') {
        out.extend(paragraphs(&tool.args, theme.dim, width, "  ", "  ", theme.dim));
    }
    let output = clean(&tool.output);
    let all: Vec<&str> = output.trim_end().lines().collect();
    for line in all.iter().take(OUTPUT_LINES_MAX) {
        out.extend(wrap(&[Span::styled((*line).to_owned(), theme.dim)], width, &Indent::all("  │ ", theme.dim)));
    }
    if all.len() > OUTPUT_LINES_MAX {
        out.push(Line::from(Span::styled(format!("  │ … {} lines more", all.len() - OUTPUT_LINES_MAX), theme.dim)));
    }
    out.push(Line::default());
    out
}
