//! Painting a state into a buffer.

mod conversation;
mod overlay;
mod status;
mod theme;

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
    widgets::{Clear, Widget as _},
};

use crate::{
    options::Colour,
    scroll::Measures,
    state::{LinkState, Overlay, State},
    text::{fit, one_line},
};
use conversation::Painted;
pub use theme::Theme;

/// Rows the input box may take.
const INPUT_ROWS_MAX: u16 = 8;
/// Below this size nothing can be shown.
const SMALLEST: (u16, u16) = (20, 6);

/// Paints states. Holds what was painted before, so that a frame costs only what changed.
pub struct View {
    theme: Theme,
    painted: Painted,
}

impl View {
    /// A view with or without colours.
    #[must_use]
    pub fn new(colour: Colour) -> Self {
        Self { theme: Theme::new(colour), painted: Painted::default() }
    }

    /// Paints `state` into `area` and answers what was measured, for [`State::measured`].
    pub fn paint(&mut self, state: &State, area: Rect, buf: &mut Buffer) -> Measures {
        Clear.render(area, buf);
        if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
            buf.set_stringn(area.x, area.y, "too small", usize::from(area.width), Style::default());
            return state.measures.clone();
        }
        let theme = &self.theme;
        let input_rows = input_rows(state, area);
        let approval_rows = if state.approvals.is_empty() { 0 } else { 2 };
        let parts = Layout::vertical([
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(approval_rows),
            Constraint::Length(1),
            Constraint::Length(input_rows),
            Constraint::Length(1),
        ])
        .areas::<6>(area);
        let [head, body, approval, rule, input, foot] = parts;
        status::head(state, theme, head, buf);
        let measures = self.painted.paint(state, theme, body, buf);
        if approval_rows > 0 {
            paint_approval(state, theme, approval, buf);
        }
        paint_rule(state, theme, &measures, rule, buf);
        paint_input(state, theme, input, buf);
        status::foot(state, theme, foot, buf);
        match &state.overlay {
            Some(Overlay::Help(line)) => overlay::help(state, *line, theme, area, buf),
            Some(Overlay::Picker(picker)) => overlay::picker(picker, theme, area, buf),
            None => {}
        }
        measures
    }
}

fn input_rows(state: &State, area: Rect) -> u16 {
    let width = usize::from(area.width.saturating_sub(2)).max(1);
    let rows: usize = state.input.area().lines().iter().map(|line| Span::raw(line.as_str()).width() / width + 1).sum();
    let most = INPUT_ROWS_MAX.min(area.height / 3).max(1);
    u16::try_from(rows).unwrap_or(most).clamp(1, most)
}

fn paint_approval(state: &State, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let Some(approval) = state.approvals.front() else { return };
    let width = usize::from(area.width);
    let others = if state.approvals.len() > 1 { format!(" (and {} more)", state.approvals.len() - 1) } else { String::new() };
    let line = format!("! {} wants to run{others}: {}", approval.agent, one_line(&approval.command, 500));
    buf.set_line(area.x, area.y, &Line::from(Span::styled(fit(&line, width), theme.warn)), area.width);
    let keys = "  Alt-Y allow once · Alt-A always · Alt-N deny";
    buf.set_line(area.x, area.y + 1, &Line::from(Span::styled(fit(keys, width), theme.dim)), area.width);
}

fn paint_rule(state: &State, theme: &Theme, measures: &Measures, area: Rect, buf: &mut Buffer) {
    let below = measures.bottom().saturating_sub(state.scroll.top(measures));
    let word = if state.log.detached {
        " older messages · End goes to the newest ".to_owned()
    } else if below > 0 {
        format!(" {below} lines below · End ")
    } else {
        String::new()
    };
    let rule = "─".repeat(usize::from(area.width).saturating_sub(Span::raw(&word).width() + 2));
    let line = Line::from(vec![Span::styled(rule, theme.dim), Span::styled(word, theme.accent), Span::styled("──", theme.dim)]);
    buf.set_line(area.x, area.y, &line, area.width);
}

fn paint_input(state: &State, theme: &Theme, area: Rect, buf: &mut Buffer) {
    buf.set_string(area.x, area.y, "›", theme.accent);
    let inner = Rect { x: area.x + 2, width: area.width - 2, ..area };
    if state.input.is_empty() {
        let hint = match &state.link {
            LinkState::Up => "Type a message, / for commands, F1 for help",
            _ => "Messages go out when the gateway is back",
        };
        let hint = fit(hint, usize::from(inner.width).saturating_sub(1));
        buf.set_string(inner.x, inner.y, " ", theme.cursor);
        buf.set_string(inner.x + 1, inner.y, hint, theme.dim);
        return;
    }
    let mut area = state.input.area().clone();
    area.set_cursor_style(theme.cursor);
    area.render(inner, buf);
}

#[cfg(test)]
mod tests;
