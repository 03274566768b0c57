//! Sessions as people see them: lists, settings, history, and what can be done to one.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use clawstead_state::{Op, Table, read_journal_json};
use clawstead_terms::{
    AgentId, EnvelopeKind, Failure, FailureCode, JournalEvent, Message, MessageId, Millis, Origin, Part, QueueMode, Role, RunId, SessionKey, StopReason,
};

use crate::{
    SessionRow,
    begin::clear,
    lane::Emitter,
    lanes::Lanes,
    room::Room,
    session::{Write, lock, note_message},
};

/// Journal lines read at once.
const PAGE: usize = 200;

/// Which sessions a list shows.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// Only this agent's; none means all agents here.
    pub agent: Option<AgentId>,
    /// Key, label, title and preview contain this, case folded.
    pub search: Option<String>,
    /// Only those with a letter or answer since.
    pub updated_since: Option<Millis>,
    /// Only those spawned by this session.
    pub spawned_by: Option<SessionKey>,
    /// Only with this label.
    pub label: Option<String>,
    /// Which ones by archive.
    pub archived: ArchiveFilter,
    /// Left out from the front.
    pub offset: usize,
    /// At most so many; 0 means 100.
    pub limit: usize,
}

/// Archived sessions in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArchiveFilter {
    /// Without them.
    #[default]
    Hide,
    /// Only them.
    Only,
    /// With them.
    Show,
}

/// A page of a list.
#[derive(Clone, Debug, Default)]
pub struct SessionPage {
    /// Pinned first, then the latest first.
    pub rows: Vec<Arc<SessionRow>>,
    /// All that match.
    pub total: usize,
}

/// Changes to a session. Absent: as it is; `Some(None)`: back to the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionPatch {
    /// The name given by a person.
    pub label: Option<Option<String>>,
    /// The name made from the channel.
    pub display_name: Option<Option<String>>,
    /// `provider/model`.
    pub model: Option<Option<String>>,
    /// Thinking level.
    pub thinking_level: Option<Option<String>>,
    /// Queue mode.
    pub queue_mode: Option<Option<QueueMode>>,
    /// `allow` or `deny`.
    pub send_policy: Option<Option<String>>,
    /// Archived or not.
    pub archived: Option<bool>,
    /// Pinned or not.
    pub pinned: Option<bool>,
    /// Unread or not.
    pub unread: Option<bool>,
    /// The session it belongs under.
    pub parent: Option<Option<SessionKey>>,
    /// Further fields by their name in the row; `null` removes one. Names the row knows itself are refused.
    pub extra: Map<String, Value>,
}

/// What a compaction made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// False when there was nothing to summarise.
    pub compacted: bool,
    /// The summary.
    pub summary: Option<String>,
    /// The first message still sent as it was.
    pub first_kept: Option<MessageId>,
    /// Estimated tokens before.
    pub tokens_before: u64,
    /// One sentence for people.
    pub text: String,
}

/// How a session's whole past is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// False when there was no such session.
    pub deleted: bool,
}

/// Up to where a session is settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// The row now.
    pub row: Arc<SessionRow>,
    /// Runs that were open at the call.
    pub runs: usize,
    /// Those of them that have not ended in time; empty means that everything accepted before the call is settled.
    pub open: Vec<RunId>,
    /// Lines of the journal, all durable.
    pub lines: u64,
}

impl Lanes {
    /// Waits until the run of every letter that this session had accepted before the call has ended, at most `limit`:
    /// what came of it is durable then.
    ///
    /// # Errors
    /// `NotFound` for an unknown session; when the store cannot be read.
    pub async fn settled(&self, key: &SessionKey, limit: std::time::Duration) -> Result<Committed, Failure> {
        let until = tokio::time::Instant::now() + limit;
        let room = self.room(&key.agent())?;
        // Under the lock of the desk: a letter whose `ok` was said is in the row.
        let before: Vec<RunId> = {
            let (_session, desk) = self.known_desk(&room, key).await?;
            desk.row.open.iter().map(|open| open.run_id.clone()).collect()
        };
        let mut open = Vec::new();
        for run in &before {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if self.wait(run, left).await?.is_none() {
                open.push(run.clone());
            }
        }
        let row = room.row(key).ok_or_else(|| Failure::not_found(format!("there is no session {key}")))?;
        let lines = self.parts.store.journal_end(&room.unit, row.session_id.as_str()).await.map_err(Failure::from)?;
        Ok(Committed { row, runs: before.len(), open, lines })
    }

