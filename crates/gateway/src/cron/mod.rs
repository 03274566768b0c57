//! Scheduled work: jobs, instants, runs. `clock.rs` decides, `service.rs` does.

pub mod clock;
pub mod heartbeat;
pub mod job;
pub mod schedule;
mod service;

pub use service::{Broadcast, Cron, Parts, RunDesk, Settings};
