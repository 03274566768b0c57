//! What a live lane keeps of its journal: the messages since the last reset or compaction, shared by pointer.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use clawstead_terms::{EffectClass, JournalEvent, Message, MessageId, Millis, Part, Role, RunId, StopReason};

use crate::{compact::tokens_of, turn::OpenCall};

/// The context of a session.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    summary: Option<Arc<Message>>,
    summary_tokens: u64,
    entries: Vec<Entry>,
    tokens: u64,
    /// Intents of runs that have not ended: by call id, effect and class with their run.
    intents: BTreeMap<String, (RunId, (String, EffectClass))>,
}

#[derive(Clone, Debug)]
struct Entry {
    seq: u64,
    tokens: u64,
    message: Arc<Message>,
}

impl Transcript {
    /// Takes one line of the journal, in order.
    pub fn apply(&mut self, seq: u64, event: &JournalEvent) {
        match event {
            JournalEvent::Said { message } => self.say(seq, Arc::new((**message).clone())),
            JournalEvent::Compacted { summary, first_kept, at, .. } => self.compact(summary, first_kept.as_ref(), *at),
            JournalEvent::Reset { .. } => *self = Self::default(),
            JournalEvent::ToolIntent { run_id, call_id, effect_id, class } => {
                self.intents.insert(call_id.clone(), (run_id.clone(), (effect_id.clone(), *class)));
            }
            // A letter that waits may end while another run has calls open.
            JournalEvent::RunEnded { run_id, .. } => self.intents.retain(|_, (of, _)| of != run_id),
            _ => {}
        }
    }

    /// A message joins.
    pub fn say(&mut self, seq: u64, message: Arc<Message>) {
        if leaves_run_out(&message) {
            self.drop_run(&message);
            return;
        }
        if is_empty_end(&message) {
            return;
        }
        let tokens = tokens_of(&message);
        self.tokens += tokens;
        self.entries.push(Entry { seq, tokens, message });
    }

    fn drop_run(&mut self, message: &Message) {
        while let Some(last) = self.entries.last() {
            if last.message.run_id.is_none() || last.message.run_id != message.run_id {
                break;
            }
            self.tokens = self.tokens.saturating_sub(last.tokens);
            self.entries.pop();
        }
    }

    fn compact(&mut self, summary: &str, first_kept: Option<&MessageId>, at: Millis) {
        let from = first_kept.map_or(self.entries.len(), |id| self.entries.iter().position(|entry| entry.message.id == *id).unwrap_or(0));
        for entry in self.entries.drain(..from) {
            self.tokens = self.tokens.saturating_sub(entry.tokens);
        }
        let message = summary_message(summary, at);
        self.summary_tokens = tokens_of(&message);
        self.summary = Some(Arc::new(message));
    }

