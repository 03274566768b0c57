//! Sessions with their transcripts: found by their index, written one after the other, each with bounded memory.
//!
//! A session is there when its row is: the row is written with the last lines of its journal. What a crash leaves is a
//! journal without a row; the next try drops it and begins that session anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clawstead_agent::SessionRow;
use clawstead_state::{Batch, Op, Scan, Table};
use clawstead_terms::{AgentId, Failure, JournalEvent, MessageId, Millis, SessionId, SessionKey, Unit};
use clawstead_world::World;
use serde_json::Value;

use super::{
    SourceRow, assessed,
    convert::{Converter, entry_id, moment},
    database::Database,
    lines::Lines,
    rows,
    tree::{self, Conversation},
};
use crate::keeper::{self, Keeper};

/// Journal lines of one batch.
const BATCH_LINES: usize = 500;
/// Bytes of one batch; one line may be more.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// A longer journal line is not stored.
const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024 - 1024;
/// `sessions.json` is read whole; a larger one is refused.
const INDEX_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Sessions of one agent, newest first.
pub const SESSIONS_MAX: usize = 10_000;

/// Where a transcript lies.
#[derive(Clone)]
pub enum Origin {
    /// In a file.
    File(PathBuf),
    /// In a database, under this session id.
    Database(Arc<Database>, String),
    /// It is not there.
    Nowhere,
}

/// A session to import.
pub struct Planned {
    /// Its row, without what the transcript tells.
    pub row: SessionRow,
    /// Its transcript.
    pub origin: Origin,
    /// How the source is called in reports: a path below the state folder.
    pub source: String,
    /// Last change of the source file, ms.
    pub mtime_ms: i64,
}

/// A session id that can name a journal.
fn session_id(text: &str) -> Option<SessionId> {
    const BYTES_MAX: usize = 128;
    let fine = !text.is_empty() && text.len() <= BYTES_MAX && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)) && !text.starts_with('.');
    fine.then(|| text.into())
}

/// What an index of sessions says, before it is a plan.
pub struct Index<'a> {
    /// The agent whose folder it is.
    pub agent: &'a AgentId,
    /// `session.mainKey` of an older config.
    pub main_key: Option<&'a str>,
    /// For entries without a moment.
    pub now: Millis,
    /// What cannot be used is named here.
    pub skipped: &'a mut Vec<String>,
}

