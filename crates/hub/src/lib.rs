//! The agent hub for everybody else: an MCP server over the farm, shared memory and the shared vault.
