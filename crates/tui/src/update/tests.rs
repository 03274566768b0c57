use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use clawstead_wire::{connect::HelloOk, frame, methods};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::update;
use crate::{
    command::{Command, Tag},
    entry::{Kind, Stage},
    event::{CallFault, Event, Link},
    options::TuiOptions,
    picker::Subject,
    scroll::{Measures, Scroll},
    state::{LinkState, Overlay, State},
};

const KEY: &str = "agent:jerry:main";

pub fn options() -> TuiOptions {
    let counter = AtomicU64::new(1);
    TuiOptions::new("ws://127.0.0.1:1", "1", Arc::new(move || format!("run-{}", counter.fetch_add(1, Ordering::Relaxed))))
}

pub fn hello() -> HelloOk {
    serde_json::from_value(json!({
        "type": "hello-ok", "protocol": 4,
        "server": {"version": "2026.9.6", "bootId": "b", "connId": "c"},
        "features": {"methods": [], "events": [], "capabilities": []},
        "snapshot": {"presence": [], "health": {}, "stateVersion": {"presence": 1, "health": 1}, "uptimeMs": 1, "sessionDefaults": {"defaultAgentId": "jerry", "mainKey": "main"}},
        "auth": {"role": "operator", "scopes": ["operator.read"]},
        "policy": {"maxPayload": 1, "maxBufferedBytes": 1, "tickIntervalMs": 30000}
    }))
    .unwrap()
}

/// A state and its clock. Every call that comes out is checked against the method table.
pub struct Table {
    pub state: State,
    now: u64,
}

impl Table {
    pub fn new(options: &TuiOptions) -> Self {
        Self { state: State::new(options), now: 0 }
    }

    /// Connected, the empty session is shown.
    pub fn connected() -> Self {
        let mut table = Self::new(&options());
        table.event(Event::Link(Link::Up(Box::new(hello()))));
        table.answer(Tag::Startup(KEY.into()), page(&[], None));
        table
    }

    pub fn event(&mut self, event: Event) -> Vec<Command> {
        self.now += 10;
        let commands = update(&mut self.state, event, self.now);
        for command in &commands {
            if let Command::Call { method, params, .. } = command {
                methods::find(method).unwrap_or_else(|| panic!("{method}")).check(params).unwrap();
            }
        }
        commands
    }

    pub fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.event(Event::Tick);
    }

    pub fn answer(&mut self, tag: Tag, result: Value) -> Vec<Command> {
        self.event(Event::Answer { tag, result: Ok(result) })
    }

    pub fn fails(&mut self, tag: Tag, fault: CallFault) -> Vec<Command> {
        self.event(Event::Answer { tag, result: Err(fault) })
    }

    pub fn key(&mut self, code: KeyCode) -> Vec<Command> {
        self.event(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    pub fn ctrl(&mut self, c: char) -> Vec<Command> {
        self.event(Event::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL)))
    }

    pub fn write(&mut self, text: &str) -> Vec<Command> {
        for c in text.chars() {
            self.key(KeyCode::Char(c));
        }
        self.key(KeyCode::Enter)
    }

    pub fn hear(&mut self, event: &str, payload: Value) -> Vec<Command> {
        self.event(Event::Gateway(Box::new(frame::Event {
            event: event.into(),
            payload: Some(payload),
            seq: None,
            state_version: None,
            recipient_profile_id: None,
        })))
    }

    pub fn agent(&mut self, run: &str, stream: &str, data: Value) {
        self.hear("agent", json!({"runId": run, "seq": 1, "stream": stream, "ts": 1, "data": data, "sessionKey": KEY}));
    }

    pub fn chat(&mut self, run: &str, state: &str, more: Value) {
        let mut payload = json!({"runId": run, "sessionKey": KEY, "seq": 1, "state": state});
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.hear("chat", payload);
    }

    pub fn texts(&self) -> Vec<String> {
        let words = |kind: &Kind| match kind {
            Kind::Said { text, stage, .. } => format!("> {text}{}", if *stage == Stage::Stored { "" } else { " …" }),
            Kind::Answer { text, open, .. } => format!("{text}{}", if *open { "▌" } else { "" }),
            Kind::Thinking { text, .. } => format!("({text})"),
            Kind::Tool(tool) => format!("[{}: {}]", tool.name, tool.output),
            Kind::Note { text, .. } => format!("* {text}"),
        };
        self.state.log.entries().map(|entry| words(&entry.kind)).collect()
    }
}

