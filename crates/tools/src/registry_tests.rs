use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_terms::EffectClass;

use super::Toolbox;
use crate::{AnyTool, Places, ToolCx, ToolError, ToolOutput, ToolSpec, bound::OUTPUT_BYTES_MAX, policy::ToolPolicy, test_kit::Kit};

/// A tool that does what its arguments say.
struct Odd(Arc<AtomicUsize>);

/// Counts itself out when its future is dropped.
struct Inside(Arc<AtomicUsize>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl AnyTool for Odd {
    fn spec(&self) -> ToolSpec {
        ToolSpec { name: "odd", title: "Odd", description: "For tests.", group: "group:plugins", class: EffectClass::Once, timeout_ms: 60_000 }
    }

    fn parameters(&self) -> Value {
        json!({"type": "object"})
    }

    async fn call(&self, _cx: ToolCx, args: Value) -> Result<ToolOutput, ToolError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let _inside = Inside(self.0.clone());
        match args["do"].as_str() {
            Some("panic") => panic!("on purpose"),
            Some("hang") => std::future::pending().await,
            Some("flood") => Ok(ToolOutput::text("é".repeat(5_000_000))),
            _ => Err(ToolError::Failed("x".repeat(1_000_000))),
        }
    }
}

fn odd() -> (Toolbox, Kit, Arc<AtomicUsize>) {
    let inside = Arc::new(AtomicUsize::new(0));
    (Toolbox::with(Places::default(), vec![Arc::new(Odd(inside.clone()))]), Kit::new(), inside)
}

#[tokio::test]
async fn a_panic_is_an_error_and_a_flood_is_cut() {
    let (toolbox, kit, inside) = odd();
    let err = toolbox.call("odd", kit.cx(), json!({"do": "panic"}), None).await.unwrap_err();
    assert!(matches!(err, ToolError::Unknown(_)), "{err}");
    let seen = toolbox.call("ODD", kit.cx(), json!({"do": "flood"}), None).await.unwrap().plain_text();
    assert!(seen.len() < OUTPUT_BYTES_MAX + 200 && seen.contains("left out"));
    let err = toolbox.call("odd", kit.cx(), json!({}), None).await.unwrap_err().to_string();
    assert!(err.len() < OUTPUT_BYTES_MAX + 200);
    assert_eq!(inside.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_never_ends_is_stopped_by_the_limit_and_by_drop() {
    let (toolbox, kit, inside) = odd();
    let err = toolbox.call("odd", kit.cx(), json!({"do": "hang"}), Some(Duration::from_secs(5))).await.unwrap_err();
    assert!(matches!(err, ToolError::Unknown(_)), "{err}");
    let hang = toolbox.call("odd", kit.cx(), json!({"do": "hang"}), None);
    assert!(tokio::time::timeout(Duration::from_secs(1), hang).await.is_err());
    while inside.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn unknown_names_and_denied_tools_are_refused() {
    let kit = Kit::new();
    let err = kit.toolbox.call("nope", kit.cx(), json!({}), None).await.unwrap_err().to_string();
    assert_eq!(err, "Tool not available: nope");
    let policy = ToolPolicy::of(&crate::policy::PolicyInput { global: Some(&json!({"deny": ["exec"]})), ..Default::default() });
    let err = kit.toolbox.call_allowed(&policy, "Bash", kit.cx(), json!({"command": "true"}), None).await.unwrap_err();
    assert!(matches!(&err, ToolError::Denied(why) if why.contains("tools.deny")), "{err}");
}

#[test]
fn an_offer_follows_the_policy_and_is_kept() {
    let toolbox = Toolbox::new(Places::default());
    let all = toolbox.offer(&ToolPolicy::open());
    assert_eq!(all.len(), toolbox.specs().count());
    let policy = ToolPolicy::of(&crate::policy::PolicyInput { global: Some(&json!({"allow": ["group:fs"]})), ..Default::default() });
    let some = toolbox.offer(&policy);
    let names: Vec<&str> = some.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["read", "write", "edit", "ls"]);
    assert!(Arc::ptr_eq(&some, &toolbox.offer(&policy)));
}

#[test]
fn every_tool_has_a_schema_a_model_can_read() {
    let toolbox = Toolbox::new(Places::default());
    for definition in toolbox.offer(&ToolPolicy::open()).iter() {
        let schema = &definition.parameters;
        assert_eq!(schema["type"], "object", "{}", definition.name);
        assert!(!schema.to_string().contains("$ref"), "{}: {schema}", definition.name);
        for odd in ["oneOf", "anyOf", "allOf", "\"null\""] {
            assert!(!schema.to_string().contains(odd), "{}: {schema}", definition.name);
        }
        for (name, property) in schema["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{}.{name} has no description", definition.name);
        }
    }
}