    /// A session's row.
    #[must_use]
    pub fn session(&self, key: &SessionKey) -> Option<Arc<SessionRow>> {
        self.room(&key.agent()).ok()?.row(key)
    }

    /// Sessions, pinned first, then the latest first. Reads memory only.
    #[must_use]
    pub fn list(&self, filter: &SessionFilter) -> SessionPage {
        let rooms = match &filter.agent {
            Some(agent) => self.room(agent).ok().into_iter().collect(),
            None => self.rooms(),
        };
        let search = filter.search.as_ref().map(|text| text.to_lowercase()).filter(|text| !text.is_empty());
        let mut rows: Vec<Arc<SessionRow>> = rooms.iter().flat_map(|room| room.rows()).filter(|row| matches(row, filter, search.as_deref())).collect();
        rows.sort_by(|a, b| b.pinned_at.is_some().cmp(&a.pinned_at.is_some()).then(b.updated_at.cmp(&a.updated_at)).then(a.key.cmp(&b.key)));
        let total = rows.len();
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        SessionPage { rows: rows.into_iter().skip(filter.offset).take(limit).collect(), total }
    }

    /// How many sessions an agent has.
    #[must_use]
    pub fn session_count(&self, agent: &AgentId) -> usize {
        self.room(agent).map_or(0, |room| room.rows().len())
    }

    /// Changes a session's row; makes the session when it is not there.
    ///
    /// # Errors
    /// `InvalidRequest` for a value that is not allowed; when the store cannot be written.
    pub async fn patch(&self, key: &SessionKey, patch: SessionPatch) -> Result<Arc<SessionRow>, Failure> {
        let room = self.room(&key.agent())?;
        let (lanes, key) = (self.clone(), key.clone());
        self.shielded(async move { lanes.patch_now(&room, &key, patch).await }).await
    }

    async fn patch_now(&self, room: &Arc<Room>, key: &SessionKey, patch: SessionPatch) -> Result<Arc<SessionRow>, Failure> {
        let now = self.now();
        if let Some(Some(label)) = &patch.label {
            if label.trim().is_empty() || label.chars().count() > 512 {
                return Err(Failure::invalid("a label has 1 to 512 characters"));
            }
            if room.rows().iter().any(|row| row.key != *key && row.label.as_deref() == Some(label)) {
                return Err(Failure::invalid(format!("label already in use: {label}")));
            }
        }
        if let Some(Some(policy)) = &patch.send_policy
            && !matches!(policy.as_str(), "allow" | "deny")
        {
            return Err(Failure::invalid("sendPolicy is allow or deny"));
        }
        let (session, mut desk) = self.desk(room, key).await?;
        let before = desk.row.clone();
        let row = &mut desk.row;
        set(&mut row.label, patch.label);
        set(&mut row.display_name, patch.display_name);
        set(&mut row.thinking_level, patch.thinking_level);
        set(&mut row.queue_mode, patch.queue_mode);
        set(&mut row.send_policy, patch.send_policy);
        set(&mut row.parent_session_key, patch.parent);
        if let Some(model) = patch.model {
            row.model_override_source = model.as_ref().map(|_| "user".to_owned());
            row.model_override = model;
        }
        if let Some(archived) = patch.archived {
            row.archived_at = archived.then(|| row.archived_at.unwrap_or(now));
        }
        if let Some(pinned) = patch.pinned {
            row.pinned_at = pinned.then(|| row.pinned_at.unwrap_or(now));
        }
        if let Some(unread) = patch.unread {
            row.unread = unread;
        }
        let known = serde_json::to_value(SessionRow::new(key.clone(), "x".into(), now)).unwrap_or_default();
        for (name, value) in patch.extra {
            if known.get(&name).is_some() || name == "open" {
                desk.row = before;
                return Err(Failure::invalid(format!("\"{name}\" cannot be set")));
            }
            if value.is_null() {
                row.extra.remove(&name);
            } else {
                row.extra.insert(name, value);
            }
        }
        let made = !desk.stored;
        if let Err(err) = session.commit(room, &*self.parts.store, &mut desk, Write::default(), now).await {
            desk.row = before;
            return Err(err.into());
        }
        self.changed(key, if made { "create" } else { "patch" }, Some(&desk.row));
        Ok(Arc::new(desk.row.clone()))
    }

