//! The words everything is written in: ids, session keys, envelopes, message parts, journal events,
//! run events, failures. No async, no I/O.

mod envelope;
mod failure;
mod ids;
mod journal;
mod message;
mod run;
mod session_key;
mod time;
mod unit;

pub use envelope::{Address, DeliveryTarget, Envelope, EnvelopeKind, Origin, QueueMode, TurnOptions};
pub use failure::{Failure, FailureCode, Outcome, Retry};
pub use ids::{AccountId, AgentId, ChannelId, EnvelopeId, IdError, MessageId, RunId, SessionId};
pub use journal::{EffectClass, JournalEvent, RunEnd};
pub use message::{Message, Part, Role, StopReason, ToolDefinition, Usage};
pub use run::{RunEvent, RunEventKind, RunPhase, RunStatus, ToolOutputPart};
pub use session_key::{ChatType, DmScope, Peer, PeerKind, SessionKey};
pub use time::Millis;
pub use unit::{Fence, Unit};
