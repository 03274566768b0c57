use std::sync::Arc;

use async_trait::async_trait;
use clawstead_terms::Failure;
use futures_util::stream::BoxStream;

use super::relay::{RelayCall, Relayed};
use crate::{
    proto::{A2aError, AgentProvider, AgentSkill, Artifact, ErrorKind, Message, Object, Part},
    sign::{CardKey, CardPublicKey},
};

/// An agent as its card shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentProfile {
    /// Its id; part of addresses, and its `tenant`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Its version.
    pub version: String,
    /// Who runs it.
    pub provider: Option<AgentProvider>,
    /// What it can do; without any the card names one skill, talking.
    pub skills: Vec<AgentSkill>,
    /// Media types it takes, `type/*` and `*/*` allowed; default `text/plain`, `application/json`.
    pub input_modes: Vec<String>,
    /// Media types it makes; default `text/plain`.
    pub output_modes: Vec<String>,
    /// The gateway that has it, when that is another one: its calls are carried there ([`Host::relay`]).
    pub elsewhere: Option<String>,
}

/// Who called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// A caller with a token, by the name the operator gave it.
    Named(String),
    /// Somebody, where the operator allows it.
    Anonymous,
}

impl Peer {
    /// A word for logs and keys; no named peer can have the word of the anonymous.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Anonymous => "~anonymous",
        }
    }

    pub(crate) fn of_key(key: &str) -> Self {
        if key == Self::Anonymous.key() { Self::Anonymous } else { Self::Named(key.to_owned()) }
    }
}

/// Which task of whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskRef {
    /// The agent.
    pub agent: String,
    /// The caller it belongs to.
    pub peer: Peer,
    /// The task.
    pub task_id: String,
    /// The conversation; belongs to the peer: two peers with the same word have two conversations.
    pub context_id: String,
}

/// A message for an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// Which task it starts or continues.
    pub task: TaskRef,
    /// What it says.
    pub message: Message,
    /// The same for the same message of the same peer, however often it is sent; for an anonymous caller, of the same
    /// task. A host that stores letters uses it as their id.
    pub key: String,
    /// Free data of the request.
    pub metadata: Option<Object>,
    /// Extensions of the protocol the caller asked for.
    pub extensions: Vec<String>,
    /// Media types the caller takes; empty means any.
    pub accepted_output_modes: Vec<String>,
}

/// What a turn tells of itself. After [`TurnEvent::is_last`] nothing more is read.
#[derive(Clone, Debug, PartialEq)]
pub enum TurnEvent {
    /// It is at work; words for the reader, if any.
    Working(Vec<Part>),
    /// The next piece of the answer's text.
    Text(String),
    /// An artifact, or a piece of one.
    Artifact {
        /// The artifact or piece.
        artifact: Artifact,
        /// Whether it continues one of the same id.
        piece: Piece,
    },
    /// It needs another message.
    InputRequired(Vec<Part>),
    /// It needs a credential.
    AuthRequired(Vec<Part>),
    /// It is done.
    Done {
        /// The whole answer; empty when the pieces were all of it.
        answer: Vec<Part>,
        /// Words beside the answer; usually none.
        words: Vec<Part>,
    },
    /// It failed, with words for the caller.
    Failed(String),
    /// The agent will not do it.
    Rejected(String),
    /// It was stopped.
    Canceled(String),
}

/// How an artifact event relates to those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// All of it at once; replaces one of the same id.
    Whole,
    /// The beginning; replaces one of the same id.
    First,
    /// A continuation.
    Next,
    /// The last continuation.
    Last,
}

impl TurnEvent {
    /// True for what ends a turn.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        !matches!(self, Self::Working(_) | Self::Text(_) | Self::Artifact { .. })
    }
}

/// The events of a turn, in order. Dropping it must not stop the turn: [`Host::cancel`] does.
pub type TurnStream = BoxStream<'static, TurnEvent>;

/// How an agent takes a message.
pub enum Started {
    /// It answers at once and makes no task. Not for a message that continues a task.
    Reply(Vec<Part>),
    /// It works.
    Turn(TurnStream),
}

/// What a host knows of a task that was not finished when the process before ended.
pub enum Resumed {
    /// It goes on, or its end is known. Pieces of text start from the beginning.
    Turn(TurnStream),
    /// It cannot go on; words for the caller.
    Lost(String),
}

/// Whether a turn could be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It runs no more and will do nothing more.
    Yes,
    /// It is past stopping; it will end by itself.
    TooLate,
}

/// What the protocol needs of the house behind it.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// All agents that can be reached, the default one first.
    fn agents(&self) -> Vec<Arc<AgentProfile>>;

    /// One of them; None when there is none.
    fn agent(&self, id: &str) -> Option<Arc<AgentProfile>> {
        self.agents().into_iter().find(|agent| agent.id == id)
    }

    /// Carries an operation to the gateway that has the agent ([`AgentProfile::elsewhere`]); it answers with
    /// [`crate::server::A2a::answer`].
    ///
    /// # Errors
    /// What the owner said; [`ErrorKind::Unavailable`] when it cannot be reached or the way was lost meanwhile: the same
    /// message may be sent again.
    async fn relay(&self, gateway: &str, call: RelayCall) -> Result<Relayed, A2aError> {
        Err(A2aError::new(ErrorKind::Unavailable, format!("There is no way from here to {gateway}, where {} lives", call.agent)))
    }

    /// What signs the cards besides [`crate::server::Settings::card_keys`], as it is now: a key that changes while the
    /// server runs.
    fn card_keys(&self) -> Vec<Arc<CardKey>> {
        Vec::new()
    }

    /// Public halves that are shown beside those of our own keys: of the other gateways of a farm, so that a card is
    /// checked with the keys of any of them.
    fn known_card_keys(&self) -> Vec<CardPublicKey> {
        Vec::new()
    }

    /// What this caller may know of an agent beyond its public card; None when there is no such card.
    fn extended(&self, _agent: &str, _peer: &Peer) -> Option<Arc<AgentProfile>> {
        None
    }

    /// Gives a message to its agent. `Ok` means it is stored. The same key again must not start a second turn.
    ///
    /// # Errors
    /// Told to the caller as they are; the task is taken back, and the same message may be sent again.
    async fn start(&self, turn: Turn) -> Result<Started, Failure>;

    /// Stops what runs for a task. `Ok(Stopped::Yes)` means that nothing of it runs any more.
    ///
    /// # Errors
    /// Told to the caller; the task stays as it is.
    async fn cancel(&self, task: &TaskRef) -> Result<Stopped, Failure>;

    /// Asked once for each task that was at work when the process before ended. `turn` is the last message of it.
    ///
    /// # Errors
    /// The task stays at work and is asked about again with the next [`crate::server::A2a::recover`].
    async fn resume(&self, turn: Turn) -> Result<Resumed, Failure>;
}