impl Index<'_> {
    fn entry(&mut self, key: &str, session: &str, entry: &Value, source: &str, mtime_ms: i64) -> Option<Planned> {
        let mapped = rows::key(key, entry, self.agent, self.main_key);
        let (Some(mapped), Some(id)) = (mapped, session_id(session)) else {
            self.skipped.push(format!("{source}: session {:?} has a key or id that cannot be used", key.chars().take(80).collect::<String>()));
            return None;
        };
        if mapped.agent() != *self.agent && source.ends_with(".sqlite") {
            self.skipped.push(format!("{source}: session {mapped} belongs to another agent"));
            return None;
        }
        Some(Planned { row: rows::row(&mapped, &id, entry, self.now), origin: Origin::Nowhere, source: source.to_owned(), mtime_ms })
    }

    /// The sessions of a `sessions.json`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_store(&mut self, path: &Path, source: &str) -> Result<Vec<Planned>, String> {
        let meta = fs::metadata(path).map_err(|e| e.to_string())?;
        if meta.len() > INDEX_BYTES_MAX {
            return Err(format!("it has {} bytes, {INDEX_BYTES_MAX} are read at most", meta.len()));
        }
        let text = fs::read(path).map_err(|e| e.to_string())?;
        let Value::Object(index) = serde_json::from_slice(&text).map_err(|e| format!("it is no valid JSON (line {})", e.line()))? else {
            return Err("it is no JSON object".into());
        };
        drop(text);
        let folder = path.parent().unwrap_or(path);
        let below = source.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut out = Vec::new();
        for (key, entry) in index {
            let Some(session) = entry.get("sessionId").and_then(Value::as_str).map(str::to_owned) else {
                self.skipped.push(format!("{source}: entry {:?} has no session id", key.chars().take(80).collect::<String>()));
                continue;
            };
            let Some(mut planned) = self.entry(&key, &session, &entry, source, 0) else { continue };
            // The path in the entry may be of another machine: only its name counts, and only in this folder.
            let named = entry.get("sessionFile").and_then(Value::as_str).and_then(|file| Some(Path::new(file).file_name()?.to_string_lossy().into_owned()));
            let name = named.into_iter().chain([format!("{session}.jsonl")]).find(|name| name.ends_with(".jsonl") && folder.join(name).is_file());
            if let Some(name) = name {
                let file = folder.join(&name);
                planned.mtime_ms = assessed(&file).1;
                planned.origin = Origin::File(file);
                planned.source = format!("{below}/{name}");
            }
            out.push(planned);
        }
        Ok(out)
    }

    /// The sessions of an agent's database.
    ///
    /// # Errors
    /// When its tables cannot be read.
    pub fn of_database(&mut self, database: &Arc<Database>, source: &str, mtime_ms: i64) -> Result<Vec<Planned>, String> {
        let sql = "select session_key, current_session_id, entry_json, updated_at, created_at, archived_at, pinned_at, label, display_name, status, last_interaction_at from session_nodes";
        let columns = ["updatedAt", "createdAt", "archivedAt", "pinnedAt", "label", "displayName", "status", "lastInteractionAt"];
        let found = database.rows(sql, |row| {
            let mut entry: Value = serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default();
            if !entry.is_object() {
                entry = Value::Object(serde_json::Map::new());
            }
            for (at, name) in columns.iter().enumerate() {
                let value = match row.get_ref(3 + at)? {
                    rusqlite::types::ValueRef::Integer(number) => number.into(),
                    rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
                    _ => continue,
                };
                if let Some(object) = entry.as_object_mut() {
                    object.insert((*name).to_owned(), value);
                }
            }
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, entry))
        })?;
        let mut out = Vec::new();
        for (key, session, entry) in found {
            let Some(mut planned) = self.entry(&key, &session, &entry, source, mtime_ms) else { continue };
            planned.source = format!("{source}#{session}");
            planned.origin = Origin::Database(database.clone(), session);
            out.push(planned);
        }
        Ok(out)
    }

    /// The one session of a `session.jsonl` of a collective that keeps its own files: the agent's main conversation.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_bare(&mut self, path: &Path, source: &str) -> Result<Vec<Planned>, String> {
        let (mut first, mut last, mut moments) = (None, None, (None, None));
        let mut lines = Lines::of_file(path)?;
        lines.scan(&mut |_, line, _| {
            let Ok(line) = serde_json::from_slice::<Value>(line) else { return };
            let at = moment(line.get("timestamp"));
            moments = (moments.0.or(at), at.or(moments.1));
            if let Some(session) = line.get("sessionId").and_then(Value::as_str) {
                first.get_or_insert_with(|| session.to_owned());
                last = Some(session.to_owned());
            }
        })?;
        let id = last.as_deref().and_then(session_id).unwrap_or_else(|| format!("imported-{}", self.agent).into());
        let mtime_ms = assessed(path).1;
        let mut row = SessionRow::new(SessionKey::main(self.agent), id, moments.1.unwrap_or(Millis(mtime_ms)));
        row.created_at = moments.0.unwrap_or(row.updated_at);
        row.session_started_at = None;
        row.last_interaction_at = Some(row.updated_at);
        Ok(vec![Planned { row, origin: Origin::File(path.to_owned()), source: source.to_owned(), mtime_ms }])
    }
}

impl Origin {
    /// Opens the transcript; none when it is not there.
    fn lines(&self) -> Result<Option<Lines>, String> {
        match self {
            Self::File(path) => Lines::of_file(path).map(Some),
            Self::Database(database, session) => Ok(Some(Lines::Database(database.clone(), session.clone()))),
            Self::Nowhere => Ok(None),
        }
    }

    /// Scans the transcript.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn conversation(&self) -> Result<Conversation, String> {
        self.lines()?.map_or_else(|| Ok(Conversation::default()), |mut lines| tree::conversation(&mut lines))
    }
}

