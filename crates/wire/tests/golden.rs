//! Recorded frames of the real gateway and its real clients, read with our types.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{collections::BTreeMap, fs, path::Path};

use clawstead_wire::{
    connect::ConnectParams,
    event::{AgentEvent, ChatEvent, CronEvent, PairRequest, PairResolved, PresenceEvent, SessionMessageEvent, SessionsChangedEvent, ShutdownEvent, TickEvent},
    frame::{Event, FrameFault, Request, ServerFrame},
    methods,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Requests of clients that are meant to be wrong.
const WRONG_ON_PURPOSE: [&str; 2] = ["err-", "rpc-errors"];
/// How many requests are known methods with valid parameters; may only grow.
const REQUESTS_FLOOR: usize = 432;
/// How many frames of the gateway read and write back to the same JSON; may only grow.
const FRAMES_FLOOR: usize = 951;

struct Line {
    file: String,
    from_client: bool,
    frame: Value,
}

fn lines() -> Vec<Line> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect();
    names.sort();
    let mut out = Vec::new();
    for path in names {
        for line in fs::read_to_string(&path).unwrap().lines() {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let Some(dir) = line.get("dir").and_then(Value::as_str) else { continue };
            let from_client = dir == "c2s";
            let frame = line["frame"].take();
            if frame.get("type").is_some() {
                out.push(Line { file: path.file_stem().unwrap().to_string_lossy().into_owned(), from_client, frame });
            }
        }
    }
    out
}

#[test]
fn requests_of_real_clients_are_known_and_valid() {
    let (mut known, mut all) = (0, 0);
    let mut problems: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines().iter().filter(|line| line.from_client) {
        if WRONG_ON_PURPOSE.iter().any(|start| line.file.starts_with(start)) {
            continue;
        }
        all += 1;
        let problem = match Request::parse(line.frame.to_string().as_bytes()) {
            Ok(request) if request.method == "connect" => ConnectParams::parse(request.params).err(),
            Ok(request) => match methods::find(&request.method) {
                Some(spec) => spec.check(&request.params).err().map(|err| err.message),
                None => Some(format!("unknown method {}", request.method)),
            },
            Err(FrameFault::NotJson) => Some("not JSON".into()),
            Err(FrameFault::NotRequest { detail, .. }) => Some(detail),
        };
        match problem {
            None => known += 1,
            Some(problem) => *problems.entry(format!("{}: {problem}", line.file)).or_default() += 1,
        }
    }
    println!("golden requests: {known} of {all} hold");
    for (problem, count) in &problems {
        println!("  {count} x {problem}");
    }
    assert!(known >= REQUESTS_FLOOR, "{known} of {all}");
}

fn same<T: DeserializeOwned + Serialize>(value: &Value) -> Result<(), String> {
    let typed: T = serde_json::from_value(value.clone()).map_err(|err| err.to_string())?;
    let back = serde_json::to_value(&typed).map_err(|err| err.to_string())?;
    if &back == value { Ok(()) } else { Err("does not read back the same".into()) }
}

fn event_payload(event: &Event) -> Result<(), String> {
    let Some(payload) = &event.payload else { return Ok(()) };
    match event.event.as_str() {
        "agent" => same::<AgentEvent>(payload),
        "chat" => same::<ChatEvent>(payload),
        "session.message" => same::<SessionMessageEvent>(payload),
        "sessions.changed" => same::<SessionsChangedEvent>(payload),
        "cron" => same::<CronEvent>(payload),
        "presence" => same::<PresenceEvent>(payload),
        "tick" => same::<TickEvent>(payload),
        "shutdown" => same::<ShutdownEvent>(payload),
        "device.pair.requested" => same::<PairRequest>(payload),
        "device.pair.resolved" => same::<PairResolved>(payload),
        _ => Ok(()),
    }
}

#[test]
fn frames_of_the_real_gateway_read_and_write_back() {
    let (mut held, mut all) = (0, 0);
    let mut problems: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines().iter().filter(|line| !line.from_client) {
        all += 1;
        let outcome = same::<ServerFrame>(&line.frame).and_then(|()| match serde_json::from_value(line.frame.clone()) {
            Ok(ServerFrame::Event(event)) => event_payload(&event).map_err(|why| format!("{}: {why}", event.event)),
            Ok(ServerFrame::Res(response)) => match response.payload.filter(|payload| payload.get("type").is_some_and(|kind| kind == "hello-ok")) {
                Some(hello) => same::<clawstead_wire::connect::HelloOk>(&hello),
                None => Ok(()),
            },
            Err(err) => Err(err.to_string()),
        });
        match outcome {
            Ok(()) => held += 1,
            Err(problem) => *problems.entry(format!("{}: {problem}", line.file)).or_default() += 1,
        }
    }
    println!("golden frames: {held} of {all} hold");
    for (problem, count) in &problems {
        println!("  {count} x {problem}");
    }
    assert!(held >= FRAMES_FLOOR, "{held} of {all}");
}
