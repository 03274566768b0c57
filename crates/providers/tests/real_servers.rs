//! Against real servers: a LiteLLM proxy and llama.cpp with a tiny random model. Their programs are named by
//! `CLAWSTEAD_LITELLM` and `CLAWSTEAD_LLAMA_PYTHON`; without them the tests say SKIPPED and pass.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use clawstead_providers::{Ask, Chunk, ErrorKind, ModelChain, Models, ModelsInput, Refresh};
use clawstead_terms::{Message, MessageId, Millis, Part, Role, StopReason, ToolDefinition};
use clawstead_world::{HttpRequest, NetPolicy, World};
use futures_util::StreamExt;
use serde_json::{Value, json};

const MASTER_KEY: &str = "sk-clawstead-test-key";
/// A proxy on a busy machine takes its time to start.
const START_LIMIT: Duration = Duration::from_secs(120);

fn program(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|p| p.exists());
    if found.is_none() {
        eprintln!("SKIPPED: {variable} does not name a program; nothing was tested against the real server");
        // `cargo xtask test` counts the lines of this file.
        if let Some(mut file) = std::env::var_os("CLAWSTEAD_SKIPS").and_then(|path| std::fs::File::options().append(true).create(true).open(path).ok()) {
            let _ = std::io::Write::write_all(&mut file, format!("providers\t{variable}\tdoes not name a program\n").as_bytes());
        }
    }
    found
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that is stopped with the test.
struct Server {
    child: Child,
    url: String,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    async fn start(mut command: Command, dir: tempfile::TempDir, port: u16, ready: &str, world: &World) -> Self {
        let log = dir.path().join("log");
        let out = std::fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).current_dir(dir.path());
        let child = command.spawn().unwrap();
        let mut server = Self { child, url: format!("http://127.0.0.1:{port}"), log, _dir: dir };
        let until = Instant::now() + START_LIMIT;
        loop {
            let mut request = HttpRequest::new(http::Method::GET, format!("{}{ready}", server.url), NetPolicy::Trusted);
            request.head_timeout_ms = 2_000;
            if world.http.send(request).await.is_ok_and(|r| r.status.is_success()) {
                return server;
            }
            let gone = server.child.try_wait().unwrap();
            assert!(gone.is_none() && Instant::now() < until, "the server did not start: {}", std::fs::read_to_string(&server.log).unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn llama(python: &Path, world: &World) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny_model.py");
        let model = dir.path().join("tiny.gguf");
        assert!(Command::new(python).arg(script).arg(&model).status().unwrap().success());
        let port = free_port();
        let mut command = Command::new(python);
        command.args(["-m", "llama_cpp.server", "--host", "127.0.0.1", "--n_ctx", "256", "--chat_format", "chatml", "--port"]).arg(port.to_string());
        command.arg("--model").arg(&model);
        Self::start(command, dir, port, "/v1/models", world).await
    }

    async fn litellm(program: &Path, world: &World, upstream: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mock = |name: &str, answer: &str| json!({"model_name": name, "litellm_params": {"model": format!("openai/{name}"), "api_key": "none", "mock_response": answer}});
        let config = json!({
            "model_list": [
                mock("mock-1", "Hello from the mock."),
                mock("mock-limit", "litellm.RateLimitError"),
                mock("mock-context", "litellm.ContextWindowExceededError"),
                mock("mock-broken", "litellm.InternalServerError"),
                {"model_name": "tiny", "litellm_params": {"model": "lm_studio/tiny", "api_key": "none", "api_base": format!("{upstream}/v1")}},
            ],
            "litellm_settings": {"num_retries": 0, "telemetry": false},
            "router_settings": {"num_retries": 0, "disable_cooldowns": true},
            "general_settings": {"master_key": MASTER_KEY},
        });
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, config.to_string()).unwrap();
        let port = free_port();
        let mut command = Command::new(program);
        command.arg("--config").arg(&path).args(["--host", "127.0.0.1", "--port"]).arg(port.to_string()).env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
        Self::start(command, dir, port, "/health/liveliness", world).await
    }
}

fn world() -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    World::real().unwrap()
}

fn user(text: &str) -> Arc<Message> {
    message(Role::User, vec![Part::text(text)])
}

fn message(role: Role, parts: Vec<Part>) -> Arc<Message> {
    Arc::new(Message { id: MessageId::from("m"), role, parts, at: Millis(0), run_id: None, model: None, usage: None, stop_reason: None, meta: None })
}

fn ask(messages: Vec<Arc<Message>>) -> Ask {
    Ask { system: "Be brief.".into(), messages: messages.into(), max_tokens: Some(16), ..Ask::default() }
}

fn models(world: &World, providers: &Value) -> Models {
    Models::new(world.clone(), ModelsInput::read(&json!({"models": {"providers": providers}}), None, &|_| None))
}

/// Text, pieces of text, whether usage came, and the reason of the end.
async fn answer(models: &Models, model: &str, ask: Ask) -> (String, usize, bool, StopReason) {
    let mut stream = models.ask(&ModelChain::only(model), ask, &()).await.unwrap_or_else(|e| panic!("{model}: {e}")).stream;
    let (mut text, mut pieces, mut usage, mut stop) = (String::new(), 0, false, None);
    while let Some(chunk) = stream.next().await {
        match chunk.unwrap_or_else(|e| panic!("{model}: {e}")) {
            Chunk::Text(more) => {
                text.push_str(&more);
                pieces += 1;
            }
            Chunk::Usage(u) => usage = u.total() > 0,
            Chunk::Done(reason) => stop = Some(reason),
            _ => {}
        }
    }
    (text, pieces, usage, stop.expect("an answer ends"))
}