/// A session being read.
struct Reading {
    planned: Planned,
    lines: Option<Lines>,
    conversation: Conversation,
    converter: Converter,
    /// The next step.
    at: usize,
    /// The last journal line made.
    seq: u64,
    /// Journal lines of messages that a compaction keeps first, by their entry's number.
    kept: BTreeMap<usize, (MessageId, u64)>,
}

/// Some journal lines.
struct Piece {
    events: Vec<(u64, String)>,
    over: bool,
}

impl Reading {
    fn open(planned: Planned) -> Result<Self, String> {
        let mut lines = planned.origin.lines()?;
        let mut conversation = match &mut lines {
            Some(lines) => tree::conversation(lines)?,
            None => Conversation::default(),
        };
        let odd = std::mem::take(&mut conversation.odd);
        let converter = Converter { session_id: planned.row.session_id.clone(), odd, last_at: planned.row.created_at };
        let mut reading = Self { planned, lines, conversation, converter, at: 0, seq: 0, kept: BTreeMap::new() };
        let row = &mut reading.planned.row;
        (row.message_count, row.reset_seq, row.base_seq, row.compaction_count) = (0, 0, 1, row.compaction_count);
        Ok(reading)
    }

    /// The next lines.
    fn piece(&mut self) -> Result<Piece, String> {
        let mut events = Vec::new();
        let mut bytes = 0;
        let steps = std::mem::take(&mut self.conversation.steps);
        let made = loop {
            if self.at >= steps.len() {
                break Ok(true);
            }
            if events.len() >= BATCH_LINES || bytes >= BATCH_BYTES {
                break Ok(false);
            }
            let step = &steps[self.at];
            self.at += 1;
            let Some(lines) = &mut self.lines else { break Ok(true) };
            let line = match lines.read(step.place) {
                Ok(line) => line,
                Err(err) => break Err(err),
            };
            let Ok(entry) = serde_json::from_slice::<Value>(&line) else {
                self.converter.odd.unreadable += 1;
                continue;
            };
            let kept = step.kept.and_then(|number| self.kept.get(&number).cloned());
            let Some(event) = self.converter.event(step, &entry, kept.as_ref().map(|(id, _)| id.clone())) else { continue };
            let text = serde_json::to_string(&event).map_err(|e| e.to_string());
            let text = match text {
                Ok(text) if text.len() <= EVENT_BYTES_MAX => text,
                Ok(_) => {
                    self.converter.odd.too_long += 1;
                    continue;
                }
                Err(err) => break Err(err),
            };
            self.seq += 1;
            self.note(&event, kept.map(|(_, seq)| seq));
            if step.wanted && matches!(event, JournalEvent::Said { .. }) {
                self.kept.insert(step.number, (entry_id(&entry, step.number), self.seq));
            }
            bytes += text.len();
            events.push((self.seq, text));
        };
        self.conversation.steps = steps;
        Ok(Piece { events, over: made? })
    }

    /// What an event changes in the row, as lanes would.
    fn note(&mut self, event: &JournalEvent, kept_seq: Option<u64>) {
        let row = &mut self.planned.row;
        match event {
            JournalEvent::Said { message } => {
                row.message_count += 1;
                row.session_started_at.get_or_insert(message.at);
                rows::note_message(row, message);
                if let Some((provider, model)) = message.model.as_deref().and_then(|full| full.split_once('/')) {
                    row.model_provider.get_or_insert_with(|| provider.to_owned());
                    row.model.get_or_insert_with(|| model.to_owned());
                }
            }
            JournalEvent::Compacted { .. } => row.base_seq = kept_seq.unwrap_or(self.seq),
            JournalEvent::Reset { .. } => {
                row.message_count = 0;
                row.reset_seq = self.seq;
                row.base_seq = self.seq;
                row.derived_title = None;
                row.last_message_preview = None;
            }
            _ => {}
        }
    }
}

/// What became of one session.
pub enum Done {
    /// It is stored now, with so many messages.
    Stored(u64),
    /// It was there.
    There,
    /// It cannot be imported; the reason is in `skipped`.
    Not,
}

