//! `exec.approval.*` and `exec.approvals.*`.

use async_trait::async_trait;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use clawstead_terms::{Failure, FailureCode};
use clawstead_tools::approvals::ApprovalsFile;
use clawstead_wire::{
    error::ErrorShape,
    method::Loose,
    methods::{
        approvals::{ApprovalRef, ApprovalsApi, ExecApprovalsSetParams, RequestParams, ResolveParams},
        system::Nothing,
    },
};

use super::Cx;
use crate::approvals::Approvals;

/// The handlers of this area.
pub struct ApprovalsRpc {
    /// The desk.
    pub approvals: Approvals,
    /// Where the allow lists lie, as shown.
    pub storage: String,
}

#[async_trait]
impl ApprovalsApi<Cx> for ApprovalsRpc {
    async fn exec_approvals_get(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        self.shown().await
    }

    async fn exec_approvals_set(&self, _: &Cx, params: ExecApprovalsSetParams) -> Result<Value, ErrorShape> {
        let new: ApprovalsFile =
            serde_json::from_value(Value::Object(params.file.0)).map_err(|e| ErrorShape::params("exec.approvals.set", &format!("at /file: {e}")))?;
        let held = hash(&self.approvals.file().await.map_err(ErrorShape::from)?);
        if params.base_hash.is_some_and(|base| base != held) {
            return Err(ErrorShape::invalid("exec approvals changed since last load; re-run exec.approvals.get and retry"));
        }
        self.approvals.change(|file| file.clone_from(&new)).await.map_err(ErrorShape::from)?;
        self.shown().await
    }

    async fn exec_list(&self, _: &Cx, _: Loose) -> Result<Value, ErrorShape> {
        Ok(json!(self.approvals.list()))
    }

    async fn exec_get(&self, _: &Cx, params: ApprovalRef) -> Result<Value, ErrorShape> {
        let request = self.approvals.get(&params.id).ok_or_else(|| not_found(&params.id))?;
        Ok(json!({"id": request.id, "request": request.request, "createdAtMs": request.created_at, "expiresAtMs": request.expires_at}))
    }

    async fn exec_request(&self, cx: &Cx, params: RequestParams) -> Result<Value, ErrorShape> {
        let text = params.command.clone().or_else(|| params.command_argv.as_ref().map(|argv| argv.join(" "))).filter(|c| !c.trim().is_empty());
        let Some(command) = text else { return Err(ErrorShape::params("exec.approval.request", "must have required property 'command'")) };
        let mut request = serde_json::to_value(&params).unwrap_or_default();
        if let Some(object) = request.as_object_mut() {
            for meta in ["id", "timeoutMs", "twoPhase"] {
                object.remove(meta);
            }
            object.insert("command".into(), json!(command));
        }
        let agent = params.agent_id.into_option().flatten();
        let patterns = params.resolved_path.into_option().flatten().into_iter().collect();
        let made = self.approvals.request(params.id, request, agent, patterns, params.timeout_ms).map_err(ErrorShape::from)?;
        let first = json!({"status": "accepted", "id": made.id, "createdAtMs": made.created_at, "expiresAtMs": made.expires_at});
        if params.two_phase == Some(true) {
            if cx.caller.session.is_some() {
                // A tool waits with `exec.approval.waitDecision`.
                return Ok(first);
            }
            cx.first_answer(&first);
        }
        let decision = self.approvals.wait(&made.id).await.map_err(ErrorShape::from)?;
        Ok(json!({"id": made.id, "decision": decision, "createdAtMs": made.created_at, "expiresAtMs": made.expires_at}))
    }

    async fn exec_resolve(&self, cx: &Cx, params: ResolveParams) -> Result<Value, ErrorShape> {
        if cx.caller.session.is_some() {
            return Err(ErrorShape::new("FORBIDDEN", "an agent cannot decide approvals"));
        }
        if !["allow-once", "allow-always", "deny"].contains(&params.decision.as_str()) {
            return Err(ErrorShape::params("exec.approval.resolve", "at /decision: must be equal to one of the allowed values"));
        }
        match self.approvals.resolve(&params.id, &params.decision).await {
            Ok(first) => Ok(json!({"ok": true, "applied": first})),
            Err(failure) => Err(sorted(&params.id, failure)),
        }
    }

    async fn exec_wait(&self, _: &Cx, params: ApprovalRef) -> Result<Value, ErrorShape> {
        let decision = self.approvals.wait(&params.id).await.map_err(|failure| sorted(&params.id, failure))?;
        Ok(json!({"id": params.id, "decision": decision}))
    }
}

impl ApprovalsRpc {
    async fn shown(&self) -> Result<Value, ErrorShape> {
        let file = self.approvals.file().await.map_err(ErrorShape::from)?;
        let effective = file.of("main");
        Ok(json!({
            "path": format!("{}#exec_approvals", self.storage),
            "exists": true,
            "hash": hash(&file),
            "file": file,
            "resolvedDefaults": {"security": effective.security, "ask": effective.ask, "askFallback": effective.ask_fallback, "autoAllowSkills": false},
        }))
    }
}

fn hash(file: &ApprovalsFile) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(file).unwrap_or_default()))
}

fn not_found(id: &str) -> ErrorShape {
    ErrorShape::new("APPROVAL_NOT_FOUND", format!("unknown or expired approval id {id}"))
}

fn sorted(id: &str, failure: Failure) -> ErrorShape {
    if failure.code == FailureCode::NotFound { not_found(id) } else { ErrorShape::from(failure) }
}
