//! Plays one recording: sends what the client sent, in the order and with the waiting of the recorded client, and
//! gathers what differs.
#![allow(clippy::cmp_owned, reason = "the JSON text of an id is compared, quotes and all")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::{net::TcpStream, time::Instant};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::{
    common::{Line, prepare},
    compare::{answer, learn, shape, translated},
    house::House,
    model::Gate,
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long something that was recorded is waited for. A test that passes never waits this long.
const PATIENCE: Duration = Duration::from_secs(6);
/// The same once something is missing already.
const PATIENCE_LOST: Duration = Duration::from_millis(300);
/// Events that come by the clock or when something else in the house happens.
const BY_THE_CLOCK: [&str; 8] =
    ["tick", "health", "connect.challenge", "chat.metadata.changed", "update.available", "voicewake.changed", "voicewake.routing.changed", "chat.send_timing"];
/// Steps of a run that a fast program leaves out.
const UPDATES: [&str; 3] = ["agent:tool/update", "agent:item/update", "agent:command_output/delta"];

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Await {
    /// Answers to requests.
    Answers,
    /// Those, the steps of runs and, at the end, the news.
    Everything,
}

/// What happened in a run, in one word.
fn step(frame: &Value) -> Option<(String, String)> {
    let (event, payload) = (frame["event"].as_str()?, &frame["payload"]);
    let run = payload["runId"].as_str()?.to_owned();
    let word = |value: &Value| value.as_str().map(|word| format!("/{word}")).unwrap_or_default();
    match event {
        "chat" => Some((run, format!("chat:{}{}", payload["state"].as_str()?, word(&payload["phase"])))),
        "agent" => {
            let (stream, data) = (payload["stream"].as_str()?, &payload["data"]);
            let free = if data["phase"] == "model" && data["model"].is_null() { " released" } else { "" };
            Some((run, format!("agent:{stream}{}{free}", word(&data["phase"]))))
        }
        _ => None,
    }
}

/// An event outside of runs, in one word; their order says nothing.
fn news(frame: &Value) -> Option<String> {
    let (event, payload) = (frame["event"].as_str()?, &frame["payload"]);
    if BY_THE_CLOCK.contains(&event) || payload["reason"] == "cron-bindings-loaded" || step(frame).is_some() {
        return None;
    }
    let what = match event {
        "session.message" => &payload["message"]["role"],
        "cron" => &payload["action"],
        "task" => &payload["task"]["status"],
        "device.pair.resolved" => &payload["decision"],
        _ if payload["reason"].is_string() => &payload["reason"],
        _ => &payload["phase"],
    };
    Some(format!("{event} {}", what.as_str().unwrap_or("")).trim_end().to_owned())
}

/// The steps of one run as they must appear, each with the line it was recorded at.
struct Track {
    steps: Vec<(usize, String)>,
    missing: Vec<String>,
}

impl Track {
    /// How many of the steps recorded before `line` are seen, in this order, among `seen`; and how many there are.
    fn reached(&self, seen: &[String], line: usize) -> (usize, usize) {
        let wanted: Vec<&String> = self.steps.iter().filter(|(at, _)| *at < line).map(|(_, step)| step).collect();
        let mut held = 0;
        for step in seen {
            if wanted.get(held).is_some_and(|want| *want == step) {
                held += 1;
            }
        }
        (held, wanted.len())
    }
}

/// What is expected of a conversation.
struct Script {
    /// By run id as recorded.
    runs: BTreeMap<String, Track>,
    /// News, each with its first line.
    news: BTreeMap<String, usize>,
    /// Recorded answers by request id, each with its line.
    answers: BTreeMap<String, Vec<(usize, Value)>>,
    close: Option<(u16, String)>,
    /// The line at which the first words of an answer were recorded.
    first_words: usize,
}

