//! What was said in a session, read from the journal's end, a page at a time.

use serde::{Deserialize, Serialize};

use clawstead_state::read_journal_json;
use clawstead_terms::{Failure, JournalEvent, Message, Role, SessionId, SessionKey};

use crate::{lanes::Lanes, room::Room, session::one_line};

/// Journal lines read at once.
const PAGE: usize = 200;
/// Messages of one history answer at most.
pub const HISTORY_MAX: usize = 1_000;

/// Which part of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryPage {
    /// The newest messages, leaving out `skip` of the newest.
    Newest {
        /// Messages at most.
        limit: usize,
        /// Messages left out at the end.
        skip: usize,
    },
    /// What came after this cursor.
    Since {
        /// A cursor of an earlier answer.
        cursor: u64,
        /// Messages at most.
        limit: usize,
    },
}

/// A message with its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryItem {
    /// Its place in the conversation, from 1.
    pub position: u64,
    /// Its journal line.
    pub seq: u64,
    /// The message.
    pub message: Message,
}

/// A piece of a conversation since its last reset.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// The transcript.
    pub session_id: SessionId,
    /// Oldest first.
    pub items: Vec<HistoryItem>,
    /// Messages of the conversation.
    pub total: u64,
    /// True when older ones were left out by `limit`.
    pub more: bool,
    /// For [`HistoryPage::Since`].
    pub cursor: u64,
    /// False when the cursor is from before a reset: fetch everything anew.
    pub cursor_valid: bool,
}

impl Lanes {
    /// A piece of a conversation, from its last reset on. Reads the journal from its end, so that a long past costs
    /// nothing.
    ///
    /// # Errors
    /// `NotFound` for an unknown session; when the store cannot be read.
    pub async fn history(&self, key: &SessionKey, page: HistoryPage) -> Result<History, Failure> {
        let room = self.room(&key.agent())?;
        let row = room.row(key).ok_or_else(|| Failure::not_found(format!("there is no session {key}")))?;
        let journal = row.session_id.as_str();
        let store = &*self.parts.store;
        let end = store.journal_end(&room.unit, journal).await.map_err(Failure::from)?;
        let mut out = History { session_id: row.session_id.clone(), items: Vec::new(), total: row.message_count, more: false, cursor: end, cursor_valid: true };
        let floor = row.reset_seq + 1;
        match page {
            HistoryPage::Since { cursor, limit } => {
                if cursor < row.reset_seq || cursor > end {
                    out.cursor_valid = false;
                    return Ok(out);
                }
                let limit = limit.clamp(1, HISTORY_MAX);
                let mut from = cursor + 1;
                while from <= end && out.items.len() < limit {
                    let lines = read_journal_json::<JournalEvent>(store, &room.unit, journal, from, PAGE).await.map_err(Failure::from)?;
                    let Some((last, _)) = lines.last() else { break };
                    from = last + 1;
                    for (seq, event) in lines {
                        if let JournalEvent::Said { message } = event {
                            out.items.push(HistoryItem { position: 0, seq, message: *message });
                            if out.items.len() == limit {
                                out.cursor = seq;
                                out.more = true;
                                break;
                            }
                        }
                    }
                }
                // Positions count from the end: what came after the page is not known, so count it when cut.
                let count = out.items.len() as u64;
                let first = if out.more { self.count_said(&room, journal, floor, cursor).await? + 1 } else { row.message_count.saturating_sub(count) + 1 };
                for (number, item) in out.items.iter_mut().enumerate() {
                    item.position = first + number as u64;
                }
            }
            HistoryPage::Newest { limit, skip } => {
                let limit = limit.clamp(1, HISTORY_MAX);
                let mut upto = end;
                let mut seen = 0_u64;
                'pages: while upto >= floor {
                    let from = upto.saturating_sub(PAGE as u64 - 1).max(floor);
                    let count = usize::try_from(upto - from + 1).unwrap_or(PAGE);
                    let lines = read_journal_json::<JournalEvent>(store, &room.unit, journal, from, count).await.map_err(Failure::from)?;
                    for (seq, event) in lines.into_iter().rev() {
                        let JournalEvent::Said { message } = event else { continue };
                        if out.items.len() == limit {
                            out.more = true;
                            break 'pages;
                        }
                        seen += 1;
                        if seen <= skip as u64 {
                            continue;
                        }
                        out.items.push(HistoryItem { position: (row.message_count + 1).saturating_sub(seen), seq, message: *message });
                    }
                    upto = from - 1;
                }
                out.items.reverse();
            }
        }
        Ok(out)
    }

    async fn count_said(&self, room: &Room, journal: &str, from: u64, upto: u64) -> Result<u64, Failure> {
        let mut count = 0;
        let mut from = from;
        while from <= upto {
            let lines = self.parts.store.read_journal(&room.unit, journal, from, PAGE).await.map_err(Failure::from)?;
            let Some((last, _)) = lines.last() else { break };
            from = last + 1;
            count += lines.iter().filter(|(seq, text)| *seq <= upto && text.starts_with("{\"event\":\"said\"")).count() as u64;
        }
        Ok(count)
    }

    /// The newest texts of a session, for lists: role and one line each, oldest first.
    ///
    /// # Errors
    /// As [`Self::history`].
    pub async fn preview(&self, key: &SessionKey, items: usize, chars_max: usize) -> Result<Vec<(Role, String)>, Failure> {
        let history = self.history(key, HistoryPage::Newest { limit: items.clamp(1, 50), skip: 0 }).await?;
        Ok(history
            .items
            .iter()
            .filter_map(|item| {
                let text = one_line(&item.message.plain_text(), chars_max);
                (!text.is_empty()).then_some((item.message.role, text))
            })
            .collect())
    }
}
