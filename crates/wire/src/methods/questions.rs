//! Questions of agents, and approvals of plugins and of the gateway itself.

use serde_json::Value;

use super::system::Nothing;
use crate::method::{Loose, methods, params};

params! {
    /// A question.
    QuestionRef { id: text }
    /// For `question.resolve`.
    QuestionResolveParams {
        id: text,
        answers?: Value,
        cancel?: bool,
        secret_store_allowed_hosts?: Vec<String>,
        resolved_by?: String,
        resolution_id?: text(128),
    }
}

methods! {
    /// Questions of agents, and approvals of plugins and of the gateway itself.
    trait QuestionsApi {
        /// Open approval requests of plugins, as a bare list.
        PluginList: "plugin.approval.list" => fn plugin_list(Loose) -> Value, scope: Approvals;
        /// Open approval requests of the gateway itself, as a bare list.
        GatewayList: "openclaw.approval.list" => fn gateway_list(Loose) -> Value, scope: Approvals;
        /// Open questions of agents.
        QuestionList: "question.list" => fn question_list(Nothing) -> Value, scope: Questions;
        /// One question.
        QuestionGet: "question.get" => fn question_get(QuestionRef) -> Value, scope: Questions;
        /// Answers or cancels a question.
        QuestionResolve: "question.resolve" => fn question_resolve(QuestionResolveParams) -> Value, scope: Questions;
    }
}
