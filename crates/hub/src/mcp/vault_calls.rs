//! The tools of the shared vault. Everybody with the scope reads all of it; notes are written by their own agent only.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Hub,
    calls::{read, shown},
    errors::ToolError,
};
use crate::{
    peers::{Caller, Scope},
    vault::ops::{self, AppendArgs, StatusArg, WriteArgs},
};

/// `vault_write`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteNoteArgs {
    /// One of your agents: it writes.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: String,
    /// A note of this agent: MEMORY.md, or agents/<agent>/MEMORY.md.
    #[schemars(length(min = 1, max = 700))]
    pub path: String,
    /// The whole text, Markdown. It replaces the note.
    pub text: String,
    /// The revision that vault_read told, so that what a person wrote meanwhile is noticed and kept.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub revision: Option<String>,
}

/// `vault_append`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppendNoteArgs {
    /// One of your agents: it writes.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: String,
    /// A shared log (shared/RECENT_EVENTS.md), which gets one line; or a note of this agent (MEMORY.md), which gets a
    /// section.
    #[schemars(length(min = 1, max = 700))]
    pub path: String,
    /// The line; for a note of the agent what is worth knowing.
    #[schemars(length(min = 1, max = 16384))]
    pub entry: String,
    /// For a note of the agent: the task that the section is about; default the first words of the entry.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub task: Option<String>,
    /// For a note of the agent: how the task stands; default in-progress.
    #[serde(default)]
    pub status: Option<StatusArg>,
    /// For a note of the agent: other agents or tasks it needs.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub dependencies: Option<String>,
}

impl Hub {
    /// Makes a call of a tool of the vault. `None`: there is no such tool, or no vault.
    pub(super) async fn vault_call(&self, caller: &Caller, tool: &str, args: Value) -> Option<Result<Value, ToolError>> {
        let vault = self.vault.as_ref()?;
        Some(match tool {
            "vault_read" => self.vault_read(caller, vault, args).await,
            "vault_list" => self.vault_list(caller, vault, args).await,
            "vault_write" => self.vault_write(caller, vault, args).await,
            "vault_append" => self.vault_append(caller, vault, args).await,
            _ => return None,
        })
    }

    async fn vault_read(&self, caller: &Caller, vault: &crate::vault::Vault, args: Value) -> Result<Value, ToolError> {
        let args = read(args)?;
        caller.need(Scope::VaultRead)?;
        shown(ops::read(vault, args).await?)
    }

    async fn vault_list(&self, caller: &Caller, vault: &crate::vault::Vault, args: Value) -> Result<Value, ToolError> {
        let args = read(args)?;
        caller.need(Scope::VaultRead)?;
        shown(ops::list(vault, args).await?)
    }

    async fn vault_write(&self, caller: &Caller, vault: &crate::vault::Vault, args: Value) -> Result<Value, ToolError> {
        let args: WriteNoteArgs = read(args)?;
        caller.need(Scope::VaultWrite)?;
        let agent = self.acting(caller, &args.agent_id).await?;
        shown(ops::write(vault, &agent, WriteArgs { path: args.path, text: args.text, revision: args.revision }).await?)
    }

    async fn vault_append(&self, caller: &Caller, vault: &crate::vault::Vault, args: Value) -> Result<Value, ToolError> {
        let args: AppendNoteArgs = read(args)?;
        caller.need(Scope::VaultWrite)?;
        let agent = self.acting(caller, &args.agent_id).await?;
        let AppendNoteArgs { path, entry, task, status, dependencies, .. } = args;
        shown(ops::append(vault, &agent, AppendArgs { path, entry, task, status, dependencies }).await?)
    }
}
