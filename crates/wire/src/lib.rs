//! The public protocol as the outside sees it: frames, the method table, events, and a typed client.
//!
//! A method is one row in `methods/<area>.rs`; see [`method`] for what comes from a row.

pub mod check;
pub mod client;
pub mod connect;
pub mod device;
pub mod error;
pub mod event;
pub mod frame;
pub mod limits;
pub mod method;
pub mod methods;
pub mod scope;

pub use client::{Client, ClientError, ConnectOptions};
pub use error::ErrorShape;
pub use method::{Flags, Method, MethodSpec, Mounted, Scope};
pub use methods::{agents, approvals, channels, chat, config, cron, devices, farm, models, nodes, presence, questions, sessions, surfaces, system, tools};
