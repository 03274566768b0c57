//! Scheduled work: jobs, instants, runs. `clock.rs` decides, `service.rs` does.

pub mod clock;
pub mod job;
pub mod schedule;