    /// Estimated tokens of the whole context.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.tokens + self.summary_tokens
    }

    /// Messages, without the summary.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing was said since the last reset or compaction.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The journal line of a message.
    #[must_use]
    pub fn seq_of(&self, id: &MessageId) -> Option<u64> {
        self.entries.iter().find(|entry| entry.message.id == *id).map(|entry| entry.seq)
    }

    /// The text of the summary, where there is one.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        self.summary.as_ref().and_then(|message| message.meta.as_ref()?.get("summary")?.as_str().map(str::to_owned))
    }

    /// The messages, without the summary.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = &Arc<Message>> + ExactSizeIterator {
        self.entries.iter().map(|entry| &entry.message)
    }

    /// How far an unfinished run got: its model calls, its messages, and its calls without a result.
    #[must_use]
    pub fn progress(&self, run: &RunId) -> (u32, u32, Vec<OpenCall>) {
        let mine: Vec<&Arc<Message>> = self.messages().filter(|message| message.run_id.as_ref() == Some(run)).collect();
        let steps = mine.iter().filter(|message| message.role == Role::Assistant).count();
        let Some(last) = mine.iter().rposition(|message| message.role == Role::Assistant) else { return (0, mine.len() as u32, Vec::new()) };
        let answered =
            |call: &str| mine[last..].iter().flat_map(|message| &message.parts).any(|part| matches!(part, Part::ToolResult { id, .. } if id == call));
        let calls = mine[last].parts.iter().filter_map(|part| match part {
            Part::ToolCall { id, name, arguments } => Some((id, name, arguments)),
            _ => None,
        });
        let open = calls
            .enumerate()
            .filter(|(_, (id, ..))| !answered(id))
            .map(|(index, (id, name, arguments))| OpenCall {
                call_id: id.clone(),
                name: name.clone(),
                arguments: arguments.clone(),
                index,
                intent: self.intents.get(id).filter(|(of, _)| of == run).map(|(_, intent)| intent.clone()),
            })
            .collect();
        (u32::try_from(steps).unwrap_or(u32::MAX), u32::try_from(mine.len()).unwrap_or(u32::MAX), open)
    }

    /// What is sent to a model: the summary first, then the messages. Costs pointers, not text. The dialect makes it
    /// legal ([`clawstead_providers::repair()`]).
    #[must_use]
    pub fn request(&self) -> Vec<Arc<Message>> {
        let mut out: Vec<Arc<Message>> = Vec::with_capacity(self.entries.len() + 1);
        out.extend(self.summary.clone());
        out.extend(self.messages().cloned());
        out
    }
}

/// The summary as the model reads it.
fn summary_message(summary: &str, at: Millis) -> Message {
    Message {
        id: MessageId::from("summary"),
        role: Role::System,
        parts: vec![Part::text(format!("[Earlier conversation, summarised]\n{summary}"))],
        at,
        run_id: None,
        model: None,
        usage: None,
        stop_reason: None,
        meta: Some(json!({ "kind": "summary", "summary": summary })),
    }
}

fn flag(message: &Message, name: &str) -> bool {
    message.meta.as_ref().and_then(|meta| meta.get(name)).and_then(Value::as_bool).unwrap_or(false)
}

/// Acknowledged heartbeats and runs whose content a server rejected stay out of later requests.
fn leaves_run_out(message: &Message) -> bool {
    message.role == Role::Assistant && (flag(message, "heartbeatAck") || flag(message, "leftOut"))
}

/// The record of an error or a stop without any text: for people, not for the model.
fn is_empty_end(message: &Message) -> bool {
    message.role == Role::Assistant && message.parts.is_empty() && matches!(message.stop_reason, Some(StopReason::Error | StopReason::Aborted) | None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawstead_terms::{Message, MessageId, Millis, Part, Role, RunId, StopReason};
    use serde_json::{Value, json};

    use super::Transcript;

    fn message(role: Role, run: &str, text: &str, meta: Option<Value>) -> Arc<Message> {
        let parts = if text.is_empty() { vec![] } else { vec![Part::text(text)] };
        Arc::new(Message {
            id: MessageId::from(format!("{run}-{text}")),
            role,
            parts,
            at: Millis(0),
            run_id: Some(RunId::from(run)),
            model: None,
            usage: None,
            stop_reason: (role == Role::Assistant).then_some(StopReason::Error),
            meta,
        })
    }

    #[test]
    fn what_would_poison_or_bore_is_left_out() {
        let mut all = Transcript::default();
        all.say(1, message(Role::User, "a", "hello", None));
        all.say(2, message(Role::User, "b", "bad picture", None));
        all.say(3, message(Role::Assistant, "b", "", Some(json!({ "leftOut": true }))));
        all.say(4, message(Role::User, "c", "heartbeat", None));
        all.say(5, message(Role::Assistant, "c", "HEARTBEAT_OK", Some(json!({ "heartbeatAck": true }))));
        all.say(6, message(Role::User, "d", "again", None));
        all.say(7, message(Role::Assistant, "d", "", None));
        let said: Vec<String> = all.request().iter().map(|m| m.plain_text()).collect();
        assert_eq!(said, ["hello", "again"]);
    }
}
