//! One request: its letter, and the answer of its run, whole or as it comes.

use std::{convert::Infallible, sync::Arc, time::Duration};

use ::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::body::{Body, Bytes};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use clawstead_agent::{HISTORY_MAX, HistoryPage, RunRow, is_conflict, silence::NO_REPLY};
use clawstead_terms::{AgentId, Failure, QueueMode, Role, RunEventKind, RunId, RunStatus, SessionKey, StopReason, TurnOptions, Usage};
use clawstead_world::TaskKind;

use super::{
    Dialect, Refusal, Surface,
    chat::ChatTeller,
    responses::ResponseTeller,
    said::{self, Thing},
    target::Room,
};
use crate::{cron::RunDesk as _, doors::json_response, letters, rpc::Caller, taps::Tap};

/// Pieces of a stream that wait for the client at most; a client that reads slower gets larger pieces.
const PIECES_MAX: usize = 16;
/// A comment is sent after this much silence, so that nobody on the way takes a long turn for a dead one.
const SILENCE: Duration = Duration::from_secs(15);
/// The ledger cuts texts at 64 KiB; longer ones are looked up in the transcript.
const LEDGER_TEXT_BYTES: usize = 60 * 1024;
/// What an answer without any text says.
const NOTHING_SAID: &str = "No response from OpenClaw.";

/// A request that was taken: its letter is stored.
pub(super) struct Taken {
    pub dialect: Dialect,
    pub agent: AgentId,
    pub run: RunId,
    /// As the client named it.
    pub model: String,
    pub include_usage: bool,
    /// Seconds since 1970.
    pub created: i64,
    stream: bool,
    tap: Tap,
}

/// The end of a run as the client hears it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finished {
    pub text: String,
    pub stop: StopReason,
    pub usage: Usage,
}

/// Puts a stream into the words of its dialect.
pub(super) trait Teller: Send {
    /// Before the first text.
    fn begin(&mut self) -> String;
    /// More text.
    fn delta(&mut self, text: &str) -> String;
    /// The end; `done.text` is what was told altogether.
    fn end(&mut self, done: &Finished) -> String;
    /// It went wrong.
    fn failed(&mut self, refusal: &Refusal) -> String;
}

fn number_of(body: &Value, names: &[&str]) -> Result<Option<u32>, Refusal> {
    for name in names {
        match body.get(name) {
            None | Some(Value::Null) => {}
            Some(value) => {
                let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
                return number.map(Some).ok_or_else(|| Refusal::invalid(format!("`{name}` must be a positive integer.")));
            }
        }
    }
    Ok(None)
}

fn temperature(body: &Value) -> Result<Option<f64>, Refusal> {
    match body.get("temperature") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().filter(|t| (0.0..=2.0).contains(t)).map(Some).ok_or_else(|| Refusal::invalid("`temperature` must be between 0 and 2.")),
    }
}

/// An agent calls its own tools only; a request that insists on one of the client's cannot be met.
fn tool_choice(body: &Value) -> Result<(), Refusal> {
    let name = match body.get("tool_choice") {
        Some(Value::String(word)) if word == "required" => "",
        Some(choice @ Value::Object(_)) if choice.get("type").and_then(Value::as_str) == Some("function") => {
            choice.pointer("/function/name").or_else(|| choice.get("name")).and_then(Value::as_str).unwrap_or_default()
        }
        _ => return Ok(()),
    };
    let what = if name.is_empty() { "a tool call".to_owned() } else { format!("a {name} tool call") };
    Err(Refusal::new(StatusCode::BAD_GATEWAY, "api_error", format!("tool_choice required {what}, but the agent did not produce one")))
}

