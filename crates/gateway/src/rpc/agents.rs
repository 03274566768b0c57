//! `agents.*` and `tasks.*`.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use clawstead_agent::workspace;
use clawstead_config::{Agent, Edit, EditError, Guard, MapWrite};
use clawstead_terms::{AgentId, RunId};
use clawstead_wire::{
    error::ErrorShape,
    methods::{
        agents::{
            AgentRef, AgentsApi, CreateParams, Created, DeleteParams, FileRef, FileSetParams, TaskCancelParams, TaskRef, TasksListParams, UpdateParams, Updated,
        },
        system::Nothing,
    },
};
use clawstead_world::World;

use super::Cx;
use crate::{desk::Desk, live::Live};

/// The files of a workspace that clients may read and write.
pub const FILES: [&str; 9] = ["AGENTS.md", "SOUL.md", "TOOLS.md", "IDENTITY.md", "USER.md", "HEARTBEAT.md", "BOOTSTRAP.md", "BOOT.md", "MEMORY.md"];
/// Bytes of one such file.
const FILE_BYTES_MAX: usize = 1 << 20;

/// The handlers of this area.
pub struct AgentsRpc {
    /// The config in force.
    pub live: Arc<Live>,
    /// Sessions.
    pub desk: Arc<Desk>,
    /// Clock.
    pub world: World,
    /// The farm, for agents of other gateways.
    pub farm: crate::farm::Cell,
}

fn unknown(id: &str) -> ErrorShape {
    ErrorShape::invalid(format!("unknown agent id \"{id}\"")).with_details(json!({"code": "UNKNOWN_AGENT_ID", "agentId": id}))
}

fn sorted(err: EditError) -> ErrorShape {
    match err {
        EditError::Io(why) => ErrorShape::unavailable(why),
        other => ErrorShape::invalid(other.to_string()),
    }
}

/// An agent of another gateway: what its own gateway knows of its workspace and thinking is asked there.
fn elsewhere(agent: clawstead_farm::membership::AgentStatus) -> Value {
    json!({
        "id": agent.id,
        "workspace": "",
        "workspaceGit": false,
        "gateway": agent.gateway,
        "healthy": agent.healthy,
        "agentRuntime": {"id": "clawstead", "cloudPlacementSupported": false, "devicePlacementSupported": false, "source": "farm"},
        "model": agent.model.map_or_else(|| json!({}), |model| json!({ "primary": model })),
    })
}

/// An agent as `agents.list` shows it.
fn shown(one: &Agent, with_kind: bool) -> Value {
    let identity = json!({"name": one.identity.name, "theme": one.identity.theme, "emoji": one.identity.emoji, "avatar": one.identity.avatar});
    let mut model = Map::new();
    if let Some(primary) = &one.model.primary {
        model.insert("primary".into(), json!(primary));
    }
    if !one.model.fallbacks.is_empty() {
        model.insert("fallbacks".into(), json!(one.model.fallbacks));
    }
    let mut out = json!({
        "id": one.id,
        "workspace": one.workspace,
        "workspaceGit": one.workspace.join(".git").exists(),
        "agentRuntime": {"id": "clawstead", "cloudPlacementSupported": false, "devicePlacementSupported": false, "source": "implicit"},
        "thinkingLevels": [{"id": "off", "label": "off"}, {"id": "low", "label": "low"}, {"id": "medium", "label": "medium"}, {"id": "high", "label": "high"}],
        "thinkingOptions": ["off", "low", "medium", "high"],
        "thinkingDefault": one.thinking_default.as_deref().unwrap_or("off"),
        "model": model,
        "defaultPermissionMode": "full",
    });
    if let Some(name) = &one.name {
        out["name"] = json!(name);
    }
    if let Some(description) = one.description.as_ref().or(one.role.as_ref()) {
        out["description"] = json!(description);
    }
    if one.identity != clawstead_config::Identity::default() {
        out["identity"] = identity;
    }
    if !one.capabilities.is_empty() {
        out["capabilities"] = json!(one.capabilities);
    }
    if with_kind {
        out["kind"] = json!("agent");
    }
    out
}

