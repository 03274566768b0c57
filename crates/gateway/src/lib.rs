//! The building: wires the parts, holds the doors, the RPC handlers, the outbox, cron and the dashboard.

pub mod accounts;
pub mod brain;
pub mod cron;
pub mod keeper;
pub mod logs;
pub mod outbox;
pub mod policy;
pub mod post_office;
pub mod reception;
pub mod routing;
pub mod rpc;
pub mod settings;
pub mod shown;
pub mod toolbox;
pub mod vitals;
