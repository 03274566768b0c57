//! A house with agents that do what the message says, for looking at the protocol: the same words give the same events.

pub mod host;
pub mod store;
