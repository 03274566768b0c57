//! The agent hub for everybody else: programs that are no gateways join the farm here.
//!
//! - [`mcp`]: an MCP server (stdio and streamable HTTP) whose tools are the farm's letters, registry, memory and dead
//!   letters. It works over [`host::HubHost`] (the farm behind it) and [`memory::SharedMemory`].
//! - [`memory`]: shared memory, recent events and the task queue by the published key schemas, in Consul (over
//!   `bus::Coord`), in Redis, and in memory.
//! - [`vault`]: the shared Markdown vault that people read in their editors.
//! - [`simple`]: the simple letters that people put into the store by hand (`consul kv put`).
//!
//! Nothing here decides who owns an agent or keeps a letter: the host does.

pub mod host;
pub mod mcp;
pub mod memory;
pub mod peers;
pub mod vault;

pub use host::HubHost;
pub use mcp::Hub;
pub use memory::SharedMemory;
pub use peers::{Caller, Peer, PeerBook, Scope};