fn file_row(workspace: &Path, name: &str) -> Value {
    let path = workspace.join(name);
    match std::fs::metadata(&path) {
        Ok(meta) => {
            let updated = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()).map(|d| d.as_millis());
            json!({"name": name, "path": path, "missing": false, "size": meta.len(), "updatedAtMs": updated.and_then(|ms| u64::try_from(ms).ok())})
        }
        Err(_) => json!({"name": name, "path": path, "missing": true}),
    }
}

impl AgentsRpc {
    fn workspace(&self, id: &str) -> Result<(AgentId, std::path::PathBuf), ErrorShape> {
        let id = AgentId::normalise(id);
        let path = self.desk.workspace(&id).ok_or_else(|| unknown(id.as_str()))?;
        Ok((id, path))
    }

    fn file(&self, agent: &str, name: &str) -> Result<(AgentId, std::path::PathBuf), ErrorShape> {
        let (id, workspace) = self.workspace(agent)?;
        let daily = name.strip_prefix("memory/").is_some_and(|rest| rest.ends_with(".md") && !rest.contains('/') && !rest.contains(".."));
        if !FILES.contains(&name) && !daily {
            return Err(ErrorShape::invalid(format!("unsupported file \"{name}\"; one of {}", FILES.join(", "))));
        }
        Ok((id, workspace.join(name)))
    }

    async fn edit(&self, edits: Vec<Edit>) -> Result<(), ErrorShape> {
        let now = u64::try_from(self.world.clock.now().0).unwrap_or(0);
        self.live.edit(edits, None, Guard::On, now).await.map(|_| ()).map_err(sorted)
    }

    fn path(&self, id: &AgentId) -> Vec<String> {
        ["agents", "entries", id.as_str()].map(str::to_owned).to_vec()
    }
}

#[async_trait]
impl AgentsApi<Cx> for AgentsRpc {
    async fn list(&self, cx: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        let config = self.live.config.load();
        let mut agents: Vec<Value> = config.agents.list.iter().map(|one| shown(one, cx.caller.has_cap("agent-kind"))).collect();
        agents.extend(
            self.farm.get().into_iter().flat_map(|farm| farm.membership.agents()).filter(|agent| config.agents.get(&agent.id).is_none()).map(elsewhere),
        );
        Ok(json!({
            "defaultId": config.default_agent(),
            "ownership": if config.agents.list.len() == 1 { "sole" } else { "explicit" },
            "selectionRequired": false,
            "mainKey": "main",
            "scope": if config.session.global { "global" } else { "per-sender" },
            "agents": agents,
        }))
    }

    async fn create(&self, _: &Cx, params: CreateParams) -> Result<Created, ErrorShape> {
        let id = AgentId::normalise(&params.name);
        let config = self.live.config.load_full();
        if config.agents.get(id.as_str()).is_some() && !config.agents.implicit {
            return Err(ErrorShape::invalid(format!("agent \"{id}\" already exists")));
        }
        let workspace = params.workspace.as_deref().map_or_else(|| config.paths.state_dir.join(format!("workspace-{id}")), |w| config.paths.expand(w));
        let mut entry = Map::new();
        entry.insert("name".into(), json!(params.name));
        entry.insert("workspace".into(), json!(workspace));
        if let Some(model) = &params.model {
            entry.insert("model".into(), json!(model));
        }
        let mut identity = Map::new();
        for (key, value) in [("name", Some(params.name.clone())), ("emoji", params.emoji), ("avatar", params.avatar)] {
            if let Some(value) = value {
                identity.insert(key.into(), json!(value));
            }
        }
        entry.insert("identity".into(), Value::Object(identity));
        self.edit(vec![Edit::Set { path: self.path(&id), value: Value::Object(entry), mode: MapWrite::Merge }]).await?;
        let (made, now) = (workspace.clone(), self.world.clock.now());
        tokio::task::spawn_blocking(move || workspace::set_up(&made, now, workspace::Git::WhenNew))
            .await
            .map_err(|e| ErrorShape::unavailable(e.to_string()))?
            .map_err(|e| ErrorShape::unavailable(format!("the workspace {} could not be made: {e}", workspace.display())))?;
        Ok(Created { ok: true, agent_id: id.to_string(), name: params.name, workspace: workspace.display().to_string(), model: params.model })
    }

