//! Chains: fallbacks, key rotation, rests and rounds, with scripted models and servers that refuse.

use std::sync::{Arc, Mutex};

use clawstead_world::World;
use serde_json::{Value, json};

use crate::{
    Ask, DEMO_LABEL, ErrorKind, FallbackEvent, HealthLog, ModelChain, ModelRef, ModelSpec, Models, ModelsInput, Observer, Script, Step, When,
    spec::{Cost, Dialect},
    testing::{Act, Server, all, ask, text_of, user, world},
};

#[derive(Default)]
struct Watch {
    tried: Mutex<Vec<String>>,
    events: Mutex<Vec<FallbackEvent>>,
}

impl Observer for Watch {
    fn trying(&self, model: &ModelRef) {
        self.tried.lock().unwrap().push(model.to_string());
    }
    fn fallback(&self, event: &FallbackEvent) {
        self.events.lock().unwrap().push(event.clone());
    }
}

impl Watch {
    fn tried(&self) -> Vec<String> {
        std::mem::take(&mut *self.tried.lock().unwrap())
    }
}

#[derive(Default)]
struct Kept(Mutex<std::collections::BTreeMap<String, String>>);

impl HealthLog for Kept {
    fn save(&self, key: &str, json: String) {
        self.0.lock().unwrap().insert(key.into(), json);
    }
}

fn chain(models: &[&str]) -> ModelChain {
    ModelChain { primary: models[0].into(), fallbacks: models[1..].iter().map(|m| (*m).to_owned()).collect() }
}

fn fail(kind: ErrorKind) -> Vec<Step> {
    vec![Step::Fail(kind, "no".into())]
}

fn say(text: &str) -> Vec<Step> {
    vec![Step::Text(text.into())]
}

fn hello() -> Ask {
    ask(vec![user("hello")])
}

fn scripted(script: &Arc<Script>) -> Models {
    Models::new(World::simulated(7), ModelsInput::default()).with_provider("s", script.clone(), vec![])
}

async fn heard(models: &Models, chain: &ModelChain, watch: &dyn Observer) -> Result<String, crate::AskError> {
    let answer = models.ask(chain, hello(), watch).await?;
    Ok(text_of(&all(answer.stream).await.0))
}

#[tokio::test(start_paused = true)]
async fn the_first_healthy_one_of_seventeen_answers_and_none_is_asked_twice() {
    for healthy in [0usize, 5, 16] {
        let kinds = [ErrorKind::Auth, ErrorKind::Overloaded, ErrorKind::Quota, ErrorKind::ModelNotFound, ErrorKind::Garbage, ErrorKind::Billing];
        let mut models = Models::new(World::simulated(7), ModelsInput::default());
        let names: Vec<String> = (0..17).map(|i| format!("p{i}/m")).collect();
        for i in 0..17 {
            let steps = if i == healthy { say("here") } else { fail(kinds[i % kinds.len()]) };
            models = models.with_provider(&format!("p{i}"), Arc::new(Script::new().on(When::Any, steps)), vec![]);
        }
        let mut twice: Vec<&str> = names.iter().map(String::as_str).collect();
        twice.push("p0/m");
        let watch = Watch::default();
        assert_eq!(heard(&models, &chain(&twice), &watch).await.unwrap(), "here");
        assert_eq!(watch.tried(), names[..=healthy]);
        assert_eq!(watch.events.lock().unwrap().len(), healthy);
    }
}

#[tokio::test(start_paused = true)]
async fn content_context_and_request_faults_stop_the_chain_and_leave_no_trace() {
    for kind in [ErrorKind::Content, ErrorKind::Context, ErrorKind::Request] {
        let script = Arc::new(Script::new().on_times(1, When::Any, fail(kind)).on(When::Any, say("next")));
        let models = scripted(&script);
        let watch = Watch::default();
        assert_eq!(heard(&models, &chain(&["s/a", "s/b"]), &watch).await.unwrap_err().error.kind, kind);
        assert_eq!(watch.tried(), ["s/a"]);
        assert_eq!(heard(&models, &chain(&["s/a"]), &watch).await.unwrap(), "next", "nothing rests");
    }
}

