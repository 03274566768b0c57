//! The farm at work: carries out what `cluster` decides, over the engines of `bus` and the rows of `state`.

mod alone;
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
pub mod ownership;
pub mod reach;
mod troubles;

pub use house::{Farm, Ground, Located, OpenError, Prepared, Relay, moves, policy_of, prepare, prepare_on, root_pin};
