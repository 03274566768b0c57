//! Whole gateways over real engines: what people reach through any gateway, where gateways are found, credentials and TLS,
//! and engines that die, stand still and forget while agents talk.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod credentials;
mod kit;
mod places;
mod relays;
mod rows;
