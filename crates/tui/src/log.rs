//! The part of a conversation that is held: a window of entries, filled from history pages and live events.

use std::collections::VecDeque;

use serde_json::Value;

use crate::entry::{Entry, EntryId, Kind, Level, Stage, TEXT_CHARS_MAX, TOOL_CHARS_MAX, ToolState, ToolUse, cut};

/// Entries held at most; the rest is read again when it is looked at.
pub const ENTRIES_MAX: usize = 800;
/// Bytes of text held at most.
pub const BYTES_MAX: usize = 8 * 1024 * 1024;

/// A window of a conversation.
#[derive(Clone, Debug, Default)]
pub struct Log {
    entries: VecDeque<Entry>,
    next_id: u64,
    /// How many of the newest messages to skip to get the page before this window; none when there is no such page.
    pub older: Option<u64>,
    /// An older page is on its way.
    pub loading: bool,
    /// Newer messages were let go to make room for older ones: live events are not shown until the end is read again.
    pub detached: bool,
}

/// Which end of the window is let go when there is too much.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drop {
    Oldest,
    Newest,
}

impl Log {
    /// The entries, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self { next_id: self.next_id, ..Self::default() };
    }

    /// Replaces everything by the newest page. Messages of ours that the gateway has not confirmed stay at the end, and
    /// what belongs to the run `keep`.
    pub fn newest_page(&mut self, messages: &[Value], older: Option<u64>, keep: Option<&str>) {
        let stays =
            |entry: &Entry| matches!(entry.kind, Kind::Said { stage: Stage::Sending | Stage::Refused, .. }) || (keep.is_some() && entry.run.as_deref() == keep);
        let waiting: Vec<Entry> = self.entries.drain(..).filter(stays).collect();
        self.clear();
        self.older = older;
        for kind in read(messages) {
            self.place(kind);
        }
        // A kept run that is in the page after all is shown once.
        let in_page: Vec<String> = self.entries.iter().filter_map(|entry| entry.run.clone()).collect();
        for entry in waiting {
            let known = entry.run.as_ref().is_some_and(|run| in_page.contains(run));
            if !known {
                self.entries.push_back(entry);
            }
        }
        self.trim(Drop::Oldest);
    }

    /// Puts an older page in front. Answers how many entries were new.
    pub fn older_page(&mut self, messages: &[Value], older: Option<u64>) -> usize {
        self.loading = false;
        self.older = older;
        let first_held = self.entries.iter().filter_map(|entry| entry.seq).min().unwrap_or(u64::MAX);
        let mut page = Self { next_id: self.next_id, ..Self::default() };
        for kind in read(messages).into_iter().filter(|part| part.seq.is_none_or(|seq| seq < first_held)) {
            page.place(kind);
        }
        // A result whose call is in this page was shown without it; now they come together.
        for entry in &mut page.entries {
            let Kind::Tool(tool) = &mut entry.kind else { continue };
            let orphan = self.entries.iter().position(|held| matches!(&held.kind, Kind::Tool(result) if result.call == tool.call && result.args.is_empty()));
            if let Some(Kind::Tool(result)) = orphan.and_then(|at| self.entries.remove(at)).map(|entry| entry.kind) {
                tool.output = result.output;
                tool.state = result.state;
            }
        }
        let added = page.entries.len();
        self.next_id = page.next_id;
        for entry in page.entries.into_iter().rev() {
            self.entries.push_front(entry);
        }
        self.trim(Drop::Newest);
        added
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, run: Option<&str>, kind: Kind) {
        if self.detached {
            return;
        }
        self.add(None, run.map(str::to_owned), kind);
        self.trim(Drop::Oldest);
    }

    /// Adds a word of this program.
    pub fn note(&mut self, level: Level, text: impl Into<String>) {
        self.push(None, Kind::Note { text: text.into(), level });
    }

    /// True when a message of ours started this run and is held.
    #[must_use]
    pub fn said(&self, run: &str) -> bool {
        self.entries.iter().rev().any(|entry| entry.run.as_deref() == Some(run) && matches!(entry.kind, Kind::Said { .. }))
    }

    /// Marks how far a message of ours got.
    pub fn stage(&mut self, run: &str, now: &Stage) {
        self.change(
            |entry| entry.run.as_deref() == Some(run) && matches!(entry.kind, Kind::Said { .. }),
            |kind| {
                let Kind::Said { stage, .. } = kind else { return false };
                let new = stage != now;
                stage.clone_from(now);
                new
            },
        );
    }

    /// The text of a piece of an answer so far.
    pub fn answer(&mut self, run: &str, wanted: Option<&str>, so_far: &str) {
        let so_far = cut(so_far, TEXT_CHARS_MAX);
        let fits = |entry: &Entry| {
            entry.run.as_deref() == Some(run)
                && matches!(&entry.kind, Kind::Answer { item, open: true, .. } if item.is_none() || wanted.is_none() || item.as_deref() == wanted)
        };
        let found = self.change(fits, |kind| {
            let Kind::Answer { text, item, .. } = kind else { return false };
            if item.is_none() {
                *item = wanted.map(str::to_owned);
            }
            let new = *text != so_far;
            text.clone_from(&so_far);
            new
        });
        if !found {
            self.close(run);
            self.push(Some(run), Kind::Answer { text: so_far, item: wanted.map(str::to_owned), open: true });
        }
    }

    /// The thoughts of a run so far; a new piece begins when something else came between.
    pub fn thinking(&mut self, run: &str, delta: &str) {
        let last = self.entries.back().map(|entry| entry.id);
        let found = self.change(
            |entry| Some(entry.id) == last && entry.run.as_deref() == Some(run) && matches!(entry.kind, Kind::Thinking { open: true, .. }),
            |kind| {
                let Kind::Thinking { text, .. } = kind else { return false };
                if text.len() < TEXT_CHARS_MAX {
                    text.push_str(delta);
                }
                true
            },
        );
        if !found {
            self.push(Some(run), Kind::Thinking { text: delta.to_owned(), open: true });
        }
    }

    /// A tool begins.
    pub fn tool_start(&mut self, run: &str, call: &str, name: &str, args: Option<&Value>) {
        let args = args.map(|args| cut(&args.to_string(), TOOL_CHARS_MAX)).unwrap_or_default();
        let known = self.change(
            |entry| is_call(entry, call),
            |kind| {
                let Kind::Tool(tool) = kind else { return false };
                let better = tool.args.is_empty() && !args.is_empty();
                if better {
                    tool.args.clone_from(&args);
                }
                better
            },
        );
        if known {
            return;
        }
        self.close(run);
        self.push(Some(run), Kind::Tool(ToolUse { call: call.to_owned(), name: name.to_owned(), args, ..ToolUse::default() }));
    }

    /// What a tool said so far, or in the end.
    pub fn tool_output(&mut self, call: &str, output: &str, now: ToolState) {
        let output = cut(output, TOOL_CHARS_MAX);
        self.change(
            |entry| is_call(entry, call),
            |kind| {
                let Kind::Tool(tool) = kind else { return false };
                tool.output.clone_from(&output);
                tool.state = now;
                true
            },
        );
    }

    /// A tool ended; what it said is known already or never comes.
    pub fn tool_ended(&mut self, call: &str, now: ToolState) {
        self.change(
            |entry| is_call(entry, call),
            |kind| {
                let Kind::Tool(tool) = kind else { return false };
                let new = tool.state == ToolState::Running;
                if new {
                    tool.state = now;
                }
                new
            },
        );
    }

    /// True when the last note says this.
    #[must_use]
    pub fn notes_last(&self, words: &str) -> bool {
        let last = self.entries.iter().rev().find_map(|entry| if let Kind::Note { text, .. } = &entry.kind { Some(text) } else { None });
        last.is_some_and(|text| text == words)
    }

    /// Nothing more comes for the open pieces of a run.
    pub fn close(&mut self, run: &str) {
        for entry in self.entries.iter_mut().rev().filter(|entry| entry.run.as_deref() == Some(run)) {
            if let Kind::Answer { open, .. } | Kind::Thinking { open, .. } = &mut entry.kind
                && *open
            {
                *open = false;
                entry.revision += 1;
            }
        }
    }

    /// A run ended; `last` is the text of its answer, when it has one.
    pub fn end(&mut self, run: &str, last: Option<&str>) {
        if let Some(text) = last.filter(|text| !text.is_empty()) {
            let held = self.entries.iter().rev().find(|entry| entry.run.as_deref() == Some(run) && matches!(entry.kind, Kind::Answer { .. }));
            match held.map(|entry| &entry.kind) {
                // Clients may get the whole run's text; what is shown already stays as it is.
                Some(Kind::Answer { text: shown, .. }) if text.ends_with(shown.trim_end()) => {}
                Some(Kind::Answer { open: true, .. }) => self.answer(run, None, text),
                Some(_) => {}
                None => self.push(Some(run), Kind::Answer { text: cut(text, TEXT_CHARS_MAX), item: None, open: false }),
            }
        }
        self.close(run);
        for entry in self.entries.iter_mut().filter(|entry| entry.run.as_deref() == Some(run)) {
            if let Kind::Tool(tool) = &mut entry.kind
                && tool.state == ToolState::Running
            {
                tool.state = ToolState::Failed;
                entry.revision += 1;
            }
        }
    }

    /// A message got its place in the transcript. Shows it when it is not shown yet.
    pub fn stored(&mut self, seq: u64, message: &Value) {
        let run = run_of(message);
        let ours = run.as_deref().is_some_and(|run| match message["role"].as_str() {
            Some("user") => self.said(run),
            _ => self.entries.iter().any(|entry| entry.run.as_deref() == Some(run) && !matches!(entry.kind, Kind::Said { .. })),
        });
        if !ours {
            if !self.detached && !self.entries.iter().any(|entry| entry.seq == Some(seq)) {
                for mut part in read(std::slice::from_ref(message)) {
                    part.seq = Some(seq);
                    self.place(part);
                }
                self.trim(Drop::Oldest);
            }
            return;
        }
        let user = message["role"] == "user";
        if user && let Some(run) = run.as_deref() {
            self.stage(run, &Stage::Stored);
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.seq.is_none() && entry.run == run && matches!(entry.kind, Kind::Said { .. }) == user) {
            entry.seq = Some(seq);
        }
    }

    /// Tools that wait for a result nobody will bring any more.
    pub fn settle_tools(&mut self) {
        for entry in &mut self.entries {
            if let Kind::Tool(tool) = &mut entry.kind
                && tool.state == ToolState::Running
            {
                tool.state = ToolState::Failed;
                entry.revision += 1;
            }
        }
    }

    fn add(&mut self, seq: Option<u64>, run: Option<String>, kind: Kind) {
        let id = EntryId(self.next_id);
        self.next_id += 1;
        self.entries.push_back(Entry { id, seq, run, revision: 0, kind });
    }

    fn place(&mut self, part: Read) {
        if let Kind::Tool(tool) = &part.kind
            && tool.args.is_empty()
            && self.entries.iter().any(|entry| is_call(entry, &tool.call))
        {
            let (call, output, state) = (tool.call.clone(), tool.output.clone(), tool.state);
            self.tool_output(&call, &output, state);
            return;
        }
        self.add(part.seq, part.run, part.kind);
    }

    /// Changes the newest entry that fits; answers whether there is one.
    fn change(&mut self, fits: impl Fn(&Entry) -> bool, change: impl FnOnce(&mut Kind) -> bool) -> bool {
        let Some(entry) = self.entries.iter_mut().rev().find(|entry| fits(entry)) else { return false };
        if change(&mut entry.kind) {
            entry.revision += 1;
        }
        true
    }

    fn trim(&mut self, side: Drop) {
        let mut bytes: usize = self.entries.iter().map(|entry| entry.kind.size()).sum();
        let mut dropped = false;
        while self.entries.len() > 1 && (self.entries.len() > ENTRIES_MAX || bytes > BYTES_MAX) {
            let gone = if side == Drop::Oldest { self.entries.pop_front() } else { self.entries.pop_back() };
            bytes -= gone.map_or(0, |entry| entry.kind.size());
            dropped = true;
        }
        if !dropped {
            return;
        }
        match side {
            Drop::Newest => self.detached = true,
            Drop::Oldest => {
                // At most as many messages as there are places: asking a little too early only brings some twice.
                let mut places: Vec<u64> = self.entries.iter().filter_map(|entry| entry.seq).collect();
                places.dedup();
                self.older = Some(places.len() as u64);
            }
        }
    }
}

