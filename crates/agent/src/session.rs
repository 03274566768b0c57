//! One live session: its row, its journal's end, what waits, and the messages in memory. All writes of a session go
//! through [`Desk`], one at a time, so its journal has one order.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use tokio::sync::Notify;

use clawstead_state::{Batch, Op, Store, Table, TxError, get_json, read_journal_json};
use clawstead_terms::{Envelope, JournalEvent, Message, Millis, Role, RunId, SessionKey};

use crate::{SessionRow, room::Room, transcript::Transcript};

/// Journal lines read at once.
const PAGE: usize = 500;
/// Characters of a preview.
const PREVIEW_CHARS_MAX: usize = 160;
/// Characters of a derived title.
const TITLE_CHARS_MAX: usize = 60;

/// A letter that waits for its turn.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub letter: Arc<Envelope>,
    /// Tries that were begun before.
    pub attempt: u32,
    pub set_aside: bool,
    /// When it came; none when a start of the gateway found it.
    pub since: Option<Millis>,
    /// It came while others waited or ran.
    pub behind: bool,
}

/// The run that is going.
#[derive(Clone, Debug)]
pub(crate) struct Active {
    pub run_id: RunId,
    /// Set by whoever wants it stopped.
    pub abort: Option<String>,
}

/// What is written under the desk lock.
pub(crate) struct Desk {
    pub loaded: bool,
    /// True when a lost answer left open what the store has: the row is read again before the next use.
    pub stale: bool,
    pub row: SessionRow,
    /// True once the row is in the store.
    pub stored: bool,
    /// The last line of the journal.
    pub end: u64,
    pub queue: VecDeque<Queued>,
    /// True while a lane task runs for this session.
    pub lane: bool,
}

/// What the running turn touches without waiting for the disk.
#[derive(Default)]
pub(crate) struct Ink {
    /// Lines not yet handed to the store, in order; true for messages.
    lines: VecDeque<(String, bool)>,
    /// Bytes of the durable journal's last line number: entries written now come after it.
    end: u64,
    /// Messages since the last reset, those in `lines` included.
    pub position: u64,
    pub transcript: Option<Transcript>,
}

pub(crate) struct Session {
    pub key: SessionKey,
    pub desk: Arc<tokio::sync::Mutex<Desk>>,
    pub ink: Mutex<Ink>,
    pub active: Mutex<Option<Active>>,
    /// Letters came or somebody wants the run stopped.
    pub wake: Notify,
    /// True when this object is given up (evicted, crashed lane): whoever holds it gets a fresh one from the room.
    pub dead: AtomicBool,
    pub used_at: AtomicI64,
}

/// Changes that go together: journal lines, the row as the desk has it, further rows.
#[derive(Default)]
pub(crate) struct Write {
    pub events: Vec<JournalEvent>,
    pub ops: Vec<Op>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub fn new(key: SessionKey, row: SessionRow, stored: bool, now: Millis) -> Self {
        let desk = Desk { loaded: false, stale: false, row, stored, end: 0, queue: VecDeque::new(), lane: false };
        Self {
            key,
            desk: Arc::new(tokio::sync::Mutex::new(desk)),
            ink: Mutex::default(),
            active: Mutex::default(),
            wake: Notify::new(),
            dead: AtomicBool::new(false),
            used_at: AtomicI64::new(now.0),
        }
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub fn ink(&self) -> MutexGuard<'_, Ink> {
        lock(&self.ink)
    }

    /// Reads what the desk needs before its first use: the journal's end and the letters that wait.
    pub async fn load(&self, room: &Room, store: &dyn Store, desk: &mut Desk) -> Result<(), TxError> {
        if desk.loaded {
            return Ok(());
        }
        if desk.stale {
            if let Some(stored) = get_json::<SessionRow>(store, &room.unit, Table::Sessions, self.key.as_str()).await? {
                desk.row = stored.value;
                desk.stored = true;
                room.put_row(desk.row.clone());
            }
            desk.stale = false;
        }
        let going = lock(&self.active).as_ref().map(|active| active.run_id.clone());
        let journal = desk.row.session_id.as_str();
        if desk.stored {
            desk.end = store.journal_end(&room.unit, journal).await?;
            let mut queue = VecDeque::new();
            for open in desk.row.open.iter().filter(|open| Some(&open.run_id) != going.as_ref()) {
                let line = read_journal_json::<JournalEvent>(store, &room.unit, journal, open.seq, 1).await?;
                if let Some((_, JournalEvent::Accepted { letter })) = line.into_iter().next() {
                    queue.push_back(Queued { letter: Arc::from(letter), attempt: open.attempt, set_aside: open.set_aside, since: None, behind: true });
                } else {
                    tracing::error!(session = %self.key, run = %open.run_id, "the journal has no letter for this run");
                }
            }
            desk.queue = queue;
        }
        {
            let mut ink = self.ink();
            ink.end = desk.end;
            ink.position = desk.row.message_count + ink.lines.iter().filter(|(_, is_message)| *is_message).count() as u64;
        }
        desk.loaded = true;
        Ok(())
    }

