//! The first and the last line.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};

use super::Theme;
use crate::{
    state::{LinkState, State},
    text::{fit, one_line},
    update::slash_matches,
};

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
/// Time of one step of the spinner, milliseconds.
const SPINNER_MS: u64 = 100;

/// Agent, session, model, tokens.
pub fn head(state: &State, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let width = usize::from(area.width);
    let mut left = vec![" openclaw".to_owned()];
    if let Some(key) = &state.key {
        left.push(key.agent().to_string());
        let title = state.facts.title.as_deref().filter(|title| *title != key.as_str());
        left.push(title.map_or_else(|| key.rest().to_owned(), |title| one_line(title, 40)));
    }
    let mut right = Vec::new();
    if let Some(model) = &state.facts.model {
        right.push(one_line(model, 40));
    }
    if let Some(tokens) = state.facts.tokens.filter(|tokens| *tokens > 0) {
        let window = state.facts.window.filter(|window| *window > 0);
        right.push(window.map_or_else(|| thousands(tokens), |window| format!("{}/{} {}%", thousands(tokens), thousands(window), tokens * 100 / window)));
    }
    let mut right = format!("{} ", right.join(" · "));
    // On a narrow screen the model's name gives way first.
    let room = width.saturating_sub(Span::raw(left.join(" · ")).width() + 1);
    if Span::raw(&right).width() > room {
        right = fit(&right, room.max(8));
    }
    let left = fit(&left.join(" · "), width.saturating_sub(Span::raw(&right).width()));
    let gap = width.saturating_sub(Span::raw(&left).width() + Span::raw(&right).width());
    buf.set_line(area.x, area.y, &Line::from(Span::styled(format!("{left}{}{right}", " ".repeat(gap)), theme.bar)), area.width);
}

fn thousands(tokens: u64) -> String {
    match tokens {
        0..1_000 => tokens.to_string(),
        1_000..100_000 => format!("{}.{}k", tokens / 1_000, tokens % 1_000 / 100),
        _ => format!("{}k", tokens / 1_000),
    }
}

/// Connection, what runs, and a word.
pub fn foot(state: &State, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let width = usize::from(area.width);
    let matches = slash_matches(state);
    if !matches.is_empty() && state.overlay.is_none() {
        let shown: Vec<String> = matches.iter().map(|(name, what)| if matches.len() <= 3 { format!("/{name} {what}") } else { format!("/{name}") }).collect();
        buf.set_line(area.x, area.y, &Line::from(Span::styled(fit(&format!(" Tab: {}", shown.join("  ")), width), theme.accent)), area.width);
        return;
    }
    let (dot, word, style) = match &state.link {
        LinkState::Up => ("●", "connected".to_owned(), theme.good),
        LinkState::Connecting { attempt: 1 } => ("◌", "connecting".to_owned(), theme.warn),
        LinkState::Connecting { attempt } => ("◌", format!("connecting, attempt {attempt}"), theme.warn),
        LinkState::Down { why, retry_at } => {
            let left = retry_at.saturating_sub(state.now).div_ceil(1_000);
            ("○", format!("disconnected, again in {left} s: {}", one_line(why, 200)), theme.error)
        }
    };
    let mut spans = vec![Span::styled(format!(" {dot} "), style), Span::styled(word, if state.link == LinkState::Up { theme.dim } else { style })];
    if let Some(run) = state.runs.values().min_by_key(|run| run.since) {
        let step = usize::try_from(state.now / SPINNER_MS).unwrap_or(0) % SPINNER.len();
        let seconds = state.now.saturating_sub(run.since) / 1_000;
        let others = if state.runs.len() > 1 { format!(" (+{})", state.runs.len() - 1) } else { String::new() };
        spans.push(Span::raw("  "));
        spans.push(Span::styled(SPINNER[step], theme.accent));
        spans.push(Span::raw(format!(" {} {seconds} s{others}", one_line(&run.phase, 24))));
        spans.push(Span::styled(" · Esc stops", theme.dim));
    }
    let right = match &state.flash {
        Some((text, _)) => Span::styled(format!("{} ", one_line(text, width / 2)), theme.warn),
        None if width >= 70 => Span::styled("Ctrl-P sessions · F1 help ", theme.dim),
        None => Span::styled("F1 help ", theme.dim),
    };
    let used: usize = spans.iter().map(Span::width).sum();
    let line = Line::from(spans);
    buf.set_line(area.x, area.y, &line, area.width);
    let room = width.saturating_sub(used + 1);
    if state.flash.is_some() || right.width() <= room {
        let wide = u16::try_from(right.width()).unwrap_or(area.width).min(area.width);
        buf.set_span(area.right() - wide, area.y, &right, wide);
    }
}
