//! What the Control UI asks for at its start. Features that are not here answer with honest empty results.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use clawstead_state::{Store, Table, TxError, change_json, get_json};
use clawstead_terms::{Fence, Unit};
use clawstead_wire::{
    ErrorShape,
    agents::{ArtifactsListParams, TaskSuggestionsParams},
    method::Loose,
    sessions::SessionKeyParams,
    surfaces::{
        EnvironmentsParams, GithubOptionsParams, PluginsBrowseParams, PrefsGetParams, PrefsSetParams, ProjectsParams, PullRequestsParams, SurfaceParams,
        SurfacesApi, TalkCatalogParams, VisibilityParams,
    },
    system::Nothing,
};

use crate::devices::store_error;

/// The row in `Table::Meta` that keeps the owner's preferences.
pub(crate) const PREFS_KEY: &str = "prefs/owner";
/// Preferences kept at most.
const PREFS_MAX: usize = 256;
/// Largest preference, bytes of JSON.
const PREF_BYTES_MAX: usize = 16 * 1024;

/// Why preferences were not changed.
enum NotSet {
    /// Somebody else changed them.
    Conflict,
    /// Too many, or too large.
    Full,
    /// The store says no.
    Store(TxError),
}

impl From<TxError> for NotSet {
    fn from(err: TxError) -> Self {
        Self::Store(err)
    }
}

/// A project of an agent, for `projects.list`.
pub trait Workspaces: Send + Sync {
    /// Agent id and workspace folder of every agent.
    fn workspaces(&self) -> Vec<(String, String)>;
}

/// The handlers of user-interface surfaces.
pub struct SurfacesRpc {
    /// Where preferences are kept.
    pub store: Arc<dyn Store>,
    /// The fence of the global unit.
    pub fence: Fence,
    /// One per start.
    pub boot_id: String,
    /// Agents and their folders.
    pub workspaces: Arc<dyn Workspaces>,
    /// One change of preferences at a time.
    pub prefs: tokio::sync::Mutex<()>,
}

impl SurfacesRpc {
    async fn read_prefs(&self) -> Result<Map<String, Value>, ErrorShape> {
        let row = get_json::<Map<String, Value>>(&*self.store, &Unit::Global, Table::Meta, PREFS_KEY).await.map_err(|err| store_error(&err))?;
        Ok(row.map(|row| row.value).unwrap_or_default())
    }
}

