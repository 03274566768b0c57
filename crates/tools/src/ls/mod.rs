//! `ls`: the names in a folder.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use clawstead_terms::EffectClass;

use crate::{Places, Tool, ToolCx, ToolError, ToolOutput, ToolSpec, paths::Paths, read::blocking};

/// Names of one answer, when the caller names no limit.
const NAMES_DEFAULT: usize = 500;

/// Lists a folder.
pub struct Ls {
    /// The host.
    pub places: Arc<Places>,
}

/// Arguments of `ls`.
#[derive(Deserialize, JsonSchema)]
pub struct Args {
    /// The folder: relative to the workspace, or absolute. Default: the workspace.
    #[serde(default)]
    path: Option<String>,
    /// How many names at most. Default 500.
    #[serde(default)]
    limit: Option<usize>,
}

#[async_trait]
impl Tool for Ls {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "ls",
        title: "List folder",
        description: "List the names in a folder, sorted; folders end with /.",
        group: "group:fs",
        class: EffectClass::Read,
        timeout_ms: 30_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        let paths = Paths::of(&cx, &self.places);
        let limit = args.limit.unwrap_or(NAMES_DEFAULT).max(1);
        let path = args.path.filter(|p| !p.trim().is_empty()).unwrap_or_else(|| ".".into());
        let (names, more) = blocking(move || paths.list(&path, limit)).await?;
        let mut text = if names.is_empty() { "(empty folder)".to_owned() } else { names.join("\n") };
        if more {
            text.push_str(&format!("\n[only the first {limit} names are shown]"));
        }
        Ok(ToolOutput::text(text).with_details(json!({"entries": names.len(), "more": more})))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_kit::Kit;

    #[tokio::test]
    async fn names_are_sorted_and_bounded() {
        let kit = Kit::new();
        for name in ["b.txt", "a.txt", "d/x"] {
            kit.file(name, "");
        }
        assert_eq!(kit.call("ls", json!({})).await.unwrap().plain_text(), "a.txt\nb.txt\nd/");
        assert!(kit.call("ls", json!({"limit": 1})).await.unwrap().plain_text().contains("only the first 1"));
        kit.set(json!({"fs": {"workspaceOnly": true}}));
        assert!(kit.call("ls", json!({"path": "/etc"})).await.is_err());
        assert!(kit.call("ls", json!({"path": "d"})).await.is_ok());
    }
}
