//! What lies over the conversation: help and lists.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
    widgets::{Block, Clear, Widget as _},
};

use super::Theme;
use crate::{
    picker::{Mode, Picker, Subject},
    state::State,
    text::{fit, one_line},
    update::LOCAL_COMMANDS,
};

const KEYS: &[(&str, &str)] = &[
    ("Enter", "send"),
    ("Shift-Enter, Alt-Enter, Ctrl-J", "new line"),
    ("Up, Down", "what you wrote before"),
    ("Esc", "stop the run; else go to the end"),
    ("Ctrl-C", "stop the run or empty the line; twice: leave"),
    ("Ctrl-D", "leave, when the line is empty"),
    ("PageUp, PageDown, wheel", "read back and forth; older messages are loaded"),
    ("Ctrl-Home, End", "to the first loaded message, to the newest"),
    ("Ctrl-P or F2", "sessions"),
    ("F3", "agents"),
    ("F4", "models"),
    ("Ctrl-O", "show or hide what tools do"),
    ("Ctrl-T", "show or hide what the model thinks"),
    ("Tab", "complete a command"),
    ("Alt-Y, Alt-A, Alt-N", "allow a command once, always, deny it"),
    ("Shift + mouse", "select text with the terminal's own means"),
];

/// The middle of the screen with a frame; answers the inside.
fn frame(title: &str, theme: &Theme, area: Rect, buf: &mut Buffer) -> Rect {
    // A small screen is used whole.
    let width = if area.width < 80 { area.width } else { (area.width - 4).min(100) };
    let height = if area.height < 20 { area.height } else { area.height - 2 };
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(place, buf);
    let block = Block::bordered().title(Span::styled(format!(" {title} "), theme.heading)).border_style(theme.accent);
    let inside = block.inner(place);
    block.render(place, buf);
    inside
}

/// Keys and commands.
pub fn help(state: &State, from: u16, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let inside = frame("Help: arrows scroll, any other key closes", theme, area, buf);
    let width = usize::from(inside.width);
    let wide = if width >= 70 { 32 } else { 0 };
    let mut lines = Vec::new();
    let mut add = |name: &str, what: &str| {
        if wide > 0 {
            lines.push(Line::from(vec![Span::styled(format!("{name:<wide$}"), theme.bold), Span::raw(fit(what, width.saturating_sub(wide)))]));
        } else {
            lines.push(Line::from(Span::styled(fit(name, width), theme.bold)));
            lines.push(Line::from(Span::raw(fit(&format!("  {what}"), width))));
        }
    };
    KEYS.iter().for_each(|(keys, what)| add(keys, what));
    LOCAL_COMMANDS.iter().for_each(|(name, what)| add(&format!("/{name}"), what));
    for (name, what) in state.commands.iter().filter(|(name, _)| !LOCAL_COMMANDS.iter().any(|(own, _)| own == name)) {
        add(&format!("/{}", one_line(name, 30)), &one_line(what, 200));
    }
    let most = lines.len().saturating_sub(usize::from(inside.height));
    for (line, y) in lines.iter().skip(usize::from(from).min(most)).zip(inside.y..inside.bottom()) {
        buf.set_line(inside.x, y, line, inside.width);
    }
}

/// A list to choose from.
pub fn picker(picker: &Picker, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let title = match picker.subject {
        Subject::Sessions => "Sessions",
        Subject::Agents => "Agents",
        Subject::Models => "Models",
    };
    let inside = frame(title, theme, area, buf);
    let width = usize::from(inside.width);
    let (prompt, text) = match &picker.mode {
        Mode::Rename(name) => ("New name: ", name.as_str()),
        Mode::ConfirmDelete => ("Delete this session and its messages? y/n", ""),
        Mode::ConfirmReset => ("Start this session afresh? y/n", ""),
        Mode::Choose => ("Search: ", picker.filter.as_str()),
    };
    let asking = matches!(picker.mode, Mode::ConfirmDelete | Mode::ConfirmReset);
    let mut spans = vec![Span::styled(prompt, if asking { theme.warn } else { theme.dim })];
    if !asking {
        spans.push(Span::raw(fit(text, width.saturating_sub(prompt.len() + 1))));
        spans.push(Span::styled(" ", theme.cursor));
    }
    buf.set_line(inside.x, inside.y, &Line::from(spans), inside.width);

    let last = inside.bottom() - 1;
    let list = usize::from(last.saturating_sub(inside.y + 1));
    let rows: Vec<_> = picker.visible().collect();
    let first = picker.place().saturating_sub(list.saturating_sub(1));
    for ((at, row), y) in rows.iter().enumerate().skip(first).take(list).zip(inside.y + 1..last) {
        let mark = if row.current { "✓ " } else { "  " };
        let title = fit(&row.title, width.saturating_sub(2));
        let room = width.saturating_sub(2 + Span::raw(&title).width() + 2);
        let detail = if room > 6 { fit(&row.detail, room) } else { String::new() };
        if at == picker.place() {
            let text = format!("{mark}{title}  {detail}");
            let gap = " ".repeat(width.saturating_sub(Span::raw(&text).width()));
            buf.set_line(inside.x, y, &Line::from(Span::styled(format!("{text}{gap}"), theme.chosen)), inside.width);
        } else {
            buf.set_line(inside.x, y, &Line::from(vec![Span::raw(format!("{mark}{title}  ")), Span::styled(detail, theme.dim)]), inside.width);
        }
    }
    if rows.is_empty() {
        let word = if picker.loading { "loading …" } else { "nothing found" };
        buf.set_stringn(inside.x + 2, inside.y + 1, word, width.saturating_sub(2), theme.dim);
    }
    let foot = match (&picker.fault, picker.subject) {
        (Some(fault), _) => Span::styled(one_line(fault, width), theme.error),
        (None, Subject::Sessions) => Span::styled(fit("Enter open  ^N new  ^E rename  ^R reset  ^D delete  Esc", width), theme.dim),
        (None, _) => Span::styled(fit("Enter choose  Esc back", width), theme.dim),
    };
    buf.set_span(inside.x, last, &foot, inside.width);
}
