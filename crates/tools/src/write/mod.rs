//! `write`: a whole file, at once.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use clawstead_terms::EffectClass;

use crate::{Places, Tool, ToolCx, ToolError, ToolOutput, ToolSpec, paths::Paths, read::blocking};

/// The longest file that can be written in one call, bytes.
const BYTES_MAX: usize = 10 * 1024 * 1024;

/// Writes a file.
pub struct Write {
    /// The host.
    pub places: Arc<Places>,
}

/// Arguments of `write`.
#[derive(Deserialize, JsonSchema)]
pub struct Args {
    /// The file: relative to the workspace, or absolute.
    #[serde(alias = "file_path", alias = "filePath", alias = "file")]
    path: String,
    /// The whole text of the file.
    #[serde(alias = "contents", alias = "text")]
    content: String,
}

#[async_trait]
impl Tool for Write {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "write",
        title: "Write",
        description: "Write a whole file: makes it, or replaces all of its text. Missing folders are made. To change a part of a file use edit.",
        group: "group:fs",
        class: EffectClass::Idempotent,
        timeout_ms: 30_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        if args.content.len() > BYTES_MAX {
            return Err(ToolError::BadArguments(format!("field `content` must have at most {BYTES_MAX} bytes")));
        }
        let paths = Paths::of(&cx, &self.places);
        let unique = cx.world.rng.uuid();
        let (path, new, size) =
            blocking(move || paths.write(&args.path, args.content.as_bytes(), &unique).map(|(path, new)| (path, new, args.content.len()))).await?;
        let verb = if new { "Made" } else { "Replaced" };
        Ok(ToolOutput::text(format!("{verb} {} ({size} bytes)", path.display())).with_details(json!({"path": path, "bytes": size, "created": new})))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_kit::Kit;

    #[tokio::test]
    async fn a_file_is_made_and_replaced() {
        let kit = Kit::new();
        let seen = kit.call("write", json!({"path": "x/y/z.txt", "content": "one"})).await.unwrap();
        assert!(seen.plain_text().starts_with("Made"));
        let seen = kit.call("write", json!({"path": "x/y/z.txt", "content": "two"})).await.unwrap();
        assert!(seen.plain_text().starts_with("Replaced"));
        assert_eq!(std::fs::read_to_string(kit.path("x/y/z.txt")).unwrap(), "two");
        let err = kit.call("write", json!({"path": "x/y"})).await.unwrap_err().to_string();
        assert!(err.contains("`content`"), "{err}");
    }
}
