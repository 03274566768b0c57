//! Errors as servers write them.

use http::HeaderMap;
use serde_json::json;

use crate::{
    ErrorKind::{self, Auth, Billing, Content, Context, ModelNotFound, Overloaded, Quota, Request},
    sort::{cut, response, without_secrets},
};

#[test]
fn every_server_is_understood() {
    let o = |message: &str, kind: &str, code: &str| json!({"error": {"message": message, "type": kind, "code": code}}).to_string();
    let a = |kind: &str, message: &str| json!({"type": "error", "error": {"type": kind, "message": message}}).to_string();
    let cases: Vec<(u16, String, ErrorKind)> = vec![
        // Anthropic
        (401, a("authentication_error", "invalid x-api-key"), Auth),
        (403, a("permission_error", "Your API key lacks permission"), Auth),
        (400, a("invalid_request_error", "Your credit balance is too low to access the Anthropic API"), Billing),
        (400, a("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), Context),
        (413, a("request_too_large", "Request exceeds the maximum size"), Context),
        (429, a("rate_limit_error", "This request would exceed your rate limit of 40,000 input tokens per minute"), Quota),
        (529, a("overloaded_error", "Overloaded"), Overloaded),
        (500, a("api_error", "Internal server error"), Overloaded),
        (404, a("not_found_error", "model: claude-nope"), ModelNotFound),
        (400, a("invalid_request_error", "messages.1: `tool_use` ids were found without `tool_result` blocks"), Request),
        // OpenAI
        (401, o("Incorrect API key provided", "invalid_request_error", "invalid_api_key"), Auth),
        (429, o("You exceeded your current quota, please check your plan and billing details", "insufficient_quota", "insufficient_quota"), Billing),
        (429, o("Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000", "tokens", "rate_limit_exceeded"), Quota),
        (400, o("This model's maximum context length is 8192 tokens", "invalid_request_error", "context_length_exceeded"), Context),
        (404, o("The model `x` does not exist or you do not have access to it", "invalid_request_error", "model_not_found"), ModelNotFound),
        (400, o("Your request was rejected by our safety system", "invalid_request_error", "content_policy_violation"), Content),
        (400, o("Unsupported value: 'temperature'", "invalid_request_error", "unsupported_value"), Request),
        (503, o("The engine is currently overloaded", "server_error", ""), Overloaded),
        // LiteLLM, as recorded from a running proxy
        (429, o("litellm.RateLimitError: this is a mock rate limit error", "throttling_error", "429"), Quota),
        (400, o("litellm.ContextWindowExceededError: litellm.BadRequestError: this is a mock context window exceeded error", "invalid_request_error", "400"), Context),
        (500, o("litellm.InternalServerError: this is a mock internal server error", "internal_server_error", "500"), Overloaded),
        (400, o("/chat/completions: Invalid model name passed in model=nope. Call `/v1/models`", "invalid_request_error", "400"), ModelNotFound),
        (400, o("No connected db.", "no_db_connection", "400"), Auth),
        (401, o("Authentication Error, Invalid proxy server token passed", "token_not_found_in_db", "401"), Auth),
        (400, o("Budget has been exceeded! Current cost: 1.2, Max budget: 1.0", "budget_exceeded", "400"), Billing),
        (429, o("No deployments available for selected model, Try again in 5 seconds", "None", "429"), Overloaded),
        // Ollama
        (404, json!({"error": "model 'llama9' not found"}).to_string(), ModelNotFound),
        (404, json!({"error": {"message": "model \"llama9\" not found, try pulling it first", "type": "api_error", "code": null}}).to_string(), ModelNotFound),
        (500, json!({"error": "llama runner process has terminated"}).to_string(), Overloaded),
        // LM Studio
        (400, json!({"error": "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens"}).to_string(), Context),
        (404, json!({"error": {"message": "No models loaded. Please load a model in the developer page", "code": "model_not_found"}}).to_string(), ModelNotFound),
        // llama.cpp
        (400, json!({"error": {"code": 400, "message": "the request exceeds the available context size. try increasing the context size", "type": "exceed_context_size_error"}}).to_string(), Context),
        (503, json!({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}).to_string(), Overloaded),
        (401, json!({"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}).to_string(), Auth),
        // llama-cpp-python
        (400, json!({"error": {"message": "This model's maximum context length is 256 tokens, however you requested 900 tokens", "type": "invalid_request_error", "code": "context_length_exceeded"}}).to_string(), Context),
        (500, json!({"error": {"message": "Requested tokens (900) exceed context window of 256", "type": "internal_server_error", "code": null}}).to_string(), Context),
        (422, json!({"detail": [{"loc": ["body", "messages"], "msg": "Field required"}]}).to_string(), Request),
        // Z.AI
        (401, json!({"error": {"code": "1002", "message": "Authorization Token invalid"}}).to_string(), Auth),
        (429, json!({"error": {"code": "1113", "message": "Insufficient balance or no resource package. Please recharge."}}).to_string(), Billing),
        (429, json!({"error": {"code": "1302", "message": "High concurrency usage of this API"}}).to_string(), Quota),
        (429, json!({"error": {"code": "1305", "message": "The service may be temporarily overloaded"}}).to_string(), Overloaded),
        (400, json!({"error": {"code": "1261", "message": "Prompt exceeds max length"}}).to_string(), Context),
        (400, json!({"error": {"code": "1301", "message": "System detected potentially unsafe or sensitive content in input or generation"}}).to_string(), Content),
        (400, json!({"error": {"code": "1211", "message": "Unknown Model, please check the model code"}}).to_string(), ModelNotFound),
        // Google's compatible endpoint wraps errors in a list.
        (400, json!([{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}]).to_string(), Auth),
        (429, json!([{"error": {"code": 429, "message": "Resource has been exhausted", "status": "RESOURCE_EXHAUSTED"}}]).to_string(), Quota),
        // No JSON at all
        (502, "<html><head><title>502 Bad Gateway</title></head></html>".into(), Overloaded),
        (404, "404 page not found".into(), ModelNotFound),
        (402, String::new(), Billing),
    ];
    for (status, body, want) in cases {
        let fault = response(status, &HeaderMap::new(), body.as_bytes());
        assert_eq!(fault.kind, want, "{status} {body} -> {}", fault.message);
        assert!(!fault.message.is_empty() && !fault.message.contains('{') && !fault.message.contains('<'), "{}", fault.message);
    }
}

#[test]
fn google_says_in_the_body_when_to_come_again() {
    let body = r#"{"error": {"code": 429, "message": "You exceeded your current quota, please check your plan and billing details.", "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.QuotaFailure"}, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}]}}"#;
    let fault = response(429, &HeaderMap::new(), body.as_bytes());
    assert_eq!((fault.kind, fault.retry_after_ms), (Quota, Some(7_500)));
    let without = body.replace("retryDelay", "other");
    assert_eq!(response(429, &HeaderMap::new(), without.as_bytes()).kind, Billing);
}

#[test]
fn waits_are_read_and_secrets_and_length_are_not_passed_on() {
    let with = |name: &'static str, value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, http::HeaderValue::from_static(value));
        response(429, &headers, b"{}").retry_after_ms
    };
    assert_eq!(with("retry-after", "1.5"), Some(1_500));
    assert_eq!(with("retry-after-ms", "250"), Some(250));
    assert_eq!(with("retry-after", "-3"), None);
    assert_eq!(with("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT"), None);
    let secrets = ["hunter2-key".to_owned()];
    assert_eq!(without_secrets("key hunter2-key, also sk-abcdefghijklmnop1234 (bad)", &secrets), "key ***, also *** (bad)");
    assert_eq!(cut(&"x".repeat(600)).chars().count(), 501);
    assert_eq!(cut("a\nb\u{7}"), "a b ");
}
