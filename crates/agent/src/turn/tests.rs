use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_providers::{Chunk, ErrorKind, ProviderError};
use clawstead_terms::{EffectClass, JournalEvent, Millis, Part, RunEnd, RunEventKind, RunId, StopReason, ToolDefinition, Usage};
use clawstead_tools::{ToolCx, ToolError, ToolOutput};

use super::{Command, Durability, OpenCall, REPEATS_MAX, REPEATS_WARN, Turn, TurnEvent, TurnPlan, effect_id};
use crate::Offer;

struct Fake;

#[async_trait]
impl Offer for Fake {
    fn definitions(&self) -> Arc<[ToolDefinition]> {
        Arc::from(Vec::new())
    }
    fn class(&self, name: &str) -> Option<EffectClass> {
        match name {
            "read" => Some(EffectClass::Read),
            "exec" => Some(EffectClass::Once),
            "put" => Some(EffectClass::Idempotent),
            _ => None,
        }
    }
    async fn call(&self, _: &str, _: ToolCx, _: Value) -> Result<ToolOutput, ToolError> {
        Err(ToolError::Failed("a decision test calls nothing".into()))
    }
}

fn plan() -> TurnPlan {
    TurnPlan {
        run_id: RunId::from("r"),
        attempt: 1,
        steps_done: 0,
        messages_done: 0,
        open_calls: Vec::new(),
        offer: Arc::new(Fake),
        model_calls_max: 20,
        parallel_max: 2,
        timeout_ms: 0,
        heartbeat: false,
        ack_chars_max: 300,
    }
}

/// A command as a short line, so that whole lists can be compared.
fn show(command: &Command) -> String {
    match command {
        Command::Persist(events, durability) => {
            let events: Vec<String> = events.iter().map(show_event).collect();
            format!("{} {}", if *durability == Durability::Awaited { "persist!" } else { "persist" }, events.join(" + "))
        }
        Command::AskModel => "ask".into(),
        Command::CancelModel => "cancel model".into(),
        Command::CallTool(call) => format!("call {} {}", call.name, call.call_id),
        Command::CancelTools => "cancel tools".into(),
        Command::Delta { text, .. } => format!("delta {text}"),
        Command::Emit(kind) => match &**kind {
            RunEventKind::ToolStart { call_id, .. } => format!("start {call_id}"),
            RunEventKind::Usage(usage) => format!("usage {}", usage.total()),
            RunEventKind::Model(_) => "model".into(),
            other => format!("{other:?}"),
        },
        Command::Boundary => "boundary".into(),
        Command::Compact => "compact".into(),
        Command::SetTimer(ms) => format!("timer {ms}"),
        Command::End(ending) => {
            let events: Vec<String> = ending.events.iter().map(show_event).collect();
            let end = match &ending.end {
                RunEnd::Ok => "ok".into(),
                RunEnd::Error { .. } => format!("error {}", ending.error_kind.unwrap_or("?")),
                RunEnd::Aborted { reason } => format!("aborted {reason}"),
                RunEnd::Merged { .. } => "merged".into(),
            };
            format!("end {end} {:?} [{}]{}", ending.text, events.join(" + "), if ending.silent { " silent" } else { "" })
        }
    }
}

fn show_event(event: &JournalEvent) -> String {
    match event {
        JournalEvent::Said { message } => {
            let parts: Vec<String> = message
                .parts
                .iter()
                .map(|part| match part {
                    Part::Text { text } => text.clone(),
                    Part::ToolCall { id, .. } => format!("<{id}>"),
                    Part::ToolResult { id, is_error, .. } => format!("{}{id}", if *is_error { "!" } else { "=" }),
                    other => format!("{other:?}"),
                })
                .collect();
            format!("say {}", parts.join(","))
        }
        JournalEvent::ToolIntent { call_id, .. } => format!("intent {call_id}"),
        other => format!("{other:?}"),
    }
}

fn check(turn: &mut Turn, event: TurnEvent, want: &[&str]) {
    let shown = format!("{event:?}");
    let got: Vec<String> = turn.step(event, Millis(1)).iter().map(show).collect();
    assert_eq!(got, want, "after {shown}");
}

fn started(plan: TurnPlan) -> Turn {
    let mut turn = Turn::new(plan);
    check(&mut turn, TurnEvent::Started, &["ask"]);
    turn
}

fn text(text: &str) -> TurnEvent {
    TurnEvent::Chunk(Chunk::Text(text.into()))
}

fn call(id: &str, name: &str) -> TurnEvent {
    TurnEvent::Chunk(Chunk::ToolCall { id: id.into(), name: name.into(), arguments: json!({ "id": id }) })
}

fn done(reason: StopReason) -> TurnEvent {
    TurnEvent::Chunk(Chunk::Done(reason))
}

fn result(index: usize) -> TurnEvent {
    TurnEvent::ToolDone { index, content: vec![Part::text("r")], details: None, is_error: false }
}

fn failed(kind: ErrorKind) -> TurnEvent {
    TurnEvent::ModelFailed(ProviderError { kind, provider: "p".into(), model: "m".into(), message: "no".into(), status: None, retry_after_ms: None })
}