/// Reads a request and hands its letter over. Nothing is stored when it is refused.
pub(super) async fn take(surface: &Surface, dialect: Dialect, caller: Caller, headers: &HeaderMap, body: &Value) -> Result<Taken, Refusal> {
    let agent = surface.agent(headers, body.get("model"))?;
    let mut said = said::read(dialect, body)?;
    let limits: &[&str] = if dialect == Dialect::Chat { &["max_completion_tokens", "max_tokens"] } else { &["max_output_tokens"] };
    let (temperature, max_tokens) = (temperature(body)?, number_of(body, limits)?);
    let model = surface.model_override(headers)?;
    tool_choice(body)?;
    let world = &surface.chat.world;
    let key = headers.get("idempotency-key").and_then(|v| v.to_str().ok()).map(str::trim).filter(|key| !key.is_empty());
    let uuid = key.map_or_else(|| world.rng.uuid(), |key| derived(&[dialect.run_prefix(), agent.as_str(), key]));
    let run = RunId::from(format!("{}{uuid}", dialect.run_prefix()));
    let room = match body.get("previous_response_id").and_then(Value::as_str).filter(|_| dialect == Dialect::Responses) {
        Some(id) => surface.continued(id).await?,
        None => surface.room(dialect, headers, &agent, body.get("user").and_then(Value::as_str), &uuid)?,
    };
    let options = TurnOptions {
        model,
        temperature,
        max_tokens,
        extra_system_prompt: Some(said.system.join("\n\n")).filter(|text| !text.is_empty()),
        // Every request gets an answer of its own.
        queue_mode: Some(QueueMode::Followup),
        ..TurnOptions::default()
    };
    said.things = surface.collect(dialect, std::mem::take(&mut said.things)).await?;
    let tap = surface.taps.listen(&run);
    surface.hand_over(&caller, &room, &run, &said, &options).await?;
    Ok(Taken {
        dialect,
        agent: room.key.agent(),
        run,
        model: body.get("model").and_then(Value::as_str).unwrap_or("openclaw").to_owned(),
        include_usage: body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true)),
        created: world.clock.now().0.div_euclid(1000),
        stream: body.get("stream") == Some(&Value::Bool(true)),
        tap,
    })
}

/// The same UUID for the same words.
pub(crate) fn derived(words: &[&str]) -> String {
    // Lengths keep `a, bc` and `ab, c` apart.
    let name: String = words.iter().map(|word| format!("{}:{word}", word.len())).collect();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

impl Surface {
    /// The session of an earlier response.
    async fn continued(&self, id: &str) -> Result<Room, Refusal> {
        let row = self.chat.desk.lanes().report(&RunId::from(id)).await.map_err(|failure| Refusal::of(&failure))?;
        let row = row.filter(|row| row.run_id.as_str().starts_with(Dialect::Responses.run_prefix()));
        row.map(|row| Room { key: row.session, own: false })
            .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "invalid_request_error", format!("Previous response with id '{id}' not found.")))
    }

    async fn hand_over(&self, caller: &Caller, room: &Room, run: &RunId, said: &said::Said, options: &TurnOptions) -> Result<(), Refusal> {
        let caller = Caller { conn_id: "openai-http".into(), ..caller.clone() };
        let attachments: Vec<Value> = said.things.iter().filter_map(Thing::attachment).collect();
        let fresh = room.own || self.chat.desk.row(&room.key).is_none_or(|row| row.message_count == 0);
        // A session that has a past knows what was said. A repeat finds the past that the first try made, so it is
        // tried in the other form too before it counts as another message.
        let forms: &[bool] = if said.earlier.is_empty() || room.own {
            &[fresh]
        } else if fresh {
            &[true, false]
        } else {
            &[false, true]
        };
        let mut problem = None;
        for &with_earlier in forms {
            let body = letters::body(&said::message(said, with_earlier), &attachments).map_err(|failure| Refusal::of(&failure))?;
            let letter = letters::request(&self.chat.world, &caller, room.key.clone(), run.clone(), body, options.clone());
            match self.chat.post.deliver(letter).await {
                Ok(_) => return Ok(()),
                Err(failure) if is_conflict(&failure) => {
                    problem = Some(Refusal::new(StatusCode::CONFLICT, "invalid_request_error", "this Idempotency-Key was used for another request already"));
                }
                Err(failure) => return Err(Refusal::of(&failure)),
            }
        }
        Err(problem.unwrap_or_else(|| Refusal::of(&Failure::internal("a letter has no form"))))
    }

    /// The end of a run, from its ledger row and what was heard of it.
    async fn finished(&self, row: RunRow, heard: Option<String>) -> Result<Finished, Refusal> {
        if let Some(failure) = &row.failure {
            return Err(Refusal::of(failure));
        }
        let mut text = match (heard, row.text) {
            (Some(text), _) => text,
            (None, Some(text)) if text.len() >= LEDGER_TEXT_BYTES => self.whole_text(&row.session, &row.run_id).await.unwrap_or(text),
            (None, text) => text.unwrap_or_default(),
        };
        match row.status {
            RunStatus::Aborted if text.is_empty() => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "api_error", "the run was stopped before it answered")),
            RunStatus::Error | RunStatus::Unknown => Err(Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "api_error",
                "the run was interrupted; it may have had effects and is not repeated by itself",
            )),
            _ => {
                if text.is_empty() || row.silent {
                    NOTHING_SAID.clone_into(&mut text);
                }
                Ok(Finished { text, stop: row.stop_reason.unwrap_or(StopReason::Stop), usage: row.usage })
            }
        }
    }

    async fn whole_text(&self, session: &SessionKey, run: &RunId) -> Option<String> {
        let page = self.chat.desk.lanes().history(session, HistoryPage::Newest { limit: HISTORY_MAX, skip: 0 }).await.ok()?;
        let last = page.items.iter().rev().find(|item| item.message.role == Role::Assistant && item.message.run_id.as_ref() == Some(run))?;
        Some(last.message.plain_text()).filter(|text| !text.is_empty())
    }
}