#[async_trait]
impl<C: Send + Sync + 'static> SurfacesApi<C> for SurfacesRpc {
    async fn plugins_list(&self, _: &C, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(json!({ "plugins": [], "diagnostics": [], "mutationAllowed": false, "generation": 0 }))
    }

    async fn plugins_control_ui_list(&self, _: &C, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(json!({ "revision": "none", "plugins": [], "diagnostics": [] }))
    }

    async fn plugins_catalog_browse(&self, _: &C, _: PluginsBrowseParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "items": [], "categories": [] }))
    }

    async fn plugin_surface_refresh(&self, _: &C, params: SurfaceParams) -> Result<Value, ErrorShape> {
        Err(ErrorShape::invalid(format!("unknown plugin surface: {}", params.surface)))
    }

    async fn observer_visibility(&self, _: &C, _: VisibilityParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "ok": true }))
    }

    async fn board_get(&self, _: &C, params: SessionKeyParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "sessionKey": params.session_key, "revision": 0, "tabs": [], "widgets": [] }))
    }

    async fn projects_list(&self, _: &C, _: ProjectsParams) -> Result<Value, ErrorShape> {
        let projects: Vec<Value> = self
            .workspaces
            .workspaces()
            .into_iter()
            .map(|(agent, folder)| {
                let name = std::path::Path::new(&folder).file_name().map_or_else(|| agent.clone(), |name| name.to_string_lossy().into_owned());
                json!({ "id": format!("workspace:{agent}"), "displayName": name, "repoRoot": folder, "source": "workspace", "agentId": agent })
            })
            .collect();
        Ok(json!({ "projects": projects, "recents": [] }))
    }

    async fn github_options(&self, _: &C, _: GithubOptionsParams) -> Result<Value, ErrorShape> {
        let personal = json!({ "state": "unavailable", "generation": null, "account": null, "accessExpiresAtMs": null, "refreshState": "not_applicable", "pending": null });
        Ok(json!({ "personal": personal, "shared": null, "pendingPersonal": null, "latestShared": null }))
    }

    async fn talk_catalog(&self, _: &C, _: TalkCatalogParams) -> Result<Value, ErrorShape> {
        let none = json!({ "ready": false, "providers": [] });
        Ok(json!({ "modes": [], "transports": [], "brains": [], "speech": { "providers": [] }, "transcription": none, "realtime": none }))
    }

    async fn tts_status(&self, _: &C, _: Loose) -> Result<Value, ErrorShape> {
        Ok(json!({ "enabled": false, "auto": "off", "provider": "", "persona": null, "personas": [], "fallbackProvider": null, "fallbackProviders": [],
            "providerStates": [] }))
    }

    async fn members_evidence(&self, _: &C, params: SessionKeyParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "sessionKey": params.session_key, "members": [], "identities": [], "role": "admin", "allowedVisibilities": ["shared"] }))
    }

    async fn discussion_info(&self, _: &C, _: SessionKeyParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "state": "none" }))
    }

    async fn companion_state(&self, _: &C, _: SessionKeyParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "exchanges": [] }))
    }

    async fn progress_card_get(&self, _: &C, _: SessionKeyParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "card": null }))
    }

    async fn users_prefs_get(&self, _: &C, params: PrefsGetParams) -> Result<Value, ErrorShape> {
        let mut entries = self.read_prefs().await?;
        if let Some(keys) = params.keys {
            entries.retain(|name, _| keys.contains(name));
        }
        Ok(json!({ "status": "ok", "entries": entries }))
    }

    async fn users_prefs_set(&self, _: &C, params: PrefsSetParams) -> Result<Value, ErrorShape> {
        let _one = self.prefs.lock().await;
        let changed = change_json(&*self.store, &self.fence, &Unit::Global, Table::Meta, PREFS_KEY, |entries: &mut Map<String, Value>| {
            let expected = params.expected_entries.as_ref();
            if expected.is_some_and(|expected| expected.0.iter().any(|(name, value)| entries.get(name).unwrap_or(&Value::Null) != value)) {
                return Err(NotSet::Conflict);
            }
            for (name, value) in &params.entries.0 {
                if value.is_null() {
                    entries.shift_remove(name);
                } else if value.to_string().len() > PREF_BYTES_MAX {
                    return Err(NotSet::Full);
                } else {
                    entries.insert(name.clone(), value.clone());
                }
            }
            if entries.len() > PREFS_MAX { Err(NotSet::Full) } else { Ok(()) }
        });
        match changed.await {
            Ok(()) => Ok(json!({ "status": "ok" })),
            Err(NotSet::Conflict) => Ok(json!({ "status": "conflict" })),
            Err(NotSet::Full) => Err(prefs_full()),
            Err(NotSet::Store(err)) => Err(store_error(&err)),
        }
    }

    async fn users_self(&self, _: &C, _: Nothing) -> Result<Value, ErrorShape> {
        Err(ErrorShape::new("FORBIDDEN", "users.self requires an authenticated user"))
    }

    async fn mentions_list(&self, _: &C, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(json!({ "gatewayInstanceId": self.boot_id, "revision": 0, "items": [] }))
    }

    async fn task_suggestions_list(&self, _: &C, _: TaskSuggestionsParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "suggestions": [] }))
    }

    async fn artifacts_list(&self, _: &C, _: ArtifactsListParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "artifacts": [] }))
    }

    async fn pull_requests_subscribe(&self, _: &C, params: PullRequestsParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "subscribed": !params.session_keys.is_empty() }))
    }

    async fn environments_list(&self, _: &C, _: EnvironmentsParams) -> Result<Value, ErrorShape> {
        let gateway = json!({ "id": "gateway", "type": "local", "label": "Gateway local", "status": "available", "platform": std::env::consts::OS,
            "sessionHost": true, "trust": "persistent", "capabilities": ["agent.run", "sessions", "tools", "workspace"] });
        Ok(json!({ "environments": [gateway] }))
    }

    async fn themes_list(&self, _: &C, _: Nothing) -> Result<Value, ErrorShape> {
        let claw = json!({ "id": "claw", "name": "Claw", "description": "The default colours.", "source": "builtin", "modes": ["light", "dark"] });
        Ok(json!({ "current": { "id": "claw", "mode": "system", "scope": "profile", "overrides": {} }, "theme": claw, "themes": [claw] }))
    }

    async fn voicewake_get(&self, _: &C, _: Loose) -> Result<Value, ErrorShape> {
        Ok(json!({ "triggers": [] }))
    }
}

fn prefs_full() -> ErrorShape {
    let message = format!("at most {PREFS_MAX} preferences of {PREF_BYTES_MAX} bytes each can be kept");
    ErrorShape::invalid(message).with_details(json!({ "code": "USER_PREFS_LIMIT_EXCEEDED" }))
}
