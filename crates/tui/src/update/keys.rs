//! Keys.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui_textarea::Input as AreaInput;

use super::{abort, pick, scroll, send, slash, to_end};
use crate::{
    command::Command,
    picker::Subject,
    state::{Overlay, State},
};

/// Time for the second Ctrl-C, milliseconds.
const QUIT_MS: u64 = 2_000;

pub fn key(state: &mut State, key: KeyEvent) -> Vec<Command> {
    if key.kind == KeyEventKind::Release {
        return Vec::new();
    }
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    let alt = key.modifiers.contains(KeyModifiers::ALT);
    if ctrl && key.code == KeyCode::Char('c') {
        return interrupt(state);
    }
    state.quit_until = None;
    match &mut state.overlay {
        Some(Overlay::Help(line)) => {
            match key.code {
                KeyCode::Down | KeyCode::Char('j') => *line = line.saturating_add(1),
                KeyCode::Up | KeyCode::Char('k') => *line = line.saturating_sub(1),
                KeyCode::PageDown => *line = line.saturating_add(10),
                KeyCode::PageUp => *line = line.saturating_sub(10),
                _ => state.overlay = None,
            }
            return Vec::new();
        }
        Some(Overlay::Picker(_)) => return pick::key(state, key),
        None => {}
    }
    let page = isize::try_from(state.measures.page.saturating_sub(1).max(1)).unwrap_or(1);
    match key.code {
        KeyCode::Enter if ctrl || alt || key.modifiers.contains(KeyModifiers::SHIFT) => newline(state),
        KeyCode::Char('j') if ctrl => newline(state),
        KeyCode::Enter => enter(state),
        KeyCode::Esc => escape(state),
        KeyCode::Char('d') if ctrl && state.input.is_empty() => vec![Command::Quit],
        KeyCode::Char('p') if ctrl => pick::open(state, Subject::Sessions),
        KeyCode::F(2) => pick::open(state, Subject::Sessions),
        KeyCode::F(3) => pick::open(state, Subject::Agents),
        KeyCode::F(4) => pick::open(state, Subject::Models),
        KeyCode::F(1) => help(state),
        KeyCode::Char('?') if state.input.is_empty() && !alt => help(state),
        KeyCode::Char('o') if ctrl => {
            state.show_tools = !state.show_tools;
            Vec::new()
        }
        KeyCode::Char('t') if ctrl => {
            state.show_thinking = !state.show_thinking;
            Vec::new()
        }
        KeyCode::Char('y') if alt => slash::decide(state, "allow-once"),
        KeyCode::Char('a') if alt => slash::decide(state, "allow-always"),
        KeyCode::Char('n') if alt => slash::decide(state, "deny"),
        KeyCode::PageUp => scroll(state, -page),
        KeyCode::PageDown => scroll(state, page),
        KeyCode::Up if ctrl => scroll(state, -1),
        KeyCode::Down if ctrl => scroll(state, 1),
        KeyCode::Home if ctrl => scroll(state, isize::MIN / 2),
        KeyCode::End if ctrl || state.input.is_empty() => to_end(state),
        KeyCode::Tab => {
            slash::complete(state);
            Vec::new()
        }
        KeyCode::Up if state.input.older() => Vec::new(),
        KeyCode::Down if state.input.newer() => Vec::new(),
        _ => {
            state.input.area_mut().input(AreaInput::from(key));
            Vec::new()
        }
    }
}

pub fn paste(state: &mut State, text: &str) {
    match &mut state.overlay {
        Some(Overlay::Picker(picker)) => pick::typed(picker, text.lines().next().unwrap_or("")),
        Some(Overlay::Help(_)) => state.overlay = None,
        None => {
            if !state.input.paste(text) {
                state.flash("that was too long and is cut");
            }
        }
    }
}

fn newline(state: &mut State) -> Vec<Command> {
    state.input.area_mut().insert_newline();
    Vec::new()
}

fn help(state: &mut State) -> Vec<Command> {
    state.overlay = Some(Overlay::Help(0));
    Vec::new()
}

fn enter(state: &mut State) -> Vec<Command> {
    let text = state.input.text();
    let text = text.trim();
    if text.is_empty() {
        return Vec::new();
    }
    if let Some(commands) = slash::local(state, text) {
        state.input.take();
        return commands;
    }
    let held = state.unconfirmed.len();
    let text = text.to_owned();
    let commands = send(state, &text);
    // What was refused stays in the box.
    if state.unconfirmed.len() > held {
        state.input.take();
    }
    commands
}

fn escape(state: &mut State) -> Vec<Command> {
    if !state.runs.is_empty() {
        return abort(state);
    }
    to_end(state)
}

fn interrupt(state: &mut State) -> Vec<Command> {
    if state.quit_until.is_some_and(|until| state.now < until) {
        return vec![Command::Quit];
    }
    state.quit_until = Some(state.now + QUIT_MS);
    if state.overlay.take().is_none() && !state.runs.is_empty() {
        let commands = abort(state);
        state.flash("stopping … Ctrl-C again leaves");
        return commands;
    }
    if !state.input.is_empty() {
        state.input.take();
    }
    state.flash("Ctrl-C again leaves");
    Vec::new()
}
