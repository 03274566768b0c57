//! Sorting what servers say into [`ErrorKind`]s: by their codes first, then by their words, then by the HTTP status.

use http::HeaderMap;
use serde_json::Value;

use crate::ErrorKind;

/// Characters of a server's own words that are passed on, at most.
pub const MESSAGE_CHARS_MAX: usize = 500;

/// A failed call before it knows its provider and model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    pub(crate) status: Option<u16>,
    pub(crate) retry_after_ms: Option<u64>,
}

impl Fault {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), status: None, retry_after_ms: None }
    }
}

/// Sorts an error response.
pub(crate) fn response(status: u16, headers: &HeaderMap, body: &[u8]) -> Fault {
    let text = String::from_utf8_lossy(body);
    let mut fault = match serde_json::from_str::<Value>(&text) {
        Ok(value) => said(&value, Some(status)),
        Err(_) => {
            let plain = plain_words(&text);
            let shown = if plain.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {plain}") };
            Fault::new(kind_of("", &plain, Some(status)), cut(&shown))
        }
    };
    if (300..400).contains(&status) {
        let to = headers.get("location").and_then(|v| v.to_str().ok()).unwrap_or("somewhere else");
        fault.message = cut(&format!("HTTP {status}: the server redirects to {to}; put that address into baseUrl"));
    }
    fault.status = Some(status);
    fault.retry_after_ms = retry_after(headers).or(fault.retry_after_ms);
    fault
}

/// Sorts an error object as OpenAI, Anthropic, LiteLLM, Ollama, LM Studio, llama.cpp, Z.AI and Google write it.
pub(crate) fn said(value: &Value, status: Option<u16>) -> Fault {
    // Google wraps it into a list.
    let value = value.as_array().and_then(|a| a.first()).unwrap_or(value);
    let error = value.get("error").filter(|e| !e.is_null()).unwrap_or(value);
    let mut codes = String::new();
    for source in [error, value] {
        for key in ["code", "type", "status"] {
            match source.get(key) {
                Some(Value::String(s)) => {
                    codes.push_str(&s.to_lowercase());
                    codes.push(' ');
                }
                Some(Value::Number(n)) => {
                    codes.push_str(&n.to_string());
                    codes.push(' ');
                }
                _ => {}
            }
        }
    }
    let message = words(error).or_else(|| words(value)).unwrap_or_else(|| cut(&error.to_string()));
    // A stream has no status of its own any more; the code may be one.
    let status = status.filter(|s| *s >= 300).or_else(|| codes.split(' ').find_map(|c| c.parse::<u16>().ok()).filter(|c| (400..600).contains(c)));
    let mut fault = Fault::new(kind_of(&codes, &message, status), cut(&message));
    fault.status = status;
    if let Some(ms) = retry_info(error) {
        fault.retry_after_ms = Some(ms);
        // Google speaks of plan and billing also when a minute's limit is reached; then it says when to come again.
        if fault.kind == ErrorKind::Billing {
            fault.kind = ErrorKind::Quota;
        }
    }
    fault
}

/// `retryDelay: "7.5s"` among Google's details, milliseconds.
fn retry_info(error: &Value) -> Option<u64> {
    let details = error.get("details")?.as_array()?;
    let text = details.iter().find_map(|detail| detail.get("retryDelay").and_then(Value::as_str))?;
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be finite and not negative; `as` saturates")]
    (seconds.is_finite() && seconds >= 0.0).then_some((seconds * 1_000.0) as u64)
}

fn words(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(s) => s.clone(),
        Value::Object(map) => match map.get("message").or_else(|| map.get("detail")).or_else(|| map.get("msg"))? {
            Value::String(s) => s.clone(),
            // FastAPI lists what it did not like.
            Value::Array(list) => list.iter().filter_map(|i| i.get("msg").and_then(Value::as_str)).collect::<Vec<_>>().join("; "),
            nested @ Value::Object(_) => return words(nested),
            _ => return None,
        },
        _ => return None,
    };
    (!text.trim().is_empty()).then_some(text)
}

/// The text of a page without its tags.
fn plain_words(text: &str) -> String {
    let mut out = String::new();
    let mut in_tag = false;
    for c in text.chars().take(4 * MESSAGE_CHARS_MAX) {
        match c {
            '<' => in_tag = true,
            '>' => in_tag = false,
            _ if in_tag => {}
            c if c.is_whitespace() => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            c => out.push(c),
        }
    }
    out.trim().to_owned()
}

fn any(text: &str, needles: &[&str]) -> bool {
    needles.iter().any(|n| text.contains(n))
}

