//! The farm at work: carries out what `cluster` decides, over the engines of `bus` and the rows of `state`.

pub mod catalogue;
pub mod engines;
pub mod enrol;
pub mod events;
mod figures;
mod house;
pub mod key_files;
pub mod link;
pub mod mailroom;
pub mod membership;
mod metered;

pub use house::{Farm, Ground, OpenError, Prepared, Relay, policy_of, prepare, prepare_on, root_pin};