fn is_call(entry: &Entry, call: &str) -> bool {
    matches!(&entry.kind, Kind::Tool(tool) if tool.call == call)
}

struct Read {
    seq: Option<u64>,
    run: Option<String>,
    kind: Kind,
}

fn run_of(message: &Value) -> Option<String> {
    let marked = message["__openclaw"]["runId"].as_str();
    let keyed = message["idempotencyKey"].as_str().and_then(|key| key.strip_suffix(":user"));
    marked.or(keyed).map(str::to_owned)
}

/// Messages as `chat.history` and `session.message` bring them.
fn read(messages: &[Value]) -> Vec<Read> {
    let mut out = Vec::new();
    for message in messages {
        let marks = &message["__openclaw"];
        let (seq, run) = (marks["seq"].as_u64(), run_of(message));
        let mut add = |kind| out.push(Read { seq, run: run.clone(), kind });
        match message["role"].as_str() {
            Some("user") => {
                let from = marks["senderName"].as_str().map(str::to_owned);
                add(Kind::Said { text: cut(&plain(&message["content"]), TEXT_CHARS_MAX), from, stage: Stage::Stored });
            }
            Some("assistant") => {
                match &message["content"] {
                    Value::Array(parts) => parts.iter().filter_map(part).for_each(&mut add),
                    Value::String(text) if !text.is_empty() => add(Kind::Answer { text: cut(text, TEXT_CHARS_MAX), item: None, open: false }),
                    _ => {}
                }
                if let Some(error) = message["errorMessage"].as_str() {
                    add(Kind::Note { text: error.to_owned(), level: Level::Error });
                }
            }
            Some("toolResult") => add(Kind::Tool(ToolUse {
                call: message["toolCallId"].as_str().unwrap_or_default().to_owned(),
                name: message["toolName"].as_str().unwrap_or("tool").to_owned(),
                args: String::new(),
                output: cut(&plain(&message["content"]), TOOL_CHARS_MAX),
                state: if message["isError"] == true { ToolState::Failed } else { ToolState::Done },
            })),
            Some("system") => add(Kind::Note { text: cut(&plain(&message["content"]), TEXT_CHARS_MAX), level: Level::Plain }),
            _ => {}
        }
    }
    out
}