async fn kind(models: &Models, model: &str, ask: Ask) -> ErrorKind {
    let error = models.ask(&ModelChain::only(model), ask, &()).await.err().unwrap_or_else(|| panic!("{model} must fail"));
    println!("{model}: {error}");
    assert!(!error.to_string().contains(MASTER_KEY), "{error}");
    error.error.kind
}

/// A conversation with a tool exchange that was interrupted.
fn long_talk() -> Vec<Arc<Message>> {
    vec![
        user("go"),
        message(Role::Assistant, vec![Part::text("I look."), Part::ToolCall { id: "c1".into(), name: "look".into(), arguments: json!({}) }]),
        user("stop"),
        message(Role::Assistant, vec![Part::text("Yes.")]),
        user("now?"),
    ]
}

fn with_tool(ask: Ask) -> Ask {
    let tool = ToolDefinition { name: "look".into(), description: "Looks.".into(), parameters: json!({"type": "object", "properties": {}}) };
    Ask { tools: vec![tool].into(), ..ask }
}

#[tokio::test]
async fn llama_cpp_answers_and_its_errors_are_understood() {
    let Some(python) = program("CLAWSTEAD_LLAMA_PYTHON") else { return };
    let world = world();
    let server = Server::llama(&python, &world).await;
    let models = models(&world, &json!({"llama": {"baseUrl": format!("{}/v1", server.url)}}));
    let (text, pieces, _, stop) = answer(&models, "llama/tiny", ask(vec![user("hi")])).await;
    assert!(!text.is_empty() && pieces > 1, "it streams: {text:?}");
    assert!(matches!(stop, StopReason::Length | StopReason::Stop));
    let (_, _, _, _) = answer(&models, "llama/tiny", ask(long_talk())).await;
    let too_long = ask(vec![user(&"long ".repeat(400))]);
    assert_eq!(kind(&models, "llama/tiny", too_long).await, ErrorKind::Context);
    let listed = models.list_live("llama", Refresh::Always).await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
}

#[tokio::test]
async fn litellm_speaks_three_dialects_and_its_errors_are_understood() {
    let Some(litellm) = program("CLAWSTEAD_LITELLM") else { return };
    let Some(python) = program("CLAWSTEAD_LLAMA_PYTHON") else { return };
    let world = world();
    let llama = Server::llama(&python, &world).await;
    let proxy = Server::litellm(&litellm, &world, &llama.url).await;
    let provider = |api: &str, base: String| json!({"baseUrl": base, "apiKey": MASTER_KEY, "api": api});
    let models = models(
        &world,
        &json!({
            "chat": provider("openai-completions", proxy.url.clone()),
            "chat-v1": provider("openai-completions", format!("{}/v1", proxy.url)),
            // llama-cpp-python behind the proxy takes a system prompt only as plain text.
            "messages": {"baseUrl": proxy.url, "apiKey": MASTER_KEY, "api": "anthropic-messages", "params": {"cacheRetention": "none"}},
            "responses": provider("openai-responses", format!("{}/v1", proxy.url)),
            "stranger": {"baseUrl": proxy.url, "apiKey": "sk-not-the-right-key"},
        }),
    );
    for model in ["chat/mock-1", "chat-v1/mock-1", "messages/mock-1"] {
        let (text, _, usage, stop) = answer(&models, model, ask(vec![user("hi")])).await;
        assert_eq!((text.as_str(), usage, stop), ("Hello from the mock.", true, StopReason::Stop), "{model}");
    }
    for model in ["chat/tiny", "messages/tiny", "responses/tiny"] {
        for asked in [ask(vec![user("hi")]), with_tool(ask(long_talk()))] {
            let (text, pieces, usage, stop) = answer(&models, model, asked).await;
            assert!(!text.is_empty() && pieces > 1 && usage, "{model}: {text:?} in {pieces} pieces, usage {usage}");
            assert!(matches!(stop, StopReason::Length | StopReason::Stop), "{model}: {stop:?}");
        }
    }
    let hi = || ask(vec![user("hi")]);
    for dialect in ["chat", "messages"] {
        assert_eq!(kind(&models, &format!("{dialect}/mock-context"), hi()).await, ErrorKind::Context, "{dialect}");
        assert_eq!(kind(&models, &format!("{dialect}/mock-limit"), hi()).await, ErrorKind::Quota, "{dialect}");
        assert_eq!(kind(&models, &format!("{dialect}/nope"), hi()).await, ErrorKind::ModelNotFound, "{dialect}");
    }
    assert_eq!(kind(&models, "chat/mock-broken", hi()).await, ErrorKind::Overloaded);
    assert_eq!(kind(&models, "stranger/mock-1", hi()).await, ErrorKind::Auth);
    let chain = ModelChain { primary: "chat/mock-broken".into(), fallbacks: vec!["chat/nope".into(), "messages/tiny".into()] };
    assert_eq!(models.ask(&chain, hi(), &()).await.unwrap().model.to_string(), "messages/tiny");
    let listed = models.list_live("chat", Refresh::Always).await.unwrap();
    assert!(listed.iter().any(|r| r.id == "mock-1") && listed.iter().any(|r| r.id == "tiny"), "{listed:?}");
}
