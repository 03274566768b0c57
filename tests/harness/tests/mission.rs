//! The main config of the deployment plan, as its owner wrote it, with real model servers behind it: LiteLLM's proxy and
//! llama.cpp. Only environment variables say where they are.

use clawstead_harness::{
    PATIENCE,
    client::Client,
    engines::Engine,
    gateway::{Gateway, Setup, TOKEN},
    mock::{MockModel, Options, Rule},
    servers::{KEY, Server},
    until,
};
use serde_json::{Value, json};

const CONFIG: &str = include_str!("../../data/mission-002.json5");

/// The model server behind LiteLLM: jerry asks bobby by a tool when he is told to, everybody else just answers.
async fn behind() -> MockModel {
    let send = json!({"sessionKey": "agent:bobby:main", "message": "Please check the Nomad status msg-000042", "timeoutSeconds": 30});
    let rules = vec![
        Rule {
            contains: "ask bobby to check".into(),
            tool: Some("sessions_send".into()),
            arguments: send,
            say: Some("Bobby answered: {result}".into()),
            ..Rule::default()
        },
        Rule { contains: "check the nomad status".into(), say: Some("All seven Nomad jobs are running.".into()), ..Rule::default() },
    ];
    MockModel::start(Options { rules, remember: true, remember_bodies: true, ..Options::default() }).await.unwrap()
}

/// The gateway with the config unchanged. It has no `gateway.mode`, so the original, too, starts only with this flag.
fn setup(litellm: &str) -> Setup {
    let port = clawstead_harness::free_port().unwrap();
    let mut setup = Setup { port, config: Some(CONFIG.to_owned()), args: vec!["--allow-unconfigured".into()], ..Setup::ours(&json!({})) };
    for (name, value) in [
        ("LITELLM_BASE_URL", format!("{litellm}/v1")),
        ("LITELLM_API_KEY", KEY.to_owned()),
        ("ANTHROPIC_BASE_URL", litellm.to_owned()),
        ("ANTHROPIC_API_KEY", KEY.to_owned()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN.to_owned()),
        ("SLACK_BOT_TOKEN", "xoxb-not-a-token".to_owned()),
        ("SLACK_APP_TOKEN", "xapp-not-a-token".to_owned()),
        ("DISCORD_TOKEN", "not-a-token".to_owned()),
    ] {
        setup = setup.env(name, value);
    }
    setup
}

#[tokio::test]
async fn three_agents_work_together_through_litellm() {
    let Some(program) = Engine::LiteLlm.or_skip("mission 002 with LiteLLM") else { return };
    let model = behind().await;
    let v1 = model.v1();
    let through: &[(&str, &str)] = &[("model", "openai/mock-1"), ("api_base", &v1), ("api_key", "behind-key")];
    let fixed = |text: &'static str| [("model", "openai/none"), ("mock_response", text)];
    let litellm = Server::litellm(
        &program,
        &[("claude-sonnet-4-5", through), ("claude-haiku-4-6", &fixed("Haiku speaking.")), ("local-llama-70b", &fixed("Local llama speaking."))],
    )
    .await
    .unwrap();
    let gateway = Gateway::start(setup(&litellm.url)).await.unwrap();
    let mut client = Client::connect(gateway.port).await.unwrap();

    let agents = client.call("agents.list", json!({})).await.unwrap();
    let ids: Vec<&str> = agents["agents"].as_array().unwrap().iter().filter_map(|agent| agent["id"].as_str()).collect();
    assert_eq!((ids.as_slice(), &agents["defaultId"]), (&["jerry", "bobby", "billy"][..], &json!("jerry")), "{agents}");

    // Each agent answers by itself.
    for agent in ["jerry", "bobby", "billy"] {
        let turn = client.turn(&format!("agent:{agent}:hello"), &format!("!say I am {agent}"), &format!("hello-{agent}")).await.unwrap();
        assert_eq!(turn.text, format!("I am {agent}"), "{turn:?}\n{}\n{}", gateway.log_tail(20), tail(&litellm.log()));
    }

    // The point of it all: jerry asks bobby, and bobby's answer comes back to whoever asked jerry.
    let turn = client.turn("agent:jerry:main", "Ask Bobby to check Nomad status", "ask-bobby").await.unwrap();
    assert!(turn.text.starts_with("Bobby answered:") && turn.text.contains("All seven Nomad jobs are running."), "{turn:?}\n{}", gateway.log_tail(30));
    let history = client.call("chat.history", json!({"sessionKey": "agent:bobby:main", "limit": 50})).await.unwrap();
    let text = history["messages"].to_string();
    assert!(text.contains("msg-000042") && text.contains("All seven Nomad jobs"), "bobby's own session: {text}");
    let asked: Vec<_> = model.seen().into_iter().filter(|entry| entry.mark.as_deref() == Some("msg-000042")).collect();
    assert!(!asked.is_empty(), "bobby was never asked");

    // The other provider of the config, chosen for one session.
    client.call("sessions.patch", json!({"key": "agent:billy:local", "model": "litellm/local-llama-70b"})).await.unwrap();
    let turn = client.turn("agent:billy:local", "hello", "local").await.unwrap();
    assert_eq!(turn.text, "Local llama speaking.", "{}", gateway.log_tail(20));

    one_warning_for_each_channel(&gateway);
    let log = gateway.log_text();
    assert!(!log.contains(KEY) && !log.contains("xoxb-not"), "a secret is in the log");
}

