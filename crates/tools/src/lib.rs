//! What a model can do: one trait, one folder per tool.

mod tool;

pub use tool::{AnyTool, Rpc, Tool, ToolCaller, ToolCx, ToolError, ToolOutput, ToolSpec};