pub fn page(messages: &[Value], older: Option<u64>) -> Value {
    json!({"sessionKey": KEY, "messages": messages, "hasMore": older.is_some(), "nextOffset": older, "defaults": {"modelProvider": "mock", "model": "one", "contextTokens": 128_000}})
}

fn calls(commands: &[Command]) -> Vec<(&'static str, Value)> {
    commands.iter().filter_map(|command| if let Command::Call { method, params, .. } = command { Some((*method, params.clone())) } else { None }).collect()
}

fn names(commands: &[Command]) -> Vec<&'static str> {
    calls(commands).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn the_first_connection_reads_the_session_and_sends_the_first_message() {
    let mut wishes = options();
    wishes.message = Some("hello".into());
    wishes.thinking = Some("low".into());
    wishes.agent = Some("bobby".into());
    wishes.deliver = true;
    let mut table = Table::new(&wishes);
    let commands = table.event(Event::Link(Link::Up(Box::new(hello()))));
    assert_eq!(names(&commands), ["sessions.messages.subscribe", "chat.history", "sessions.subscribe", "agents.list", "commands.list", "exec.approval.list"]);
    assert_eq!(calls(&commands)[0].1, json!({"key": "agent:bobby:main"}));
    let sent = table.answer(Tag::Startup("agent:bobby:main".into()), page(&[], None));
    assert_eq!(
        calls(&sent),
        [("chat.send", json!({"sessionKey": "agent:bobby:main", "message": "hello", "idempotencyKey": "run-1", "deliver": true, "thinking": "low"}))]
    );
    assert!(table.answer(Tag::Startup("agent:bobby:main".into()), page(&[], None)).is_empty(), "only once");
}

#[test]
fn a_turn_from_the_key_to_the_end() {
    let mut table = Table::connected();
    let sent = table.write("hi");
    assert_eq!(names(&sent), ["chat.send"]);
    assert_eq!(table.texts(), ["> hi …"]);
    table.answer(Tag::Send("run-1".into()), json!({"runId": "run-1", "status": "started"}));
    table.agent("run-1", "lifecycle", json!({"phase": "model", "provider": "mock", "model": "two"}));
    table.agent("run-1", "thinking", json!({"text": "hm", "delta": "hm"}));
    table.agent("run-1", "tool", json!({"phase": "start", "name": "exec", "toolCallId": "c", "args": {"command": "ls"}}));
    table.agent(
        "run-1",
        "tool",
        json!({"phase": "result", "name": "exec", "toolCallId": "c", "isError": false, "result": {"content": [{"type": "text", "text": "a b"}]}}),
    );
    table.agent("run-1", "assistant", json!({"text": "Hel", "delta": "Hel", "itemId": "i"}));
    table.chat("run-1", "delta", json!({"deltaText": "Hel", "message": {"content": [{"type": "text", "text": "Hel"}]}}));
    assert_eq!(table.texts(), ["> hi", "(hm)", "[exec: a b]", "Hel▌"]);
    assert_eq!(table.state.runs["run-1"].phase, "answering");
    table.chat("run-1", "final", json!({"message": {"content": [{"type": "text", "text": "Hello"}]}}));
    assert_eq!(table.texts()[3], "Hello");
    assert!(table.state.runs.is_empty() && table.state.unconfirmed.is_empty());
    assert_eq!(table.state.facts.model.as_deref(), Some("mock/two"));
    table.agent("run-1", "assistant", json!({"text": "elsewhere", "itemId": "j"}));
    table.hear("agent", json!({"runId": "x", "seq": 1, "stream": "assistant", "ts": 1, "data": {"text": "other session"}, "sessionKey": "agent:billy:main"}));
    assert!(!table.texts().iter().any(|text| text.contains("other session")));
}

#[test]
fn escape_and_control_c_stop_the_run_and_only_the_second_leaves() {
    let mut table = Table::connected();
    table.write("work");
    table.answer(Tag::Send("run-1".into()), json!({"status": "started"}));
    assert_eq!(calls(&table.key(KeyCode::Esc)), [("chat.abort", json!({"sessionKey": KEY}))]);
    assert_eq!(names(&table.ctrl('c')), ["chat.abort"]);
    assert_eq!(table.ctrl('c'), [Command::Quit]);
    let mut table = Table::connected();
    assert!(table.ctrl('c').is_empty());
    table.wait(2_000);
    assert!(table.ctrl('c').is_empty(), "too late: it counts as the first again");
    table.key(KeyCode::Char('x'));
    assert!(table.ctrl('c').is_empty(), "another key came between");
    assert!(table.state.input.is_empty(), "the line is emptied");
    assert_eq!(table.ctrl('c'), [Command::Quit]);
    assert_eq!(Table::connected().ctrl('d'), [Command::Quit]);
    let mut table = Table::connected();
    table.chat("r", "aborted", json!({"stopReason": "rpc", "message": {"content": [{"type": "text", "text": "half"}]}}));
    assert_eq!(table.texts(), ["half", "* stopped"]);
}

