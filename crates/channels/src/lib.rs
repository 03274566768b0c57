//! Talking to people: small capability traits, one folder per platform.

mod channel;
pub mod loopback;
mod registry;

pub use channel::{Channel, ChannelSpec, Inbound, Ingress, Intake, Outbound, Outlet, Sent};
pub use registry::{CHANNELS, KNOWN, accounts, find};