fn one_warning_for_each_channel(gateway: &Gateway) {
    let log = gateway.log_text();
    for channel in ["slack", "discord"] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("warn") && line.contains(&format!("channels.{channel}:"))).collect();
        assert_eq!(lines.len(), 1, "{channel}: {lines:#?}\n{log}");
    }
}

#[tokio::test]
async fn billy_falls_back_when_his_model_is_gone() {
    let Some(program) = Engine::LiteLlm.or_skip("mission 002 with LiteLLM") else { return };
    let litellm = Server::litellm(&program, &[("claude-haiku-4-6", &[("model", "openai/none"), ("mock_response", "Haiku speaking.")])]).await.unwrap();
    let gateway = Gateway::start(setup(&litellm.url)).await.unwrap();
    let mut client = Client::connect(gateway.port).await.unwrap();
    let turn = client.turn("agent:billy:main", "hello", "billy").await.unwrap();
    assert_eq!((turn.state.as_str(), turn.text.as_str()), ("final", "Haiku speaking."), "{}", gateway.log_tail(20));
    // Jerry has no fallback: a clear error, and the session lives.
    let turn = client.turn("agent:jerry:main", "hello", "jerry").await.unwrap();
    assert_eq!(turn.state, "error", "{turn:?}");
}

#[tokio::test]
async fn cron_jobs_of_the_plan_run() {
    let Some(program) = Engine::LiteLlm.or_skip("mission 002 with LiteLLM") else { return };
    let model = behind().await;
    let v1 = model.v1();
    let litellm = Server::litellm(&program, &[("claude-sonnet-4-5", &[("model", "openai/mock-1"), ("api_base", &v1), ("api_key", "k")])]).await.unwrap();
    let gateway = Gateway::start(setup(&litellm.url)).await.unwrap();
    let mut client = Client::connect(gateway.port).await.unwrap();
    let job = client
        .call(
            "cron.add",
            json!({"name": "Bobby heartbeat", "enabled": true, "agentId": "bobby", "schedule": {"kind": "cron", "expr": "*/5 * * * *"},
                "sessionTarget": "isolated", "wakeMode": "now", "payload": {"kind": "agentTurn", "message": "Run infrastructure heartbeat check msg-000077"}}),
        )
        .await
        .unwrap();
    client.call("cron.run", json!({"id": job["id"], "mode": "force"})).await.unwrap();
    let ran = until(PATIENCE, async || {
        let runs = client.call("cron.runs", json!({"id": job["id"]})).await.ok()?;
        runs["entries"].as_array()?.iter().find(|run| run["status"] == "ok").cloned()
    })
    .await;
    assert!(ran.is_some(), "{}\n{}", client.call("cron.runs", json!({"id": job["id"]})).await.unwrap_or(Value::Null), gateway.log_tail(30));
    assert!(model.seen().iter().any(|entry| entry.mark.as_deref() == Some("msg-000077")));
}

#[tokio::test]
async fn a_real_llama_server_streams() {
    let Some(python) = Engine::LlamaServer.or_skip("mission 002 with llama.cpp") else { return };
    let llama = Server::llama(&python).await.unwrap();
    // The same config: LITELLM_BASE_URL may name any server of this kind.
    let gateway = Gateway::start(setup(&llama.url)).await.unwrap();
    let mut client = Client::connect(gateway.port).await.unwrap();
    client.call("sessions.patch", json!({"key": "agent:jerry:llama", "model": "litellm/local-llama-70b"})).await.unwrap();
    // The answer is noise of random length; what counts is that it streams, ends well and is kept.
    let turn = client.turn("agent:jerry:llama", "Hello Jerry", "llama").await.unwrap();
    assert_eq!(turn.state, "final", "{turn:?}\n{}\n{}", gateway.log_tail(20), tail(&llama.log()));
    let history = client.call("chat.history", json!({"sessionKey": "agent:jerry:llama", "limit": 10})).await.unwrap();
    let roles: Vec<&str> = history["messages"].as_array().unwrap().iter().filter_map(|message| message["role"].as_str()).collect();
    assert_eq!(roles, ["user", "assistant"], "{history}");
}

fn tail(text: &str) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(20)..].join("\n")
}
