use std::time::Duration;

use async_trait::async_trait;
use clawstead_terms::{StopReason, Usage};
use futures_util::{StreamExt, stream};
use serde_json::Value;

use super::{last_result, last_user_text};
use crate::{Ask, Chunk, ChunkStream, Provider, ProviderError};

/// The demo's provider id.
pub const DEMO_PROVIDER: &str = "demo";
/// The demo's model id.
pub const DEMO_MODEL: &str = "echo";
/// What every answer of the demo begins with, so that nobody takes it for a model.
pub const DEMO_LABEL: &str = "Clawstead demo model, no real model is configured:";

/// Bytes of a streamed piece, about.
const PIECE_BYTES: usize = 24;
/// Pause before each piece of text, so that a person sees it come as from a real model.
const PIECE_PAUSE: Duration = Duration::from_millis(30);

/// The demo model: says what it was told, clearly labelled, and calls a tool when the text asks for it.
///
/// A line `use tool <name> <json object>` in the user's last message calls that tool if it is on offer; without
/// an object the arguments are `{}`. Several such lines make several calls. The tool's result is said back.
/// The same conversation always gives the same answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demo;

/// Reads `use tool <name> {json}` lines.
fn wanted_calls(text: &str, ask: &Ask) -> Vec<(String, Value)> {
    text.lines()
        .filter_map(|line| {
            let rest = line.trim().strip_prefix("use tool ")?.trim();
            let (name, args) = rest.split_once(char::is_whitespace).unwrap_or((rest, "{}"));
            let arguments: Value = serde_json::from_str(args.trim()).ok().filter(Value::is_object)?;
            ask.tools.iter().any(|t| t.name == name).then(|| (name.to_owned(), arguments))
        })
        .collect()
}

/// Cuts text into pieces at blanks, so that watchers see it grow.
fn pieces(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let last = out.len() - 1;
        if !out[last].is_empty() && out[last].len() + word.len() > PIECE_BYTES {
            out.push(word.to_owned());
        } else {
            out[last].push_str(word);
        }
    }
    out
}

#[async_trait]
impl Provider for Demo {
    async fn stream(&self, ask: Ask) -> Result<ChunkStream, ProviderError> {
        let said = last_user_text(&ask);
        let mut chunks = Vec::new();
        let mut output = 0;
        let mut say = |text: String, chunks: &mut Vec<Chunk>| {
            output += u64::try_from(text.len().div_ceil(4)).unwrap_or(0);
            chunks.extend(pieces(&text).into_iter().map(Chunk::Text));
        };
        let mut stop = StopReason::Stop;
        if let Some((tool, text)) = last_result(&ask) {
            say(format!("{DEMO_LABEL} the tool {tool} answered: {text}"), &mut chunks);
        } else {
            let calls = wanted_calls(&said, &ask);
            if calls.is_empty() {
                say(format!("{DEMO_LABEL} you said: {said}"), &mut chunks);
            }
            for (i, (name, arguments)) in calls.into_iter().enumerate() {
                stop = StopReason::ToolUse;
                chunks.push(Chunk::ToolCall { id: format!("demo-{}-{i}", ask.messages.len()), name, arguments });
            }
        }
        let input = u64::try_from((ask.system.len() + said.len()).div_ceil(4)).unwrap_or(0);
        chunks.push(Chunk::Usage(Usage { input, output, ..Usage::default() }));
        chunks.push(Chunk::Done(stop));
        let paced = stream::iter(chunks).then(|chunk| async move {
            if matches!(chunk, Chunk::Text(_)) {
                tokio::time::sleep(PIECE_PAUSE).await;
            }
            Ok(chunk)
        });
        Ok(paced.boxed())
    }
}
