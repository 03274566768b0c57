//! `SendMessage` and `SendStreamingMessage`.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    engine::{Caller, Engine, away, is_plain_id, whole},
    follow::{Follower, Until},
    host::{Peer, Started, TaskRef, Turn},
    live::{Live, Record},
    store::{Table, Write},
};
use crate::proto::{
    A2aError, ErrorKind, Message, Object, Part, Role, SendMessageConfiguration, SendMessageRequest, SendMessageResponse, StreamResponse, Task, TaskState,
    TaskStatus, stamp,
};

/// Most parts of a message.
const PARTS_MAX: usize = 256;

/// Longest message id and context id, bytes.
const ID_BYTES_MAX: usize = 256;

/// A row of [`Table::Message`]: what became of a message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MessageRow {
    /// Tells the same message from another of the same id.
    print: String,
    pub at_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply: Option<Message>,
}

/// What became of a message.
pub(crate) enum Sent {
    Reply(Message),
    Task { live: Arc<Live>, first: Box<Task>, seq: u64 },
}

/// What a message is known by; None for a caller without a name.
struct Known {
    row: String,
    print: String,
}

impl Engine {
    pub async fn send_message(self: &Arc<Self>, caller: &Caller, request: SendMessageRequest) -> Result<SendMessageResponse, A2aError> {
        let configuration = request.configuration.clone().unwrap_or_default();
        match self.take_whole(caller, request).await? {
            Sent::Reply(message) => Ok(SendMessageResponse::Message(message)),
            Sent::Task { live, first, .. } => {
                let task = if configuration.return_immediately { *first } else { self.wait(&live).await };
                Ok(SendMessageResponse::Task(task.with_history(configuration.history_length)))
            }
        }
    }

    pub async fn send_streaming(self: &Arc<Self>, caller: &Caller, request: SendMessageRequest) -> Result<Follower, A2aError> {
        let length = request.configuration.as_ref().and_then(|c| c.history_length);
        let permit = self.permit()?;
        Ok(match self.take_whole(caller, request).await? {
            Sent::Reply(message) => Follower::one(StreamResponse::Message(message), permit),
            Sent::Task { live, first, seq } => Follower::new(self, live, first.with_history(length), seq, Until::Interrupted, permit),
        })
    }