fn script(house: &mut House, name: &str, lines: &[Line], sent_ids: &BTreeSet<String>) -> Script {
    let mut script = Script { runs: BTreeMap::new(), news: BTreeMap::new(), answers: BTreeMap::new(), close: None, first_words: usize::MAX };
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.sent()) {
        let frame = &line.frame;
        if frame["type"] == "res" {
            script.answers.entry(frame["id"].to_string()).or_default().push((at, frame.clone()));
        } else if frame["__ws"] == "close" {
            script.close =
                frame["code"].as_u64().and_then(|code| u16::try_from(code).ok()).map(|code| (code, frame["reason"].as_str().unwrap_or("").to_owned()));
        } else if let Some((run, step)) = step(frame) {
            if step == "agent:assistant" {
                script.first_words = script.first_words.min(at);
            }
            // Runs of others (cron) go as fast as they go; only those this client began are followed.
            let known = sent_ids.contains(&run);
            let track = script.runs.entry(run).or_insert_with(|| Track { steps: Vec::new(), missing: Vec::new() });
            let repeated = matches!(step.as_str(), "agent:assistant" | "chat:delta") && track.steps.iter().any(|(_, s)| *s == step);
            let differs = house.excused(name, &format!("run: {step} did not"));
            if known && !repeated && !differs && !UPDATES.contains(&step.as_str()) {
                track.steps.push((at, step));
            }
        } else if let Some(word) = news(frame).filter(|word| !house.excused(name, &format!("event {word:?} did not come"))) {
            script.news.entry(word).or_insert(at);
        }
    }
    script.runs.retain(|_, track| !track.steps.is_empty());
    script
}

/// What came.
#[derive(Default)]
struct Heard {
    answers: BTreeMap<String, Vec<Value>>,
    /// Steps by run id.
    runs: BTreeMap<String, Vec<String>>,
    /// The first frame of each step.
    frames: BTreeMap<(String, String), Value>,
    news: BTreeMap<String, Value>,
    close: Option<(u16, String)>,
    seq: u64,
    gaps: Vec<String>,
}

impl Heard {
    fn keep(&mut self, frame: Value) {
        if frame["type"] == "res" {
            self.answers.entry(frame["id"].to_string()).or_default().push(frame);
            return;
        }
        if let Some(seq) = frame["seq"].as_u64() {
            if seq != self.seq + 1 {
                self.gaps.push(format!("event number {seq} follows {}", self.seq));
            }
            self.seq = seq;
        }
        if let Some((run, step)) = step(&frame) {
            self.frames.entry((run.clone(), step.clone())).or_insert(frame);
            self.runs.entry(run).or_default().push(step);
        } else if let Some(word) = news(&frame) {
            self.news.entry(word).or_insert(frame);
        }
    }
}

/// One conversation.
struct Talk<'a> {
    house: &'a mut House,
    name: &'a str,
    socket: Socket,
    script: Script,
    heard: Heard,
    found: Vec<String>,
    patience: Duration,
}