    /// Starts the conversation of a session afresh: the same session id and journal, nothing of before is sent to a
    /// model any more. `reason` is `new`, `reset`, `rpc`.
    ///
    /// # Errors
    /// `Busy` while a run goes; when the store cannot be written.
    pub async fn reset(&self, key: &SessionKey, reason: &str) -> Result<Arc<SessionRow>, Failure> {
        let room = self.room(&key.agent())?;
        let (lanes, key, reason) = (self.clone(), key.clone(), reason.to_owned());
        self.shielded(async move {
            let (session, mut desk) = lanes.desk(&room, &key).await?;
            if lock(&session.active).is_some() {
                return Err(Self::busy_session(&key));
            }
            let now = lanes.now();
            let before = desk.row.clone();
            let event = JournalEvent::Reset { reason, at: now, session_id: desk.row.session_id.clone() };
            clear(&mut desk.row, now);
            desk.row.last_interaction_at = Some(now);
            if let Err(err) = session.commit(&room, &*lanes.parts.store, &mut desk, Write { events: vec![event], ops: Vec::new() }, now).await {
                desk.row = before;
                return Err(err.into());
            }
            lanes.changed(&key, "reset", Some(&desk.row));
            Ok(Arc::new(desk.row.clone()))
        })
        .await
    }

    /// Removes a session with its journal. Runs that go or wait there are stopped first.
    ///
    /// # Errors
    /// When a run does not stop in time; when the store cannot be written.
    pub async fn delete(&self, key: &SessionKey) -> Result<Deleted, Failure> {
        let room = self.room(&key.agent())?;
        if room.row(key).is_none() {
            return Ok(Deleted { deleted: false });
        }
        self.abort(key, None, "rpc").await?;
        let (lanes, key) = (self.clone(), key.clone());
        self.shielded(async move {
            let (session, desk) = lanes.desk(&room, &key).await?;
            if lock(&session.active).is_some() || !desk.queue.is_empty() {
                return Err(Self::busy_session(&key));
            }
            let batch = clawstead_state::Batch::new(room.unit.clone()).delete(Table::Sessions, key.as_str()).drop_journal(desk.row.session_id.as_str());
            lanes.parts.store.commit(&room.fence, batch).await.map_err(Failure::from)?;
            session.dead.store(true, std::sync::atomic::Ordering::Release);
            room.forget(&key);
            room.drop_row(&key);
            lanes.changed(&key, "delete", None);
            Ok(Deleted { deleted: true })
        })
        .await
    }

    /// Summarises a session's older messages now, as a run of its own behind those that go or wait.
    ///
    /// # Errors
    /// `NotFound` for an unknown session, `Timeout` when it does not end within `limit`; as [`Self::accept`].
    pub async fn compact(&self, key: &SessionKey, instructions: Option<&str>, limit: std::time::Duration) -> Result<Compaction, Failure> {
        let room = self.room(&key.agent())?;
        let before = room.row(key).ok_or_else(|| Failure::not_found(format!("there is no session {key}")))?;
        let now = self.now();
        let run = RunId::from(self.parts.world.rng.uuid());
        let mut letter = crate::spawn::bare_letter(&before, &run, now);
        letter.kind = EnvelopeKind::Request;
        letter.from = Origin::Client { client_id: "gateway".into(), device_id: None, owner: true };
        letter.body = vec![Part::text(format!("/compact {}", instructions.unwrap_or("")))];
        letter.options.queue_mode = Some(QueueMode::Followup);
        let start = self.parts.store.journal_end(&room.unit, before.session_id.as_str()).await.map_err(Failure::from)?;
        self.accept(letter).await?;
        let row = self.wait(&run, limit).await?.ok_or_else(|| Failure::new(FailureCode::Timeout, format!("session {key} is still being summarised")))?;
        if let Some(failure) = row.failure {
            return Err(failure);
        }
        let mut out = Compaction { text: row.text.unwrap_or_default(), ..Compaction::default() };
        let mut from = start + 1;
        loop {
            let lines =
                read_journal_json::<JournalEvent>(&*self.parts.store, &room.unit, before.session_id.as_str(), from, PAGE).await.map_err(Failure::from)?;
            let Some((last, _)) = lines.last() else { return Ok(out) };
            from = last + 1;
            for (_, event) in lines {
                if let JournalEvent::Compacted { summary, first_kept, tokens_before, .. } = event {
                    out = Compaction { compacted: true, summary: Some(summary), first_kept, tokens_before, text: out.text };
                }
            }
        }
    }

