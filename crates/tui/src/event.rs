//! What can happen.

use clawstead_wire::{connect::HelloOk, frame};
use crossterm::event::KeyEvent;
use serde_json::Value;

use crate::command::Tag;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// Text was pasted.
    Paste(String),
    /// The wheel moved by so many lines; up is negative.
    Wheel(isize),
    /// The terminal has another size.
    Resize,
    /// Time passed.
    Tick,
    /// The connection changed.
    Link(Link),
    /// The gateway told something.
    Gateway(Box<frame::Event>),
    /// So many events were lost because this program was slow.
    Missed(u64),
    /// A call ended.
    Answer {
        /// What it was for.
        tag: Tag,
        /// The result, or one sentence why not.
        result: Result<Value, CallFault>,
    },
}

/// Why a call did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFault {
    /// The gateway said no, in its own words.
    Refused(String),
    /// No answer came: it may or may not have been done.
    Lost(String),
}

impl CallFault {
    /// One sentence for people.
    #[must_use]
    pub fn words(&self) -> &str {
        match self {
            Self::Refused(words) | Self::Lost(words) => words,
        }
    }
}

/// News of the connection.
#[derive(Clone, Debug)]
pub enum Link {
    /// Trying; the first attempt is 1.
    Connecting(u32),
    /// The handshake is done.
    Up(Box<HelloOk>),
    /// It ended or did not come about.
    Down {
        /// Why, in one sentence.
        why: String,
        /// The pause before the next attempt, milliseconds.
        retry_ms: u64,
    },
}