async fn open(house: &House, headers: &[(&'static str, String)]) -> Result<Socket, WsError> {
    let mut request = format!("ws://127.0.0.1:{}/", house.port).into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    tokio_tungstenite::connect_async(request).await.map(|(socket, _)| socket)
}

/// Plays `lines`; the answer lists what differs.
pub async fn play(house: &mut House, name: &str, lines: &[Line], headers: &[(&'static str, String)]) -> Vec<String> {
    let mut sent_ids: BTreeSet<String> = BTreeSet::new();
    for line in lines.iter().filter(|line| line.sent()) {
        sent_ids.extend(line.frame["params"]["idempotencyKey"].as_str().map(str::to_owned));
    }
    let socket = match open(house, headers).await {
        Ok(socket) => socket,
        Err(err) => return vec![format!("no socket: {err}")],
    };
    let script = script(house, name, lines, &sent_ids);
    let mut talk = Talk { house, name, socket, script, heard: Heard::default(), found: Vec::new(), patience: PATIENCE };
    talk.go(lines).await;
    talk.judge(lines);
    let mut found: Vec<String> = talk.found.iter().filter(|what| !talk.house.excused(name, what)).cloned().collect();
    found.append(&mut talk.heard.gaps);
    let _ = talk.socket.close(None).await;
    while let Some(Ok(_)) = talk.socket.next().await {}
    found
}

impl Talk<'_> {
    async fn go(&mut self, lines: &[Line]) {
        let Some(challenge) = self.challenge().await else { return };
        let new = (challenge["payload"]["nonce"].as_str().unwrap_or("").to_owned(), challenge["payload"]["ts"].as_i64().unwrap_or(0));
        let old = lines.iter().find(|line| line.frame["event"] == "connect.challenge").map(|line| line.frame["payload"].clone()).unwrap_or_default();
        let old = (old["nonce"].as_str().unwrap_or("").to_owned(), old["ts"].as_i64().unwrap_or(0));
        for (at, line) in lines.iter().enumerate() {
            if at == self.script.first_words {
                // What was asked before the first word is answered before it.
                self.wait_for(at, Await::Answers).await;
                self.house.model.begin();
            }
            if !line.sent() || line.frame.get("__upgrade").is_some() || line.frame["__ws"] == "close" {
                continue;
            }
            self.wait(at).await;
            if self.heard.close.is_some() {
                break;
            }
            let frame = &line.frame;
            if let Some(note) = frame["__note"].as_str() {
                if note.starts_with("SIGTERM") {
                    self.house.stop.cancel();
                }
                continue;
            }
            let text = match frame["__raw"].as_str() {
                Some(raw) => raw.to_owned(),
                None if frame["method"] == "connect" && at < 4 => {
                    let mut frame = frame.clone();
                    let params = prepare(self.name, &self.house.tokens, &translated(&frame["params"], &BTreeMap::new()), (&old.0, old.1), (&new.0, new.1));
                    frame["params"] = params;
                    frame.to_string()
                }
                None => {
                    let mut ours = translated(frame, &self.house.ids);
                    ours["id"] = frame["id"].clone();
                    if ours["id"].is_null() {
                        ours.as_object_mut().unwrap().remove("id");
                    }
                    ours.to_string()
                }
            };
            let _ = self.socket.send(Message::text(text)).await;
        }
        self.house.model.set(Gate::Open);
        self.wait(usize::MAX).await;
    }

    async fn challenge(&mut self) -> Option<Value> {
        let first = tokio::time::timeout(PATIENCE, self.socket.next()).await.ok().flatten()?.ok()?;
        serde_json::from_str(first.to_text().ok()?).ok()
    }

    /// What was recorded before `line` and has not come yet.
    fn outstanding(&self, line: usize, what: Await) -> Vec<String> {
        let mut waits = Vec::new();
        for (id, wanted) in &self.script.answers {
            let wanted = wanted.iter().filter(|(at, _)| *at < line).count();
            if self.heard.answers.get(id).map_or(0, Vec::len) < wanted {
                waits.push(format!("answer {id}"));
            }
        }
        if what == Await::Answers {
            return waits;
        }
        for (run, track) in &self.script.runs {
            let seen = self.heard.runs.get(self.house.ids.get(run).unwrap_or(run)).map_or(&[][..], Vec::as_slice);
            let (held, all) = track.reached(seen, line);
            if held < all {
                waits.push(format!("run {run}"));
            }
        }
        if line == usize::MAX {
            waits.extend(self.script.news.keys().filter(|word| !self.heard.news.contains_key(*word)).map(|word| format!("event {word}")));
            let theirs = self.script.close.as_ref().is_some_and(|(code, _)| ![1000, 1001, 1005, 1006].contains(code));
            if theirs && self.heard.close.is_none() {
                waits.push("close".into());
            }
        }
        waits
    }

    /// Reads until everything recorded before `line` is there.
    async fn wait(&mut self, line: usize) {
        self.wait_for(line, Await::Everything).await;
    }

    async fn wait_for(&mut self, line: usize, what: Await) {
        let until = Instant::now() + self.patience;
        while !self.outstanding(line, what).is_empty() && self.heard.close.is_none() {
            match tokio::time::timeout_at(until, self.socket.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => {
                    if let Ok(frame) = serde_json::from_str::<Value>(&text) {
                        self.take(frame);
                    }
                }
                Ok(Some(Ok(Message::Close(frame)))) => {
                    self.heard.close = Some(frame.map_or((1005, String::new()), |f| (u16::from(f.code), f.reason.to_string())))
                }
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) => self.heard.close = Some((1006, String::new())),
                Err(_) => {
                    self.patience = PATIENCE_LOST;
                    self.lose(line);
                    return;
                }
            }
        }
    }

    fn take(&mut self, frame: Value) {
        let id = frame["id"].to_string();
        if frame["type"] == "res"
            && let Some((_, want)) = self.script.answers.get(&id).and_then(|all| all.get(self.heard.answers.get(&id).map_or(0, Vec::len)))
        {
            let want = want.clone();
            learn(&want["payload"], &frame["payload"], &mut self.house.ids);
            learn(&want["error"], &frame["error"], &mut self.house.ids);
        }
        self.heard.keep(frame);
    }

    /// Gives up on steps of runs that were recorded before `line`, so that what follows can still be compared.
    fn lose(&mut self, line: usize) {
        for (run, track) in &mut self.script.runs {
            let run = self.house.ids.get(run).unwrap_or(run);
            let seen = self.heard.runs.get(run).map_or(&[][..], Vec::as_slice);
            loop {
                let (held, all) = track.reached(seen, line);
                if held == all {
                    break;
                }
                let at = track.steps.iter().enumerate().filter(|(_, (at, _))| *at < line).nth(held).map(|(index, _)| index).unwrap_or_default();
                track.missing.push(track.steps.remove(at).1);
            }
        }
    }

    fn judge(&mut self, lines: &[Line]) {
        let method = |id: &str| {
            let asked = lines.iter().find(|line| line.sent() && line.frame["id"].to_string() == id);
            asked.and_then(|line| line.frame["method"].as_str()).unwrap_or("?").to_owned()
        };
        let mut answers: Vec<_> = self.script.answers.iter().collect();
        answers.sort_by_key(|(_, all)| all.first().map(|(at, _)| *at));
        for (id, wanted) in answers {
            let heard = self.heard.answers.get(id).map_or(&[][..], Vec::as_slice);
            for (index, (_, want)) in wanted.iter().enumerate() {
                let Some(have) = heard.get(index) else {
                    self.found.push(format!("{}: no answer {}", method(id), index + 1));
                    continue;
                };
                self.found.extend(answer(&method(id), want, have));
            }
        }
        for (run, track) in &self.script.runs {
            self.found.extend(track.missing.iter().map(|step| format!("run: {step} did not come in its place")));
            let ours = self.house.ids.get(run).unwrap_or(run).clone();
            let mut seen = BTreeSet::new();
            for line in lines.iter().filter(|line| !line.sent()) {
                let Some((of, step)) = step(&line.frame).filter(|(of, _)| of == run) else { continue };
                if !seen.insert(step.clone()) {
                    continue;
                }
                let Some(have) = self.heard.frames.get(&(ours.clone(), step.clone())) else { continue };
                debug_assert_eq!(&of, run);
                self.found.extend(shape(&step, &line.frame["payload"], &have["payload"]));
                if line.frame["payload"]["data"].is_object() {
                    self.found.extend(shape(&format!("{step} data"), &line.frame["payload"]["data"], &have["payload"]["data"]));
                }
            }
        }
        for (word, at) in &self.script.news {
            match self.heard.news.get(word) {
                None => self.found.push(format!("event {word:?} did not come")),
                Some(have) => self.found.extend(shape(&format!("event {word:?}"), &lines[*at].frame["payload"], &have["payload"])),
            }
        }
        if let Some((code, reason)) = &self.script.close
            && ![1000, 1001, 1005, 1006].contains(code)
        {
            let head = |text: &str| text.split_once("(requestId:").map_or_else(|| text.to_owned(), |(head, _)| head.to_owned());
            match &self.heard.close {
                Some((had, why)) if had == code && head(why) == head(reason) => {}
                other => self.found.push(format!("closed with {other:?}, recorded {code} {reason:?}")),
            }
        }
        for (id, answers) in &self.heard.answers {
            let token = answers.first().and_then(|answer| answer["payload"]["auth"]["deviceToken"].as_str());
            let asked = lines.iter().find(|line| line.sent() && line.frame["id"].to_string() == *id);
            if let (Some(token), Some(device)) = (token, asked.and_then(|line| line.frame["params"]["device"]["id"].as_str())) {
                self.house.tokens.insert(device.to_owned(), token.to_owned());
            }
        }
    }
}