const CONTEXT_WORDS: &[&str] = &[
    "prompt is too long",
    "maximum context length",
    "context length",
    "context_length",
    "context window",
    "context size",
    "context the overflows",
    "contextwindowexceeded",
    "input is too long",
    "input length and `max_tokens` exceed",
    "exceeds the limit of tokens",
    "too many input tokens",
    "input token count",
    "prompt exceeds max length",
    "tokens to keep from the initial prompt",
    "request too large",
    "request_too_large",
];
const BILLING_WORDS: &[&str] = &[
    "credit balance",
    "insufficient balance",
    "insufficient credits",
    "insufficient_quota",
    "exceeded your current quota",
    "budget has been exceeded",
    "budget_exceeded",
    "exceededbudget",
    "payment required",
    "billing_error",
    "billing hard limit",
    "plan and billing",
    "more credits",
];
const CONTENT_WORDS: &[&str] = &[
    "content_policy",
    "content policy",
    "contentpolicyviolation",
    "content_filter",
    "content management policy",
    "data_inspection_failed",
    "invalid_prompt",
    "safety system",
    "unsafe or sensitive",
    "prohibited_content",
];
const NOT_FOUND_WORDS: &[&str] = &[
    "model_not_found",
    "modelnotfound",
    "invalid model name",
    "no models loaded",
    "is not a valid model",
    "model does not exist",
    "unknown model",
    "try pulling it first",
    "not_found_error",
];
const AUTH_WORDS: &[&str] = &[
    "authentication",
    "invalid_api_key",
    "incorrect api key",
    "invalid api key",
    "api key not valid",
    "auth_error",
    "permission_error",
    "unauthorized",
    "token_not_found",
    "no_db_connection",
];
const QUOTA_WORDS: &[&str] = &["rate_limit", "rate limit", "too many requests", "tokens per min", "requests per min", "resource_exhausted", "throttl", "quota"];
const OVERLOAD_WORDS: &[&str] = &[
    "overloaded",
    "server_error",
    "api_error",
    "loading model",
    "no healthy deployment",
    "no deployments available",
    "temporarily unavailable",
    "at capacity",
];

/// The order matters: a limit on tokens per minute mentions tokens, an exhausted account mentions quota.
fn kind_of(codes: &str, message: &str, status: Option<u16>) -> ErrorKind {
    let text = message.to_lowercase();
    let both = format!("{codes}{text}");
    let zai = |list: &[&str]| codes.split(' ').any(|c| list.contains(&c));
    if status == Some(402) || any(&both, BILLING_WORDS) || zai(&["1113", "1309", "1311"]) {
        ErrorKind::Billing
    } else if any(&both, &["tokens per min", "tokens per day", "(tpm)", "(tpd)"]) {
        ErrorKind::Quota
    } else if (any(&both, CONTEXT_WORDS) || (text.contains("requested tokens") && text.contains("exceed")) || zai(&["1261"])) && status.is_none_or(|s| s <= 500)
    {
        ErrorKind::Context
    } else if any(&both, CONTENT_WORDS) || zai(&["1301"]) {
        ErrorKind::Content
    } else if any(&both, NOT_FOUND_WORDS) || (text.contains("model") && any(&text, &["not found", "does not exist", "not exist"])) || zai(&["1211"]) {
        ErrorKind::ModelNotFound
    } else if status == Some(401) || any(&both, AUTH_WORDS) || zai(&["1000", "1001", "1002", "1003", "1004", "1220"]) {
        ErrorKind::Auth
    } else if any(&both, OVERLOAD_WORDS) && status.is_none_or(|s| s >= 500 || s == 429) || zai(&["1305", "1312"]) {
        ErrorKind::Overloaded
    } else if status == Some(429)
        || (any(&both, QUOTA_WORDS) && status.is_none_or(|s| s == 403 || s >= 429))
        || zai(&["1302", "1303", "1304", "1308", "1310", "1313"])
    {
        ErrorKind::Quota
    } else {
        match status {
            Some(403) => ErrorKind::Auth,
            Some(404) => ErrorKind::ModelNotFound,
            Some(408) => ErrorKind::Timeout,
            Some(413) => ErrorKind::Context,
            Some(409 | 423 | 425 | 500..) => ErrorKind::Overloaded,
            Some(_) => ErrorKind::Request,
            None => ErrorKind::Overloaded,
        }
    }
}

/// Milliseconds that the server asked to wait: `retry-after-ms`, or `retry-after` in seconds. A date there is
/// ignored: our own back-off is as good as a foreign clock.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let number = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse::<f64>().ok()).filter(|n| n.is_finite() && *n >= 0.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be finite and not negative; `as` saturates")]
    let whole = |ms: f64| ms as u64;
    number("retry-after-ms").map(whole).or_else(|| number("retry-after").map(|s| whole(s * 1000.0)))
}

/// One line, at most [`MESSAGE_CHARS_MAX`] characters.
pub(crate) fn cut(text: &str) -> String {
    let mut out: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_CHARS_MAX).collect();
    if text.trim().chars().nth(MESSAGE_CHARS_MAX).is_some() {
        out.push('\u{2026}');
    }
    out
}

/// Takes secrets out of a server's words: the ones given, and whatever looks like a key.
pub(crate) fn without_secrets(text: &str, secrets: &[String]) -> String {
    let mut out = text.to_owned();
    for secret in secrets {
        if secret.len() >= 4 {
            out = out.replace(secret.as_str(), "***");
        }
    }
    let looks_like_key = |word: &str| word.len() >= 16 && ["sk-", "sk_", "gsk_", "xai-", "AIza", "Bearer"].iter().any(|p| word.starts_with(p));
    if out.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).any(looks_like_key) {
        let mut clean = String::with_capacity(out.len());
        for piece in out.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')) {
            let word = piece.trim_end_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
            if looks_like_key(word) {
                clean.push_str("***");
                clean.push_str(&piece[word.len()..]);
            } else {
                clean.push_str(piece);
            }
        }
        out = clean;
    }
    out
}
