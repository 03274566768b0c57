//! Which gateways and agents there are, built from what the coordination store shows, and who of them is healthy since
//! when. Health is observed: a gateway lives while its records change, by our own clock; what its clock wrote is shown and
//! never compared. While the store does not answer, nobody is called silent.
//!
//! The published keys keep their published forms: plain texts, JSON lists for `agents` and `capabilities`, `true` and
//! `false`, times to the second. What is in no published key (version, incarnation, nonce) is in
//! `openclaw/farm/v1/members/<gateway>`. Values that cannot be read are listed as problems and change nothing.

mod schema;
#[cfg(test)]
mod tests;
mod view;

pub use schema::{AGENTS, AgentEntry, CLUSTER, ClusterEntry, GATEWAYS, GatewayEntry, KEYS, MEMBERS, MemberRecord, Pair, published_stamp};
pub use view::{AgentView, Directory, GatewayView, Health, PROBLEMS_MAX, SILENT_AFTER_MS};
