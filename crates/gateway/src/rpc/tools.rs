//! `commands.list`, `tools.*`, `skills.status`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use clawstead_agent::{ToolScope, commands::COMMANDS};
use clawstead_terms::{AgentId, RunId, SessionKey};
use clawstead_tools::{Rpc, ToolCx, ToolError};
use clawstead_wire::{
    error::ErrorShape,
    methods::tools::{CatalogParams, CommandsListParams, EffectiveParams, InvokeParams, SkillsStatusParams, ToolsApi},
};
use clawstead_world::World;

use super::Cx;
use crate::{
    desk::Desk,
    doors::{ToolCall, ToolDoor, ToolDoorError},
    fanout::parts_json,
    rpc::Caller,
    toolbox::Tools,
};

/// The handlers of this area.
#[derive(Clone)]
pub struct ToolsRpc {
    /// The tools.
    pub tools: Arc<Tools>,
    /// Sessions and agents.
    pub desk: Arc<Desk>,
    /// The gateway's methods, for tools that are invoked here.
    pub rpc: Arc<dyn Rpc>,
    /// Clock and ids.
    pub world: World,
}

/// Labels of policy groups.
const GROUPS: [(&str, &str); 7] = [
    ("fs", "Files"),
    ("runtime", "Runtime"),
    ("web", "Web"),
    ("memory", "Memory"),
    ("sessions", "Sessions"),
    ("automation", "Automation"),
    ("messaging", "Messaging"),
];

/// The slash commands, as `commands.list` and `chat.metadata` show them.
#[must_use]
pub fn commands() -> Vec<Value> {
    COMMANDS
        .iter()
        .map(|(name, args, what)| {
            let mut value = json!({"name": name, "nativeName": name, "textAliases": [format!("/{name}")], "description": what, "category": "session", "source": "native", "scope": "both", "acceptsArgs": !args.is_empty()});
            if !args.is_empty() {
                value["args"] = json!([{"name": "value", "description": args, "type": "string"}]);
            }
            value
        })
        .collect()
}

impl ToolsRpc {
    fn scope(&self, agent: AgentId, session: SessionKey) -> ToolScope {
        let depth = self.desk.row(&session).map_or(0, |row| row.spawn_depth);
        ToolScope { agent, session, owner: true, spawn_depth: depth, deny: Vec::new() }
    }

    /// Runs a tool for a caller, under the session's policy.
    async fn run(&self, caller: &Caller, params: InvokeParams) -> Result<Value, ErrorShape> {
        let agent = self.desk.agent(params.agent_id.as_deref()).map_err(ErrorShape::from)?;
        let session = match &params.session_key {
            Some(key) => self.desk.key(key, Some(agent.as_str())).map_err(ErrorShape::from)?,
            None => SessionKey::main(&agent),
        };
        let agent = session.agent();
        let refused =
            |code: &str, message: String| Ok(json!({"ok": false, "toolName": params.name, "source": "core", "error": {"code": code, "message": message}}));
        let Some(workspace) = self.desk.workspace(&agent) else { return Err(ErrorShape::invalid(format!("unknown agent id \"{agent}\""))) };
        let run = RunId::from(format!("invoke:{}", params.idempotency_key.clone().unwrap_or_else(|| self.world.rng.uuid())));
        let (progress, _unheard) = mpsc::channel(1);
        let settings = self.tools.config.load().agents.get(agent.as_str()).map_or(Value::Null, |a| a.tools.0.clone());
        let call = ToolCx {
            agent: agent.clone(),
            session: session.clone(),
            run: run.clone(),
            owner: caller.is_admin(),
            workspace,
            settings: Arc::new(settings),
            effect_id: uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, run.as_str().as_bytes()).to_string(),
            world: self.world.clone(),
            rpc: self.rpc.clone(),
            progress,
        };
        let policy = self.tools.policy(&self.scope(agent, session));
        if self.tools.toolbox.spec(&params.name).is_none() {
            return refused("not_found", format!("Tool not available: {}", params.name));
        }
        match self.tools.toolbox.call_allowed(&policy, &params.name, call, Value::Object(params.args.map(|a| a.0).unwrap_or_default()), None).await {
            Ok(out) => {
                Ok(json!({"ok": true, "toolName": params.name, "source": "core", "output": {"content": parts_json(&out.content), "details": out.details}}))
            }
            Err(ToolError::Denied(why)) => refused("forbidden", why),
            Err(ToolError::BadArguments(why)) => refused("invalid_request", why),
            Err(other) => refused("failed", other.to_string()),
        }
    }
}

