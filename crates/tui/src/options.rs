//! What a caller decides before the interface starts.

use std::{fmt, sync::Arc};

use clawstead_wire::{
    ClientError, ConnectOptions,
    connect::{ClientId, ClientMode},
};
use thiserror::Error;

/// Messages asked for at once when the caller names no number.
pub const HISTORY_LIMIT: u64 = 200;

/// Makes a new unique id for every message that is sent.
pub type NewId = Arc<dyn Fn() -> String + Send + Sync>;

/// Whether colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// As the terminal can.
    Full,
    /// Only bold, dim, underlined and reversed text.
    None,
}

impl Colour {
    /// [`Colour::None`] when `NO_COLOR` is set and not empty.
    #[must_use]
    pub fn from_environment() -> Self {
        if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) { Self::None } else { Self::Full }
    }
}

/// Everything [`crate::run`] needs.
#[derive(Clone)]
pub struct TuiOptions {
    /// Address, credentials and device. [`TuiOptions::new`] fills in client id, scopes and capabilities.
    pub connect: ConnectOptions,
    /// A session key or its short form (`main`). Default: the main session.
    pub session: Option<String>,
    /// The agent, when `session` does not name one. Default: the gateway's default agent.
    pub agent: Option<String>,
    /// Sent as soon as the connection stands.
    pub message: Option<String>,
    /// Thinking level of messages that are sent, such as `low`. Default: the session's own.
    pub thinking: Option<String>,
    /// Answers also go to the channel on which the session last talked. Default: off.
    pub deliver: bool,
    /// Longest time of a run, milliseconds. Default: the gateway's own.
    pub timeout_ms: Option<u64>,
    /// Messages loaded at once, 1 to 1000. Default: [`HISTORY_LIMIT`].
    pub history_limit: u64,
    /// Colours or none.
    pub colour: Colour,
    /// Run ids. They must never repeat: the gateway takes a repeated id for a repeated message.
    pub new_id: NewId,
}

impl TuiOptions {
    /// Defaults for a gateway at `url`; `version` is the program's.
    pub fn new(url: impl Into<String>, version: impl Into<String>, new_id: NewId) -> Self {
        let connect = ConnectOptions::new(url, ClientId::Tui, ClientMode::Ui, version)
            .scopes(["operator.admin", "operator.read", "operator.write", "operator.approvals"])
            .caps(["tool-events"]);
        Self {
            connect,
            session: None,
            agent: None,
            message: None,
            thinking: None,
            deliver: false,
            timeout_ms: None,
            history_limit: HISTORY_LIMIT,
            colour: Colour::from_environment(),
            new_id,
        }
    }
}

impl fmt::Debug for TuiOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TuiOptions").field("connect", &self.connect).field("session", &self.session).field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// Why the interface ended by itself.
#[derive(Debug, Error)]
pub enum TuiError {
    /// Standard input or output is not a terminal.
    #[error("the terminal interface needs a terminal; for scripts use `openclaw agent --message`")]
    NoTerminal,
    /// The terminal does not do what it is asked.
    #[error("the terminal: {0}")]
    Terminal(#[from] std::io::Error),
    /// The first connection was refused for good.
    #[error("{0}")]
    Connect(#[from] ClientError),
}
