//! What the mailroom asks of the rest of the gateway.

use async_trait::async_trait;
use clawstead_cluster::{
    envelope::Envelope,
    letter::{Event, HandlerEnd},
};
use clawstead_terms::{Envelope as Letter, Unit};

use super::{Head, Outcome};

/// Where a unit lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The gateway that holds it.
    pub gateway: String,
    /// The epoch under which it does.
    pub epoch: u64,
    /// Whether that gateway was heard of lately.
    pub alive: bool,
}

/// Who lives where, as far as this gateway knows.
pub trait Places: Send + Sync {
    /// Where a unit lives; none when nobody holds it.
    fn of(&self, unit: &Unit) -> Option<Place>;

    /// Whether what it says is of now: false while the coordination store does not answer.
    fn sure(&self) -> bool {
        true
    }
}

/// What a letter asks for, once it was checked.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// Something for the gateway's own door.
    Letter(Box<Letter>),
    /// A question about the target's sessions, answered with the rights of the agent that asks.
    Call {
        /// The method.
        method: String,
        /// Its parameters.
        params: serde_json::Value,
    },
    /// Any other body: from a program outside, or of another kind of gateway.
    Plain,
}

/// What became of the work.
#[derive(Clone, Debug)]
pub struct Handled {
    /// Whether it was done. What a run answers, be it an error, is an answer: the letter is done.
    pub end: HandlerEnd,
    /// What the asker is told.
    pub outcome: Option<Outcome>,
}

/// Does what letters ask for. Called again for the same letter after a crash: it must know repeats by the letter's id.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Does it and answers when it is done, which may take as long as a turn.
    async fn handle(&self, envelope: &Envelope, incoming: Incoming) -> Handled;

    /// True when the work of this letter is stored with the agent already, so that a restart has not lost it.
    async fn knows(&self, envelope: &Envelope, incoming: &Incoming) -> bool;
}

/// Hears of every transition, once it is stored.
pub trait Witness: Send + Sync {
    /// A transition of a letter here.
    fn told(&self, head: &Head, event: &Event);
    /// A letter that was not taken, with the reason's code.
    fn rejected(&self, head: Option<&Head>, code: &'static str, why: &str);
}

/// Nobody listens.
pub struct Silent;

impl Witness for Silent {
    fn told(&self, _: &Head, _: &Event) {}
    fn rejected(&self, _: Option<&Head>, _: &'static str, _: &str) {}
}
