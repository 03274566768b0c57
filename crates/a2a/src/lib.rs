//! The A2A protocol, version 1.0, outward and inward.
//!
//! - [`proto`]: its words, with version 0.3 beside them
//! - [`server`]: agents of this house for others, over JSON-RPC and over resources and verbs
//! - [`client`]: agents of others for this house
//! - [`sign`]: signatures of agent cards
//!
//! # Why our own code
//! There are crates of the protocol's organisation (`a2a-lf`, `a2a-server-lf`, `a2a-client-lf`). They are not used: what
//! is hard here is what a general crate leaves to its user. Tasks are stored before they are told, a message is taken
//! once, a caller sees only its own, push targets go through the guarded client of `world`, time and ids come from
//! `world`, and a task that was at work when the process ended is asked about. Doing that around foreign handlers is as
//! much code as the handlers. The crates are also young and change their interface often, bring `aws-lc` beside the ring
//! of everything else, and a protocol compiler into the build. What is left, types and framing over axum and serde, is
//! plain; the compatibility kit and the SDK for Python say whether it is right.

pub mod client;
pub mod proto;
pub mod server;
pub mod sign;
