//! Models and their accounts.

use serde_json::Value;

use crate::method::{methods, params, words};

words! {
    /// Which models to list.
    ModelView: "default" => Default, "configured" => Configured, "provider-config" => ProviderConfig, "all" => All;
}

params! {
    /// For `models.list`.
    #[derive(Default)]
    ModelsListParams {
        agent_id?: text,
        session_key?: text,
        auth_profile_id?: text(256),
        provider?: text,
        include_details?: bool,
        include_provider_capabilities?: bool,
        include_default_models?: bool,
        prepared_only?: bool,
        refresh?: bool,
        view?: ModelView,
    }
    /// For `models.authStatus`.
    #[derive(Default)]
    AuthStatusParams { refresh?: bool, agent_id?: text }
    /// For `models.probe`.
    ProbeParams { provider: text, profile_id?: text, timeout_ms?: int(1..), agent_id?: text }
}

methods! {
    /// Models and their accounts.
    trait ModelsApi {
        /// The models an agent may use.
        List: "models.list" => fn list(ModelsListParams) -> Value, scope: Read, flags: [SIDECARS];
        /// Which providers have credentials, without showing them.
        AuthStatus: "models.authStatus" => fn auth_status(AuthStatusParams) -> Value, scope: Read;
        /// Asks a provider a trivial question.
        Probe: "models.probe" => fn probe(ProbeParams) -> Value, scope: Admin;
    }
}