#[async_trait]
impl ToolDoor for ToolsRpc {
    async fn invoke(&self, caller: Caller, call: ToolCall) -> Result<Value, ToolDoorError> {
        let args = match call.args {
            Value::Object(map) => Some(clawstead_wire::method::Loose(map)),
            _ => None,
        };
        let params = InvokeParams {
            name: call.name.clone(),
            args,
            session_key: call.session_key,
            agent_id: call.agent_id,
            confirm: None,
            idempotency_key: call.idempotency_key,
            conversation_read_origin: None,
        };
        let answer = self.run(&caller, params).await.map_err(|err| ToolDoorError::BadArguments(err.message))?;
        if answer["ok"] == json!(true) {
            return Ok(answer["output"].clone());
        }
        let message = answer["error"]["message"].as_str().unwrap_or_default().to_owned();
        Err(match answer["error"]["code"].as_str() {
            Some("not_found" | "forbidden") => ToolDoorError::NotAvailable,
            Some("invalid_request") => ToolDoorError::BadArguments(message),
            _ => ToolDoorError::Failed(message),
        })
    }
}

#[async_trait]
impl ToolsApi<Cx> for ToolsRpc {
    async fn commands_list(&self, _: &Cx, _: CommandsListParams) -> Result<Value, ErrorShape> {
        Ok(json!({"commands": commands()}))
    }

    async fn catalog(&self, _: &Cx, params: CatalogParams) -> Result<Value, ErrorShape> {
        let agent = self.desk.agent(params.agent_id.as_deref()).map_err(ErrorShape::from)?;
        let groups: Vec<Value> = GROUPS
            .iter()
            .filter_map(|(id, label)| {
                let tools: Vec<Value> = self
                    .tools
                    .toolbox
                    .specs()
                    .filter(|spec| spec.group.strip_prefix("group:").unwrap_or(spec.group) == *id)
                    .map(
                        |spec| json!({"id": spec.name, "label": spec.name, "description": spec.title, "source": "core", "defaultProfiles": ["coding", "full"]}),
                    )
                    .collect();
                (!tools.is_empty()).then(|| json!({"id": id, "label": label, "source": "core", "tools": tools}))
            })
            .collect();
        let profiles =
            [("minimal", "Minimal"), ("coding", "Coding"), ("messaging", "Messaging"), ("full", "Full")].map(|(id, label)| json!({"id": id, "label": label}));
        Ok(json!({"agentId": agent, "profiles": profiles, "groups": groups}))
    }

    async fn effective(&self, _: &Cx, params: EffectiveParams) -> Result<Value, ErrorShape> {
        let key = self.desk.key(&params.session_key, params.agent_id.as_deref()).map_err(ErrorShape::from)?;
        let policy = self.tools.policy(&self.scope(key.agent(), key.clone()));
        let tools: Vec<Value> = self
            .tools
            .toolbox
            .specs()
            .filter(|spec| policy.allows(spec.name))
            .map(|spec| json!({"id": spec.name, "label": spec.title, "description": spec.description, "rawDescription": spec.description, "source": "core"}))
            .collect();
        Ok(json!({"agentId": key.agent(), "profile": "full", "groups": [{"id": "core", "label": "Built-in tools", "source": "core", "tools": tools}]}))
    }

    async fn invoke(&self, cx: &Cx, params: InvokeParams) -> Result<Value, ErrorShape> {
        self.run(&cx.caller, params).await
    }

    async fn skills_status(&self, _: &Cx, params: SkillsStatusParams) -> Result<Value, ErrorShape> {
        let agent = self.desk.agent(params.agent_id.as_deref()).map_err(ErrorShape::from)?;
        let settings = self.desk.settings(&agent).ok_or_else(|| ErrorShape::invalid(format!("unknown agent id \"{agent}\"")))?;
        let skills = self.desk.lanes().contexts().skills(&settings, self.world.clock.now());
        let shown: Vec<Value> = skills
            .skills
            .values()
            .map(|skill| {
                let allowed = settings.skills.as_ref().is_none_or(|list| list.contains(&skill.name));
                json!({
                    "name": skill.name,
                    "skillKey": skill.name,
                    "description": skill.description,
                    "source": "workspace",
                    "bundled": false,
                    "filePath": skill.file,
                    "baseDir": skill.file.parent(),
                    "always": false,
                    "disabled": false,
                    "blockedByAllowlist": !allowed,
                    "eligible": skill.missing.is_empty(),
                    "modelVisible": skill.offered && allowed && skill.missing.is_empty(),
                    "userInvocable": true,
                    "missing": skill.missing,
                    "schedule": skill.schedule,
                    "agent": skill.agent,
                })
            })
            .collect();
        let config = self.tools.config.load();
        Ok(
            json!({"workspaceDir": settings.workspace, "managedSkillsDir": config.paths.state_dir.join("skills"), "agentId": agent, "skills": shown, "warnings": skills.warnings}),
        )
    }
}
