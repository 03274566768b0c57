//! Servers that hang, cut, send garbage and refuse: every dialect ends in the right kind of error, in time.

use std::sync::Arc;

use crate::{
    Anthropic, Chunk, Dialect, Endpoint, ErrorKind, Google, ModelSpec, OpenAiChat, OpenAiResponses, Provider, ProviderError,
    testing::{Act, Server, all, ask, user, world},
};

const KEY: &str = "sk-test-0123456789abcdef";

pub(crate) fn endpoint(url: &str, dialect: Dialect) -> Endpoint {
    let world = world();
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", http::HeaderValue::from_str(&format!("Bearer {KEY}")).unwrap());
    Endpoint {
        http: world.http,
        rng: world.rng,
        spec: Arc::new(ModelSpec::unknown("p", "m", dialect, "x")),
        base_url: url.into(),
        headers,
        secrets: vec![KEY.into()],
        head_timeout_ms: 300,
        idle_timeout_ms: 300,
        event_timeout_ms: 60_000,
    }
}

fn providers(url: &str) -> Vec<(&'static str, Arc<dyn Provider>)> {
    vec![
        ("chat", Arc::new(OpenAiChat { endpoint: endpoint(url, Dialect::OpenAiChat) })),
        ("anthropic", Arc::new(Anthropic { endpoint: endpoint(url, Dialect::Anthropic) })),
        ("responses", Arc::new(OpenAiResponses { endpoint: endpoint(url, Dialect::OpenAiResponses) })),
        ("google", Arc::new(Google { endpoint: endpoint(url, Dialect::Google) })),
    ]
}

/// The beginning of an answer in each dialect.
fn beginning(dialect: &str) -> String {
    match dialect {
        "google" => "data: {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[{\"text\":\"Hel\"}]}}]}\r\n\r\n".into(),
        "chat" => "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n".into(),
        "anthropic" => "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hel\"}}\n\n".into(),
        _ => "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"item_id\":\"i\",\"delta\":\"Hel\"}\n\n".into(),
    }
}

async fn fails(provider: &dyn Provider) -> (Vec<Chunk>, ProviderError) {
    match provider.stream(ask(vec![user("hi")])).await {
        Err(error) => (Vec::new(), error),
        Ok(stream) => {
            let (chunks, error) = all(stream).await;
            (chunks, error.expect("the call must fail"))
        }
    }
}

#[tokio::test]
async fn every_dialect_survives_every_fault() {
    for (i, name) in ["chat", "anthropic", "responses", "google"].into_iter().enumerate() {
        let half = beginning(name);
        let cases = [
            (Act::Hang, ErrorKind::Timeout, 0),
            (Act::Close, ErrorKind::Network, 0),
            (Act::CutAfter(half.clone()), ErrorKind::Network, 1),
            (Act::Events(half.clone(), 5), ErrorKind::Network, 1),
            (Act::HangAfter(half.clone()), ErrorKind::Timeout, 1),
            (Act::Events("data: }}nonsense\n\n".into(), 3), ErrorKind::Garbage, 0),
            (Act::Json("[1,2]".into()), ErrorKind::Garbage, 0),
            (Act::Status(401, "", format!("{{\"error\":{{\"message\":\"bad key {KEY}\",\"type\":\"authentication_error\"}}}}")), ErrorKind::Auth, 0),
            (Act::Status(402, "", "{}".into()), ErrorKind::Billing, 0),
            (Act::Status(429, "retry-after: 7\r\n", "slow down".into()), ErrorKind::Quota, 0),
            (Act::Status(500, "", "<html><h1>Oops</h1></html>".into()), ErrorKind::Overloaded, 0),
            (Act::Status(529, "", String::new()), ErrorKind::Overloaded, 0),
            (Act::Status(307, "location: https://elsewhere/\r\n", String::new()), ErrorKind::Request, 0),
        ];
        for (act, kind, texts) in cases {
            let label = format!("{name}: {act:?}");
            let server = Server::start(vec![act]).await;
            let (chunks, error) = fails(&*providers(&server.url)[i].1).await;
            assert_eq!(error.kind, kind, "{label}: {error}");
            assert_eq!(chunks.len(), texts, "{label}: {chunks:?}");
            assert!(!error.to_string().contains(KEY), "{label}: {error}");
            assert_eq!(error.retry_after_ms, label.contains("retry-after").then_some(7_000), "{label}");
        }
    }
}

#[tokio::test]
async fn bytes_that_never_make_an_event_do_not_hold_a_turn() {
    let server = Server::start(vec![Act::Drip]).await;
    let slow = Endpoint { event_timeout_ms: 200, ..endpoint(&server.url, Dialect::OpenAiChat) };
    assert_eq!(fails(&OpenAiChat { endpoint: slow }).await.1.kind, ErrorKind::Timeout);
}

#[tokio::test]
async fn nobody_listens() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for (name, provider) in providers(&url) {
        assert_eq!(fails(&*provider).await.1.kind, ErrorKind::Network, "{name}");
    }
}

#[tokio::test]
async fn an_endless_line_is_refused() {
    let server = Server::start(vec![Act::Events(format!("data: {}", "x".repeat(crate::LINE_BYTES_MAX + 10)), 64 * 1024)]).await;
    let (_, error) = fails(&*providers(&server.url)[0].1).await;
    assert_eq!(error.kind, ErrorKind::Garbage, "{error}");
}
