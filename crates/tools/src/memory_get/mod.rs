//! `memory_get`: lines of a memory file.

use std::{io::Read as _, sync::Arc};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use clawstead_terms::EffectClass;

use crate::{
    Places, Tool, ToolCx, ToolError, ToolOutput, ToolSpec, bound,
    memory_search::FILE_BYTES_MAX,
    paths::{Confine, Paths},
    read::blocking,
};

/// Text of one answer, bytes.
const TEXT_BYTES_MAX: usize = 32 * 1024;

/// Reads memory.
pub struct MemoryGet {
    /// The host.
    pub places: Arc<Places>,
}

/// Arguments of `memory_get`.
#[derive(Deserialize, JsonSchema)]
pub struct Args {
    /// MEMORY.md or a file below memory/, as memory_search tells it.
    path: String,
    /// The first line, counted from 1. Default 1.
    #[serde(default, alias = "offset")]
    from: Option<usize>,
    /// How many lines. Default: all.
    #[serde(default, alias = "limit")]
    lines: Option<usize>,
}

#[async_trait]
impl Tool for MemoryGet {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "memory_get",
        title: "Read memory",
        description: "Read lines of MEMORY.md or of a file in memory/.",
        group: "group:memory",
        class: EffectClass::Read,
        timeout_ms: 30_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        // Memory is below the workspace whatever the other file tools may do.
        let paths = Paths::new(cx.workspace.clone(), self.places.clone(), Confine::Workspace);
        blocking(move || get(&paths, &args)).await
    }
}

fn get(paths: &Paths, args: &Args) -> Result<ToolOutput, ToolError> {
    let path = args.path.trim().trim_start_matches("./");
    let known = path.eq_ignore_ascii_case("MEMORY.md") || (path.starts_with("memory/") && path.ends_with(".md") && !path.split('/').any(|part| part == ".."));
    if !known {
        return Err(ToolError::BadArguments("field `path` must be MEMORY.md or a .md file below memory/".into()));
    }
    let mut text = String::new();
    let opened = match paths.open(path) {
        Ok(opened) => opened,
        // Nothing remembered yet is no fault.
        Err(ToolError::Failed(why)) if why.ends_with("does not exist") => {
            return Ok(ToolOutput::json(json!({"path": path, "text": "", "missing": true})));
        }
        Err(err) => return Err(err),
    };
    let mut bytes = Vec::new();
    opened.file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| ToolError::Failed(format!("cannot read {path}: {e}")))?;
    text.push_str(&String::from_utf8_lossy(&bytes));
    let from = args.from.unwrap_or(1).max(1);
    let part: Vec<&str> = text.lines().skip(from - 1).take(args.lines.unwrap_or(usize::MAX)).collect();
    Ok(ToolOutput::json(json!({"path": path, "from": from, "lines": part.len(), "text": bound::cut(part.join("\n"), TEXT_BYTES_MAX)})))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_kit::Kit;

    #[tokio::test]
    async fn lines_of_memory_and_nothing_else() {
        let kit = Kit::new();
        kit.file("memory/2026-01-01.md", "one\ntwo\nthree\n");
        kit.file("SOUL.md", "x");
        let seen = kit.call("memory_get", json!({"path": "memory/2026-01-01.md", "from": 2, "lines": 1})).await.unwrap().details.unwrap();
        assert_eq!((&seen["text"], &seen["from"]), (&json!("two"), &json!(2)));
        assert_eq!(kit.call("memory_get", json!({"path": "MEMORY.md"})).await.unwrap().details.unwrap()["missing"], true);
        for bad in ["SOUL.md", "memory/../SOUL.md", "../x.md", "memory/../../openclaw.json.md", "/etc/passwd"] {
            let seen = kit.call("memory_get", json!({"path": bad})).await;
            assert!(seen.is_err() || seen.as_ref().unwrap().details.as_ref().unwrap()["missing"] == true, "{bad}: {seen:?}");
        }
    }
}
