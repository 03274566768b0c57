//! What an update wants done.

use serde_json::Value;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Call a method; the answer comes back as [`crate::Event::Answer`] with the same tag.
    Call {
        /// What the answer is for.
        tag: Tag,
        /// The method.
        method: &'static str,
        /// Its parameters.
        params: Value,
    },
    /// Connect now instead of after the pause.
    Reconnect,
    /// Leave.
    Quit,
}

/// What a call was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The first page of a session.
    Startup(String),
    /// An older page of a session.
    Older(String),
    /// A message; the run id.
    Send(String),
    /// Stop what runs.
    Abort,
    /// Sessions for the picker; answers of an older number are dropped.
    Sessions(u64),
    /// Agents for the picker and the status line.
    Agents,
    /// Models for the picker.
    Models,
    /// Slash commands of the gateway.
    Commands,
    /// A new session, to be shown.
    Created,
    /// A change of a session, after which the list is read again; what was done.
    Changed(&'static str),
    /// A choice of model.
    Model,
    /// Start afresh.
    Reset(String),
    /// Events of a session.
    Subscribe,
    /// A decision about a command.
    Decision,
    /// Commands that wait for a decision.
    Approvals,
}
