//! What a model can do: one trait, one folder per tool.

pub mod approvals;
mod args;
mod bound;
mod edit;
mod exec;
mod paths;
mod places;
pub mod policy;
mod process;
mod read;
mod registry;
#[cfg(test)]
mod test_kit;
mod tool;
mod write;

pub use bound::OUTPUT_BYTES_MAX;
pub use exec::{SessionView, Sessions};
pub use places::Places;
pub use policy::{HTTP_INVOKE_DENY, PolicyInput, Sandboxed, ToolPolicy};
pub use registry::Toolbox;
pub use tool::{AnyTool, Rpc, Tool, ToolCaller, ToolCx, ToolError, ToolOutput, ToolSpec};
