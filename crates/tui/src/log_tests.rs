use serde_json::{Value, json};

use super::{ENTRIES_MAX, Log};
use crate::entry::{Kind, Stage, ToolState};

fn user(seq: u64, text: &str) -> Value {
    json!({"role": "user", "content": text, "__openclaw": {"seq": seq, "runId": format!("r{seq}")}})
}

fn answer(seq: u64, text: &str) -> Value {
    json!({"role": "assistant", "content": [{"type": "text", "text": text}], "__openclaw": {"seq": seq}})
}

fn texts(log: &Log) -> Vec<String> {
    log.entries()
        .map(|entry| match &entry.kind {
            Kind::Said { text, .. } => format!("> {text}"),
            Kind::Answer { text, open, .. } => format!("{text}{}", if *open { "…" } else { "" }),
            Kind::Thinking { text, .. } => format!("({text})"),
            Kind::Tool(tool) => format!("[{} {} {:?} {}]", tool.name, tool.args, tool.state, tool.output),
            Kind::Note { text, .. } => format!("! {text}"),
        })
        .collect()
}

fn page(from: u64, to: u64) -> Vec<Value> {
    (from..=to).map(|seq| if seq % 2 == 1 { user(seq, &format!("q{seq}")) } else { answer(seq, &format!("a{seq}")) }).collect()
}

#[test]
fn a_page_becomes_entries_and_results_join_their_calls() {
    let mut log = Log::default();
    log.newest_page(
        &[
            user(1, "run it"),
            json!({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "toolCall", "id": "c", "name": "exec", "arguments": {"a": 1}}], "__openclaw": {"seq": 2}}),
            json!({"role": "toolResult", "toolCallId": "c", "toolName": "exec", "content": [{"type": "text", "text": "out"}], "isError": false, "__openclaw": {"seq": 3}}),
            answer(4, "done"),
        ],
        None,
        None,
    );
    assert_eq!(texts(&log), ["> run it", "(hm)", "[exec {\"a\":1} Done out]", "done"]);
}

#[test]
fn older_pages_overlap_without_doubles_and_meet_their_orphans() {
    let mut log = Log::default();
    log.newest_page(
        &[json!({"role": "toolResult", "toolCallId": "c", "toolName": "exec", "content": [], "isError": true, "__openclaw": {"seq": 5}}), answer(6, "six")],
        Some(2),
        None,
    );
    let call = json!({"role": "assistant", "content": [{"type": "toolCall", "id": "c", "name": "exec", "arguments": {}}], "__openclaw": {"seq": 4}});
    let added = log.older_page(&[user(3, "three"), call, answer(6, "six")], None);
    assert_eq!(added, 2);
    assert_eq!(texts(&log), ["> three", "[exec {} Failed ]", "six"]);
    assert_eq!(log.older, None);
}

#[test]
fn memory_is_bounded_at_both_ends() {
    let mut log = Log::default();
    let max = ENTRIES_MAX as u64;
    log.newest_page(&page(max + 1, 2 * max), Some(max), None);
    log.older_page(&page(max - 99, max), Some(max + 100));
    assert_eq!(log.entries().len(), ENTRIES_MAX);
    assert!(log.detached, "the newest were let go");
    let before = texts(&log);
    log.answer("x", None, "live text");
    assert_eq!(texts(&log), before, "the end is not in the window");

    let mut log = Log::default();
    log.newest_page(&page(1, max), None, None);
    log.answer("x", None, "live text");
    assert_eq!(log.entries().len(), ENTRIES_MAX);
    assert_eq!(log.older, Some(max - 1), "the oldest can be read again");
    assert!(!log.detached);
}

#[test]
fn a_streamed_run_gets_its_places_and_is_not_shown_twice() {
    let mut log = Log::default();
    log.push(Some("r"), Kind::Said { text: "hi".into(), from: None, stage: Stage::Sending });
    log.stored(1, &json!({"role": "user", "content": "hi", "idempotencyKey": "r:user"}));
    log.thinking("r", "let ");
    log.thinking("r", "me");
    log.tool_start("r", "c", "exec", Some(&json!({"x": 1})));
    log.stored(2, &json!({"role": "assistant", "content": [{"type": "toolCall", "id": "c", "name": "exec", "arguments": {}}], "__openclaw": {"runId": "r"}}));
    log.tool_output("c", "par", ToolState::Running);
    log.tool_output("c", "partial", ToolState::Done);
    log.answer("r", Some("i1"), "Hel");
    log.answer("r", Some("i1"), "Hello");
    log.stored(4, &json!({"role": "assistant", "content": [{"type": "text", "text": "Hello"}], "__openclaw": {"runId": "r"}}));
    log.end("r", Some("Hello"));
    assert_eq!(texts(&log), ["> hi", "(let me)", "[exec {\"x\":1} Done partial]", "Hello"]);
    let places: Vec<_> = log.entries().map(|entry| entry.seq).collect();
    assert_eq!(places, [Some(1), Some(2), Some(2), Some(4)]);
    log.stored(5, &user(5, "from elsewhere"));
    assert_eq!(texts(&log).last().unwrap(), "> from elsewhere");
}

#[test]
fn an_end_without_a_stream_shows_the_answer_and_stops_tools() {
    let mut log = Log::default();
    log.tool_start("r", "c", "exec", None);
    log.end("r", Some("all at once"));
    assert_eq!(texts(&log), ["[exec  Failed ]", "all at once"]);
    log.answer("s", Some("1"), "par");
    log.end("s", Some("partial and more"));
    assert_eq!(texts(&log)[2], "partial and more");
}

#[test]
fn unconfirmed_messages_survive_a_reload() {
    let mut log = Log::default();
    for run in ["r1", "r9"] {
        log.push(Some(run), Kind::Said { text: format!("m {run}"), from: None, stage: Stage::Sending });
    }
    log.newest_page(&[user(1, "m r1")], None, None);
    assert_eq!(texts(&log), ["> m r1", "> m r9"]);
}
