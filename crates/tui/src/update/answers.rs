//! What came of calls.

use clawstead_terms::SessionKey;
use serde_json::Value;

use super::{TRIES_MAX, follow, heard, open, pick, reload, send_command};
use crate::{
    command::{Command, Tag},
    entry::{Level, Stage},
    event::CallFault,
    picker::{Picker, Row, Subject},
    scroll::Scroll,
    state::{Facts, LinkState, Overlay, Run, State},
};

/// Slash commands of the gateway that are kept.
const COMMANDS_MAX: usize = 500;

pub fn answered(state: &mut State, tag: Tag, result: Result<Value, CallFault>) -> Vec<Command> {
    match (tag, result) {
        (Tag::Startup(key), Ok(answer)) if key == state.key_text() => startup(state, &answer),
        (Tag::Older(key), result) if key == state.key_text() => older(state, result),
        (Tag::Startup(_) | Tag::Older(_), Ok(_)) | (Tag::Subscribe | Tag::Decision | Tag::Commands | Tag::Approvals, Err(_)) => Vec::new(),
        (Tag::Send(run), result) => sent(state, &run, result),
        (Tag::Sessions(serial), result) => {
            if serial == state.list_serial {
                let current = state.key_text().to_owned();
                fill(state, Subject::Sessions, result.map(|answer| pick::session_rows(&answer, &current)));
            }
            Vec::new()
        }
        (Tag::Agents, result) => {
            let current = state.key.as_ref().map(|key| key.agent().to_string()).unwrap_or_default();
            fill(state, Subject::Agents, result.map(|answer| pick::agent_rows(&answer, &current)));
            Vec::new()
        }
        (Tag::Models, result) => {
            let current = state.facts.model.clone();
            fill(state, Subject::Models, result.map(|answer| pick::model_rows(&answer, current.as_deref())));
            Vec::new()
        }
        (Tag::Commands, Ok(answer)) => {
            let rows = answer["commands"].as_array().map(Vec::as_slice).unwrap_or_default();
            let read = |row: &Value| Some((row["name"].as_str()?.to_owned(), row["description"].as_str().unwrap_or("").to_owned()));
            state.commands = rows.iter().take(COMMANDS_MAX).filter_map(read).collect();
            Vec::new()
        }
        (Tag::Approvals, Ok(answer)) => {
            answer.as_array().into_iter().flatten().for_each(|request| heard::approval(state, request));
            Vec::new()
        }
        (Tag::Abort, Ok(answer)) => {
            if answer["aborted"] != true {
                state.runs.clear();
                state.flash("nothing was running");
            }
            Vec::new()
        }
        (Tag::Created, Ok(answer)) => match answer["key"].as_str().and_then(|key| SessionKey::resolve(key, &state.default_agent).ok()) {
            Some(key) => open(state, key),
            None => Vec::new(),
        },
        (Tag::Changed(what), Ok(answer)) => {
            let deleted = what == "deleted";
            state.flash(if deleted && answer["deleted"] == false { "it was gone already" } else { what });
            let mut commands = pick::refresh(state);
            if answer["key"] == state.key_text() {
                let entry = answer["entry"]["label"].as_str();
                if let Some(label) = entry {
                    state.facts.title = Some(label.to_owned());
                }
                if deleted && let Some(agent) = state.key.as_ref().map(SessionKey::agent) {
                    let overlay = state.overlay.take();
                    commands.extend(open(state, SessionKey::main(&agent)));
                    state.overlay = overlay;
                }
            }
            commands
        }
        (Tag::Model, Ok(answer)) => {
            let resolved = &answer["resolved"];
            state.facts.learn(resolved);
            if let (Some(provider), Some(model)) = (resolved["modelProvider"].as_str(), resolved["model"].as_str()) {
                state.flash(format!("this session uses {provider}/{model}"));
            }
            Vec::new()
        }
        (Tag::Reset(key), Ok(_)) => {
            state.flash("started afresh");
            let mut commands = pick::refresh(state);
            if key == state.key_text() {
                commands.extend(reload(state));
            }
            commands
        }
        (Tag::Decision | Tag::Subscribe, Ok(_)) => Vec::new(),
        (Tag::Startup(_), Err(fault)) => {
            state.log.note(Level::Error, format!("the conversation cannot be read: {}", fault.words()));
            Vec::new()
        }
        (Tag::Older(_), Err(_)) => Vec::new(),
        (Tag::Abort | Tag::Created | Tag::Changed(_) | Tag::Model | Tag::Reset(_), Err(fault)) => {
            let words = fault.words().to_owned();
            if let Some(Overlay::Picker(picker)) = &mut state.overlay {
                picker.fault = Some(words);
            } else {
                state.log.note(Level::Error, words);
            }
            Vec::new()
        }
    }
}

