//! `models.*`: what can be asked, and with which accounts.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::{Value, json};

use clawstead_config::Config;
use clawstead_providers::{Ask, Chunk, ModelChain, Models, Refresh};
use clawstead_terms::{Message, Part, Role};
use clawstead_wire::{
    error::ErrorShape,
    methods::models::{AuthStatusParams, ModelView, ModelsApi, ModelsListParams, ProbeParams},
};
use clawstead_world::World;

use super::Cx;
use crate::brain::Minds;

/// The handlers of this area.
pub struct ModelsRpc {
    /// The models in force.
    pub minds: Arc<Minds>,
    /// The config in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Clock and ids.
    pub world: World,
}

/// The models of the registry as `models.list` shows them.
#[must_use]
pub fn rows(models: &Models, allow: Option<&[String]>) -> Vec<Value> {
    let default = models.default_model();
    models
        .list()
        .into_iter()
        .filter(|row| {
            allow.is_none_or(|allow| allow.iter().any(|a| *a == format!("{}/{}", row.provider, row.id) || a.strip_suffix("/*") == Some(row.provider.as_str())))
        })
        .map(|row| {
            let is_default = row.provider == default.provider && row.id == default.model;
            let levels: &[&str] = if row.reasoning { &["off", "low", "medium", "high"] } else { &["off"] };
            let mut value = json!({
                "id": row.id,
                "name": row.name,
                "provider": row.provider,
                "contextWindow": row.context_window,
                "reasoning": row.reasoning,
                "input": row.input,
                "thinkingLevels": levels.iter().map(|l| json!({"id": l, "label": l})).collect::<Vec<_>>(),
                "thinkingDefault": "off",
                "available": row.available,
            });
            if is_default {
                value["tags"] = json!(["default"]);
            }
            if let Some(alias) = row.alias {
                value["alias"] = json!(alias);
            }
            value
        })
        .collect()
}

/// Which account of a provider is used: the registry chooses.
#[must_use]
pub fn automatic_account() -> Value {
    json!({"kind": "automatic", "label": "Automatic account selection"})
}

#[async_trait]
impl ModelsApi<Cx> for ModelsRpc {
    async fn list(&self, cx: &Cx, params: ModelsListParams) -> Result<Value, ErrorShape> {
        let models = self.minds.models.load_full();
        if params.refresh == Some(true)
            && let Some(provider) = &params.provider
        {
            // What a host offers right now; what it says stays in the registry's list.
            models.list_live(provider, Refresh::Always).await.map_err(|e| ErrorShape::unavailable(e.to_string()))?;
        }
        let config = self.config.load();
        let allow = config.models.allow.as_deref().filter(|_| params.view != Some(ModelView::All));
        let mut list = rows(&models, allow);
        if let Some(provider) = &params.provider {
            list.retain(|row| row["provider"] == json!(provider));
        }
        // The default view shows what can be used now; `all` shows the catalogue too.
        if matches!(params.view, None | Some(ModelView::Default | ModelView::Configured)) {
            list.retain(|row| row["available"] == json!(true) || row.get("tags").is_some());
        }
        if cx.caller.has_cap("model-selection-policy") {
            for row in &mut list {
                row["manualSelectionAllowed"] = json!(true);
            }
        }
        Ok(json!({"models": list, "accountSelection": automatic_account(), "defaultModels": {"automaticUtilityModel": null}}))
    }

    async fn auth_status(&self, _: &Cx, _: AuthStatusParams) -> Result<Value, ErrorShape> {
        let models = self.minds.models.load();
        let now = self.world.clock.now();
        let providers: Vec<Value> = models
            .auth_overview()
            .into_iter()
            .map(|(provider, profiles)| {
                let rests = profiles.iter().any(|(_, _, stats)| stats.cooldown_until > now.0 || stats.disabled_until > now.0);
                let shown: Vec<Value> = profiles
                    .iter()
                    .map(|(id, kind, stats)| {
                        let status = if stats.disabled_until > now.0 {
                            "disabled"
                        } else if stats.cooldown_until > now.0 {
                            "cooldown"
                        } else {
                            "ok"
                        };
                        json!({"profileId": id, "type": format!("{kind:?}").to_lowercase(), "status": status, "errorCount": stats.error_count, "cooldownUntil": stats.cooldown_until, "disabledUntil": stats.disabled_until, "lastUsed": stats.last_used})
                    })
                    .collect();
                json!({"provider": provider, "authProvider": provider, "displayName": provider, "status": if rests { "cooldown" } else { "static" }, "profiles": shown})
            })
            .collect();
        Ok(json!({"ts": now, "providers": providers, "providerCapabilities": []}))
    }

    async fn probe(&self, _: &Cx, params: ProbeParams) -> Result<Value, ErrorShape> {
        let models = self.minds.models.load_full();
        let row = models
            .list()
            .into_iter()
            .find(|row| row.provider == params.provider)
            .ok_or_else(|| ErrorShape::invalid(format!("no model of provider \"{}\" is known", params.provider)))?;
        let reference = format!("{}/{}", row.provider, row.id);
        let began = tokio::time::Instant::now();
        let ask = Ask {
            model: String::new(),
            system: String::new(),
            messages: Arc::from(vec![Arc::new(Message {
                id: "probe".into(),
                role: Role::User,
                parts: vec![Part::text("Reply with OK.")],
                at: self.world.clock.now(),
                run_id: None,
                model: None,
                usage: None,
                stop_reason: None,
                meta: None,
            })]),
            tools: Arc::from(vec![]),
            tool_choice: None,
            max_tokens: Some(16),
            temperature: None,
            thinking: None,
            params: None,
            session_hint: None,
        };
        let limit = Duration::from_millis(params.timeout_ms.unwrap_or(8_000).min(120_000));
        let asked = async {
            let mut answer = models.ask(&ModelChain::only(reference.clone()), ask, &()).await.map_err(|e| e.to_string())?;
            while let Some(chunk) = answer.stream.next().await {
                if let Chunk::Done(_) = chunk.map_err(|e| e.to_string())? {
                    break;
                }
            }
            Ok::<(), String>(())
        };
        let outcome = tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(format!("{reference} did not answer within {} ms", limit.as_millis())));
        let latency = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(match outcome {
            Ok(()) => json!({"ok": true, "provider": params.provider, "model": row.id, "status": "ok", "latencyMs": latency}),
            Err(error) => json!({"ok": false, "provider": params.provider, "model": row.id, "status": "error", "error": error, "latencyMs": latency}),
        })
    }
}
