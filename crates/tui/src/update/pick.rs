//! Lists to choose from.

use clawstead_terms::{AgentId, SessionKey};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::{call, open as open_session};
use crate::{
    command::{Command, Tag},
    picker::{Mode, Picker, Row, Subject},
    state::{Overlay, State},
};

/// Sessions asked for at once; a search asks the gateway for others.
const SESSIONS_MAX: u64 = 200;
/// Longest filter or name, characters.
const TYPED_MAX: usize = 200;

pub fn open(state: &mut State, subject: Subject) -> Vec<Command> {
    state.overlay = Some(Overlay::Picker(Picker::new(subject)));
    load(state)
}

fn load(state: &mut State) -> Vec<Command> {
    let Some(Overlay::Picker(picker)) = &state.overlay else { return Vec::new() };
    vec![match picker.subject {
        Subject::Sessions => {
            let search = picker.filter.clone();
            state.list_serial += 1;
            let mut params = json!({ "limit": SESSIONS_MAX, "includeDerivedTitles": true, "includeLastMessage": true });
            if !search.trim().is_empty() {
                params["search"] = search.trim().into();
            }
            call(Tag::Sessions(state.list_serial), "sessions.list", params)
        }
        Subject::Agents => call(Tag::Agents, "agents.list", json!({})),
        Subject::Models => call(Tag::Models, "models.list", json!({ "sessionKey": state.key_text(), "view": "configured" })),
    }]
}

/// Reads the list of sessions again when it is open.
pub fn refresh(state: &mut State) -> Vec<Command> {
    match &state.overlay {
        Some(Overlay::Picker(picker)) if picker.subject == Subject::Sessions => load(state),
        _ => Vec::new(),
    }
}

pub fn typed(picker: &mut Picker, text: &str) {
    let add = |held: &mut String| held.extend(text.chars().filter(|c| !c.is_control()).take(TYPED_MAX.saturating_sub(held.chars().count())));
    match &mut picker.mode {
        Mode::Choose => picker.filter_with(add),
        Mode::Rename(name) => add(name),
        Mode::ConfirmDelete | Mode::ConfirmReset => {}
    }
}

pub fn key(state: &mut State, key: KeyEvent) -> Vec<Command> {
    let Some(Overlay::Picker(picker)) = &mut state.overlay else { return Vec::new() };
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    let sessions = picker.subject == Subject::Sessions;
    let on_session = sessions && picker.selected().is_some();
    match (&mut picker.mode, key.code) {
        (Mode::Choose, KeyCode::Esc) => state.overlay = None,
        (_, KeyCode::Esc) => picker.mode = Mode::Choose,
        (Mode::ConfirmDelete | Mode::ConfirmReset, code) => {
            let reset = picker.mode == Mode::ConfirmReset;
            picker.mode = Mode::Choose;
            if matches!(code, KeyCode::Char('y' | 'Y'))
                && let Some(row) = picker.selected()
            {
                let key = row.value.clone();
                let params = json!({ "key": key });
                return vec![if reset { call(Tag::Reset(key), "sessions.reset", params) } else { call(Tag::Changed("deleted"), "sessions.delete", params) }];
            }
        }
        (Mode::Rename(name), KeyCode::Enter) => {
            let name = name.trim().to_owned();
            picker.mode = Mode::Choose;
            if let Some(row) = picker.selected() {
                let label = if name.is_empty() { Value::Null } else { name.into() };
                return vec![call(Tag::Changed("renamed"), "sessions.patch", json!({ "key": row.value, "label": label }))];
            }
        }
        (Mode::Rename(name), KeyCode::Backspace) => {
            name.pop();
        }
        (Mode::Choose, KeyCode::Enter) => return choose(state),
        (Mode::Choose, KeyCode::Up) => picker.step(-1),
        (Mode::Choose, KeyCode::Down) => picker.step(1),
        (Mode::Choose, KeyCode::PageUp) => picker.step(-10),
        (Mode::Choose, KeyCode::PageDown) => picker.step(10),
        (Mode::Choose, KeyCode::Backspace) => {
            picker.filter_with(|filter| {
                filter.pop();
            });
            return refresh(state);
        }
        (Mode::Choose, KeyCode::Char('n')) if ctrl && sessions => return new_session(state),
        (Mode::Choose, KeyCode::Char('e')) if ctrl && sessions => {
            if let Some(row) = picker.selected() {
                picker.mode = Mode::Rename(row.title.trim_start_matches("● ").to_owned());
            }
        }
        (Mode::Choose, KeyCode::Char('d')) if ctrl && on_session => picker.mode = Mode::ConfirmDelete,
        (Mode::Choose, KeyCode::Char('r')) if ctrl && on_session => picker.mode = Mode::ConfirmReset,
        (Mode::Choose | Mode::Rename(_), KeyCode::Char(c)) if !ctrl => {
            let choosing = picker.mode == Mode::Choose;
            typed(picker, c.encode_utf8(&mut [0; 4]));
            if choosing {
                return refresh(state);
            }
        }
        _ => {}
    }
    Vec::new()
}

