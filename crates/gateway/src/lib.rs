//! The building: wires the parts, holds the doors, the RPC handlers, the outbox, cron and the dashboard.

pub mod cron;