/// The session ids that an agent's rows name.
///
/// # Errors
/// When the store cannot be read.
pub async fn taken(keeper: &Keeper, unit: &Unit) -> Result<BTreeSet<String>, Failure> {
    const PAGE: usize = 500;
    let mut ids = BTreeSet::new();
    let mut scan = Scan::prefix("").limit(PAGE);
    loop {
        let page = keeper.store.scan(unit, Table::Sessions, &scan).await.map_err(keeper::sort)?;
        for row in &page {
            let value: Value = serde_json::from_str(&row.value).unwrap_or_default();
            ids.extend(value.get("sessionId").and_then(Value::as_str).map(str::to_owned));
        }
        match page.last() {
            Some(last) if page.len() == PAGE => scan = Scan::prefix("").limit(PAGE).after(last.key.clone()),
            _ => return Ok(ids),
        }
    }
}

/// Stores one session. `taken` are the session ids that have a row.
///
/// # Errors
/// When the store cannot be read or written.
pub async fn store(keeper: &Keeper, world: &World, mut planned: Planned, taken: &mut BTreeSet<String>, skipped: &mut Vec<String>) -> Result<Done, Failure> {
    let unit = Unit::Agent(planned.row.agent_id.clone());
    let id = planned.row.session_id.clone();
    if taken.contains(id.as_str()) {
        return Ok(Done::There);
    }
    if keeper.store.get(&unit, Table::Sessions, planned.row.key.as_str()).await.map_err(keeper::sort)?.is_some() {
        // Another conversation has this key: the older one is kept beside it.
        planned.row.key = SessionKey::of(&planned.row.agent_id, &format!("imported:{id}"));
    }
    let source = planned.source.clone();
    let missing = matches!(planned.origin, Origin::Nowhere);
    let Some(opened) = world.tasks.blocking(move || Reading::open(planned)).await else { return Err(Failure::unavailable("the import ended early", 1_000)) };
    let mut reading = match opened {
        Ok(reading) => reading,
        Err(why) => {
            skipped.push(format!("{source}: {why}"));
            return Ok(Done::Not);
        }
    };
    if missing {
        skipped.push(format!("{source}: session {} has no transcript; its settings are imported", reading.planned.row.key));
    }
    // What an interrupted import left.
    let mut remains = keeper.store.journal_end(&unit, id.as_str()).await.map_err(keeper::sort)? > 0;
    loop {
        let (back, piece) = world
            .tasks
            .blocking(move || {
                let piece = reading.piece();
                (reading, piece)
            })
            .await
            .ok_or_else(|| Failure::unavailable("the import ended early", 1_000))?;
        reading = back;
        let mut batch = Batch::new(unit.clone());
        if std::mem::take(&mut remains) {
            batch = batch.drop_journal(id.as_str());
        }
        let piece = match piece {
            Ok(piece) => piece,
            Err(why) => {
                skipped.push(format!("{source}: {why}"));
                keeper.commit(batch.drop_journal(id.as_str())).await.map_err(keeper::sort)?;
                return Ok(Done::Not);
            }
        };
        batch.ops.extend(piece.events.into_iter().map(|(seq, event)| Op::Append { journal: id.to_string(), seq, event }));
        if !piece.over {
            keeper.commit(batch).await.map_err(keeper::sort)?;
            continue;
        }
        let scanned = &reading.conversation.scanned;
        let record = SourceRow {
            path: source.clone(),
            bytes: scanned.bytes,
            mtime_ms: reading.planned.mtime_ms,
            sha256: scanned.sha256.clone(),
            imported_at: world.clock.now(),
        };
        let row = &mut reading.planned.row;
        row.extra.insert("importedFrom".into(), source.clone().into());
        batch = batch
            .insert_json(Table::Sessions, row.key.as_str(), row)
            .and_then(|batch| batch.put_json(Table::Meta, record.key(), &record))
            .map_err(keeper::sort)?;
        keeper.commit(batch).await.map_err(keeper::sort)?;
        taken.insert(id.to_string());
        let words = reading.converter.odd.words();
        if !words.is_empty() {
            skipped.push(format!("{source}: {}", words.join(", ")));
        }
        return Ok(Done::Stored(reading.conversation.said));
    }
}