#[test]
fn an_answer_without_tools_ends_the_turn_in_one_write() {
    let mut turn = started(plan());
    check(&mut turn, text("Hel"), &["delta Hel"]);
    check(&mut turn, text("lo"), &["delta lo"]);
    check(&mut turn, TurnEvent::Chunk(Chunk::Usage(Usage { input: 3, output: 2, ..Usage::default() })), &[]);
    check(&mut turn, done(StopReason::Stop), &["usage 5", "end ok \"Hello\" [say Hello]"]);
    check(&mut turn, TurnEvent::Abort("rpc".into()), &[]);
    check(&mut turn, result(0), &[]);
}

#[test]
fn reading_calls_run_together_up_to_the_bound() {
    let mut turn = started(plan());
    for id in ["a", "b", "c"] {
        check(&mut turn, call(id, "read"), &[]);
    }
    check(&mut turn, done(StopReason::ToolUse), &["persist say <a>,<b>,<c>", "start a", "call read a", "start b", "call read b"]);
    check(&mut turn, result(1), &["persist say =b", "start c", "call read c"]);
    check(&mut turn, result(1), &[]);
    check(&mut turn, result(0), &["persist say =a"]);
    check(&mut turn, result(2), &["persist say =c", "boundary"]);
    check(&mut turn, TurnEvent::Steered(0), &["ask"]);
}

#[test]
fn calls_with_effects_run_in_order_each_after_its_durable_intent() {
    let mut turn = started(plan());
    for (id, name) in [("a", "exec"), ("b", "read"), ("c", "put")] {
        check(&mut turn, call(id, name), &[]);
    }
    check(&mut turn, done(StopReason::ToolUse), &["persist! say <a>,<b>,<c> + intent a"]);
    check(&mut turn, TurnEvent::Persisted, &["start a", "call exec a"]);
    check(&mut turn, result(0), &["persist say =a", "start b", "call read b"]);
    check(&mut turn, result(1), &["persist say =b", "persist! intent c"]);
    check(&mut turn, TurnEvent::Persisted, &["start c", "call put c"]);
    check(&mut turn, result(2), &["persist say =c", "boundary"]);
}

#[test]
fn odd_calls_get_a_result_and_never_run() {
    let mut turn = started(plan());
    check(&mut turn, call("a", "nosuch"), &[]);
    check(&mut turn, TurnEvent::Chunk(Chunk::ToolCall { id: "b".into(), name: "read".into(), arguments: json!("{broken") }), &[]);
    check(&mut turn, call("", ""), &[]);
    check(&mut turn, call("b", "read"), &[]);
    check(&mut turn, done(StopReason::ToolUse), &["persist say <a>,<b>,<b_3>", "persist say !a", "persist say !b", "start b_3", "call read b_3"]);
    let mut empty = started(plan());
    check(&mut empty, call("x", " "), &[]);
    check(&mut empty, done(StopReason::ToolUse), &["ask"]);
    check(&mut empty, done(StopReason::ToolUse), &["cancel model", "end error model \"\" [say ]"]);
}

#[test]
fn a_stop_leaves_one_result_for_every_call() {
    let mut turn = started(plan());
    check(&mut turn, call("a", "exec"), &[]);
    check(&mut turn, call("b", "exec"), &[]);
    check(&mut turn, done(StopReason::ToolUse), &["persist! say <a>,<b> + intent a"]);
    check(&mut turn, TurnEvent::Persisted, &["start a", "call exec a"]);
    check(&mut turn, TurnEvent::Abort("rpc".into()), &["cancel tools", "persist say !a", "persist say !b", "end aborted rpc \"\" []"]);
    check(&mut turn, result(0), &[]);

    let mut speaking = started(TurnPlan { timeout_ms: 0, ..plan() });
    check(&mut speaking, text("half"), &["delta half"]);
    check(&mut speaking, call("z", "exec"), &[]);
    check(&mut speaking, TurnEvent::Deadline, &["cancel model", "end aborted timeout \"half\" [say half]"]);
}

#[test]
fn a_context_overflow_is_compacted_once() {
    let mut turn = started(plan());
    check(&mut turn, failed(ErrorKind::Context), &["compact"]);
    check(&mut turn, TurnEvent::Compacted(true), &["ask"]);
    check(&mut turn, failed(ErrorKind::Context), &["cancel model", "end error context \"\" [say ]"]);
    let mut hopeless = started(plan());
    check(&mut hopeless, failed(ErrorKind::Context), &["compact"]);
    check(&mut hopeless, TurnEvent::Compacted(false), &["cancel model", "end error context \"\" [say ]"]);
}

#[test]
fn a_broken_stream_is_asked_again_without_its_text() {
    let mut turn = started(plan());
    check(&mut turn, text("one"), &["delta one"]);
    check(&mut turn, TurnEvent::ModelDone, &["cancel model", "ask"]);
    check(&mut turn, text("two"), &["delta two"]);
    check(&mut turn, failed(ErrorKind::Timeout), &["cancel model", "ask"]);
    check(&mut turn, text("three"), &["delta three"]);
    check(&mut turn, failed(ErrorKind::Network), &["cancel model", "end error network \"three\" [say three]"]);
    let mut dead = started(plan());
    check(&mut dead, failed(ErrorKind::Network), &["cancel model", "end error network \"\" [say ]"]);
}

