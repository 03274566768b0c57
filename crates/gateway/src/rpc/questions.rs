//! Questions of agents, approvals of plugins and of the gateway itself: there are none yet.

use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_wire::{
    ErrorShape,
    method::Loose,
    questions::{QuestionRef, QuestionResolveParams, QuestionsApi},
    system::Nothing,
};

/// The handlers of questions. Agents cannot ask any yet, and there are no plugins, so the lists are empty.
pub struct QuestionsRpc;

#[async_trait]
impl<C: Send + Sync + 'static> QuestionsApi<C> for QuestionsRpc {
    async fn plugin_list(&self, _: &C, _: Loose) -> Result<Value, ErrorShape> {
        Ok(json!([]))
    }

    async fn gateway_list(&self, _: &C, _: Loose) -> Result<Value, ErrorShape> {
        Ok(json!([]))
    }

    async fn question_list(&self, _: &C, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(json!({ "questions": [] }))
    }

    async fn question_get(&self, _: &C, params: QuestionRef) -> Result<Value, ErrorShape> {
        Err(ErrorShape::invalid(format!("unknown question: {}", params.id)))
    }

    async fn question_resolve(&self, _: &C, params: QuestionResolveParams) -> Result<Value, ErrorShape> {
        Err(ErrorShape::invalid(format!("unknown question: {}", params.id)))
    }
}
