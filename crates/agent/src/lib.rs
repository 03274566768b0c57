//! One session's life: lane, turn, context, compaction, skills, sub-agents. Knows nothing of clusters.

pub mod commands;
pub mod compact;
pub mod context;
pub mod prefix;
pub mod queue;
pub mod reset;
mod rows;
mod seams;
pub mod silence;
pub mod skills;
pub mod transcript;
pub mod turn;
pub mod workspace;

pub use rows::{LetterRow, OpenRun, OutboxRow, OutboxState, RunRow, SessionRow, SessionStatus};
pub use seams::{
    AgentSettings, Brain, BrainAsk, BrainChunk, BrainStream, CompactionSettings, Identity, LaneLimits, ModelLimits, Offer, RunSink, SessionChange, Settings,
    SubagentSettings, ToolScope, Toolbox,
};

mod accept;
mod begin;
mod deltas;
mod drive;
mod end;
mod export;
mod history;
mod lane;
mod lanes;
mod room;
mod session;
mod sessions;
mod smaller;
mod spawn;
mod watch;

pub use accept::BODY_BYTES_MAX;
pub use begin::ATTEMPTS_MAX;
pub use export::ExportPage;
pub use history::{HISTORY_MAX, History, HistoryItem, HistoryPage};
pub use lanes::{Adopted, Lanes, Parts, Stopped, is_conflict};
pub use sessions::{ArchiveFilter, Committed, Compaction, Deleted, SessionFilter, SessionPage, SessionPatch};
pub use spawn::{Announce, Spawn, Spawned};
pub use watch::Figures;
