//! What an event changes, and what follows from it. Plain and synchronous.

mod answers;
mod heard;
mod keys;
mod pick;
mod slash;

use clawstead_terms::{AgentId, SessionKey};
use serde_json::{Value, json};

use crate::{
    command::{Command, Tag},
    entry::{Kind, Level, Stage},
    event::{Event, Link},
    log::Log,
    options::HISTORY_LIMIT,
    scroll::Scroll,
    state::{Facts, LinkState, Outgoing, State, UNCONFIRMED_MAX},
};

/// Sends of one message on one connection before it is given up.
const TRIES_MAX: u32 = 3;
/// Largest history page, bytes.
const PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Lines of one turn of the wheel.
pub const WHEEL_LINES: isize = 3;

pub use slash::{LOCAL as LOCAL_COMMANDS, matching as slash_matches};

/// Takes an event that happened at `now` (milliseconds since the start) and answers what is to be done.
pub fn update(state: &mut State, event: Event, now: u64) -> Vec<Command> {
    state.now = now;
    if state.flash.as_ref().is_some_and(|(_, until)| *until <= now) {
        state.flash = None;
    }
    match event {
        Event::Key(key) => keys::key(state, key),
        Event::Paste(text) => {
            keys::paste(state, &text);
            Vec::new()
        }
        Event::Wheel(lines) => scroll(state, lines),
        Event::Resize | Event::Tick => Vec::new(),
        Event::Link(link) => linked(state, link),
        Event::Gateway(event) => heard::heard(state, &event),
        Event::Missed(count) => {
            state.flash(format!("{count} events were missed; reading again"));
            reload(state).into_iter().collect()
        }
        Event::Answer { tag, result } => answers::answered(state, tag, result),
    }
}

fn call(tag: Tag, method: &'static str, params: Value) -> Command {
    Command::Call { tag, method, params }
}

fn linked(state: &mut State, link: Link) -> Vec<Command> {
    match link {
        Link::Connecting(attempt) => {
            state.link = LinkState::Connecting { attempt };
            Vec::new()
        }
        Link::Down { why, retry_ms } => {
            state.link = LinkState::Down { why, retry_at: state.now + retry_ms };
            state.runs.clear();
            Vec::new()
        }
        Link::Up(hello) => {
            state.link = LinkState::Up;
            let defaults = &hello.snapshot.more.get("sessionDefaults").cloned().unwrap_or_default();
            if let Some(agent) = defaults["defaultAgentId"].as_str().and_then(|id| AgentId::parse(id).ok()) {
                state.default_agent = agent;
            }
            if state.key.is_none() {
                state.key = Some(first_key(state));
            }
            state.greeted = true;
            state.approvals.clear();
            let mut commands = follow(state);
            commands.push(call(Tag::Subscribe, "sessions.subscribe", json!({})));
            commands.push(call(Tag::Agents, "agents.list", json!({})));
            commands.push(call(Tag::Commands, "commands.list", json!({})));
            commands.push(call(Tag::Approvals, "exec.approval.list", json!({})));
            // What was on its way when the connection broke goes again under the same ids.
            for at in 0..state.unconfirmed.len() {
                state.unconfirmed[at].tries = 1;
                commands.push(send_command(state, &state.unconfirmed[at]));
            }
            commands
        }
    }
}

/// The session to begin with, from what the caller wished.
fn first_key(state: &mut State) -> SessionKey {
    let asked = state.wishes.agent.clone();
    let agent = match asked.as_deref().map(AgentId::parse) {
        Some(Ok(agent)) => agent,
        Some(Err(err)) => {
            state.log.note(Level::Error, err.to_string());
            state.default_agent.clone()
        }
        None => state.default_agent.clone(),
    };
    let text = state.wishes.session.clone().unwrap_or_else(|| "main".into());
    SessionKey::resolve(&text, &agent).unwrap_or_else(|err| {
        state.log.note(Level::Error, err.to_string());
        SessionKey::main(&agent)
    })
}

/// Subscribes to the session and reads its newest page.
fn follow(state: &State) -> Vec<Command> {
    let mut commands = vec![call(Tag::Subscribe, "sessions.messages.subscribe", json!({ "key": state.key_text() }))];
    commands.extend(reload(state));
    commands
}

