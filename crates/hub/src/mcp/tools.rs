//! The table of tools: name, what it takes and answers, how it behaves, and its sentence for models.

use std::sync::{Arc, LazyLock};

use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use schemars::{JsonSchema, generate::SchemaSettings};

use super::{answers, args, vault_calls};
use crate::vault::ops;

/// What a call does to the farm.
#[derive(Clone, Copy)]
enum Does {
    /// Nothing.
    Reads,
    /// Something, and the same when repeated.
    SetsSame,
    /// Something more each time.
    Adds,
    /// Takes or removes something.
    Takes,
}

static TOOLS: LazyLock<Vec<Tool>> = LazyLock::new(|| {
    vec![
        tool::<args::RegisterArgs, answers::Registered>(
            "agent_register",
            "Register an agent",
            Does::SetsSame,
            "Registers an agent of yours in the farm, or renews what it announced. Do this first: every other tool acts as an agent you registered.",
        ),
        tool::<args::DiscoverArgs, answers::Discovered>(
            "agent_discover",
            "Who is in the farm",
            Does::Reads,
            "Lists the agents of the farm: where each lives, what it can do, how it is. `yours` marks those you registered.",
        ),
        tool::<args::HeartbeatArgs, answers::Beaten>(
            "agent_heartbeat",
            "Say that an agent lives",
            Does::SetsSame,
            "Notes that an agent of yours lives, with its status and what its last check found.",
        ),
        tool::<args::SendArgs, answers::Stored>(
            "send_message",
            "Send a letter",
            Does::Adds,
            "Sends a letter from an agent of yours to any agent. Answers when the letter is stored: it is not lost from then on. Give an idempotency_key \
             when you may repeat the call.",
        ),
        tool::<args::InboxArgs, answers::Inbox>(
            "check_inbox",
            "Take letters",
            Does::Takes,
            "Lends the oldest letters of an agent of yours for 60 seconds. Settle each with ack_message; a letter that is not settled comes again.",
        ),
        tool::<args::AckArgs, answers::Acked>(
            "ack_message",
            "Settle a letter",
            Does::SetsSame,
            "Says how a letter of check_inbox ended: done, failed (it becomes a dead letter), or return (it comes again at once).",
        ),
        tool::<args::SetMemoryArgs, answers::MemorySet>(
            "set_memory",
            "Remember a value",
            Does::SetsSame,
            "Writes a value of an agent of yours, or of the shared space. With if_version or if_absent it is written only if nobody was faster.",
        ),
        tool::<args::GetMemoryArgs, answers::MemoryGot>(
            "get_memory",
            "Read a value",
            Does::Reads,
            "Reads a value of any agent or of the shared space; without key it lists the names. The shared keys recent-events and task-queue show events and \
             tasks.",
        ),
        tool::<args::EventArgs, answers::EventPushed>(
            "push_event",
            "Tell an event",
            Does::Adds,
            "Adds an event to the farm's recent events (the newest 1000 are kept).",
        ),
        tool::<args::PushTaskArgs, answers::TaskPushed>(
            "push_task",
            "Add a task",
            Does::Adds,
            "Puts a task at the end of the shared queue, for whoever takes it with pop_task.",
        ),
        tool::<args::PopTaskArgs, answers::TaskPopped>(
            "pop_task",
            "Take a task",
            Does::Takes,
            "Takes the oldest task of the shared queue. Each task is given once.",
        ),
        tool::<ops::ReadArgs, ops::ReadAnswer>(
            "vault_read",
            "Read a note",
            Does::Reads,
            "Reads a Markdown note of the shared vault: of any agent (agents/<agent>/<note>.md) or shared (shared/<note>.md).",
        ),
        tool::<ops::ListArgs, ops::ListAnswer>(
            "vault_list",
            "List notes",
            Does::Reads,
            "Lists the notes of the shared vault, or with words the lines that contain all of them.",
        ),
        tool::<vault_calls::WriteNoteArgs, ops::WriteAnswer>(
            "vault_write",
            "Write a note",
            Does::SetsSame,
            "Replaces a note of an agent of yours. Only its own agent writes a note; what a person changed in it meanwhile is kept beside it.",
        ),
        tool::<vault_calls::AppendNoteArgs, ops::WriteAnswer>(
            "vault_append",
            "Add to a note",
            Does::Adds,
            "Adds one line to a shared log (shared/RECENT_EVENTS.md, shared/DECISIONS.md), or a dated section to a note of an agent of yours.",
        ),
        tool::<args::DlqListArgs, answers::DeadLetters>(
            "dlq_list",
            "Dead letters",
            Does::Reads,
            "Lists letters that were given up: expired, failed, or handed out too often.",
        ),
        tool::<args::DlqReplayArgs, answers::Stored>(
            "dlq_replay",
            "Replay a dead letter",
            Does::Adds,
            "Sends a dead letter again, as a new letter with its old idempotency key. Needs the operator scope.",
        ),
    ]
});

/// True for a tool that needs a vault.
#[must_use]
pub fn is_of_vault(name: &str) -> bool {
    name.starts_with("vault_")
}

/// Every tool, in the order they are shown.
#[must_use]
pub fn all() -> &'static [Tool] {
    &TOOLS
}

fn tool<A: JsonSchema, R: JsonSchema>(name: &'static str, title: &'static str, does: Does, description: &'static str) -> Tool {
    let hints = ToolAnnotations::with_title(title).open_world(false);
    let hints = match does {
        Does::Reads => hints.read_only(true),
        Does::SetsSame => hints.read_only(false).destructive(false).idempotent(true),
        Does::Adds => hints.read_only(false).destructive(false).idempotent(false),
        Does::Takes => hints.read_only(false).destructive(true).idempotent(false),
    };
    let input = schema::<A>(SchemaSettings::draft2020_12().for_deserialize());
    let output = schema::<R>(SchemaSettings::draft2020_12().for_serialize());
    Tool::new(name, description, input).with_title(title).with_raw_output_schema(output).with_annotations(hints)
}

/// One self-contained object: many clients do not follow references.
fn schema<T: JsonSchema>(settings: SchemaSettings) -> Arc<JsonObject> {
    let schema = settings.with(|s| s.inline_subschemas = true).into_generator().into_root_schema_for::<T>();
    let mut object = schema.as_object().cloned().unwrap_or_default();
    // Names of our types say nothing to a client.
    object.remove("title");
    object.remove("description");
    Arc::new(object)
}
