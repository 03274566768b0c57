//! The building: wires the parts, holds the doors, the RPC handlers, the outbox, cron and the dashboard.

#![recursion_limit = "256"]

pub mod a2a;
pub mod accounts;
pub mod approvals;
pub mod brain;
pub mod building;
pub mod cron;
pub mod desk;
pub mod devices;
pub mod docs;
pub mod doors;
pub mod fanout;
pub mod farm;
pub mod hub;
pub mod import;
pub mod keeper;
pub mod letters;
pub mod live;
pub mod logs;
pub mod observe;
pub mod outbox;
pub mod policy;
pub mod post_office;
pub mod presence;
pub mod reception;
pub mod routing;
pub mod rpc;
pub mod run;
pub mod settings;
pub mod shown;
pub mod skill_jobs;
pub mod stores;
pub mod suspend;
pub mod taps;
pub mod tool_calls;
pub mod toolbox;
pub mod vitals;

/// The OpenClaw version whose protocol and files we follow, as clients and configs see it.
pub const VERSION: &str = "2026.9.6";