/// Reads the newest page again.
fn reload(state: &State) -> Option<Command> {
    let key = state.key.as_ref()?;
    (state.link == LinkState::Up).then(|| call(Tag::Startup(key.to_string()), "chat.history", page(state, None)))
}

fn page(state: &State, offset: Option<u64>) -> Value {
    let limit = if offset.is_some() { state.wishes.history_limit.min(HISTORY_LIMIT) } else { state.wishes.history_limit };
    let mut params = json!({ "sessionKey": state.key_text(), "limit": limit, "maxBytes": PAGE_BYTES_MAX });
    if let Some(offset) = offset {
        params["offset"] = offset.into();
    }
    params
}

/// Shows another session.
fn open(state: &mut State, key: SessionKey) -> Vec<Command> {
    state.overlay = None;
    if state.key.as_ref() == Some(&key) {
        return Vec::new();
    }
    let mut commands = Vec::new();
    if let Some(left) = state.key.replace(key) {
        commands.push(call(Tag::Subscribe, "sessions.messages.unsubscribe", json!({ "key": left })));
    }
    state.log = Log::default();
    state.facts = Facts::default();
    state.runs.clear();
    state.scroll = Scroll::Follow;
    let mine: Vec<Outgoing> = state.unconfirmed.iter().filter(|out| out.key == state.key_text()).cloned().collect();
    for out in mine {
        state.log.push(Some(&out.run), Kind::Said { text: out.text, from: None, stage: Stage::Sending });
    }
    commands.extend(follow(state));
    commands
}

/// Sends a text to the session.
fn send(state: &mut State, text: &str) -> Vec<Command> {
    let Some(key) = state.key.clone() else {
        state.flash("not connected yet");
        return Vec::new();
    };
    if state.unconfirmed.len() >= UNCONFIRMED_MAX {
        state.flash(format!("{UNCONFIRMED_MAX} messages wait for the gateway already"));
        return Vec::new();
    }
    let out = Outgoing { run: (state.wishes.new_id)(), key: key.to_string(), text: text.to_owned(), tries: 1 };
    state.scroll = Scroll::Follow;
    state.command_run = text.starts_with('/').then(|| out.run.clone());
    let mut commands = Vec::new();
    if state.log.detached {
        // The end is not in the window: read it again, the message is put behind it.
        state.log.clear();
        commands.extend(reload(state));
    }
    state.log.push(Some(&out.run), Kind::Said { text: out.text.clone(), from: None, stage: Stage::Sending });
    if state.link == LinkState::Up {
        commands.push(send_command(state, &out));
    } else {
        state.flash("not connected: the message goes out when the gateway is back");
    }
    state.unconfirmed.push_back(out);
    commands
}

fn send_command(state: &State, out: &Outgoing) -> Command {
    let mut params = json!({ "sessionKey": out.key, "message": out.text, "idempotencyKey": out.run, "deliver": state.wishes.deliver });
    if let Some(level) = &state.wishes.thinking {
        params["thinking"] = level.as_str().into();
    }
    if let Some(limit) = state.wishes.timeout_ms {
        params["timeoutMs"] = limit.into();
    }
    call(Tag::Send(out.run.clone()), "chat.send", params)
}

/// Stops what runs in the session.
fn abort(state: &mut State) -> Vec<Command> {
    state.flash("stopping …");
    vec![call(Tag::Abort, "chat.abort", json!({ "sessionKey": state.key_text() }))]
}

/// Moves through the conversation, and reads on where it ends.
fn scroll(state: &mut State, lines: isize) -> Vec<Command> {
    state.scroll = state.scroll.by(lines, &state.measures);
    if lines < 0 && state.scroll.top(&state.measures) == 0 {
        return older(state);
    }
    if lines > 0 && state.scroll == Scroll::Follow && state.log.detached {
        return to_end(state);
    }
    Vec::new()
}

fn older(state: &mut State) -> Vec<Command> {
    let Some(offset) = state.log.older.filter(|_| !state.log.loading && state.link == LinkState::Up) else { return Vec::new() };
    state.log.loading = true;
    vec![call(Tag::Older(state.key_text().to_owned()), "chat.history", page(state, Some(offset)))]
}

fn to_end(state: &mut State) -> Vec<Command> {
    state.scroll = Scroll::Follow;
    if state.log.detached { reload(state).into_iter().collect() } else { Vec::new() }
}

#[cfg(test)]
#[path = "tests.rs"]
pub mod testing;
