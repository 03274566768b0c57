//! `config.*`: the file as clients read and change it. Secrets are never shown.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use clawstead_config::{Edit, EditError, Guard, Issue, Planned, Severity, join_path, json_schema, lookup, plan, redact, split_path};
use clawstead_wire::{
    error::ErrorShape,
    methods::{
        config::{ConfigApi, ConfigApplyParams, ConfigPatchParams, ConfigSetParams, LookupParams},
        system::Nothing,
    },
};
use clawstead_world::World;

use super::Cx;
use crate::{cron::Broadcast, live::Live};

/// The handlers of this area.
pub struct ConfigRpc {
    /// The config in force.
    pub live: Arc<Live>,
    /// Clock.
    pub world: World,
    /// Clients.
    pub news: Arc<dyn Broadcast>,
}

impl ConfigRpc {
    async fn change(&self, method: &str, edit: Edit, base_hash: Option<String>, guard: Guard) -> Result<Value, ErrorShape> {
        let snapshot = self.live.snapshot();
        if snapshot.exists && base_hash.is_none() {
            let what = match &edit {
                Edit::Patch { patch, .. } => first_path(patch),
                _ => "the config".into(),
            };
            return Err(ErrorShape::invalid(format!("config base hash required for {what}; re-run config.get and retry with baseHash")));
        }
        let now = self.world.clock.now();
        let now_ms = u64::try_from(now.0).unwrap_or(0);
        let planned = self.live.edit(vec![edit], base_hash, guard, now_ms).await.map_err(sorted)?;
        let changed: Vec<String> = planned.changed.iter().map(|path| join_path(path)).filter(|path| !path.starts_with("meta.")).collect();
        let snapshot = &planned.snapshot;
        if !planned.files.is_empty() {
            self.news.broadcast("config.changed", json!({"path": snapshot.paths.config_path, "hash": snapshot.hash, "ts": now}));
        }
        Ok(json!({
            "ok": true,
            "path": snapshot.paths.config_path,
            "hash": snapshot.hash,
            "config": redact(&snapshot.parsed),
            "changedPaths": changed,
            "noop": planned.files.is_empty(),
            "sentinel": {"persisted": true, "payload": {"kind": method.replace('.', "-"), "status": "ok", "ts": now, "message": null, "stats": {"mode": method, "root": snapshot.paths.config_path, "requiresRestart": requires_restart(&planned)}}},
        }))
    }
}

fn requires_restart(planned: &Planned) -> bool {
    plan(&planned.changed).needs_restart()
}

/// The first place a patch touches, dotted.
fn first_path(patch: &Value) -> String {
    let mut path = Vec::new();
    let mut at = patch;
    while let Some((key, value)) = at.as_object().and_then(|map| map.iter().next()) {
        path.push(key.clone());
        at = value;
    }
    join_path(&path)
}

fn shown(issue: &Issue) -> Value {
    let mut out = json!({"path": issue.path, "message": issue.message});
    if !issue.allowed_values.is_empty() {
        out["allowedValues"] = json!(issue.allowed_values);
    }
    if let Some(line) = issue.line {
        out["line"] = json!(line);
    }
    out
}

fn sorted(err: EditError) -> ErrorShape {
    match err {
        EditError::Invalid(issues) => {
            let list: Vec<Value> = issues.iter().map(shown).collect();
            let first = issues.first().map_or_else(String::new, |issue| format!("{}: {}", issue.path, issue.message));
            ErrorShape::invalid(format!("invalid config: {first}")).with_details(json!({"issues": list}))
        }
        EditError::Io(why) => ErrorShape::unavailable(why),
        other => ErrorShape::invalid(other.to_string()),
    }
}

fn read_raw(raw: &str) -> Result<Value, ErrorShape> {
    json5::from_str(raw).map_err(|err| {
        // Positions count from 0; people and the original count from 1.
        let place = err.position().map_or_else(String::new, |p| format!(" at {}:{}", p.line + 1, p.column + 1));
        let text = err.to_string();
        let what = text.split(" at line ").next().unwrap_or(&text);
        ErrorShape::invalid(format!("SyntaxError: JSON5: {what}{place}"))
    })
}

