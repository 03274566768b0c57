//! Approvals of commands.

use serde_json::Value;

use super::system::Nothing;
use crate::method::{Loose, methods, params, words};

words! {
    /// A decision.
    Decision: "allow-once" => AllowOnce, "allow-always" => AllowAlways, "deny" => Deny;
}

params! {
    /// For `exec.approvals.set`.
    ExecApprovalsSetParams { file: Loose, base_hash?: text }
    /// For `exec.approval.request`.
    #[derive(Default)]
    RequestParams {
        id?: text,
        command?: String,
        command_argv?: Vec<String>,
        system_run_plan?: Value,
        env?: change(Value),
        cwd?: change(String),
        node_id?: change(String),
        host?: change(String),
        security?: change(String),
        ask?: change(String),
        warning_text?: change(String),
        unavailable_decisions?: Vec<String>,
        command_spans?: Vec<Value>,
        agent_id?: change(String),
        resolved_path?: change(String),
        session_key?: change(String),
        session_id?: change(String),
        turn_source_channel?: change(String),
        turn_source_to?: change(String),
        turn_source_account_id?: change(String),
        turn_source_thread_id?: change(Value),
        timeout_ms?: int(1..),
        two_phase?: bool,
    }
    /// An approval.
    ApprovalRef { id: text }
    /// For `exec.approval.resolve` and `plugin.approval.resolve`.
    ResolveParams { id: text, decision: text, reviewer?: Value, grant_expires_in_days?: int(1..3650) }
}

methods! {
    /// Approvals of commands.
    trait ApprovalsApi {
        /// The allow lists and defaults for commands.
        ExecApprovalsGet: "exec.approvals.get" => fn exec_approvals_get(Nothing) -> Value, scope: Admin;
        /// Replaces them.
        ExecApprovalsSet: "exec.approvals.set" => fn exec_approvals_set(ExecApprovalsSetParams) -> Value, scope: Admin;
        /// Open approval requests for commands, as a bare list.
        ExecList: "exec.approval.list" => fn exec_list(Loose) -> Value, scope: Approvals;
        /// One approval request.
        ExecGet: "exec.approval.get" => fn exec_get(ApprovalRef) -> Value, scope: Approvals;
        /// Asks for an approval and waits for the decision.
        ExecRequest: "exec.approval.request" => fn exec_request(RequestParams) -> Value, scope: Approvals, flags: [TWICE];
        /// Decides.
        ExecResolve: "exec.approval.resolve" => fn exec_resolve(ResolveParams) -> Value, scope: Approvals;
        /// Waits for a decision.
        ExecWait: "exec.approval.waitDecision" => fn exec_wait(ApprovalRef) -> Value, scope: Approvals;
    }
}
