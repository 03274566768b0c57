//! What the Control UI asks for at its start. Most answers are honestly empty: the feature behind is not here.

use serde_json::Value;

use super::{
    agents::{ArtifactsListParams, TaskSuggestionsParams},
    sessions::SessionKeyParams,
    system::Nothing,
};
use crate::method::{Loose, methods, params};

params! {
    /// For `plugin.surface.refresh`.
    SurfaceParams { surface: text, observed_url?: String }
    /// For `sessions.observer.visibility`.
    VisibilityParams { visible: bool }
    /// For `sessions.github.options`.
    GithubOptionsParams { session_key: text, agent_id?: text, idempotency_key?: text }
    /// For `controlUi.sessionPullRequests.subscribe`.
    PullRequestsParams { session_keys: Vec<String> }
    /// For `environments.list`.
    #[derive(Default)]
    EnvironmentsParams { runtime_id?: text(128), projection?: String, include_desktop_setup?: bool }
    /// For `users.prefs.get`.
    #[derive(Default)]
    PrefsGetParams { #[schemars(length(max = 32))] keys?: Vec<String> }
    /// For `users.prefs.set`.
    PrefsSetParams { entries: Loose, expected_entries?: Loose }
    /// For `projects.list`.
    #[derive(Default)]
    ProjectsParams { include_observed?: bool }
    /// For `plugins.catalog.browse`.
    #[derive(Default)]
    PluginsBrowseParams {
        query?: String,
        search_source?: String,
        intent?: String,
        category?: String,
        cursor?: String,
        page_size?: int(1..100),
    }
    /// For `talk.catalog`.
    #[derive(Default)]
    TalkCatalogParams { provider?: text, model?: text }
}

methods! {
    /// What the Control UI asks for at its start.
    trait SurfacesApi {
        /// Plugins.
        PluginsList: "plugins.list" => fn plugins_list(Nothing) -> Value, scope: Read;
        /// Plugins with parts in the Control UI.
        PluginsControlUiList: "plugins.controlUi.list" => fn plugins_control_ui_list(Nothing) -> Value, scope: Read;
        /// Plugins that could be installed.
        PluginsCatalogBrowse: "plugins.catalog.browse" => fn plugins_catalog_browse(PluginsBrowseParams) -> Value, scope: Read;
        /// A fresh address of a plugin's surface.
        PluginSurfaceRefresh: "plugin.surface.refresh" => fn plugin_surface_refresh(SurfaceParams) -> Value, scope: Read;
        /// Whether the client is in front.
        ObserverVisibility: "sessions.observer.visibility" => fn observer_visibility(VisibilityParams) -> Value, scope: Read;
        /// The board of a session.
        BoardGet: "board.get" => fn board_get(SessionKeyParams) -> Value, scope: Read;
        /// Projects.
        ProjectsList: "projects.list" => fn projects_list(ProjectsParams) -> Value, scope: Read;
        /// GitHub accounts for a session.
        GithubOptions: "sessions.github.options" => fn github_options(GithubOptionsParams) -> Value, scope: Read, flags: [SIDECARS];
        /// Voice modes.
        TalkCatalog: "talk.catalog" => fn talk_catalog(TalkCatalogParams) -> Value, scope: Read;
        /// Text-to-speech.
        TtsStatus: "tts.status" => fn tts_status(Loose) -> Value, scope: Read;
        /// Who takes part in a session.
        MembersEvidence: "session.members.listEvidence" => fn members_evidence(SessionKeyParams) -> Value, scope: Read;
        /// The discussion room of a session.
        DiscussionInfo: "session.discussion.info" => fn discussion_info(SessionKeyParams) -> Value, scope: Read;
        /// The side conversation of a session.
        CompanionState: "sessions.companion.state" => fn companion_state(SessionKeyParams) -> Value, scope: Read;
        /// The progress card of a session.
        ProgressCardGet: "progressCard.get" => fn progress_card_get(SessionKeyParams) -> Value, scope: Read;
        /// Preferences of the user.
        UsersPrefsGet: "users.prefs.get" => fn users_prefs_get(PrefsGetParams) -> Value, scope: Read;
        /// Sets preferences of the user.
        UsersPrefsSet: "users.prefs.set" => fn users_prefs_set(PrefsSetParams) -> Value, scope: Write;
        /// The user.
        UsersSelf: "users.self" => fn users_self(Nothing) -> Value, scope: Read;
        /// Messages that name the user.
        MentionsList: "mentions.list" => fn mentions_list(Nothing) -> Value, scope: Read, flags: [SIDECARS];
        /// Suggested tasks.
        TaskSuggestionsList: "taskSuggestions.list" => fn task_suggestions_list(TaskSuggestionsParams) -> Value, scope: Read;
        /// Files that runs made.
        ArtifactsList: "artifacts.list" => fn artifacts_list(ArtifactsListParams) -> Value, scope: Read;
        /// Starts events about pull requests of sessions.
        PullRequestsSubscribe: "controlUi.sessionPullRequests.subscribe" => fn pull_requests_subscribe(PullRequestsParams) -> Value, scope: Read;
        /// Places where sessions can run.
        EnvironmentsList: "environments.list" => fn environments_list(EnvironmentsParams) -> Value, scope: Dynamic;
        /// Colours of the user interface.
        ThemesList: "themes.list" => fn themes_list(Nothing) -> Value, scope: Read;
        /// Words that wake a listening device.
        VoicewakeGet: "voicewake.get" => fn voicewake_get(Loose) -> Value, scope: Read;
    }
}
