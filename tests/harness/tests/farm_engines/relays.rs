//! People and programs reach agents of other gateways: calls about runs, lists, HTTP, hooks; as far as the policy lets them.

use std::time::{Duration, Instant};

use clawstead_harness::{PATIENCE, client::Refused, until};
use serde_json::{Value, json};

use super::kit::{Consul, Farm, Plan};

const HOOK_TOKEN: &str = "hook-token-0123456789abcdef";

async fn farm(suite: &str) -> Option<(Consul, Farm)> {
    let consul = Consul::start(suite, 1, json!({})).await?;
    let mut plan = Plan::over(json!({"kind": "consul", "addr": consul.urls()}), json!({"kind": "consul"}));
    plan.config = json!({
        "gateway": {"http": {"endpoints": {"chatCompletions": {"enabled": true}, "responses": {"enabled": true}}}},
        "hooks": {"enabled": true, "token": HOOK_TOKEN},
    });
    Some((consul, Farm::make(&plan).await))
}

fn keys(list: &Value) -> Vec<String> {
    list["sessions"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn runs_and_sessions_of_other_gateways_are_found() {
    let Some((_consul, mut farm)) = farm("farm relays: runs and sessions").await else { return };
    let mut client = farm.jerry.client().await;
    let begun = client.call("chat.send", json!({"sessionKey": "agent:bobby:main", "message": "msg-000101 hello", "idempotencyKey": "run-101"})).await.unwrap();
    assert_eq!(begun["runId"], "run-101");
    let end = client.call("agent.wait", json!({"runId": "run-101", "timeoutMs": 30_000})).await.unwrap();
    assert_eq!((end["status"].as_str(), end["terminalReply"]["text"].as_str()), (Some("ok"), Some("echo: msg-000101 hello")), "{end}");

    // A run that hangs is stopped through the other gateway, although the session is named by a short word only.
    client.call("chat.send", json!({"sessionKey": "agent:bobby:side", "message": "!hang", "idempotencyKey": "run-102"})).await.unwrap();
    let stopped = until(PATIENCE, async || {
        let answer = client.call("chat.abort", json!({"sessionKey": "main", "runId": "run-102"})).await.unwrap();
        (answer["aborted"] == true).then_some(answer)
    });
    assert_eq!(stopped.await.unwrap()["runIds"], json!(["run-102"]));
    let end = client.call("agent.wait", json!({"runId": "run-102", "timeoutMs": 30_000})).await.unwrap();
    assert_eq!(end["status"], "error", "{end}");
    let none = client.call("agent.wait", json!({"runId": "nobody's", "timeoutMs": 200})).await.unwrap();
    assert_eq!(none["status"], "timeout", "{none}");

    // One list, newest first, for people and for agents.
    client.turn("agent:jerry:main", "msg-000103 hello", "run-103").await.unwrap();
    let list = client.call("sessions.list", json!({})).await.unwrap();
    let all = keys(&list);
    for key in ["agent:bobby:main", "agent:bobby:side", "agent:jerry:main"] {
        assert!(all.iter().any(|one| one == key), "{key} in {all:?}");
    }
    assert!(list.get("unreachable").is_none() && list["totalCount"].as_u64() == Some(all.len() as u64), "{list}");
    assert_eq!(keys(&client.call("sessions.list", json!({"limit": 1, "offset": 1})).await.unwrap()), all[1..2], "pages go over all gateways");
    assert!(keys(&client.call("sessions.list", json!({"agentId": "jerry"})).await.unwrap()).iter().all(|key| key.starts_with("agent:jerry:")));
    let told = client.turn("agent:jerry:main", "!tool sessions_list {}", "run-104").await.unwrap();
    assert!(told.text.contains("agent:bobby:main") && told.text.contains("agent:jerry:main"), "{told:?}");

    // What was remembered of runs is gone with the process; the others are asked.
    farm.jerry.kill().await;
    farm.jerry.start().await;
    farm.together().await;
    let mut client = farm.jerry.client().await;
    let end = client.call("agent.wait", json!({"runId": "run-101", "timeoutMs": 10_000})).await.unwrap();
    assert_eq!(end["status"], "ok", "{end}");

    // Who does not answer is named, not waited for.
    farm.bobby.freeze().await;
    let began = Instant::now();
    let list = client.call("sessions.list", json!({})).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(list["unreachable"][0]["gateway"], "bobby-gateway", "{list}");
    assert!(keys(&list).iter().any(|key| key == "agent:jerry:main"), "{list}");
    farm.bobby.thaw();
}

#[tokio::test]
async fn http_of_any_gateway_reaches_all_agents() {
    let Some((_consul, farm)) = farm("farm relays: HTTP").await else { return };
    let jerry = &farm.jerry;
    let models = jerry.http("GET", "/v1/models", &Value::Null).await.json();
    assert!(models["data"].as_array().unwrap().iter().any(|one| one["id"] == "openclaw/bobby"), "{models}");
    assert_eq!(jerry.http("GET", "/v1/models/openclaw%2Fbobby", &Value::Null).await.status, 200);

    let question = |mark: &str| json!([{"role": "user", "content": format!("{mark} over HTTP")}]);
    let whole = jerry.http("POST", "/v1/chat/completions", &json!({"model": "openclaw/bobby", "user": "anna", "messages": question("msg-000201")})).await;
    assert_eq!((whole.status, whole.json()["choices"][0]["message"]["content"].as_str()), (200, Some("echo: msg-000201 over HTTP")), "{}", whole.text());
    assert_eq!(whole.json()["model"], "openclaw/bobby");

    let stream = json!({"model": "openclaw/bobby", "stream": true, "messages": question("msg-000202 !pieces 6 !pace 20")});
    let streamed = jerry.http("POST", "/v1/chat/completions", &stream).await;
    let text = streamed.text();
    assert_eq!(streamed.header("content-type").map(|kind| kind.starts_with("text/event-stream")), Some(true), "{:?}", streamed.headers);
    assert!(text.matches("\"delta\":{\"content\"").count() > 2 && text.ends_with("data: [DONE]\n\n"), "it comes in pieces: {text}");

    let response = jerry.http("POST", "/v1/responses", &json!({"model": "openclaw/bobby", "input": "msg-000203 as a response"})).await;
    assert!(response.status == 200 && response.text().contains("echo: msg-000203 as a response"), "{}", response.text());
    let stream = jerry.http("POST", "/v1/responses", &json!({"model": "openclaw/bobby", "input": "msg-000204", "stream": true})).await;
    assert!(stream.text().contains("event: response.completed") && stream.text().contains("msg-000204"), "{}", stream.text());

    let history = jerry.http("GET", "/sessions/agent%3Abobby%3Aopenai-user%3Aanna/history?limit=5", &Value::Null).await;
    assert!(history.status == 200 && history.text().contains("msg-000201"), "{} {}", history.status, history.text());
    let none = jerry.http("GET", "/sessions/agent%3Abobby%3Anobody/history", &Value::Null).await;
    assert_eq!(none.status, 404, "{}", none.text());
    let killed = jerry.http("POST", "/sessions/agent%3Abobby%3Amain/kill", &Value::Null).await;
    assert_eq!(killed.status, 403, "administration is not lent: {}", killed.text());

    let tool = jerry.http("POST", "/tools/invoke", &json!({"tool": "sessions_list", "agentId": "bobby", "args": {"agentId": "bobby"}})).await;
    assert!(tool.status == 200 && tool.json()["ok"] == true && tool.text().contains("agent:bobby:openai-user:anna"), "{} {}", tool.status, tool.text());
    let denied = jerry.http("POST", "/tools/invoke", &json!({"tool": "exec", "agentId": "bobby", "args": {"command": "true"}})).await;
    assert_eq!(denied.status, 404, "bobby's gateway denies what it denies its own: {}", denied.text());

    let hook = async |path: &str, key: &str, body: &Value| {
        let headers = [("authorization", &*format!("Bearer {HOOK_TOKEN}")), ("idempotency-key", key), ("content-type", "application/json")];
        clawstead_harness::http::request(jerry.port, "POST", path, &headers, body.to_string().as_bytes(), PATIENCE).await.unwrap()
    };
    let wish = json!({"message": "msg-000205 from a hook", "agentId": "bobby", "deliver": false, "waitForCompletion": true});
    let first = hook("/hooks/agent", "once", &wish).await;
    assert_eq!((first.status, first.json()["completion"]["status"].as_str()), (200, Some("ok")), "{}", first.text());
    let again = hook("/hooks/agent", "once", &wish).await;
    assert_eq!(again.json()["runId"], first.json()["runId"], "a repeat is the same run: {}", again.text());
    assert_eq!(farm.model.seen().iter().filter(|entry| entry.text.contains("msg-000205")).count(), 1);
    let woken = hook("/hooks/wake", "twice", &json!({"text": "msg-000206 the door rings", "agentId": "bobby"})).await;
    assert_eq!((woken.status, woken.json()["ok"].as_bool()), (200, Some(true)), "{}", woken.text());
    let heard = until(PATIENCE, async || farm.model.seen().iter().any(|entry| entry.text.contains("msg-000206")).then_some(()));
    assert!(heard.await.is_some(), "bobby hears of it");
    assert_eq!(hook("/hooks/agent", "x", &json!({"message": "hello", "agentId": "nobody"})).await.status, 400);
}

#[tokio::test]
async fn what_is_passed_on_needs_a_rule_at_the_other_gateway() {
    let Some((_consul, farm)) = farm("farm relays: policy").await else { return };
    // Without the rules for clients nothing is answered; agents still write to each other.
    let rules = farm.bobby.run(&["farm", "policy", "show", "--json"]).await;
    let kept: Vec<&Value> = rules["rules"].as_array().unwrap().iter().filter(|rule| rule["from"]["agent"] != "client.*").collect();
    assert!(kept.len() < rules["rules"].as_array().unwrap().len(), "the starter policy lets clients in: {rules}");
    farm.bobby.run(&["config", "set", "farm.policy", &json!(kept).to_string(), "--json"]).await;
    let mut client = farm.jerry.client().await;
    let send = json!({"sessionKey": "agent:bobby:main", "message": "msg-000301", "idempotencyKey": "run-301"});
    let refused = until(PATIENCE, async || match client.call("chat.history", json!({"sessionKey": "agent:bobby:main"})).await {
        Err(err) => err.downcast::<Refused>().ok().filter(|refused| refused.0["message"].as_str().is_some_and(|text| text.contains("no rule lets client."))),
        Ok(_) => None,
    });
    let refused = refused.await.expect("the new policy is in force");
    assert!(refused.0["message"].as_str().unwrap().contains("clients.read of bobby"), "{refused}");
    let refused = client.call("chat.send", send.clone()).await.unwrap_err().downcast::<Refused>().unwrap();
    assert!(refused.0["message"].as_str().unwrap().contains("clients.write of bobby"), "{refused}");
    let list = client.call("sessions.list", json!({})).await.unwrap();
    assert!(list["unreachable"][0]["why"].as_str().unwrap().contains("clients.read"), "{list}");
    let http = farm.jerry.http("POST", "/v1/chat/completions", &json!({"model": "openclaw/bobby", "messages": [{"role": "user", "content": "x"}]})).await;
    assert!(http.status == 403 && http.text().contains("clients.write"), "{} {}", http.status, http.text());
    assert!(farm.model.seen().iter().all(|entry| !entry.text.contains("msg-000301")));
    farm.talk().await;
    // The refusals are counted at the gateway that refused, by their reason.
    let status = farm.bobby.client().await.call("farm.status", json!({})).await.unwrap();
    assert!(status["events"]["farm.msg.rejected.forbidden"].as_u64() >= Some(4), "{}", status["events"]);

    // A rule for one client and reading only.
    let one = json!({"from": {"gateway": "jerry-gateway", "agent": "client.*"}, "to": {"agent": "bobby"}, "capabilities": ["clients.read"], "effect": "allow"});
    let rules: Vec<&Value> = std::iter::once(&one).chain(kept).collect();
    farm.bobby.run(&["config", "set", "farm.policy", &json!(rules).to_string(), "--json"]).await;
    let read = until(PATIENCE, async || client.call("chat.history", json!({"sessionKey": "agent:bobby:main"})).await.ok());
    assert!(read.await.is_some());
    assert!(client.call("chat.send", send).await.is_err(), "reading is not writing");
}