#[test]
fn a_lost_connection_loses_no_message() {
    let mut table = Table::connected();
    table.write("one");
    table.event(Event::Link(Link::Down { why: "gone".into(), retry_ms: 1_000 }));
    assert!(table.fails(Tag::Send("run-1".into()), CallFault::Lost("closed".into())).is_empty());
    assert!(table.write("two").is_empty(), "kept for later");
    let again = table.event(Event::Link(Link::Up(Box::new(hello()))));
    let sends: Vec<Value> = calls(&again).into_iter().filter(|(name, _)| *name == "chat.send").map(|(_, params)| params["idempotencyKey"].clone()).collect();
    assert_eq!(sends, ["run-1", "run-2"], "the same ids, so nothing runs twice");
    table.answer(Tag::Startup(KEY.into()), page(&[json!({"role": "user", "content": "one", "__openclaw": {"seq": 1, "runId": "run-1"}})], None));
    assert_eq!(table.texts(), ["> one", "> two …"]);
    let reread = table.answer(Tag::Send("run-1".into()), json!({"status": "ok"}));
    assert!(names(&reread).contains(&"chat.history"), "it was answered while we were away");
}

#[test]
fn a_refused_message_comes_back_into_the_line() {
    let mut table = Table::connected();
    table.write("secret plan");
    table.fails(Tag::Send("run-1".into()), CallFault::Refused("no such agent".into()));
    assert_eq!(table.texts(), ["> secret plan …", "* no such agent"]);
    assert_eq!(table.state.input.text(), "secret plan");
    assert!(table.state.unconfirmed.is_empty());
    let mut table = Table::connected();
    table.write("slow");
    let lost = || CallFault::Lost("no answer".into());
    assert_eq!(names(&table.fails(Tag::Send("run-1".into()), lost())), ["chat.send"]);
    assert_eq!(names(&table.fails(Tag::Send("run-1".into()), lost())), ["chat.send"]);
    assert!(table.fails(Tag::Send("run-1".into()), lost()).is_empty(), "three tries");
    assert_eq!(table.state.unconfirmed.len(), 1, "kept for the next connection");
}

#[test]
fn slash_commands_are_ours_or_the_gateways() {
    let mut table = Table::connected();
    assert_eq!(calls(&table.write("/status"))[0].1["message"], "/status");
    assert!(table.write("/help").is_empty());
    assert!(matches!(table.state.overlay, Some(Overlay::Help(_))));
    table.key(KeyCode::Esc);
    assert_eq!(names(&table.write("/model")), ["models.list"]);
    table.key(KeyCode::Esc);
    assert_eq!(calls(&table.write("/model mock/two"))[0].1["message"], "/model mock/two");
    assert_eq!(calls(&table.write("/rename Plans"))[0], ("sessions.patch", json!({"key": KEY, "label": "Plans"})));
    assert_eq!(table.write("/quit"), [Command::Quit]);
    table.answer(Tag::Commands, json!({"commands": [{"name": "status", "description": "how it stands"}, {"name": "stop", "description": "x"}]}));
    for c in "/sta".chars() {
        table.key(KeyCode::Char(c));
    }
    table.key(KeyCode::Tab);
    assert_eq!(table.state.input.text(), "/status ");
}

#[test]
fn enter_with_a_modifier_makes_a_line() {
    let mut table = Table::connected();
    table.key(KeyCode::Char('a'));
    for modifier in [KeyModifiers::SHIFT, KeyModifiers::ALT] {
        table.event(Event::Key(KeyEvent::new(KeyCode::Enter, modifier)));
    }
    table.ctrl('j');
    let sent = table.write("b");
    assert_eq!(calls(&sent)[0].1["message"], "a\n\n\nb");
    table.key(KeyCode::Up);
    assert_eq!(table.state.input.text(), "a\n\n\nb");
}