#[test]
fn failover_voids_what_was_said() {
    let mut turn = started(plan());
    check(&mut turn, text("old"), &["delta old"]);
    check(&mut turn, TurnEvent::Fallback, &[]);
    check(&mut turn, TurnEvent::Chosen { provider: "q".into(), model: "n".into() }, &["model"]);
    check(&mut turn, text("new"), &["delta new"]);
    check(&mut turn, done(StopReason::Stop), &["end ok \"new\" [say new]"]);
}

#[test]
fn length_refusal_and_emptiness() {
    for (said, reason, heartbeat, want) in [
        ("cut", StopReason::Length, false, "end ok \"cut\" [say cut]"),
        ("", StopReason::Length, false, "cancel model|end error model \"\" [say ]"),
        ("", StopReason::Refusal, false, "cancel model|end error content \"\" [say ]"),
        ("no", StopReason::Refusal, false, "end ok \"no\" [say no]"),
        ("", StopReason::Stop, true, "end ok \"\" [] silent"),
        ("HEARTBEAT_OK", StopReason::Stop, true, "end ok \"\" [say HEARTBEAT_OK] silent"),
        ("NO_REPLY", StopReason::Stop, false, "end ok \"\" [say NO_REPLY] silent"),
        ("", StopReason::Stop, false, "ask"),
    ] {
        let mut turn = started(TurnPlan { heartbeat, ..plan() });
        let _ = turn.step(text(said), Millis(1));
        let want: Vec<&str> = want.split('|').collect();
        check(&mut turn, done(reason), &want);
    }
}

#[test]
fn the_same_call_again_and_again_is_refused_and_then_ends_the_turn() {
    let mut turn = started(plan());
    for round in 1..=REPEATS_MAX {
        let _ = turn.step(TurnEvent::Chunk(Chunk::ToolCall { id: format!("c{round}"), name: "read".into(), arguments: json!({}) }), Millis(1));
        let got: Vec<String> = turn.step(done(StopReason::ToolUse), Millis(1)).iter().map(show).collect();
        if round < REPEATS_WARN {
            assert!(got.contains(&format!("call read c{round}")), "{got:?}");
            check(&mut turn, result(0), &[&format!("persist say =c{round}"), "boundary"]);
        } else if round < REPEATS_MAX {
            assert_eq!(got, [format!("persist say <c{round}>"), format!("persist say !c{round}"), "boundary".into()]);
        } else {
            assert!(got.last().unwrap().starts_with("end error model"), "{got:?}");
            break;
        }
        check(&mut turn, TurnEvent::Steered(0), &["ask"]);
    }
    assert!(turn.is_over());
}

#[test]
fn the_number_of_model_calls_is_bounded() {
    let mut turn = started(TurnPlan { model_calls_max: 1, ..plan() });
    check(&mut turn, call("a", "read"), &[]);
    check(&mut turn, done(StopReason::ToolUse), &["persist say <a>", "start a", "call read a"]);
    check(&mut turn, result(0), &["persist say =a", "boundary"]);
    check(&mut turn, TurnEvent::Steered(0), &["cancel model", "end error model \"\" [say ]"]);
}

#[test]
fn after_a_crash_calls_are_repeated_only_as_their_class_allows() {
    let open = |id: &str, name: &str, index, intent: Option<(&str, EffectClass)>| OpenCall {
        call_id: id.into(),
        name: name.into(),
        arguments: json!({}),
        index,
        intent: intent.map(|(effect, class)| (effect.into(), class)),
    };
    let calls = vec![
        open("a", "exec", 0, Some(("e-a", EffectClass::Once))),
        open("b", "put", 1, Some(("e-b", EffectClass::Idempotent))),
        open("c", "exec", 2, None),
        open("d", "read", 3, None),
    ];
    let mut turn = Turn::new(TurnPlan { open_calls: calls, steps_done: 3, messages_done: 9, attempt: 2, ..plan() });
    check(&mut turn, TurnEvent::Started, &["persist say !a", "persist! intent b"]);
    let again: Vec<Command> = turn.step(TurnEvent::Persisted, Millis(1));
    let Some(Command::CallTool(call)) = again.last() else { panic!("{again:?}") };
    assert_eq!((call.call_id.as_str(), call.effect_id.as_str()), ("b", "e-b"), "the receiver knows the repeat by the same effect id");
    check(&mut turn, result(1), &["persist say =b", "persist! intent c"]);
    let fresh = turn.step(TurnEvent::Persisted, Millis(1));
    let Some(Command::CallTool(call)) = fresh.last() else { panic!("{fresh:?}") };
    assert_eq!(call.effect_id, effect_id(&RunId::from("r"), 3, 2), "the id it would have had before the crash");
    check(&mut turn, result(2), &["persist say =c", "start d", "call read d"]);
    check(&mut turn, result(3), &["persist say =d", "boundary"]);
}
