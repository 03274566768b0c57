//! Talking to people: small capability traits, one folder per platform.

mod channel;

pub use channel::{Channel, ChannelSpec, Inbound, Ingress, Intake, Outbound, Outlet, Sent};