#[test]
fn sessions_are_listed_opened_made_renamed_reset_and_deleted() {
    let mut table = Table::connected();
    assert_eq!(names(&table.ctrl('p')), ["sessions.list"]);
    let list = json!({"sessions": [{"key": KEY}, {"key": "agent:jerry:plans", "label": "Plans"}]});
    let serial = table.state.list_serial;
    table.answer(Tag::Sessions(serial), list.clone());
    table.answer(Tag::Sessions(serial - 1), json!({"sessions": []}));
    table.key(KeyCode::Down);
    table.ctrl('e');
    for _ in 0..5 {
        table.key(KeyCode::Backspace);
    }
    assert_eq!(calls(&table.write("Ideas")), [("sessions.patch", json!({"key": "agent:jerry:plans", "label": "Ideas"}))]);
    table.ctrl('r');
    assert!(table.key(KeyCode::Char('n')).is_empty());
    table.ctrl('r');
    assert_eq!(calls(&table.key(KeyCode::Char('y'))), [("sessions.reset", json!({"key": "agent:jerry:plans"}))]);
    table.ctrl('d');
    assert_eq!(calls(&table.key(KeyCode::Char('y'))), [("sessions.delete", json!({"key": "agent:jerry:plans"}))]);
    table.fails(Tag::Changed("deleted"), CallFault::Refused("Cannot delete".into()));
    assert!(matches!(&table.state.overlay, Some(Overlay::Picker(picker)) if picker.fault.as_deref() == Some("Cannot delete")));
    let opened = table.key(KeyCode::Enter);
    assert_eq!(names(&opened), ["sessions.messages.unsubscribe", "sessions.messages.subscribe", "chat.history"]);
    assert_eq!(table.state.key_text(), "agent:jerry:plans");
    assert!(table.answer(Tag::Startup(KEY.into()), page(&[json!({"role": "user", "content": "late"})], None)).is_empty());
    assert!(table.texts().is_empty(), "an answer for the session that was left is dropped");
    table.ctrl('p');
    assert_eq!(calls(&table.ctrl('n')), [("sessions.create", json!({"agentId": "jerry"}))]);
    table.answer(Tag::Created, json!({"ok": true, "key": "agent:jerry:dashboard:1"}));
    assert_eq!(table.state.key_text(), "agent:jerry:dashboard:1");
    table.ctrl('p');
    for c in "pl".chars() {
        table.key(KeyCode::Char(c));
    }
    assert_eq!(calls(&table.key(KeyCode::Char('a')))[0].1["search"], "pla", "the gateway searches too");
}

#[test]
fn agents_and_models_are_chosen() {
    let mut table = Table::connected();
    table.write("/agents");
    table.answer(Tag::Agents, json!({"agents": [{"id": "jerry"}, {"id": "bobby", "model": {"primary": "mock/x"}}]}));
    let Some(Overlay::Picker(picker)) = &table.state.overlay else { panic!() };
    assert_eq!((picker.subject, picker.selected().unwrap().value.as_str()), (Subject::Agents, "jerry"));
    table.key(KeyCode::Down);
    table.key(KeyCode::Enter);
    assert_eq!(table.state.key_text(), "agent:bobby:main");
    table.key(KeyCode::F(4));
    table.answer(Tag::Models, json!({"models": [{"id": "one", "provider": "mock", "available": true}, {"id": "mock/two", "provider": "mock"}]}));
    table.key(KeyCode::Down);
    assert_eq!(calls(&table.key(KeyCode::Enter)), [("sessions.patch", json!({"key": "agent:bobby:main", "model": "mock/two"}))]);
    table.answer(Tag::Model, json!({"ok": true, "resolved": {"modelProvider": "mock", "model": "two"}}));
    assert_eq!(table.state.facts.model.as_deref(), Some("mock/two"));
}

#[test]
fn the_top_reads_on_and_the_end_follows() {
    let mut table = Table::connected();
    let message = |seq: u64| json!({"role": "user", "content": format!("m{seq}"), "__openclaw": {"seq": seq}});
    table.answer(Tag::Startup(KEY.into()), page(&[message(9), message(10)], Some(2)));
    let ids: Vec<_> = table.state.log.entries().map(|entry| (entry.id, 10)).collect();
    table.state.measured(Measures { heights: ids, page: 8 });
    assert!(table.key(KeyCode::PageUp).is_empty());
    assert_ne!(table.state.scroll, Scroll::Follow);
    let read = table.key(KeyCode::PageUp);
    assert_eq!(calls(&read)[0].1["offset"], 2);
    assert!(table.key(KeyCode::PageUp).is_empty(), "one at a time");
    let again = table.answer(Tag::Older(KEY.into()), page(&[message(9)], Some(4)));
    assert_eq!(calls(&again)[0].1["offset"], 4, "a page that brings nothing new is passed over");
    table.answer(Tag::Older(KEY.into()), page(&[message(7), message(8)], None));
    assert_eq!(table.texts().len(), 4);
    assert!(table.key(KeyCode::PageUp).is_empty(), "that was all");
    table.key(KeyCode::End);
    assert_eq!(table.state.scroll, Scroll::Follow);
}

