//! What a model can do: one trait, one folder per tool.

mod agents_list;
pub mod approvals;
mod args;
mod bound;
mod cron;
mod edit;
mod exec;
mod external;
mod ls;
mod memory_get;
mod memory_search;
mod message;
mod paths;
mod places;
pub mod policy;
mod process;
mod read;
mod registry;
mod schema;
mod session_status;
mod sessions_history;
mod sessions_list;
mod sessions_send;
mod sessions_spawn;
#[cfg(test)]
mod test_kit;
mod tool;
mod web_fetch;
mod write;

pub use bound::OUTPUT_BYTES_MAX;
pub use exec::{SessionView, Sessions};
pub use external::wrap as wrap_external;
pub use places::Places;
pub use policy::{HTTP_INVOKE_DENY, PolicyInput, Sandboxed, ToolPolicy};
pub use registry::Toolbox;
pub use tool::{AnyTool, Rpc, Tool, ToolCaller, ToolCx, ToolError, ToolOutput, ToolSpec};
