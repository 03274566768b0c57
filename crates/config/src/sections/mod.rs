//! The typed parts of a configuration. Every part is made from the normalised value, with all defaults in place.

use crate::{env::Env, paths::Paths, view::View};

pub(crate) mod a2a;
pub(crate) mod agents;
pub(crate) mod bindings;
pub(crate) mod diagnostics;
pub(crate) mod farm;
pub(crate) mod gateway;
pub(crate) mod models;
pub(crate) mod rest;
pub(crate) mod session;

/// What a section is made from.
pub(crate) struct Cx<'a> {
    pub root: View<'a>,
    pub paths: &'a Paths,
    pub env: &'a Env,
}