    /// Waits until a task ends or needs its caller, or the wait is over.
    async fn wait(&self, live: &Live) -> Task {
        let mut changed = live.watch();
        let stopping = self.world.tasks.stopping();
        let settled = async {
            loop {
                let state = live.state();
                if state.is_terminal() || state.is_interrupted() || live.is_closed() {
                    return;
                }
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => return,
                    more = changed.changed() => if more.is_err() { return },
                }
            }
        };
        // A wait that is over answers with the task at work, which the caller can ask about.
        let _ = tokio::time::timeout(Duration::from_millis(self.settings.wait_ms_max), settled).await;
        live.snapshot().0
    }

    /// Takes a message to the end, also when its caller hangs up meanwhile: a task that is stored is also begun.
    async fn take_whole(self: &Arc<Self>, caller: &Caller, request: SendMessageRequest) -> Result<Sent, A2aError> {
        let (engine, caller) = (Arc::clone(self), caller.clone());
        whole(async move { engine.take(&caller, request).await }).await
    }

    async fn take(self: &Arc<Self>, caller: &Caller, request: SendMessageRequest) -> Result<Sent, A2aError> {
        check(&request, &caller.agent.input_modes)?;
        let configuration = request.configuration.unwrap_or_default();
        let known = known(caller, &request.message);
        let _door = match &known {
            Some(known) => Some(self.door(&known.row).lock().await),
            None => None,
        };
        if let Some(known) = &known
            && let Some(sent) = self.sent_before(caller, known).await?
        {
            return Ok(sent);
        }
        match request.message.task_id.clone() {
            Some(id) => self.go_on(caller, &id, request.message, request.metadata, configuration, known).await,
            None => self.begin(caller, request.message, request.metadata, configuration, known).await,
        }
    }

    fn door(&self, key: &str) -> &tokio::sync::Mutex<()> {
        let sum = key.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        &self.doors[sum % self.doors.len()]
    }

    async fn sent_before(&self, caller: &Caller, known: &Known) -> Result<Option<Sent>, A2aError> {
        let Some(row) = self.tasks.get(&caller.agent.id, Table::Message, &known.row).await.map_err(away)? else { return Ok(None) };
        let row: MessageRow =
            serde_json::from_value(row).map_err(|err| A2aError::new(ErrorKind::Internal, format!("A stored message cannot be read: {err}")))?;
        if row.print != known.print {
            return Err(A2aError::field("message.messageId", "this id was used for another message; every message needs its own"));
        }
        if let Some(reply) = row.reply {
            return Ok(Some(Sent::Reply(reply)));
        }
        let Some(id) = row.task else { return Ok(None) };
        // A task that was forgotten is not run again.
        let live = self.load(caller, &id).await?;
        let (first, seq) = live.snapshot();
        Ok(Some(Sent::Task { live, first: Box::new(first), seq }))
    }

    async fn begin(
        self: &Arc<Self>,
        caller: &Caller,
        mut message: Message,
        metadata: Option<Object>,
        configuration: SendMessageConfiguration,
        known: Option<Known>,
    ) -> Result<Sent, A2aError> {
        let now = self.now();
        let task_id = self.world.rng.uuid();
        let context_id = message.context_id.clone().unwrap_or_else(|| self.world.rng.uuid());
        let at = TaskRef { agent: caller.agent.id.clone(), peer: caller.peer.clone(), task_id: task_id.clone(), context_id: context_id.clone() };
        message.task_id = Some(task_id.clone());
        message.context_id = Some(context_id.clone());
        let status = TaskStatus { state: TaskState::Submitted, message: None, timestamp: Some(stamp(now)) };
        let task = Task { id: task_id.clone(), context_id, status, artifacts: None, history: Some(vec![message.clone()]), metadata: None };
        let turn_key = turn_key(&at, known.as_ref(), &message);
        let mut writes = Vec::new();
        if let Some(known) = &known {
            writes.push(message_row(known, now.0, Some(task_id), None));
        }
        if let Some(config) = configuration.task_push_notification_config {
            writes.push(self.new_config(&at, config, 0)?.1);
        }
        let live = self.create(at.clone(), Record { task, seq: 0, indexed_ms: now.0, turn_key: turn_key.clone() }, writes).await?;
        let (first, seq) = live.snapshot();
        let turn = Turn {
            task: at,
            message,
            key: turn_key,
            metadata,
            extensions: caller.extensions.clone(),
            accepted_output_modes: configuration.accepted_output_modes,
        };
        let _turn_door = live.turn_door.lock().await;
        if live.state().is_terminal() {
            // Cancelled before it began.
            let (first, seq) = live.snapshot();
            return Ok(Sent::Task { live: Arc::clone(&live), first: Box::new(first), seq });
        }
        match self.host.start(turn).await {
            Ok(Started::Turn(events)) => {
                self.listen(&live, events);
                Ok(Sent::Task { live: Arc::clone(&live), first: Box::new(first), seq })
            }
            Ok(Started::Reply(parts)) => {
                let reply = Message { context_id: Some(live.at.context_id.clone()), ..Message::new(self.world.rng.uuid(), Role::Agent, parts) };
                let row = known.as_ref().map(|known| message_row(known, now.0, None, Some(reply.clone())));
                self.withdraw(&live, row.into_iter().collect()).await.map_err(away)?;
                Ok(Sent::Reply(reply))
            }
            Err(failure) => {
                let forget = known.map(|known| Write::Delete(Table::Message, known.row));
                self.withdraw(&live, forget.into_iter().collect()).await.map_err(away)?;
                Err(failure.into())
            }
        }
    }

    async fn go_on(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        mut message: Message,
        metadata: Option<Object>,
        configuration: SendMessageConfiguration,
        known: Option<Known>,
    ) -> Result<Sent, A2aError> {
        let live = self.load(caller, id).await?;
        let _turn_door = live.turn_door.lock().await;
        let _door = live.door.lock().await;
        let before = live.lock().record.clone();
        let state = before.task.status.state;
        if message.context_id.as_ref().is_some_and(|context| *context != live.at.context_id) {
            return Err(A2aError::field("message.contextId", format!("the task {id} belongs to another context; leave contextId out")));
        }
        if !state.is_interrupted() {
            let way_out = if state.is_terminal() { "start a new task in its context" } else { "wait until it asks, or start a new task in its context" };
            let words = format!("The task {id} is {} and takes no further message; {way_out}", state.word());
            return Err(A2aError::new(ErrorKind::UnsupportedOperation, words).with("taskId", id));
        }
        message.task_id = Some(id.to_owned());
        message.context_id = Some(live.at.context_id.clone());
        let now = self.now();
        let turn_key = turn_key(&live.at, known.as_ref(), &message);
        let mut record = Record { seq: before.seq + 1, turn_key: turn_key.clone(), ..before.clone() };
        if let Some(asked) = record.task.status.message.take() {
            record.task.remember(asked);
        }
        record.task.remember(message.clone());
        record.task.status = TaskStatus { state: TaskState::Working, message: None, timestamp: Some(stamp(now)) };
        let mut writes = Vec::new();
        if let Some(known) = &known {
            writes.push(message_row(known, now.0, Some(id.to_owned()), None));
        }
        if let Some(config) = configuration.task_push_notification_config {
            let there = self.configs(&live).await.map_err(away)?.len();
            writes.push(self.new_config(&live.at, config, there)?.1);
            live.lock().push = None;
        }
        self.replace(&live, record, writes).await?;
        let (first, seq) = live.snapshot();
        let turn = Turn {
            task: live.at.clone(),
            message,
            key: turn_key,
            metadata,
            extensions: caller.extensions.clone(),
            accepted_output_modes: configuration.accepted_output_modes,
        };
        match self.host.start(turn).await {
            Ok(Started::Turn(events)) => self.listen(&live, events),
            Ok(Started::Reply(parts)) => {
                let done = self.status(&live.at, TaskState::Completed, parts);
                self.publish(&live, vec![done], super::run::Durable::Yes).await.map_err(away)?;
            }
            Err(failure) => {
                let forget = known.map(|known| Write::Delete(Table::Message, known.row));
                let record = Record { seq: seq + 1, ..before };
                self.replace(&live, record, forget.into_iter().collect()).await?;
                return Err(failure.into());
            }
        }
        Ok(Sent::Task { live: Arc::clone(&live), first: Box::new(first), seq })
    }
}