/// Waits for the run, or streams it.
pub(super) async fn answer(surface: Arc<Surface>, taken: Taken) -> Response<Body> {
    if taken.stream {
        return stream(surface, taken);
    }
    match whole(&surface, taken).await {
        Ok(body) => json_response(StatusCode::OK, &body),
        Err(refusal) => refusal.response(),
    }
}

async fn whole(surface: &Surface, mut taken: Taken) -> Result<Value, Refusal> {
    let row = surface.chat.desk.ended(&taken.agent, &taken.run).await.map_err(|failure| Refusal::of(&failure))?;
    let mut heard = None;
    // The end always has a place among what waits, whatever else was lost.
    while let Some(event) = taken.tap.try_next() {
        if let RunEventKind::Finished { text, .. } = event {
            heard = Some(text);
        }
    }
    let done = surface.finished(row, heard).await?;
    Ok(match taken.dialect {
        Dialect::Chat => super::chat::whole(&taken, &done),
        Dialect::Responses => super::responses::whole(&taken, &surface.chat.world.rng.uuid(), &done),
    })
}

/// Text that was told already, and what is new of a message that grows.
#[derive(Default)]
pub(crate) struct Told {
    item: String,
    /// All of the current message that was told.
    shown: String,
    all: String,
    /// The newest message may turn out to be none, so nothing of it was told yet.
    held: bool,
}

/// True for what may become the token of an agent that says nothing.
fn may_be_silence(text: &str) -> bool {
    let bare = text.trim().trim_matches(|c: char| c.is_ascii_punctuation() && c != '_');
    !text.trim().is_empty() && NO_REPLY.starts_with(bare)
}

impl Told {
    /// What to tell now that message `item` reads `text`. Only a message that goes on where the last piece ended can
    /// be continued; anything else begins a paragraph of its own.
    pub(crate) fn more(&mut self, item: &str, text: &str) -> String {
        self.held = item != self.item && may_be_silence(text);
        if self.held { String::new() } else { self.add(item, text) }
    }

    /// All that was told.
    pub(crate) fn all(&self) -> &str {
        &self.all
    }

    fn add(&mut self, item: &str, text: &str) -> String {
        if item == self.item
            && let Some(more) = text.strip_prefix(self.shown.as_str())
        {
            let more = more.to_owned();
            self.push(&more);
            return more;
        }
        if item == self.item && self.shown.starts_with(text) {
            return String::new();
        }
        let gap = if self.all.is_empty() || text.is_empty() { "" } else { "\n\n" };
        item.clone_into(&mut self.item);
        self.shown.clear();
        self.all.push_str(gap);
        self.push(text);
        format!("{gap}{text}")
    }

    fn push(&mut self, text: &str) {
        self.shown.push_str(text);
        self.all.push_str(text);
    }

    /// What is missing of the final text.
    pub(crate) fn rest(&mut self, text: &str) -> String {
        if self.all.is_empty() || (self.held && text != NOTHING_SAID) {
            return self.add("the end", text);
        }
        let Some(more) = text.strip_prefix(self.shown.as_str()).map(str::to_owned) else { return String::new() };
        self.push(&more);
        more
    }
}

fn stream(surface: Arc<Surface>, mut taken: Taken) -> Response<Body> {
    let (pieces, body) = mpsc::channel::<Result<Bytes, Infallible>>(PIECES_MAX);
    let tasks = surface.chat.world.tasks.clone();
    let stop = tasks.stopping();
    let teller: Box<dyn Teller> = match taken.dialect {
        Dialect::Chat => Box::new(ChatTeller::new(&taken)),
        Dialect::Responses => Box::new(ResponseTeller::new(&taken, surface.chat.world.rng.uuid())),
    };
    tasks.spawn::<_, Infallible>(TaskKind::logged("http stream"), async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            // The client is gone: so is the answer, but not the run.
            () = pieces.closed() => {}
            () = tell(&surface, &mut taken, teller, &pieces) => {}
        }
        Ok(())
    });
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(body)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    response
}

