//! Everything the interface knows.

use std::collections::{BTreeMap, VecDeque};

use clawstead_terms::{AgentId, SessionKey};
use serde_json::Value;

use crate::{
    input::Input,
    log::Log,
    options::{NewId, TuiOptions},
    picker::Picker,
    scroll::{Measures, Scroll},
};

/// Messages that may wait for the gateway's word at once.
pub const UNCONFIRMED_MAX: usize = 32;
/// Approval requests shown at most; the others come when these are decided.
pub const APPROVALS_MAX: usize = 64;
/// Runs of a session followed at once.
pub const RUNS_MAX: usize = 64;

/// Everything the interface knows.
pub struct State {
    /// What the caller decided.
    pub(crate) wishes: Wishes,
    /// The connection.
    pub(crate) link: LinkState,
    /// True after the first handshake.
    pub(crate) greeted: bool,
    /// The gateway's default agent.
    pub(crate) default_agent: AgentId,
    /// The session that is shown; none before the first handshake.
    pub(crate) key: Option<SessionKey>,
    /// Facts of that session.
    pub(crate) facts: Facts,
    /// Its conversation.
    pub(crate) log: Log,
    /// Its runs that are going, by id.
    pub(crate) runs: BTreeMap<String, Run>,
    /// Messages the gateway has not confirmed.
    pub(crate) unconfirmed: VecDeque<Outgoing>,
    /// Commands that wait for a decision, of all sessions.
    pub(crate) approvals: VecDeque<Approval>,
    /// What is being written.
    pub(crate) input: Input,
    /// What lies over the conversation.
    pub(crate) overlay: Option<Overlay>,
    /// Where the reader is.
    pub(crate) scroll: Scroll,
    /// What the last painting measured.
    pub(crate) measures: Measures,
    /// Arguments and output of tools are shown.
    pub(crate) show_tools: bool,
    /// Thoughts are shown.
    pub(crate) show_thinking: bool,
    /// A word in the status line, and until when.
    pub(crate) flash: Option<(String, u64)>,
    /// Until when a second Ctrl-C leaves.
    pub(crate) quit_until: Option<u64>,
    /// Slash commands of the gateway: name and what it does.
    pub(crate) commands: Vec<(String, String)>,
    /// The run of the last slash command: its words are of no transcript, and stay while they are the newest.
    pub(crate) command_run: Option<String>,
    /// Counts the session lists asked for.
    pub(crate) list_serial: u64,
    /// Milliseconds since the start.
    pub(crate) now: u64,
}

/// What the caller decided.
pub struct Wishes {
    pub(crate) session: Option<String>,
    pub(crate) agent: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) thinking: Option<String>,
    pub(crate) deliver: bool,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) history_limit: u64,
    pub(crate) new_id: NewId,
}

/// The connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Trying.
    Connecting {
        /// From 1.
        attempt: u32,
    },
    /// It stands.
    Up,
    /// Waiting for the next attempt.
    Down {
        /// Why, in one sentence.
        why: String,
        /// When the next attempt begins.
        retry_at: u64,
    },
}

/// Facts of a session for the first line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its label or title.
    pub title: Option<String>,
    /// `provider/model`.
    pub model: Option<String>,
    /// Tokens in its context.
    pub tokens: Option<u64>,
    /// Tokens the model takes.
    pub window: Option<u64>,
    /// The transcript, see [`transcript`].
    pub transcript: Option<String>,
}

impl Facts {
    /// Takes what a session row or the defaults say; what they leave out stays.
    pub fn learn(&mut self, row: &Value) {
        if let Some(model) = row["model"].as_str().filter(|model| !model.is_empty()) {
            let provider = row["modelProvider"].as_str().filter(|provider| !provider.is_empty());
            self.model = Some(provider.map_or_else(|| model.to_owned(), |provider| format!("{provider}/{model}")));
        }
        let title = ["label", "displayName", "derivedTitle"].iter().find_map(|name| row[name].as_str());
        if let Some(title) = title {
            self.title = Some(title.to_owned());
        }
        if let Some(transcript) = transcript(row) {
            self.transcript = Some(transcript);
        }
        self.tokens = row["totalTokens"].as_u64().or(self.tokens);
        self.window = row["contextTokens"].as_u64().or(self.window);
    }
}

/// Names the transcript a session row stands for: its id, and how often it began afresh.
#[must_use]
pub fn transcript(row: &Value) -> Option<String> {
    let revision = &row["lifecycleRevision"];
    row["sessionId"].as_str().filter(|_| !revision.is_null()).map(|id| format!("{id} {revision}"))
}

/// A run that is going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// When we heard of it.
    pub since: u64,
    /// What it does, in one word.
    pub phase: String,
}

/// A message that the gateway has not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its run id. Sent again with the same id it cannot run twice.
    pub run: String,
    /// Where it goes.
    pub key: String,
    /// The text.
    pub text: String,
    /// How often it was sent on this connection.
    pub tries: u32,
}

/// A command that waits for a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Its id.
    pub id: String,
    /// The command.
    pub command: String,
    /// Whose.
    pub agent: String,
}

/// What lies over the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// The keys and commands; the first line shown.
    Help(u16),
    /// A list to choose from.
    Picker(Picker),
}

impl State {
    /// The state before anything happened.
    #[must_use]
    pub fn new(options: &TuiOptions) -> Self {
        Self {
            wishes: Wishes {
                session: options.session.clone(),
                agent: options.agent.clone(),
                message: options.message.clone(),
                thinking: options.thinking.clone(),
                deliver: options.deliver,
                timeout_ms: options.timeout_ms,
                history_limit: options.history_limit.clamp(1, 1000),
                new_id: options.new_id.clone(),
            },
            link: LinkState::Connecting { attempt: 1 },
            greeted: false,
            default_agent: AgentId::normalise(AgentId::MAIN),
            key: None,
            facts: Facts::default(),
            log: Log::default(),
            runs: BTreeMap::new(),
            unconfirmed: VecDeque::new(),
            approvals: VecDeque::new(),
            input: Input::default(),
            overlay: None,
            scroll: Scroll::Follow,
            measures: Measures::default(),
            show_tools: false,
            show_thinking: false,
            flash: None,
            quit_until: None,
            commands: Vec::new(),
            command_run: None,
            list_serial: 0,
            now: 0,
        }
    }

    /// Takes what a painting measured; scrolling needs it.
    pub fn measured(&mut self, measures: Measures) {
        self.measures = measures;
    }

    /// The session's key as text; empty before the first handshake.
    pub(crate) fn key_text(&self) -> &str {
        self.key.as_ref().map_or("", SessionKey::as_str)
    }

    /// True while the picture changes by itself.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        !self.runs.is_empty() || self.link != LinkState::Up || self.flash.is_some()
    }

    pub(crate) fn flash(&mut self, text: impl Into<String>) {
        self.flash = Some((text.into(), self.now + 4_000));
    }
}