fn choose(state: &mut State) -> Vec<Command> {
    let Some(Overlay::Picker(picker)) = &state.overlay else { return Vec::new() };
    let Some(value) = picker.selected().map(|row| row.value.clone()) else { return Vec::new() };
    match picker.subject {
        Subject::Sessions => match SessionKey::resolve(&value, &state.default_agent) {
            Ok(key) => open_session(state, key),
            Err(err) => {
                state.flash(err.to_string());
                Vec::new()
            }
        },
        Subject::Agents => talk_to(state, &value),
        Subject::Models => {
            state.overlay = None;
            vec![call(Tag::Model, "sessions.patch", json!({ "key": state.key_text(), "model": value }))]
        }
    }
}

/// Shows the main session of an agent.
pub fn talk_to(state: &mut State, id: &str) -> Vec<Command> {
    match AgentId::parse(id) {
        Ok(agent) => open_session(state, SessionKey::main(&agent)),
        Err(err) => {
            state.flash(err.to_string());
            Vec::new()
        }
    }
}

fn new_session(state: &State) -> Vec<Command> {
    let agent = state.key.as_ref().map_or_else(|| state.default_agent.clone(), SessionKey::agent);
    vec![call(Tag::Created, "sessions.create", json!({ "agentId": agent }))]
}

/// Rows of `sessions.list`.
pub fn session_rows(answer: &Value, current: &str) -> Vec<Row> {
    let rows = answer["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter()
        .filter_map(|row| {
            let key = row["key"].as_str()?;
            let title = ["label", "displayName", "derivedTitle"].iter().find_map(|name| row[name].as_str()).unwrap_or(key);
            let shown = if title == key { "" } else { key };
            let preview = row["lastMessagePreview"].as_str().unwrap_or("");
            let state = if row["hasActiveRun"] == true { "● " } else { "" };
            let detail = [shown, preview].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("  ");
            Some(Row { value: key.to_owned(), title: format!("{state}{title}"), detail, current: key == current })
        })
        .collect()
}

/// Rows of `agents.list`.
pub fn agent_rows(answer: &Value, current: &str) -> Vec<Row> {
    let rows = answer["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter()
        .filter_map(|row| {
            let id = row["id"].as_str()?;
            let name = row["identity"]["name"].as_str().or(row["name"].as_str()).filter(|name| *name != id);
            let model = row["model"]["primary"].as_str().unwrap_or("");
            let what = row["description"].as_str().unwrap_or("");
            let detail = [name.unwrap_or(""), model, what].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("  ");
            Some(Row { value: id.to_owned(), title: id.to_owned(), detail, current: id == current })
        })
        .collect()
}

/// Rows of `models.list`.
pub fn model_rows(answer: &Value, current: Option<&str>) -> Vec<Row> {
    let rows = answer["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter()
        .filter_map(|row| {
            let (id, provider) = (row["id"].as_str()?, row["provider"].as_str().unwrap_or(""));
            let value = if provider.is_empty() || id.starts_with(&format!("{provider}/")) { id.to_owned() } else { format!("{provider}/{id}") };
            let window = row["contextWindow"].as_u64().map(|tokens| format!("{}k tokens", tokens / 1000));
            let missing = (row["available"] == false).then(|| "no credentials".to_owned());
            let name = row["name"].as_str().filter(|name| *name != id).map(str::to_owned);
            let detail = [name, window, missing].into_iter().flatten().collect::<Vec<_>>().join("  ");
            Some(Row { current: current == Some(value.as_str()), title: value.clone(), value, detail })
        })
        .collect()
}
