//! Talking to agents: `agent`, `chat.*`.

use serde_json::Value;

use crate::method::{methods, params, words};

words! {
    /// What to do when the session is busy.
    QueueModeWord: "steer" => Steer, "followup" => Followup, "collect" => Collect, "interrupt" => Interrupt;
    /// How much of the system prompt a run gets.
    PromptMode: "full" => Full, "minimal" => Minimal, "none" => None;
    /// How much workspace context a run gets.
    BootstrapContextMode: "full" => Full, "lightweight" => Lightweight;
    /// What a run is for, for its context.
    BootstrapContextKind: "default" => Default, "heartbeat" => Heartbeat, "cron" => Cron;
    /// Where an attachment came from.
    AttachmentOrigin: "paste" => Paste, "file" => File;
}

params! {
    /// A file that comes with a message.
    #[derive(Default)]
    Attachment {
        r#type?: String,
        mime_type?: String,
        file_name?: String,
        origin?: AttachmentOrigin,
        /// Base64 text, with or without a `data:` prefix.
        content?: Value,
        size_bytes?: f64,
        duration_ms?: f64,
        width?: f64,
        height?: f64,
    }
    /// A person named in a message.
    Mention { profile_id: text(256), start: int(0..), end: int(1..) }
    /// For `agent`.
    AgentParams {
        message: text,
        agent_id?: text,
        provider?: String,
        model?: String,
        to?: String,
        reply_to?: String,
        session_id?: String,
        session_key?: String,
        expected_existing_session_id?: text,
        thinking?: String,
        deliver?: bool,
        attachments?: Vec<Value>,
        channel?: String,
        reply_channel?: String,
        account_id?: String,
        reply_account_id?: String,
        thread_id?: String,
        group_id?: String,
        group_channel?: String,
        group_space?: String,
        /// Seconds.
        timeout?: int,
        best_effort_deliver?: bool,
        lane?: String,
        cwd?: String,
        cleanup_bundle_mcp_on_run_end?: bool,
        model_run?: bool,
        prompt_mode?: PromptMode,
        extra_system_prompt?: String,
        bootstrap_context_mode?: BootstrapContextMode,
        bootstrap_context_run_kind?: BootstrapContextKind,
        acp_turn_source?: String,
        internal_runtime_handoff_id?: String,
        internal_execution_identity_retry?: bool,
        internal_execution_identity_recovery_attempt?: int,
        exec_approval_followup_expected_session_id?: String,
        internal_events?: Vec<Value>,
        input_provenance?: Value,
        voice_wake_trigger?: String,
        label?: text(512),
        /// Becomes the run id.
        idempotency_key: text,
    }
    /// For `agent.identity.get`.
    #[derive(Default)]
    AgentIdentityParams { agent_id?: text, session_key?: String }
    /// For `agent.wait`.
    AgentWaitParams { run_id: text, timeout_ms?: int }
    /// For `chat.history`.
    HistoryParams {
        session_key: text,
        agent_id?: text,
        cursor?: text,
        limit?: int(1..1000),
        max_bytes?: int(1024..),
        offset?: int,
        pending_before?: int(1..),
        #[schemars(length(max = 50))]
        input_run_ids?: Vec<String>,
        message_id?: text,
        session_id?: text,
        max_chars?: int(1..500_000),
    }
    /// For `chat.startup`: by session key, or by the short id of a shared link.
    #[derive(Default)]
    StartupParams {
        session_key?: text,
        short_id?: text,
        slug_hint?: String,
        agent_id?: text,
        cursor?: text,
        limit?: int(1..1000),
        max_bytes?: int(1024..),
        offset?: int,
        pending_before?: int(1..),
        #[schemars(length(max = 50))]
        input_run_ids?: Vec<String>,
        message_id?: text,
        session_id?: text,
        max_chars?: int(1..500_000),
    }
    /// For `chat.metadata`.
    #[derive(Default)]
    MetadataParams { agent_id?: text, auth_profile_id?: text(256), session_key?: text }
    /// For `chat.message.get`.
    MessageGetParams { session_key: text, agent_id?: text, message_id: text, max_chars?: int(1..2_000_000) }
    /// For `chat.abort`. Without `run_id` every run of the session is stopped.
    AbortParams { session_key: text, agent_id?: text, run_id?: text, preserve_side_runs?: bool }
    /// What `chat.abort` did.
    Aborted { ok: bool, aborted: bool, run_ids: Vec<String> }
    /// For `chat.send`.
    SendParams {
        session_key: text(512),
        agent_id?: text,
        session_id?: text,
        message: String,
        #[schemars(length(max = 10))]
        mentions?: Vec<Mention>,
        work_context?: Value,
        intent?: Value,
        thinking?: String,
        /// `true`, `false` or `"auto"`.
        fast_mode?: Value,
        fast_auto_on_seconds?: int(1..),
        queue_mode?: QueueModeWord,
        deliver?: bool,
        originating_channel?: String,
        originating_to?: String,
        originating_account_id?: String,
        originating_thread_id?: String,
        reply_to_id?: String,
        attachments?: Vec<Attachment>,
        tool_bindings?: Value,
        timeout_ms?: int,
        system_input_provenance?: Value,
        system_provenance_receipt?: String,
        suppress_command_interpretation?: bool,
        expected_session_routing_contract?: Value,
        expected_leaf_entry_id?: Value,
        model?: String,
        agent_runtime?: String,
        /// Becomes the run id.
        idempotency_key: text,
    }
    /// Where a run stands after it was handed over: `started`, `in_flight`, `ok`, `error`.
    RunAck { run_id: String, status: String, message_seq?: int, server_timing?: Value }
    /// For `chat.inject`.
    InjectParams { session_key: text, agent_id?: text, message: text, label?: text(100) }
    /// Where the injected message is.
    Injected { ok: bool, message_id: String }
    /// For `chat.toolTitles`.
    ToolTitlesParams { session_key: text, agent_id?: text, #[schemars(length(max = 24))] items: Vec<Value> }
}

methods! {
    /// Talking to agents.
    trait ChatApi {
        /// Runs an agent: `accepted` at once, the result as a second response with the same id.
        Agent: "agent" => fn agent(AgentParams) -> Value, scope: Dynamic, flags: [SIDECARS, TWICE];
        /// Name and avatar of an agent.
        AgentIdentity: "agent.identity.get" => fn agent_identity(AgentIdentityParams) -> Value, scope: Read;
        /// Waits for the end of a run, at most `timeoutMs` (default 30 000); then `status: "timeout"`.
        AgentWait: "agent.wait" => fn agent_wait(AgentWaitParams) -> Value, scope: Write, flags: [SIDECARS];
        /// Messages of a session, newest page first, or what is new since `cursor`.
        History: "chat.history" => fn history(HistoryParams) -> Value, scope: Read, flags: [SIDECARS];
        /// As `chat.history`, with metadata, for the first page of a client.
        Startup: "chat.startup" => fn startup(StartupParams) -> Value, scope: Read, flags: [SIDECARS];
        /// Models and commands for a session.
        Metadata: "chat.metadata" => fn metadata(MetadataParams) -> Value, scope: Read, flags: [SIDECARS];
        /// One message in full.
        MessageGet: "chat.message.get" => fn message_get(MessageGetParams) -> Value, scope: Read, flags: [SIDECARS];
        /// Stops runs of a session.
        Abort: "chat.abort" => fn abort(AbortParams) -> Aborted, scope: Write;
        /// Sends a message; `started` means it is stored. The answer comes as events.
        Send: "chat.send" => fn send(SendParams) -> RunAck, scope: Write, flags: [SIDECARS, TARGET];
        /// Adds an assistant message without a run.
        Inject: "chat.inject" => fn inject(InjectParams) -> Injected, scope: Admin, flags: [HIDDEN];
        /// Short titles for tool calls.
        ToolTitles: "chat.toolTitles" => fn tool_titles(ToolTitlesParams) -> Value, scope: Write;
    }
}