    /// Adds a message to the conversation without asking a model; it is shown as the agent's.
    ///
    /// # Errors
    /// `NotFound` for an unknown session, `Busy` while a run goes; when the store cannot be written.
    pub async fn inject(&self, key: &SessionKey, text: &str, label: Option<&str>) -> Result<MessageId, Failure> {
        let room = self.room(&key.agent())?;
        let text = match label.filter(|label| !label.is_empty()) {
            Some(label) => format!("[{label}]\n\n{text}"),
            None => text.to_owned(),
        };
        if text.trim().is_empty() || text.len() > crate::BODY_BYTES_MAX {
            return Err(Failure::invalid("the message is empty or too long"));
        }
        let (lanes, key) = (self.clone(), key.clone());
        self.shielded(async move {
            let (session, mut desk) = lanes.known_desk(&room, &key).await?;
            if lock(&session.active).is_some() {
                return Err(Self::busy_session(&key));
            }
            let now = lanes.now();
            let id = MessageId::from(lanes.parts.world.rng.uuid());
            let message = Message {
                id: id.clone(),
                role: Role::Assistant,
                parts: vec![Part::text(text)],
                at: now,
                run_id: None,
                model: Some("gateway/injected".into()),
                usage: None,
                stop_reason: Some(StopReason::Stop),
                meta: Some(json!({ "kind": "injected" })),
            };
            let before = desk.row.clone();
            note_message(&mut desk.row, &message);
            let write = Write { events: vec![JournalEvent::Said { message: Box::new(message.clone()) }], ops: Vec::new() };
            if let Err(err) = session.commit(&room, &*lanes.parts.store, &mut desk, write, now).await {
                desk.row = before;
                return Err(err.into());
            }
            let letter = crate::spawn::bare_letter(&desk.row, &RunId::from(format!("inject:{id}")), now);
            Emitter::new(&lanes, &desk.row, &letter, letter.run_id.clone()).said(&message, desk.row.message_count);
            lanes.changed(&key, "inject", Some(&desk.row));
            Ok(id)
        })
        .await
    }

    /// Removes ended runs older than `before` from the ledger of an agent, `limit` at most. Answers how many. After
    /// that their ids are unknown: keep `before` far beyond the time in which a caller may repeat itself.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn prune_runs(&self, agent: &AgentId, before: Millis, limit: usize) -> Result<usize, Failure> {
        let room = self.room(agent)?;
        let mut after = None;
        let mut batch = clawstead_state::Batch::new(room.unit.clone());
        'pages: loop {
            let scan = clawstead_state::Scan { prefix: String::new(), after: after.clone(), limit: 500, newest_first: false };
            let page = self.parts.store.scan(&room.unit, Table::Runs, &scan).await.map_err(Failure::from)?;
            let count = page.len();
            for stored in page {
                let old = serde_json::from_str::<crate::RunRow>(&stored.value).is_ok_and(|row| row.ended_at.is_some_and(|at| at < before));
                if old {
                    batch.ops.push(Op::Delete(Table::Runs, stored.key.clone()));
                    if batch.ops.len() >= limit.clamp(1, 5_000) {
                        break 'pages;
                    }
                }
                after = Some(stored.key);
            }
            if count < 500 {
                break;
            }
        }
        let count = batch.ops.len();
        if count > 0 {
            self.parts.store.commit(&room.fence, batch).await.map_err(Failure::from)?;
        }
        Ok(count)
    }
}

fn set<T>(field: &mut Option<T>, change: Option<Option<T>>) {
    if let Some(value) = change {
        *field = value;
    }
}

fn matches(row: &SessionRow, filter: &SessionFilter, search: Option<&str>) -> bool {
    let archive = match filter.archived {
        ArchiveFilter::Hide => row.archived_at.is_none(),
        ArchiveFilter::Only => row.archived_at.is_some(),
        ArchiveFilter::Show => true,
    };
    let texts = [Some(row.key.as_str()), row.label.as_deref(), row.display_name.as_deref(), row.derived_title.as_deref(), row.last_message_preview.as_deref()];
    archive
        && filter.updated_since.is_none_or(|since| row.updated_at >= since)
        && filter.spawned_by.as_ref().is_none_or(|key| row.spawned_by.as_ref() == Some(key))
        && filter.label.as_ref().is_none_or(|label| row.label.as_ref() == Some(label))
        && search.is_none_or(|search| texts.iter().flatten().any(|text| text.to_lowercase().contains(search)))
}