    async fn update(&self, _: &Cx, params: UpdateParams) -> Result<Updated, ErrorShape> {
        let (id, _) = self.workspace(&params.agent_id)?;
        let mut patch = Map::new();
        if let Some(name) = params.name {
            patch.insert("name".into(), json!(name));
        }
        if let Some(workspace) = params.workspace {
            patch.insert("workspace".into(), json!(workspace));
        }
        if let Some(model) = params.model.into_option() {
            patch.insert("model".into(), json!(model));
        }
        let identity: Map<String, Value> =
            [("emoji", params.emoji), ("avatar", params.avatar)].into_iter().filter_map(|(k, v)| Some((k.to_owned(), json!(v?)))).collect();
        if !identity.is_empty() {
            patch.insert("identity".into(), Value::Object(identity));
        }
        let whole = json!({"agents": {"entries": {id.as_str(): patch}}});
        self.edit(vec![Edit::Patch { patch: whole, replace_paths: Vec::new() }]).await?;
        Ok(Updated { ok: true, agent_id: id.to_string() })
    }

    async fn delete(&self, _: &Cx, params: DeleteParams) -> Result<Value, ErrorShape> {
        let (id, workspace) = self.workspace(&params.agent_id)?;
        let config = self.live.config.load_full();
        if *config.default_agent() == id {
            return Err(ErrorShape::invalid(format!("\"{id}\" is the default agent and cannot be deleted; make another one the default first")));
        }
        let bindings = config.bindings.iter().filter(|b| b.agent == id).count();
        let mut edits = vec![Edit::Unset { path: self.path(&id) }];
        if bindings > 0 {
            let kept: Vec<Value> = config.bindings.iter().filter(|b| b.agent != id).map(|b| b.raw.0.clone()).collect();
            edits.push(Edit::Set { path: vec!["bindings".into()], value: Value::Array(kept), mode: MapWrite::Replace });
        }
        self.edit(edits).await?;
        if params.delete_files != Some(false) {
            // Never removed at once: the folder is put aside, a person empties it.
            let now = self.world.clock.now();
            let aside = config.paths.state_dir.join("trash").join(format!("{id}-{now}"));
            let moved = tokio::task::spawn_blocking(move || {
                let parent = aside.parent().map(Path::to_owned).unwrap_or_default();
                std::fs::create_dir_all(parent).and_then(|()| std::fs::rename(&workspace, &aside))
            });
            if let Ok(Err(err)) = moved.await {
                tracing::warn!(agent = %id, err = %err, "the workspace of a deleted agent could not be put aside; it stays where it is");
            }
        }
        Ok(json!({"ok": true, "agentId": id, "removedBindings": bindings}))
    }

    async fn files_list(&self, _: &Cx, params: AgentRef) -> Result<Value, ErrorShape> {
        let (id, workspace) = self.workspace(&params.agent_id)?;
        let at = workspace.clone();
        let files = tokio::task::spawn_blocking(move || FILES.iter().map(|name| file_row(&at, name)).collect::<Vec<_>>())
            .await
            .map_err(|e| ErrorShape::unavailable(e.to_string()))?;
        Ok(json!({"agentId": id, "workspace": workspace, "files": files}))
    }

    async fn files_get(&self, _: &Cx, params: FileRef) -> Result<Value, ErrorShape> {
        let (id, path) = self.file(&params.agent_id, &params.name)?;
        let workspace = self.desk.workspace(&id).unwrap_or_default();
        let mut row = file_row(&workspace, &params.name);
        if let Ok(text) = tokio::fs::read_to_string(&path).await {
            row["hash"] = json!(hex::encode(Sha256::digest(text.as_bytes())));
            row["content"] = json!(text);
        }
        Ok(json!({"agentId": id, "workspace": workspace, "file": row}))
    }

