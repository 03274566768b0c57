//! `agents_list`: the agents that can be written to.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use clawstead_terms::EffectClass;

use crate::{Tool, ToolCx, ToolError, ToolOutput, ToolSpec};

/// Lists agents.
pub struct AgentsList;

/// Arguments of `agents_list`: none.
#[derive(Deserialize, JsonSchema)]
pub struct Args {}

#[async_trait]
impl Tool for AgentsList {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "agents_list",
        title: "Agents",
        description: "List the agents of this gateway that you can write to or spawn.",
        group: "group:agents",
        class: EffectClass::Read,
        timeout_ms: 30_000,
    };

    async fn call(&self, cx: ToolCx, _args: Args) -> Result<ToolOutput, ToolError> {
        let answer = cx.rpc("agents.list", json!({})).await?;
        let agents: Vec<Value> = answer
            .get("agents")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|agent| {
                let id = agent.get("id")?.as_str()?;
                let name = agent.pointer("/identity/name").or_else(|| agent.get("name")).and_then(Value::as_str);
                let mut row = json!({"id": id, "configured": true});
                if let Some(name) = name {
                    row["name"] = json!(name);
                }
                Some(row)
            })
            .collect();
        Ok(ToolOutput::json(json!({"requester": cx.agent, "defaultId": answer.get("defaultId"), "agents": agents})))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_kit::Kit;

    #[tokio::test]
    async fn agents_are_told_by_id_and_name() {
        let kit = Kit::new();
        kit.answer("agents.list", |_| {
            Ok(json!({"defaultId": "jerry", "agents": [{"id": "jerry", "workspace": "/secret"}, {"id": "bobby", "identity": {"name": "Bobby"}}]}))
        });
        let seen = kit.call("agents_list", json!({})).await.unwrap().details.unwrap();
        assert_eq!(
            seen,
            json!({"requester": "jerry", "defaultId": "jerry", "agents": [{"id": "jerry", "configured": true}, {"id": "bobby", "configured": true, "name": "Bobby"}]})
        );
    }
}