    /// Reads the transcript if it is not in memory. Only lines since the last reset or compaction are read.
    pub async fn load_transcript(&self, room: &Room, store: &dyn Store, desk: &Desk) -> Result<(), TxError> {
        if self.ink().transcript.is_some() {
            return Ok(());
        }
        let mut transcript = Transcript::default();
        let mut from = desk.row.base_seq.max(1);
        while from <= desk.end {
            let page = read_journal_json::<JournalEvent>(store, &room.unit, desk.row.session_id.as_str(), from, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            from = last + 1;
            for (seq, event) in &page {
                transcript.apply(*seq, event);
            }
        }
        self.ink().transcript = Some(transcript);
        Ok(())
    }

    /// Adds a line that is written with the next commit. Answers a message's position.
    pub fn note(&self, event: &JournalEvent) -> Option<u64> {
        let mut ink = self.ink();
        let is_message = matches!(event, JournalEvent::Said { .. });
        match serde_json::to_string(event) {
            Ok(line) => ink.lines.push_back((line, is_message)),
            Err(err) => {
                tracing::error!(session = %self.key, err = %err, "a journal line has no JSON form");
                return None;
            }
        }
        // A lower bound is enough: it says from where a later start must read.
        let seq = ink.end + 1;
        if let Some(transcript) = &mut ink.transcript {
            transcript.apply(seq, event);
        }
        if is_message {
            ink.position += 1;
        }
        is_message.then_some(ink.position)
    }

    /// True when lines wait to be written.
    pub fn has_notes(&self) -> bool {
        !self.ink().lines.is_empty()
    }

    /// Writes everything noted, `write`, and the row, whole or not at all. On an error the notes stay noted; the
    /// caller puts the row back.
    pub async fn commit(&self, room: &Room, store: &dyn Store, desk: &mut Desk, write: Write, now: Millis) -> Result<Vec<u64>, TxError> {
        let mut noted: Vec<(String, bool)> = self.ink().lines.drain(..).collect();
        let journal = desk.row.session_id.to_string();
        let mut batch = Batch::new(room.unit.clone());
        let mut seq = desk.end;
        let mut said = 0;
        for (line, is_message) in &noted {
            seq += 1;
            said += u64::from(*is_message);
            batch.ops.push(Op::Append { journal: journal.clone(), seq, event: line.clone() });
        }
        let mut reset = false;
        let (count_before, updated_before) = (desk.row.message_count, desk.row.updated_at);
        let mut seqs = Vec::with_capacity(write.events.len());
        let outcome = async {
            for event in &write.events {
                seq += 1;
                seqs.push(seq);
                match event {
                    JournalEvent::Said { .. } => said += 1,
                    JournalEvent::Reset { .. } => {
                        said = 0;
                        reset = true;
                        desk.row.reset_seq = seq;
                        desk.row.base_seq = seq;
                    }
                    JournalEvent::Accepted { letter } => {
                        if let Some(open) = desk.row.open.iter_mut().find(|open| open.run_id == letter.run_id) {
                            open.seq = seq;
                        }
                    }
                    _ => {}
                }
                batch = std::mem::replace(&mut batch, Batch::new(room.unit.clone())).append(journal.clone(), seq, event)?;
            }
            desk.row.message_count = if reset { said } else { desk.row.message_count + said };
            desk.row.updated_at = now;
            let written = seq - desk.end;
            let mut batch = std::mem::replace(&mut batch, Batch::new(room.unit.clone())).put_json(Table::Sessions, self.key.as_str(), &desk.row)?;
            batch.ops.extend(write.ops);
            let begun = tokio::time::Instant::now();
            match store.commit(&room.fence, batch).await {
                Ok(()) => {
                    room.proved_at(begun);
                    Ok(())
                }
                Err(TxError::Away { maybe: true, path, why }) if written > 0 => {
                    // The answer was lost; the journal knows.
                    let end = store.journal_end(&room.unit, &journal).await.ok();
                    if end == Some(desk.end + written) { Ok(()) } else { Err(TxError::Away { path, why, maybe: end.is_none() }) }
                }
                Err(err) => Err(err),
            }
        }
        .await;
        let mut ink = self.ink();
        match outcome {
            Ok(()) => {
                desk.end = seq;
                desk.stored = true;
                ink.end = seq;
                for (seq, event) in seqs.iter().zip(&write.events) {
                    if let Some(transcript) = &mut ink.transcript {
                        transcript.apply(*seq, event);
                    }
                }
                ink.position = desk.row.message_count + ink.lines.iter().filter(|(_, is_message)| *is_message).count() as u64;
                drop(ink);
                room.put_row(desk.row.clone());
                Ok(seqs)
            }
            Err(err) => {
                (desk.row.message_count, desk.row.updated_at) = (count_before, updated_before);
                while let Some(line) = noted.pop() {
                    ink.lines.push_front(line);
                }
                drop(ink);
                if matches!(err, TxError::Fenced { .. }) {
                    room.lose(&err);
                }
                if matches!(&err, TxError::Gap { .. } | TxError::Away { maybe: true, .. })
                    || matches!(&err, TxError::Exists { table, .. } if *table == "journal")
                {
                    // What we believe about the journal may not be true any more: read it again before the next use.
                    desk.loaded = false;
                    desk.stale = true;
                }
                Err(err)
            }
        }
    }
}

/// Changes the row as a message changes it.
pub(crate) fn note_message(row: &mut SessionRow, message: &Message) {
    let text = message.plain_text();
    let line = one_line(&text, PREVIEW_CHARS_MAX);
    if line.is_empty() {
        return;
    }
    if message.role == Role::User && row.derived_title.is_none() {
        row.derived_title = Some(one_line(&text, TITLE_CHARS_MAX));
    }
    if matches!(message.role, Role::User | Role::Assistant) {
        row.last_message_preview = Some(line);
    }
}

pub(crate) fn one_line(text: &str, chars_max: usize) -> String {
    let mut out = String::new();
    let mut count = 0;
    for word in text.split_whitespace() {
        if count > 0 {
            out.push(' ');
            count += 1;
        }
        for c in word.chars() {
            if count >= chars_max {
                return out;
            }
            out.push(c);
            count += 1;
        }
        if count >= chars_max {
            return out;
        }
    }
    out
}