#[async_trait]
impl ConfigApi<Cx> for ConfigRpc {
    async fn get(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        let snapshot = self.live.snapshot();
        let config = self.live.config.load();
        let group = |want: &[Severity]| snapshot.issues.iter().filter(|i| want.contains(&i.severity)).map(shown).collect::<Vec<_>>();
        let errors = group(&[Severity::Error]);
        let parsed = redact(&snapshot.parsed);
        let resolved = redact(&snapshot.resolved);
        let normal = redact(&snapshot.normal);
        // The raw text may hold secrets: it is shown as the redacted value unless it has none.
        let raw = if parsed == snapshot.parsed { snapshot.text.clone() } else { serde_json::to_string_pretty(&parsed).unwrap_or_default() };
        let included: Vec<_> = snapshot.included.iter().map(|file| &file.path).collect();
        Ok(json!({
            "path": snapshot.paths.config_path,
            "includedPaths": included,
            "includeProvenance": [],
            "agentRosterIncludeOwned": false,
            "bindingsIncludeOwned": false,
            "exists": snapshot.exists,
            "raw": raw,
            "parsed": parsed,
            "sourceConfig": resolved,
            "resolved": resolved,
            "runtimeConfig": normal,
            "config": normal,
            "valid": errors.is_empty(),
            "hash": snapshot.hash,
            "configRevisionHash": snapshot.hash,
            "appliedConfigHash": config.hash,
            "issues": errors,
            "warnings": group(&[Severity::Warning, Severity::Unknown]),
            "legacyIssues": [],
        }))
    }

    async fn set(&self, _: &Cx, params: ConfigSetParams) -> Result<Value, ErrorShape> {
        self.change("config.set", Edit::Replace { value: read_raw(&params.raw)? }, params.base_hash, Guard::On).await
    }

    async fn apply(&self, _: &Cx, params: ConfigApplyParams) -> Result<Value, ErrorShape> {
        self.change("config.apply", Edit::Replace { value: read_raw(&params.raw)? }, params.base_hash, Guard::On).await
    }

    async fn patch(&self, _: &Cx, params: ConfigPatchParams) -> Result<Value, ErrorShape> {
        if self.live.snapshot().exists && params.base_hash.is_none() {
            // The original asks for the hash before it reads the text.
            let touched = json5::from_str::<Value>(&params.raw).map_or_else(|_| "the config".into(), |patch| first_path(&patch));
            return Err(ErrorShape::invalid(format!("config base hash required for {touched}; re-run config.get and retry with baseHash")));
        }
        if params.base_hash.as_deref().is_some_and(|hash| hash != self.live.snapshot().hash) {
            return Err(ErrorShape::invalid("config changed since last load; re-run config.get and retry"));
        }
        let patch = read_raw(&params.raw)?;
        if !patch.is_object() {
            return Err(ErrorShape::invalid("config.patch raw must be an object"));
        }
        let edit = Edit::Patch { patch, replace_paths: params.replace_paths.unwrap_or_default() };
        self.change("config.patch", edit, params.base_hash, Guard::On).await
    }

    async fn schema(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        let schema = tokio::task::spawn_blocking(json_schema).await.map_err(|e| ErrorShape::unavailable(e.to_string()))?;
        Ok(
            json!({"schema": schema, "uiHints": Map::new(), "version": crate::VERSION, "generatedAt": jiff::Timestamp::from_millisecond(self.world.clock.now().0).map(|t| t.to_string()).unwrap_or_default()}),
        )
    }

    async fn schema_lookup(&self, _: &Cx, params: LookupParams) -> Result<Value, ErrorShape> {
        let path = split_path(params.path.trim_start_matches('.')).map_err(|why| ErrorShape::invalid(why.to_string()))?;
        let found = lookup(&path).ok_or_else(|| ErrorShape::invalid(format!("config schema path not found: {}", params.path)))?;
        let children: Vec<Value> = found
            .children
            .iter()
            .map(|(key, kind)| {
                let at = if found.path.is_empty() { key.clone() } else { format!("{}.{key}", found.path) };
                json!({"key": key, "path": at, "type": kind, "required": false, "hasChildren": kind.contains('{') || kind == "object"})
            })
            .collect();
        let hint = json!({"label": found.path.rsplit('.').next().unwrap_or_default(), "sensitive": found.sensitive, "advanced": found.legacy});
        Ok(json!({"path": found.path, "schema": found.schema, "reloadKind": found.reload, "hint": hint, "hintPath": found.path, "children": children}))
    }
}
