//! Commands, tools and skills.

use serde_json::Value;

use crate::method::{Loose, methods, params, words};

words! {
    /// Where a command can be used.
    CommandScope: "text" => Text, "native" => Native, "both" => Both;
}

params! {
    /// For `commands.list`.
    #[derive(Default)]
    CommandsListParams { session_key?: text, agent_id?: text, provider?: text, scope?: CommandScope, include_args?: bool }
    /// For `tools.catalog`.
    #[derive(Default)]
    CatalogParams { agent_id?: text, include_plugins?: bool }
    /// For `tools.effective`.
    EffectiveParams { agent_id?: text, session_key: text }
    /// For `tools.invoke`.
    InvokeParams {
        name: text,
        args?: Loose,
        session_key?: text,
        agent_id?: text,
        confirm?: bool,
        idempotency_key?: text,
        conversation_read_origin?: String,
    }
    /// For `skills.status`.
    #[derive(Default)]
    SkillsStatusParams { agent_id?: text, session_key?: text }
}

methods! {
    /// Commands, tools and skills.
    trait ToolsApi {
        /// Slash commands.
        CommandsList: "commands.list" => fn commands_list(CommandsListParams) -> Value, scope: Read;
        /// All tools, by group, with the profiles they are in.
        Catalog: "tools.catalog" => fn catalog(CatalogParams) -> Value, scope: Read;
        /// The tools a session may use.
        Effective: "tools.effective" => fn effective(EffectiveParams) -> Value, scope: Read, flags: [SIDECARS];
        /// Runs a tool as the session would, under its policy.
        Invoke: "tools.invoke" => fn invoke(InvokeParams) -> Value, scope: Write;
        /// Skills and whether they can be used.
        SkillsStatus: "skills.status" => fn skills_status(SkillsStatusParams) -> Value, scope: Read;
    }
}