fn fill(state: &mut State, subject: Subject, rows: Result<Vec<Row>, CallFault>) {
    let Some(Overlay::Picker(picker)) = &mut state.overlay else { return };
    if picker.subject != subject {
        return;
    }
    match rows {
        Ok(rows) => {
            picker.fault = None;
            picker.fill(rows);
        }
        Err(fault) => fail(picker, &fault),
    }
}

fn fail(picker: &mut Picker, fault: &CallFault) {
    picker.loading = false;
    picker.fault = Some(fault.words().to_owned());
}

fn page(answer: &Value) -> (&[Value], Option<u64>) {
    let messages = answer["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let older = answer["nextOffset"].as_u64().filter(|_| answer["hasMore"] != false);
    (messages, older)
}

fn startup(state: &mut State, answer: &Value) -> Vec<Command> {
    let (messages, older) = page(answer);
    let command = state.command_run.take();
    state.log.newest_page(messages, older, command.as_deref());
    state.facts = Facts::default();
    state.facts.learn(&answer["defaults"]);
    state.facts.tokens = None;
    state.facts.learn(&answer["sessionInfo"]);
    if let Scroll::At(anchor) = state.scroll
        && !state.log.entries().any(|entry| entry.id == anchor.entry)
    {
        state.scroll = Scroll::Follow;
    }
    let running = &answer["inFlightRun"];
    match running["runId"].as_str() {
        Some(run) => {
            let now = state.now;
            state.runs.entry(run.to_owned()).or_insert_with(|| Run { since: now, phase: "working".into() });
            if let Some(text) = running["text"].as_str().filter(|text| !text.is_empty()) {
                state.log.answer(run, None, text);
            }
        }
        None => {
            state.runs.clear();
            state.log.settle_tools();
        }
    }
    match state.wishes.message.take() {
        Some(message) => super::send(state, &message),
        None => Vec::new(),
    }
}

fn older(state: &mut State, result: Result<Value, CallFault>) -> Vec<Command> {
    match result {
        Ok(answer) => {
            let (messages, older) = page(&answer);
            let added = state.log.older_page(messages, older);
            // A page that only overlaps what is held: read on, as the reader waits at the top.
            if added == 0 && state.log.older.is_some() { super::older(state) } else { Vec::new() }
        }
        Err(fault) => {
            state.log.loading = false;
            state.flash(fault.words().to_owned());
            Vec::new()
        }
    }
}

fn sent(state: &mut State, run: &str, result: Result<Value, CallFault>) -> Vec<Command> {
    let Some(at) = state.unconfirmed.iter().position(|out| out.run == run) else { return Vec::new() };
    match result {
        Ok(answer) => {
            let here = state.unconfirmed.remove(at).is_some_and(|out| out.key == state.key_text());
            state.log.stage(run, &Stage::Stored);
            match answer["status"].as_str() {
                Some("started" | "in_flight") if here => {
                    let now = state.now;
                    state.runs.entry(run.to_owned()).or_insert_with(|| Run { since: now, phase: "waiting".into() });
                    Vec::new()
                }
                // It was answered while we were away.
                Some("ok" | "error") if here => follow(state),
                _ => Vec::new(),
            }
        }
        Err(CallFault::Refused(why)) => {
            let out = state.unconfirmed.remove(at);
            state.log.stage(run, &Stage::Refused);
            state.log.note(Level::Error, why);
            if let Some(out) = out.filter(|_| state.input.is_empty()) {
                state.input.set(&out.text);
            }
            Vec::new()
        }
        Err(CallFault::Lost(why)) => {
            if state.link != LinkState::Up {
                return Vec::new();
            }
            if state.unconfirmed[at].tries < TRIES_MAX {
                state.unconfirmed[at].tries += 1;
                return vec![send_command(state, &state.unconfirmed[at])];
            }
            state.log.note(Level::Error, format!("the gateway did not confirm the message ({why}); it goes again after the next connect"));
            Vec::new()
        }
    }
}
