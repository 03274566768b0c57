//! Agents, their files and tasks.

use serde_json::Value;

use super::system::Nothing;
use crate::method::{methods, params};

params! {
    /// For `agents.create`.
    CreateParams { name: text, workspace?: text, model?: text, emoji?: String, avatar?: String }
    /// For `agents.update`.
    UpdateParams { agent_id: text, name?: text, workspace?: text, model?: change(String), agent_runtime?: text, emoji?: String, avatar?: String }
    /// For `agents.delete`.
    DeleteParams { agent_id: text, delete_files?: bool }
    /// An agent.
    AgentRef { agent_id: text }
    /// A file in an agent's workspace.
    FileRef { agent_id: text, name: text }
    /// For `agents.files.set`.
    FileSetParams { agent_id: text, name: text, content: String, expected_hash?: text(64) }
    /// For `tasks.list`.
    #[derive(Default)]
    TasksListParams {
        /// One status or several.
        status?: Value,
        agent_id?: text,
        session_key?: text,
        limit?: int(1..500),
        cursor?: text(512),
        sort_by?: String,
    }
    /// For `tasks.get`.
    TaskRef { task_id: text }
    /// For `tasks.cancel`.
    TaskCancelParams { task_id: text, reason?: String }
    /// For `artifacts.list`.
    #[derive(Default)]
    ArtifactsListParams {
        session_key?: text,
        run_id?: text,
        task_id?: text,
        agent_id?: text,
        message_role?: String,
        r#type?: String,
        limit?: int(1..4),
        cursor?: text(256),
    }
    /// For `taskSuggestions.list`.
    #[derive(Default)]
    TaskSuggestionsParams { session_key?: text(512), agent_id?: text(128) }
    /// What `agents.create` made.
    Created { ok: bool, agent_id: String, name: String, workspace: String, model?: String }
    /// The agent that was changed.
    Updated { ok: bool, agent_id: String }
}

methods! {
    /// Agents, their files and tasks.
    trait AgentsApi {
        /// The agents of this gateway.
        List: "agents.list" => fn list(Nothing) -> Value, scope: Read;
        /// Adds an agent to the config and makes its workspace.
        Create: "agents.create" => fn create(CreateParams) -> Created, scope: Admin;
        /// Changes an agent.
        Update: "agents.update" => fn update(UpdateParams) -> Updated, scope: Admin;
        /// Removes an agent, with its files unless `deleteFiles` is false.
        Delete: "agents.delete" => fn delete(DeleteParams) -> Value, scope: Admin;
        /// The prompt files of an agent.
        FilesList: "agents.files.list" => fn files_list(AgentRef) -> Value, scope: Read;
        /// One prompt file.
        FilesGet: "agents.files.get" => fn files_get(FileRef) -> Value, scope: Read;
        /// Writes a prompt file.
        FilesSet: "agents.files.set" => fn files_set(FileSetParams) -> Value, scope: Admin;
        /// Background tasks: runs of `agent`, cron jobs, sub-agents.
        TasksList: "tasks.list" => fn tasks_list(TasksListParams) -> Value, scope: Read;
        /// One task.
        TasksGet: "tasks.get" => fn tasks_get(TaskRef) -> Value, scope: Read;
        /// Stops a task.
        TasksCancel: "tasks.cancel" => fn tasks_cancel(TaskCancelParams) -> Value, scope: Write;
    }
}