fn part(part: &Value) -> Option<Kind> {
    match part["type"].as_str()? {
        "text" => part["text"].as_str().filter(|text| !text.is_empty()).map(|text| Kind::Answer { text: cut(text, TEXT_CHARS_MAX), item: None, open: false }),
        "thinking" => part["thinking"].as_str().filter(|text| !text.is_empty()).map(|text| Kind::Thinking { text: cut(text, TEXT_CHARS_MAX), open: false }),
        "toolCall" => Some(Kind::Tool(ToolUse {
            call: part["id"].as_str()?.to_owned(),
            name: part["name"].as_str()?.to_owned(),
            args: cut(&part["arguments"].to_string(), TOOL_CHARS_MAX),
            ..ToolUse::default()
        })),
        _ => None,
    }
}

/// The text of message content; what is not text is named in brackets.
#[must_use]
pub fn plain(content: &Value) -> String {
    let Value::Array(parts) = content else { return content.as_str().unwrap_or_default().to_owned() };
    let words: Vec<String> = parts
        .iter()
        .map(|part| match part["type"].as_str() {
            Some("text") => part["text"].as_str().unwrap_or_default().to_owned(),
            Some("file") => format!("[file {}]", part["fileName"].as_str().unwrap_or("")),
            Some(other) => format!("[{other}]"),
            None => String::new(),
        })
        .filter(|text| !text.is_empty())
        .collect();
    words.join("\n")
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
