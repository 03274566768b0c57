//! The farm at work: carries out what `cluster` decides, over the engines of `bus` and the rows of `state`.

pub mod engines;
pub mod enrol;
pub mod key_files;
pub mod link;
pub mod mailroom;
