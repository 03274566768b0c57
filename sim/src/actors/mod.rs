//! Who acts around a simulated gateway.

pub mod brain;
pub mod clients;
pub mod clock;
pub mod platform;
pub mod store;
pub mod tools;