#[test]
fn approvals_are_shown_and_decided_by_an_explicit_key() {
    let mut table = Table::connected();
    table.hear("exec.approval.requested", json!({"id": "a1", "request": {"command": "rm x", "agentId": "jerry"}}));
    table.answer(Tag::Approvals, json!([{"id": "a1", "request": {"command": "rm x"}}, {"id": "a2", "request": {"command": "ls"}}]));
    assert_eq!(table.state.approvals.len(), 2);
    table.key(KeyCode::Char('y'));
    assert_eq!(table.state.approvals.len(), 2, "typing decides nothing");
    let commands = table.event(Event::Key(KeyEvent::new(KeyCode::Char('n'), KeyModifiers::ALT)));
    assert_eq!(calls(&commands), [("exec.approval.resolve", json!({"id": "a1", "decision": "deny"}))]);
    table.hear("exec.approval.resolved", json!({"id": "a2", "decision": "allow-once"}));
    assert!(table.state.approvals.is_empty());
}

#[test]
fn a_reset_elsewhere_and_missed_events_read_again() {
    let mut table = Table::connected();
    assert_eq!(names(&table.hear("sessions.changed", json!({"sessionKey": KEY, "reason": "reset", "ts": 1}))), ["chat.history"]);
    assert!(table.hear("sessions.changed", json!({"sessionKey": "agent:x:main", "reason": "reset", "ts": 1})).is_empty());
    assert_eq!(names(&table.event(Event::Missed(3))), ["chat.history"]);
    table.event(Event::Link(Link::Down { why: "x".into(), retry_ms: 1 }));
    assert!(matches!(table.state.link, LinkState::Down { .. }));
    assert!(table.event(Event::Missed(3)).is_empty());
}

#[test]
fn a_conversation_that_starts_afresh_is_read_again_and_keeps_the_word_about_it() {
    let mut table = Table::connected();
    let mut answer = page(&[json!({"role": "user", "content": "old", "__openclaw": {"seq": 1}})], None);
    answer["sessionInfo"] = json!({"sessionId": "one", "lifecycleRevision": "0"});
    table.answer(Tag::Startup(KEY.into()), answer);
    table.write("/new");
    assert!(
        table
            .hear("sessions.changed", json!({"sessionKey": KEY, "ts": 1, "phase": "start", "session": {"sessionId": "one", "lifecycleRevision": "0"}}))
            .is_empty()
    );
    table.chat("run-1", "final", json!({"message": {"content": [{"type": "text", "text": "begun"}]}}));
    let read = table.hear("sessions.changed", json!({"sessionKey": KEY, "ts": 1, "phase": "end", "session": {"sessionId": "one", "lifecycleRevision": "1"}}));
    assert_eq!(names(&read), ["chat.history"]);
    table.answer(Tag::Startup(KEY.into()), page(&[], None));
    assert_eq!(table.texts(), ["> /new", "begun"]);
    table.answer(Tag::Startup(KEY.into()), page(&[], None));
    assert!(table.texts().is_empty(), "only until the next reading");
}

#[test]
fn a_run_that_goes_on_is_picked_up() {
    let mut table = Table::connected();
    let mut answer = page(&[json!({"role": "user", "content": "q", "__openclaw": {"seq": 1, "runId": "r"}})], None);
    answer["inFlightRun"] = json!({"runId": "r", "text": "so f"});
    table.answer(Tag::Startup(KEY.into()), answer);
    assert_eq!(table.texts(), ["> q", "so f▌"]);
    table.agent("r", "assistant", json!({"text": "so far", "delta": "ar", "itemId": "i"}));
    assert_eq!(table.texts(), ["> q", "so far▌"]);
}

#[test]
fn nothing_strange_from_the_gateway_breaks_it() {
    let mut table = Table::connected();
    for name in ["agent", "chat", "session.message", "sessions.changed", "exec.approval.requested", "shutdown", "what"] {
        for payload in [json!(null), json!([1]), json!({}), json!({"sessionKey": KEY, "runId": 1}), json!("x")] {
            table.hear(name, payload);
        }
    }
    for tag in [Tag::Startup(KEY.into()), Tag::Older(KEY.into()), Tag::Agents, Tag::Models, Tag::Commands, Tag::Created, Tag::Model, Tag::Approvals, Tag::Abort]
    {
        for result in [json!(null), json!([]), json!({"messages": 3, "agents": {}})] {
            table.answer(tag.clone(), result);
        }
    }
}