    async fn files_set(&self, _: &Cx, params: FileSetParams) -> Result<Value, ErrorShape> {
        let (id, path) = self.file(&params.agent_id, &params.name)?;
        if params.content.len() > FILE_BYTES_MAX {
            return Err(ErrorShape::invalid(format!("the file is larger than {FILE_BYTES_MAX} bytes")));
        }
        let held = tokio::fs::read(&path).await.ok().map(|bytes| hex::encode(Sha256::digest(bytes)));
        if params.expected_hash.is_some() && params.expected_hash != held {
            return Err(ErrorShape::invalid("the file changed since it was read; read it again and retry"));
        }
        let (target, content) = (path.clone(), params.content);
        let written = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            let parent = target.parent().map(Path::to_owned).unwrap_or_default();
            std::fs::create_dir_all(&parent)?;
            let temp = parent.join(format!(".{}.new", target.file_name().unwrap_or_default().to_string_lossy()));
            std::fs::write(&temp, content)?;
            std::fs::File::open(&temp)?.sync_all()?;
            std::fs::rename(&temp, &target)
        });
        written
            .await
            .map_err(|e| ErrorShape::unavailable(e.to_string()))?
            .map_err(|e| ErrorShape::unavailable(format!("{} could not be written: {e}", path.display())))?;
        let workspace = self.desk.workspace(&id).unwrap_or_default();
        Ok(json!({"ok": true, "agentId": id, "workspace": workspace, "file": file_row(&workspace, &params.name)}))
    }

    async fn tasks_list(&self, _: &Cx, params: TasksListParams) -> Result<Value, ErrorShape> {
        let agents: Vec<AgentId> = match &params.agent_id {
            Some(id) => vec![self.workspace(id)?.0],
            None => self.live.config.load().agents.list.iter().map(|a| a.id.clone()).collect(),
        };
        let mut tasks = Vec::new();
        for agent in agents {
            for row in self.desk.rows(&agent).iter().filter(|row| row.has_active_run() && params.session_key.as_ref().is_none_or(|key| row.key.as_str() == key))
            {
                for open in &row.open {
                    let runtime = if row.key.is_cron() {
                        "cron"
                    } else if row.key.is_subagent() {
                        "subagent"
                    } else {
                        "cli"
                    };
                    let status = if open.attempt > 0 { "running" } else { "queued" };
                    tasks.push(json!({"id": open.run_id, "taskId": open.run_id, "kind": "agent_run", "runtime": runtime, "status": status, "execution": {"state": status}, "title": row.label.as_ref().or(row.derived_title.as_ref()), "agentId": agent, "sessionKey": row.key, "ownerKey": row.key, "runId": open.run_id, "hasTranscript": true, "createdAt": row.updated_at, "updatedAt": row.updated_at, "deliveryStatus": "not_applicable"}));
                }
            }
        }
        let limit = usize::try_from(params.limit.unwrap_or(100)).unwrap_or(100);
        tasks.truncate(limit);
        Ok(json!({"tasks": tasks}))
    }

    async fn tasks_get(&self, _: &Cx, params: TaskRef) -> Result<Value, ErrorShape> {
        let run = RunId::from(params.task_id.as_str());
        let row = self.desk.lanes().report(&run).await.map_err(ErrorShape::from)?.ok_or_else(|| ErrorShape::invalid(format!("task not found: {run}")))?;
        Ok(
            json!({"task": {"id": run, "taskId": run, "status": row.status, "sessionKey": row.session, "runId": run, "startedAt": row.started_at, "endedAt": row.ended_at, "terminalSummary": row.text, "error": row.failure.map(|f| f.message)}}),
        )
    }

    async fn tasks_cancel(&self, _: &Cx, params: TaskCancelParams) -> Result<Value, ErrorShape> {
        let stopped = self.desk.lanes().abort_run(&RunId::from(params.task_id.as_str()), "rpc").await.map_err(ErrorShape::from)?;
        Ok(json!({"found": !stopped.runs.is_empty(), "cancelled": !stopped.runs.is_empty(), "taskId": params.task_id}))
    }
}