#[tokio::test(start_paused = true)]
async fn overload_is_repeated_with_patience_and_then_given_up() {
    let script = Arc::new(Script::new().on_times(2, When::Any, fail(ErrorKind::Overloaded)).on(When::Any, say("third time")));
    let models = scripted(&script);
    let watch = Watch::default();
    assert_eq!(heard(&models, &chain(&["s/a"]), &watch).await.unwrap(), "third time");
    assert!(watch.events.lock().unwrap().iter().all(|e| e.from == "s/a" && e.to == "s/a" && e.delay_ms >= 500));
    let script = Arc::new(Script::new().on(When::Any, fail(ErrorKind::Overloaded)));
    let error = heard(&scripted(&script), &chain(&["s/a", "s/b"]), &Watch::default()).await.unwrap_err();
    assert_eq!((error.attempts.len(), script.asked().len()), (6, 6), "three rounds over two models");
    assert!(error.to_string().starts_with("no model answered"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_tried_again_in_the_same_call() {
    let script = Arc::new(Script::new().on_times(1, When::Any, fail(ErrorKind::Network)).on(When::Any, say("again")));
    assert_eq!(heard(&scripted(&script), &chain(&["s/a"]), &()).await.unwrap(), "again");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_repeated_after_the_first_text() {
    let script = Arc::new(Script::new().on(When::Any, vec![Step::Text("half".into()), Step::Cut]));
    let answer = scripted(&script).ask(&chain(&["s/a", "s/b"]), hello(), &()).await.unwrap();
    let (chunks, error) = all(answer.stream).await;
    assert_eq!((text_of(&chunks).as_str(), error.unwrap().kind, script.asked().len()), ("half", ErrorKind::Network, 1));
}

#[tokio::test(start_paused = true)]
async fn a_limited_model_rests_alone_and_the_primary_returns() {
    let script =
        Arc::new(Script::new().on_times(1, When::Model("a".into()), fail(ErrorKind::Quota)).on(When::Model("a".into()), say("a")).on(When::Any, say("b")));
    let models = scripted(&script);
    let watch = Watch::default();
    let both = chain(&["s/a", "s/b"]);
    assert_eq!(heard(&models, &both, &watch).await.unwrap(), "b", "another model of the same account is tried at once");
    assert_eq!(heard(&models, &both, &watch).await.unwrap(), "b");
    assert_eq!(watch.tried(), ["s/a", "s/b", "s/b"], "the limited one rests");
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    assert_eq!(heard(&models, &both, &watch).await.unwrap(), "a", "after its rest the primary is used again");
}

#[tokio::test(start_paused = true)]
async fn a_dead_host_is_not_asked_by_every_turn() {
    let dead = Arc::new(Script::new().on(When::Any, fail(ErrorKind::Network)));
    let alive = Arc::new(Script::new().on(When::Any, say("ok")));
    let models = Models::new(World::simulated(7), ModelsInput::default()).with_provider("dead", dead.clone(), vec![]).with_provider("alive", alive, vec![]);
    for _ in 0..20 {
        assert_eq!(heard(&models, &chain(&["dead/m", "alive/m"]), &()).await.unwrap(), "ok");
    }
    assert_eq!(dead.asked().len(), 1);
    tokio::time::advance(std::time::Duration::from_secs(6)).await;
    heard(&models, &chain(&["dead/m", "alive/m"]), &()).await.unwrap();
    assert_eq!(dead.asked().len(), 2, "after its rest it is asked again");
    // Alone, it is asked once a turn, without rounds: it may be back, and there is nobody else.
    let only = chain(&["dead/m"]);
    let before = dead.asked().len();
    let first = heard(&models, &only, &()).await.unwrap_err();
    let second = heard(&models, &only, &()).await.unwrap_err();
    assert_eq!(dead.asked().len(), before + 2, "one request each, no rounds");
    assert_eq!((first.error.kind, second.error.kind), (ErrorKind::Network, ErrorKind::Network));
}

#[tokio::test]
async fn a_refused_key_is_asked_once_a_turn_when_there_is_no_other() {
    let refuse = |status, text: &str| Act::Status(status, "", json!({"error": {"message": text}}).to_string());
    let server = Server::start(vec![refuse(401, "bad key"), refuse(403, "not allowed"), refuse(403, "not allowed"), good()]).await;
    let models = Models::new(world(), config(&json!({"models": {"providers": {"h": {"baseUrl": server.url, "apiKey": "k"}}}})));
    for _ in 0..3 {
        assert_eq!(heard(&models, &chain(&["h/m"]), &()).await.unwrap_err().error.kind, ErrorKind::Auth);
    }
    assert_eq!(heard(&models, &chain(&["h/m"]), &()).await.unwrap(), "ok", "the key was mended");
    assert_eq!(server.seen().len(), 4, "one request a turn");
}

#[tokio::test(start_paused = true)]
async fn usage_has_its_price_and_the_demo_answers_when_nothing_is_configured() {
    let usage = clawstead_terms::Usage { input: 1_000_000, output: 500_000, ..Default::default() };
    let script = Arc::new(Script::new().on(When::Any, vec![Step::Usage(usage)]));
    let spec = ModelSpec { cost: Some(Cost { input: 2.0, output: 10.0, ..Cost::default() }), ..ModelSpec::unknown("s", "a", Dialect::Given, "x") };
    let models = Models::new(World::simulated(7), ModelsInput::default()).with_provider("s", script, vec![spec]);
    let answer = models.ask(&chain(&["s/a"]), hello(), &()).await.unwrap();
    assert!(matches!(all(answer.stream).await.0[0], crate::Chunk::Usage(u) if (u.cost_usd - 7.0).abs() < 1e-9));
    let models = Models::new(World::simulated(7), ModelsInput::default());
    assert!(models.nothing_configured());
    assert_eq!(models.default_model().to_string(), "demo/echo");
    assert!(heard(&models, &ModelChain::default(), &()).await.unwrap().starts_with(DEMO_LABEL));
    assert_eq!(models.list().len(), 1);
}

fn config(value: &Value) -> ModelsInput {
    ModelsInput::read(value, None, &|_| None)
}

fn good() -> Act {
    Act::Events("data: {\"choices\":[{\"delta\":{\"content\":\"ok\"},\"finish_reason\":\"stop\"}]}\n\n".into(), 100)
}

#[tokio::test]
async fn keys_take_turns_and_their_rests_survive_a_restart() {
    let refuse = |status, text: &str| Act::Status(status, "", json!({"error": {"message": text}}).to_string());
    let server = Server::start(vec![refuse(401, "bad key"), refuse(402, "no money"), good()]).await;
    let mut input = config(&json!({
        "models": {"providers": {"h": {"baseUrl": server.url, "apiKey": "key-three"}}},
        "auth": {"order": {"h": ["h:one", "h:two", "h:config"]}},
    }));
    let store =
        json!({"profiles": {"h:two": {"type": "api_key", "provider": "h", "key": "key-two"}, "h:one": {"type": "api_key", "provider": "h", "key": "key-one"}}});
    input.profiles = ModelsInput::read(&json!({}), Some(&store), &|_| None).profiles;
    let kept = Arc::new(Kept::default());
    let models = Models::new(world(), input.clone()).with_health(kept.clone(), []);
    let answer = models.ask(&chain(&["h/m"]), hello(), &()).await.unwrap();
    assert_eq!(answer.profile, "h:config");
    assert_eq!(text_of(&all(answer.stream).await.0), "ok");
    let keys: Vec<String> =
        server.seen().iter().map(|(head, _)| head.lines().find_map(|l| l.strip_prefix("authorization: Bearer ")).unwrap_or_default().to_owned()).collect();
    assert_eq!(keys, ["key-one", "key-two", "key-three"]);
    let rows = kept.0.lock().unwrap().clone();
    let two: Value = serde_json::from_str(&rows["profile/h:two"]).unwrap();
    assert_eq!(two["disabledReason"], "billing");
    assert!(two["disabledUntil"].as_i64().unwrap() - two["lastFailureAt"].as_i64().unwrap() == 5 * 3_600_000);
    assert!(rows.values().all(|r| !r.contains("key-")), "no secrets are stored");
    assert_eq!(models.health_rows().into_iter().filter(|(k, _)| rows.contains_key(k)).count(), 2);
    // Another process takes the rows: only the third key is used.
    let again = Models::new(world(), input).with_health(kept, rows);
    assert_eq!(again.ask(&chain(&["h/m"]), hello(), &()).await.unwrap().profile, "h:config");
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn a_silent_host_falls_back_within_its_limit() {
    let (silent, alive) = (Server::start(vec![Act::Hang]).await, Server::start(vec![good()]).await);
    let models = Models::new(
        world(),
        config(
            &json!({"models": {"providers": {"a": {"baseUrl": silent.url, "timeoutSeconds": 1, "apiKey": "x"}, "b": {"baseUrl": alive.url, "apiKey": "x"}}}}),
        ),
    );
    let answer = models.ask(&chain(&["a/m", "b/m"]), hello(), &()).await.unwrap();
    assert_eq!((answer.model.to_string().as_str(), answer.candidate), ("b/m", 1));
}

#[tokio::test]
async fn references_mean_what_the_config_says() {
    let input = ModelsInput::read(
        &json!({
            "models": {"providers": {
                "litellm": {"baseUrl": "http://127.0.0.1:4000", "apiKey": "${LITELLM_KEY}", "api": "openai-completions",
                    "models": [{"id": "agent/steward", "name": "Steward", "input": ["text", "image"], "contextWindow": 32000, "maxTokens": 4000, "cost": {"input": 1, "output": 2}},
                               {"id": "shared"}, {"id": "only-here", "api": "anthropic-messages"}]},
                "second": {"baseUrl": "http://x/v1", "models": [{"id": "shared"}]},
                "gem": {"baseUrl": "http://g", "api": "google-generative-ai", "models": [{"id": "g"}]},
            }},
            "agents": {"defaults": {"model": {"primary": "litellm/agent/steward", "fallbacks": ["fast"]},
                "models": {"litellm/shared": {"alias": "Fast", "params": {"top_p": 0.5}}}}},
        }),
        None,
        &|name| (name == "LITELLM_KEY").then(|| "sk-1".to_owned()),
    );
    let models = Models::new(World::simulated(7), input);
    let resolve = |text: &str| models.resolve(text).map(|r| r.to_string());
    assert_eq!(resolve("litellm/ollama/llama3.1").unwrap(), "litellm/ollama/llama3.1");
    assert_eq!(resolve("FAST").unwrap(), "litellm/shared");
    assert_eq!(resolve("only-here").unwrap(), "litellm/only-here");
    assert_eq!(resolve("unheard-of").unwrap(), "litellm/unheard-of", "the default model's provider");
    assert_eq!(resolve("Z.AI/glm-5").unwrap(), "zai/glm-5");
    assert!(resolve("shared").unwrap_err().to_string().contains("litellm, second"));
    assert!(resolve("nobody/x").is_err() && resolve(" ").is_err());
    assert_eq!(models.default_chain(), ModelChain { primary: "litellm/agent/steward".into(), fallbacks: vec!["fast".into()] });
    let spec = |text: &str| models.spec(&models.resolve(text).unwrap()).unwrap();
    let steward = spec("litellm/agent/steward");
    assert_eq!((steward.context_window, steward.max_tokens, steward.images, steward.cost.unwrap().output), (32_000, 4_000, true, 2.0));
    let unknown = spec("litellm/whatever");
    assert_eq!((unknown.context_window, unknown.max_tokens, unknown.max_tokens_known), (200_000, 8_192, false));
    assert_eq!(spec("fast").params, Some(json!({"top_p": 0.5})));
    assert_eq!(spec("only-here").dialect, Dialect::Anthropic);
    assert_eq!(spec("anthropic/claude-opus-4-6").context_window, 200_000);
    assert_eq!(spec("gem/g").dialect, Dialect::Google);
    let rows = models.list();
    assert!(rows.iter().any(|r| r.id == "shared" && r.provider == "litellm" && r.alias.as_deref() == Some("fast") && r.available), "{rows:?}");
    assert!(rows.iter().all(|r| r.provider != "demo" && r.provider != "openai"), "{rows:?}");
    assert!(!format!("{:?}", models.auth_overview()).contains("sk-1"));
}

#[tokio::test]
async fn an_environment_key_chooses_the_model_but_never_leaves_for_another_address() {
    let env = |name: &str| (name == "OPENAI_API_KEY").then(|| "sk-env".to_owned());
    let models = Models::new(World::simulated(7), ModelsInput::read(&json!({}), None, &env));
    assert_eq!(models.default_model().provider, "openai");
    assert!(!models.nothing_configured() && models.list().iter().any(|r| r.id == "gpt-4o" && r.available));
    let elsewhere = ModelsInput::read(&json!({"models": {"providers": {"openai": {"baseUrl": "http://192.168.1.2/v1"}}}}), None, &env);
    let models = Models::new(World::simulated(7), elsewhere);
    let profiles = models.profiles("openai", None, clawstead_terms::Millis(0));
    assert!(profiles.iter().all(|p| p.secret.expose().is_empty()), "{profiles:?}");
}

#[tokio::test]
async fn what_is_not_supported_says_so() {
    let models = Models::new(world(), config(&json!({"models": {"providers": {"gem": {"baseUrl": "http://g", "apiKey": "x", "api": "google-vertex"}}}})));
    let error = models.ask(&chain(&["gem/g"]), hello(), &()).await.err().unwrap();
    assert!(error.to_string().contains("google-vertex\" is not supported yet"), "{error}");
    let error = models.ask(&chain(&["nobody/g"]), hello(), &()).await.err().unwrap();
    assert!(error.to_string().contains("no provider \"nobody\" is known"), "{error}");
    let error = models.ask(&chain(&["anthropic/claude-opus-4-6"]), hello(), &()).await.err().unwrap();
    assert_eq!(error.error.kind, ErrorKind::Auth);
}

#[tokio::test]
async fn models_of_a_host_are_listed_and_remembered() {
    let server = Server::start(vec![Act::Json(json!({"data": [{"id": "one"}, {"id": "two"}]}).to_string())]).await;
    let models = Models::new(world(), config(&json!({"models": {"providers": {"h": {"baseUrl": server.url}}}})));
    let ids: Vec<String> = models.list_live("h", crate::Refresh::WhenOld).await.unwrap().into_iter().map(|r| r.id).collect();
    assert_eq!(ids, ["one", "two"]);
    models.list_live("h", crate::Refresh::WhenOld).await.unwrap();
    assert_eq!(server.seen().len(), 1);
    models.list_live("h", crate::Refresh::Always).await.unwrap();
    assert_eq!(server.seen().len(), 2);
    assert!(server.seen()[0].0.starts_with("GET /models "));
}

#[tokio::test]
async fn a_server_found_on_this_machine_becomes_the_default() {
    let server = Server::start(vec![Act::Json(json!({"models": [{"name": "llama3.1:latest"}]}).to_string())]).await;
    let models = Models::new(world(), config(&json!({"models": {"providers": {"ollama": {"baseUrl": server.url, "api": "ollama"}}}})));
    assert_eq!(models.default_model().to_string(), "demo/echo");
    assert!(models.discover().await.contains(&"ollama".to_owned()));
    assert_eq!(models.default_model().to_string(), "ollama/llama3.1:latest");
    assert!(server.seen()[0].0.starts_with("GET /api/tags "));
    let answer = models.ask(&ModelChain::default(), hello(), &()).await;
    assert!(answer.is_err() && server.seen()[1].0.starts_with("POST /v1/chat/completions "), "the compatible path is used for asking");
}

#[test]
fn a_loaded_config_is_read() {
    use clawstead_config::{DevFlag, Env, Paths, Profile, ReadOptions, SecretOptions, Snapshot, Strictness};
    let env = Env::from_pairs([("HOME", "/home/ann"), ("LITELLM_KEY", "sk-from-env"), ("GROQ_API_KEY", "gsk-x")]);
    let paths = Paths::resolve(Profile::from_flags(None, DevFlag::Off).unwrap(), &env);
    let text = br#"{
        agents: { defaults: { model: "litellm/agent/steward", models: { "litellm/small": { alias: "Tiny" } } }, list: [{ id: "jerry" }] },
        models: { providers: { litellm: { baseUrl: "http://127.0.0.1:4000/", apiKey: "${LITELLM_KEY}", api: "openai-completions",
            models: [{ id: "agent/steward", name: "Steward", contextWindow: 9000 }] } } },
    }"#;
    let loaded = Snapshot::from_bytes(text, &paths, &env, ReadOptions::default()).load(Strictness::Tolerant, SecretOptions::default()).unwrap();
    let input = ModelsInput::from_config(&loaded.config, None);
    assert_eq!(input.warnings, Vec::<String>::new());
    assert_eq!(input.chain, Some(ModelChain::only("litellm/agent/steward")));
    assert_eq!(input.aliases["tiny"], "litellm/small");
    let litellm = &input.providers["litellm"];
    assert_eq!((litellm.base_url.as_deref(), litellm.api_keys[0].expose()), (Some("http://127.0.0.1:4000"), "sk-from-env"));
    assert_eq!((litellm.models[0].id.as_str(), litellm.models[0].context_window), ("agent/steward", Some(9_000)));
    assert_eq!(input.env_keys["groq"].expose(), "gsk-x");
}