async fn tell(surface: &Surface, taken: &mut Taken, mut teller: Box<dyn Teller>, pieces: &mpsc::Sender<Result<Bytes, Infallible>>) {
    let send = async |text: String| {
        if !text.is_empty() {
            // Nobody there any more is noticed by whoever drives this.
            let _ = pieces.send(Ok(Bytes::from(text))).await;
        }
    };
    let mut told = Told::default();
    let mut heard = None;
    let mut open = true;
    send(teller.begin()).await;
    let ended = surface.chat.desk.ended(&taken.agent, &taken.run);
    tokio::pin!(ended);
    let row = loop {
        tokio::select! {
            biased;
            event = taken.tap.next(), if open => match event {
                Some(RunEventKind::Text { item_id, text, .. }) => {
                    let more = told.more(&item_id, &text);
                    if !more.is_empty() {
                        send(teller.delta(&more)).await;
                    }
                }
                Some(RunEventKind::Finished { text, .. }) => heard = Some(text),
                Some(_) => {}
                None => open = false,
            },
            row = &mut ended => break row,
            () = tokio::time::sleep(SILENCE) => send(": the run goes on\n\n".into()).await,
        }
    };
    // The run's end is told before its waiters hear of it, so only what is there already is left.
    while let Some(event) = taken.tap.try_next() {
        if let RunEventKind::Finished { text, .. } = event {
            heard = Some(text);
        }
    }
    let done = match row {
        Ok(row) => surface.finished(row, heard).await,
        Err(failure) => Err(Refusal::of(&failure)),
    };
    match done {
        Ok(done) => {
            let rest = told.rest(&done.text);
            if !rest.is_empty() {
                send(teller.delta(&rest)).await;
            }
            send(teller.end(&Finished { text: told.all, ..done })).await;
        }
        Err(refusal) => send(teller.failed(&refusal)).await,
    }
    send("data: [DONE]\n\n".into()).await;
}

#[cfg(test)]
mod tests {
    use super::{NOTHING_SAID, Told, derived, temperature, tool_choice};
    use serde_json::json;

    #[test]
    fn lost_pieces_are_made_good_by_the_next_one() {
        let mut told = Told::default();
        assert_eq!(told.more("a", "He"), "He");
        assert_eq!(told.more("a", "Hello wor"), "llo wor");
        assert_eq!(told.more("a", "Hello"), "", "an old piece tells nothing");
        assert_eq!(told.rest("Hello world"), "ld");
        assert_eq!(told.all, "Hello world");
    }

    #[test]
    fn messages_of_one_run_are_paragraphs() {
        let mut told = Told::default();
        told.more("a", "Looking it up.");
        assert_eq!(told.more("b", "21"), "\n\n21");
        assert_eq!(told.rest("21 degrees"), " degrees");
        assert_eq!(told.all, "Looking it up.\n\n21 degrees");
        let mut silent = Told::default();
        assert_eq!(silent.rest("all at once"), "all at once");
    }

    #[test]
    fn a_silent_token_is_not_told() {
        let mut told = Told::default();
        assert_eq!((told.more("a", "NO"), told.more("a", "NO_REPLY")), (String::new(), String::new()));
        assert_eq!(told.rest(NOTHING_SAID), NOTHING_SAID);
        let mut told = Told::default();
        assert_eq!((told.more("a", "NO"), told.more("a", "NOT yet")), (String::new(), "NOT yet".into()), "other words are");
        let mut told = Told::default();
        told.more("a", "Done.");
        assert_eq!((told.more("b", "NO_REPLY"), told.rest(NOTHING_SAID)), (String::new(), String::new()), "something was said already");
        let mut told = Told::default();
        told.more("a", "Sure?");
        assert_eq!((told.more("b", "NO"), told.rest("NO")), (String::new(), "\n\nNO".into()), "a short answer is told at the end");
    }

    #[test]
    fn wishes_are_checked() {
        assert!(temperature(&json!({"temperature": 9})).is_err() && temperature(&json!({"temperature": "1"})).is_err());
        assert_eq!(temperature(&json!({"temperature": 2})).unwrap(), Some(2.0));
        assert!(tool_choice(&json!({"tool_choice": "auto"})).is_ok() && tool_choice(&json!({"tool_choice": "none"})).is_ok());
        let named = tool_choice(&json!({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}})).unwrap_err();
        assert_eq!((named.message.as_str(), named.kind), ("tool_choice required a get_weather tool call, but the agent did not produce one", "api_error"));
        assert!(tool_choice(&json!({"tool_choice": "required"})).unwrap_err().message.contains("required a tool call"));
        assert_ne!(derived(&["a", "bc"]), derived(&["ab", "c"]));
        assert_eq!(derived(&["a", "b"]), derived(&["a", "b"]));
    }
}