fn message_row(known: &Known, at_ms: i64, task: Option<String>, reply: Option<Message>) -> Write {
    Write::Put(Table::Message, known.row.clone(), json!(MessageRow { print: known.print.clone(), at_ms, task, reply }))
}

fn hash(text: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(text).iter().fold(String::with_capacity(64), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn known(caller: &Caller, message: &Message) -> Option<Known> {
    let Peer::Named(name) = &caller.peer else { return None };
    let print = hash(&serde_json::to_string(message).unwrap_or_default());
    Some(Known { row: format!("{name}/{}", hash(&message.message_id)), print })
}

fn turn_key(at: &TaskRef, known: Option<&Known>, message: &Message) -> String {
    match known {
        Some(known) => known.row.clone(),
        None => format!("{}/{}/{}", at.peer.key(), at.task_id, hash(&serde_json::to_string(message).unwrap_or_default())),
    }
}

fn check(request: &SendMessageRequest, input_modes: &[String]) -> Result<(), A2aError> {
    let message = &request.message;
    if message.message_id.is_empty() || message.message_id.len() > ID_BYTES_MAX {
        return Err(A2aError::field("message.messageId", format!("1 to {ID_BYTES_MAX} bytes are needed")));
    }
    if message.context_id.as_ref().is_some_and(|id| id.len() > ID_BYTES_MAX || id.chars().any(char::is_control)) {
        return Err(A2aError::field("message.contextId", format!("at most {ID_BYTES_MAX} bytes without control characters")));
    }
    if message.role != Role::User {
        return Err(A2aError::field("message.role", "a client writes as ROLE_USER"));
    }
    if message.parts.is_empty() || message.parts.len() > PARTS_MAX {
        return Err(A2aError::field("message.parts", format!("1 to {PARTS_MAX} parts are needed")));
    }
    if let Some(config) = request.configuration.as_ref().and_then(|c| c.task_push_notification_config.as_ref())
        && config.id.as_deref().is_some_and(|id| !is_plain_id(id))
    {
        return Err(A2aError::field("configuration.taskPushNotificationConfig.id", "at most 128 visible characters without '/'"));
    }
    for part in &message.parts {
        if let Some(kind) = part.kind().filter(|kind| !takes(input_modes, kind)) {
            let words = format!("The agent does not take {kind}; it takes {}", modes(input_modes).join(", "));
            return Err(A2aError::new(ErrorKind::ContentTypeNotSupported, words).with("mediaType", kind));
        }
    }
    let untyped = message.parts.iter().any(|part: &Part| part.kind().is_none());
    if untyped && !takes(input_modes, "application/octet-stream") {
        return Err(A2aError::new(ErrorKind::ContentTypeNotSupported, "A file without a media type is not taken; name its mediaType"));
    }
    Ok(())
}

/// The media types an agent takes.
pub(crate) fn modes(stated: &[String]) -> Vec<&str> {
    if stated.is_empty() { vec!["text/plain", "application/json"] } else { stated.iter().map(String::as_str).collect() }
}

fn takes(stated: &[String], kind: &str) -> bool {
    let bare = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    modes(stated).into_iter().any(|mode| {
        let mode = mode.to_ascii_lowercase();
        // `text` alone is how older cards write `text/plain`.
        mode == "*/*"
            || mode == bare
            || (mode == "text" && bare == "text/plain")
            || mode.strip_suffix("/*").is_some_and(|family| bare.split('/').next() == Some(family))
    })
}

#[cfg(test)]
mod tests {
    use super::takes;

    #[test]
    fn media_types_match_by_name_and_by_family() {
        let all = |modes: &[&str]| modes.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>();
        assert!(takes(&[], "text/plain; charset=utf-8") && takes(&[], "application/json"));
        assert!(!takes(&[], "image/png"));
        assert!(takes(&all(&["image/*"]), "image/png") && !takes(&all(&["image/*"]), "images/png"));
        assert!(takes(&all(&["*/*"]), "x/y") && takes(&all(&["Text/Plain"]), "text/plain"));
    }
}
