//! Looking around, against servers that list and answer.

use serde_json::json;

use crate::{
    Models, ModelsInput, Probing, ScanOptions,
    scan::params_b,
    testing::{Act, Server, world},
};

fn list() -> Act {
    Act::Json(
        json!({"data": [{"id": "big-70b", "created": 1_700_000_000, "context_length": 8192}, {"id": "small-1.5b"}, {"id": "text-embedding-3"}]}).to_string(),
    )
}

fn calls() -> Act {
    let call = json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "ping", "arguments": "{}"}}]}, "finish_reason": "tool_calls"}]});
    Act::Events(format!("data: {call}\n\ndata: [DONE]\n\n"), 1_000)
}

fn talks() -> Act {
    Act::Events("data: {\"choices\":[{\"delta\":{\"content\":\"pong\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n".into(), 1_000)
}

fn models(url: &str) -> Models {
    Models::new(world(), ModelsInput::read(&json!({"models": {"mode": "replace", "providers": {"near": {"baseUrl": url}}}}), None, &|_| None))
}

fn one_at_a_time() -> ScanOptions {
    ScanOptions { concurrency: 1, timeout_ms: 2_000, ..ScanOptions::default() }
}

#[tokio::test]
async fn local_models_are_listed_tried_and_sorted() {
    let server = Server::start(vec![list(), talks(), calls()]).await;
    let seen = std::sync::Mutex::new(Vec::new());
    let found = models(&server.url).scan(&one_at_a_time(), |done, total| seen.lock().unwrap().push((done, total))).await;
    assert_eq!((found.hosts.len(), found.hosts[0].ok, found.hosts[0].models), (1, true, 2), "{found:?}");
    let names: Vec<&str> = found.results.iter().map(|r| r.model_ref.as_str()).collect();
    assert_eq!(names, ["near/small-1.5b", "near/big-70b"], "the one that calls tools comes first");
    let (good, bad) = (&found.results[0], &found.results[1]);
    assert!(good.tool.ok && good.tool.latency_ms.is_some() && good.local && good.is_free, "{good:?}");
    assert_eq!(bad.tool.error.as_deref(), Some("no tool call came back"));
    assert_eq!((bad.context_length, bad.inferred_param_b, bad.created_at_ms), (Some(8192), Some(70.0), Some(1_700_000_000_000)));
    assert_eq!(*seen.lock().unwrap(), [(1, 2), (2, 2)]);
    assert_eq!(server.seen()[1].1["tool_choice"], "required");
}

#[tokio::test]
async fn filters_leave_out_and_nothing_is_asked_without_probing() {
    let server = Server::start(vec![list()]).await;
    let options = ScanOptions { probing: Probing::ListOnly, min_params_b: 7.0, ..one_at_a_time() };
    let found = models(&server.url).scan(&options, |_, _| ()).await;
    assert_eq!(found.results.len(), 1);
    assert!(found.results[0].tool.skipped && server.seen().len() == 1);
    let found = models(&server.url).scan(&ScanOptions { max_age_days: 30, min_params_b: 0.0, ..options }, |_, _| ()).await;
    assert_eq!(found.results.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["small-1.5b"], "the other is known to be old");
}

#[tokio::test]
async fn a_host_that_does_not_demand_tools_is_asked_plainly() {
    let refusal = Act::Status(400, "", json!({"error": {"message": "tool_choice is not supported", "type": "invalid_request_error"}}).to_string());
    let server = Server::start(vec![Act::Json(json!({"data": [{"id": "m"}]}).to_string()), refusal, calls()]).await;
    let found = models(&server.url).scan(&one_at_a_time(), |_, _| ()).await;
    assert!(found.results[0].tool.ok, "{found:?}");
    assert!(server.seen()[2].1.get("tool_choice").is_none());
}

#[tokio::test]
async fn a_host_that_is_away_or_slow_is_told_about() {
    let gone = models("http://127.0.0.1:9").scan(&one_at_a_time(), |_, _| ()).await;
    assert!(!gone.hosts[0].ok && gone.hosts[0].error.is_some() && gone.results.is_empty(), "{gone:?}");
    let server = Server::start(vec![Act::Json(json!({"data": [{"id": "m"}]}).to_string()), Act::Hang]).await;
    let slow = models(&server.url).scan(&ScanOptions { timeout_ms: 50, ..one_at_a_time() }, |_, _| ()).await;
    assert_eq!(slow.results[0].tool.error.as_deref(), Some("no answer within 50 ms"));
}

#[tokio::test]
async fn one_provider_is_tried_with_what_it_has() {
    let server = Server::start(vec![Act::Json(json!({"data": [{"id": "m"}]}).to_string()), talks()]).await;
    let tried = models(&server.url).try_provider("near", std::time::Duration::from_secs(2)).await;
    assert_eq!(tried.unwrap(), "near/m");
}

#[test]
fn sizes_are_read_from_names() {
    for (name, want) in
        [("llama3.1:70b-instruct", Some(70.0)), ("mixtral-8x7B", Some(56.0)), ("qwen2.5-1.5b", Some(1.5)), ("8.0B", Some(8.0)), ("gpt-4o", None), ("b", None)]
    {
        assert_eq!(params_b(name), want, "{name}");
    }
}
