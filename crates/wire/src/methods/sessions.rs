//! Sessions: list, subscribe, create, patch, reset, delete.

use serde_json::Value;

use super::{
    chat::{Attachment, Mention, RunAck},
    system::Nothing,
};
use crate::method::{methods, params, words};

words! {
    /// The order of a session list.
    SessionSort: "updatedAt" => UpdatedAt, "lastInteractionAt" => LastInteractionAt, "activity" => Activity;
    /// Why a session is reset.
    ResetReason: "new" => New, "reset" => Reset;
    /// What an agent may do in a session.
    PermissionMode: "read-only" => ReadOnly, "guarded" => Guarded, "workspace" => Workspace, "full" => Full;
    /// The face of a session in a user interface.
    BoardFace: "chat" => Chat, "dashboard" => Dashboard;
}

params! {
    /// For `sessions.list` and `sessions.subscribe`.
    #[derive(Default)]
    ListParams {
        limit?: int(1..),
        offset?: int,
        active_minutes?: int(1..),
        active_only?: bool,
        require_last_interaction?: bool,
        sort_by?: SessionSort,
        include_global?: bool,
        include_unknown?: bool,
        exclude_subagents?: bool,
        exclude_cron?: bool,
        exclude_system?: bool,
        configured_agents_only?: bool,
        include_derived_titles?: bool,
        include_last_message?: bool,
        include_activity_summary?: bool,
        label?: text(512),
        project_id?: text,
        workspace_dir?: text,
        group?: text,
        pinned?: bool,
        board_face?: BoardFace,
        has_board?: bool,
        creator_id?: text,
        owner_id?: text,
        owner_first?: bool,
        involving_me?: bool,
        profile_relation?: Value,
        involving_profile_id?: text,
        include_people?: bool,
        spawned_by?: text,
        agent_id?: text,
        search?: String,
        /// `true`, `false` or `"all"`.
        archived?: Value,
    }
    /// A session, and the agent when the key does not name one.
    KeyParams { key: text, agent_id?: text }
    /// A session by `sessionKey`.
    SessionKeyParams { session_key: text, agent_id?: text }
    /// For `sessions.messages.subscribe`.
    MessagesSubscribeParams { key: text, agent_id?: text, include_approvals?: bool }
    /// For `sessions.viewers.set`.
    ViewersParams { agent_id?: text, #[schemars(length(max = 32))] session_keys: Vec<String> }
    /// The sessions that are being looked at.
    Viewers { session_keys: Vec<String> }
    /// For `sessions.preview`.
    PreviewParams { keys: Vec<String>, limit?: int(1..), max_chars?: int(20..) }
    /// For `sessions.describe`.
    DescribeParams { key: text, agent_id?: text, include_derived_titles?: bool, include_last_message?: bool }
    /// For `sessions.get`.
    GetParams { key: text, limit?: Value, agent_id?: Value, offset?: int }
    /// For `sessions.export`. `cursor` is the `next` of the page before.
    ExportParams { key: text, agent_id?: text, cursor?: text }
    /// For `sessions.commit`. Without a time the call waits 30 s.
    CommitParams { key: text, agent_id?: text, timeout_ms?: int }
    /// For `sessions.resolve`.
    #[derive(Default)]
    ResolveParams {
        key?: text,
        session_id?: text,
        label?: text(512),
        reference?: Value,
        short_id?: text,
        slug_hint?: String,
        agent_id?: text,
        spawned_by?: text,
        include_global?: bool,
        include_unknown?: bool,
        allow_missing?: bool,
    }
    /// For `sessions.create`.
    #[derive(Default)]
    CreateParams {
        key?: text,
        idempotency_key?: text,
        agent_id?: text,
        label?: text(512),
        display_name?: text(500),
        title_source?: text(1000),
        category?: text(512),
        model?: text,
        agent_runtime?: text,
        context_window?: text,
        thinking_level?: String,
        fast_mode?: Value,
        permission_mode?: PermissionMode,
        tool_overrides?: Value,
        incognito?: bool,
        visibility?: String,
        catalog_id?: text,
        parent_session_key?: text,
        spawn_depth?: int(1..),
        fork?: bool,
        fork_from?: String,
        emit_command_hooks?: bool,
        succeeds_parent?: bool,
        timeout_ms?: int,
        task?: String,
        message?: String,
        #[schemars(length(max = 10))]
        mentions?: Vec<Mention>,
        attachments?: Vec<Attachment>,
        project_id?: text,
        worktree?: Value,
        cwd?: String,
        exec_node?: String,
    }
    /// For `sessions.send`.
    SessionSendParams {
        key: text,
        agent_id?: text,
        message: String,
        #[schemars(length(max = 10))]
        mentions?: Vec<Mention>,
        thinking?: String,
        attachments?: Vec<Attachment>,
        timeout_ms?: int,
        /// Becomes the run id; one is made when absent.
        idempotency_key?: text,
    }
    /// For `sessions.abort`.
    #[derive(Default)]
    SessionAbortParams { key?: text, run_id?: text, agent_id?: text, clear_queued?: bool }
    /// For `sessions.patch`. `null` clears a field.
    PatchParams {
        key: text,
        agent_id?: text,
        expected_session_id?: text,
        expected_lifecycle_revision?: text,
        expected_permission_mode?: Value,
        expected_sandbox_mode?: Value,
        expected_native_runtime_consent?: Value,
        expected_tool_overrides?: Value,
        expected_marked_unread_at?: Value,
        label?: change(String),
        auto_label?: change(String),
        icon?: change(String),
        color?: change(String),
        category?: change(String),
        board_face?: BoardFace,
        board_presentation?: change(String),
        status_note?: change(String),
        attention?: change(String),
        ttl_minutes?: int(1..120),
        archived?: bool,
        pinned?: bool,
        unread?: bool,
        context_window?: change(String),
        thinking_level?: change(String),
        fast_mode?: change(Value),
        tool_overrides?: change(Value),
        verbose_level?: change(String),
        trace_level?: change(String),
        reasoning_level?: change(String),
        response_usage?: change(String),
        elevated_level?: change(String),
        permission_mode?: change(PermissionMode),
        sandbox_mode?: change(String),
        exec_host?: change(String),
        exec_security?: change(String),
        exec_ask?: change(String),
        exec_node?: change(String),
        model?: change(String),
        agent_runtime?: change(String),
        spawned_by?: change(String),
        spawn_depth?: change(u64),
        send_policy?: change(String),
        group_activation?: change(String),
        queue_mode?: change(String),
    }
    /// For `sessions.reset`.
    ResetParams { key: text, agent_id?: text, reason?: ResetReason, expected_session_id?: text }
    /// For `sessions.delete`.
    DeleteParams {
        key: text,
        agent_id?: text,
        delete_transcript?: bool,
        expected_session_id?: text,
        expected_lifecycle_revision?: text,
        expected_session_updated_at?: f64,
        emit_lifecycle_hooks?: bool,
        archived_only?: bool,
    }
    /// For `sessions.compact`.
    CompactParams { key: text, agent_id?: text, max_lines?: int(1..) }
    /// For `sessions.usage`.
    #[derive(Default)]
    UsageParams {
        key?: text,
        agent_id?: text,
        agent_scope?: String,
        creator_key?: text,
        start_date?: String,
        end_date?: String,
        mode?: String,
        range?: String,
        group_by?: String,
        include_historical?: bool,
        utc_offset?: String,
        time_zone?: String,
        limit?: int(1..),
        include_context_weight?: bool,
    }
    /// For `sessions.catalog.list`.
    #[derive(Default)]
    CatalogParams {
        catalog_id?: text,
        metadata_only?: bool,
        cursors?: Value,
        agent_id?: text,
        progress_id?: text(128),
        allow_partial_results?: bool,
        search?: String,
        limit_per_host?: int(1..),
        host_ids?: Vec<String>,
    }
    /// For `sessions.cleanup`.
    #[derive(Default)]
    CleanupParams { agent?: text, all_agents?: bool, enforce?: bool, active_key?: text, fix_missing?: bool, fix_dm_scope?: bool }
    /// For `sessions.groups.put`.
    GroupsPutParams { names: Vec<String>, section_order?: Vec<String> }
    /// For `sessions.groups.rename`.
    GroupsRenameParams { name: text(512), to: text(512) }
    /// For `sessions.groups.delete`.
    GroupsDeleteParams { name: text(512) }
    /// For `sessions.search`.
    SearchParams {
        query: text,
        agent_id?: text,
        session_keys?: Vec<String>,
        scope?: Value,
        limit?: int(1..),
    }
    /// An agent and session key.
    Resolved { ok: bool, key: String, agent_id?: String }
}

methods! {
    /// Sessions and their transcripts.
    trait SessionsApi {
        /// Sessions, newest first, a page of `limit` (default 100).
        List: "sessions.list" => fn list(ListParams) -> Value, scope: Read, flags: [SIDECARS];
        /// Starts `sessions.changed` and `session.message` events for this connection; answers a list when any
        /// list parameter is given.
        Subscribe: "sessions.subscribe" => fn subscribe(ListParams) -> Value, scope: Read, flags: [SIDECARS];
        /// Starts `session.message` (and, with cap `session-scoped-events`, `agent` and `chat`) events of one session.
        MessagesSubscribe: "sessions.messages.subscribe" => fn messages_subscribe(MessagesSubscribeParams) -> Value, scope: Read;
        /// Ends them.
        MessagesUnsubscribe: "sessions.messages.unsubscribe" => fn messages_unsubscribe(KeyParams) -> Value, scope: Read;
        /// Tells which sessions this client shows.
        ViewersSet: "sessions.viewers.set" => fn viewers_set(ViewersParams) -> Viewers, scope: Read;
        /// The last lines of several sessions.
        Preview: "sessions.preview" => fn preview(PreviewParams) -> Value, scope: Read;
        /// One session's row.
        Describe: "sessions.describe" => fn describe(DescribeParams) -> Value, scope: Read;
        /// The key of a session found by key, id or label.
        Resolve: "sessions.resolve" => fn resolve(ResolveParams) -> Resolved, scope: Read, flags: [HIDDEN];
        /// Messages of a session; with `offset` the page before so many of the newest.
        Get: "sessions.get" => fn get(GetParams) -> Value, scope: Read, flags: [HIDDEN];
        /// A session as lines of a transcript file, page by page: `{lines, next}`.
        Export: "sessions.export" => fn export(ExportParams) -> Value, scope: Read, flags: [HIDDEN];
        /// Answers when everything that the session had accepted before is settled.
        Commit: "sessions.commit" => fn commit(CommitParams) -> Value, scope: Read, flags: [HIDDEN];
        /// Branches of a transcript; we keep one.
        BranchesList: "sessions.branches.list" => fn branches_list(SessionKeyParams) -> Value, scope: Read;
        /// Makes a session, and starts a run when it has a message.
        Create: "sessions.create" => fn create(CreateParams) -> Value, scope: Dynamic, flags: [SIDECARS];
        /// Sends a message to a session.
        SessionSend: "sessions.send" => fn send(SessionSendParams) -> RunAck, scope: Write, flags: [SIDECARS];
        /// Older name of `sessions.send`.
        Steer: "sessions.steer" => fn steer(SessionSendParams) -> RunAck, scope: Write, flags: [HIDDEN];
        /// Stops runs by session or run id.
        SessionAbort: "sessions.abort" => fn abort(SessionAbortParams) -> Value, scope: Write, flags: [SIDECARS];
        /// Changes settings of a session.
        Patch: "sessions.patch" => fn patch(PatchParams) -> Value, scope: Dynamic;
        /// Starts the conversation afresh.
        Reset: "sessions.reset" => fn reset(ResetParams) -> Value, scope: Admin;
        /// Removes a session.
        Delete: "sessions.delete" => fn delete(DeleteParams) -> Value, scope: Dynamic;
        /// Replaces the older part of the transcript by a summary.
        Compact: "sessions.compact" => fn compact(CompactParams) -> Value, scope: Admin;
        /// Removes sessions by the configured rules.
        Cleanup: "sessions.cleanup" => fn cleanup(CleanupParams) -> Value, scope: Admin;
        /// Tokens and cost by session.
        Usage: "sessions.usage" => fn usage(UsageParams) -> Value, scope: Read, flags: [HIDDEN];
        /// Finds text in transcripts.
        Search: "sessions.search" => fn search(SearchParams) -> Value, scope: Read;
        /// Groups of sessions.
        GroupsList: "sessions.groups.list" => fn groups_list(Nothing) -> Value, scope: Read;
        /// Defaults of groups.
        GroupsDefaults: "sessions.groups.defaults" => fn groups_defaults(Nothing) -> Value, scope: Write;
        /// Sets the groups and their order.
        GroupsPut: "sessions.groups.put" => fn groups_put(GroupsPutParams) -> Value, scope: Write;
        /// Renames a group.
        GroupsRename: "sessions.groups.rename" => fn groups_rename(GroupsRenameParams) -> Value, scope: Write;
        /// Removes a group; its sessions stay.
        GroupsDelete: "sessions.groups.delete" => fn groups_delete(GroupsDeleteParams) -> Value, scope: Write;
        /// Sessions of other programs on this machine.
        CatalogList: "sessions.catalog.list" => fn catalog_list(CatalogParams) -> Value, scope: Read;
    }
}
