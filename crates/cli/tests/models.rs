//! `openclaw models auth` and `models scan`, against a small server of our own.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{Home, Ran};
use serde_json::{Value, json};

const KEY: &str = "sk-very-secret-0123456789";

/// Answers every request as `answer` says; keeps request lines and bodies.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Server {
    fn start(answer: impl Fn(&str, &str) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let mut reader = BufReader::new(socket.try_clone().unwrap());
                let (mut line, mut length) = (String::new(), 0);
                reader.read_line(&mut line).unwrap();
                loop {
                    let mut header = String::new();
                    if reader.read_line(&mut header).unwrap() <= 2 {
                        break;
                    }
                    if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let body = String::from_utf8(body).unwrap();
                log.lock().unwrap().push((line.trim().to_owned(), body.clone()));
                let (status, text) = answer(&line, &body);
                let kind = if text.starts_with("data:") { "text/event-stream" } else { "application/json" };
                let head = format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
                let _ = socket.write_all(head.as_bytes());
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<(String, String)> {
        self.seen.lock().unwrap().clone()
    }
}

fn with_input(home: &Home, args: &[&str], input: &str) -> Ran {
    let mut child = home.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    Ran { code: out.status.code().unwrap_or(-1), out: String::from_utf8(out.stdout).unwrap(), err: String::from_utf8(out.stderr).unwrap() }
}

fn store(home: &Home) -> Value {
    serde_json::from_slice(&std::fs::read(home.state().join("agents/main/agent/auth-profiles.json")).unwrap()).unwrap()
}

#[test]
fn keys_and_tokens_are_stored_listed_ordered_and_removed_without_being_shown() {
    let home = Home::new();
    let ran = with_input(&home, &["models", "auth", "paste-api-key", "--provider", "openai"], &format!("{KEY}\n"));
    assert_eq!((ran.code, ran.out.lines().next()), (0, Some("Stored openai:manual in ~/.openclaw/agents/main/agent/auth-profiles.json.")), "{}", ran.err);
    let ran =
        with_input(&home, &["models", "auth", "paste-token", "--provider", "openai", "--profile-id", "work", "--expires-in", "12h"], &format!("{KEY}-t\n"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let kept = store(&home);
    assert_eq!((kept["profiles"]["openai:manual"]["key"].as_str(), kept["profiles"]["openai:manual"]["type"].as_str()), (Some(KEY), Some("api_key")));
    assert!(kept["profiles"]["openai:work"]["expires"].as_i64().unwrap() > 1_700_000_000_000);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(home.state().join("agents/main/agent/auth-profiles.json")).unwrap().permissions()) & 0o777;
    assert_eq!(mode, 0o600);
    let listed = home.run(&["models", "auth", "list", "--json"]).json();
    assert_eq!(listed["profiles"].as_array().unwrap().len(), 2);
    for args in [&["models", "auth", "list"][..], &["models", "auth", "list", "--json"], &["models", "status", "--json"], &["models", "status"]] {
        let ran = home.run(args);
        assert!(ran.code == 0 && !ran.out.contains(KEY) && !ran.err.contains(KEY), "{args:?}: {}", ran.out);
    }
    assert_eq!(home.run(&["models", "status", "--check"]).code, 2, "a token ends within a day");
    let ran = home.run(&["models", "auth", "order", "set", "--provider", "openai", "openai:work", "openai:manual"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "Order of openai: openai:work, openai:manual\n"), "{}", ran.err);
    assert_eq!(home.run(&["models", "auth", "order", "set", "--provider", "openai", "openai:nobody"]).code, 1);
    assert_eq!(home.run(&["models", "auth", "order", "get", "--provider", "openai", "--json"]).json()["order"], json!(["openai:work", "openai:manual"]));
    let ran = home.run(&["models", "auth", "logout", "openai:work"]);
    assert!(ran.code == 1 && ran.err.contains("--yes"), "{}", ran.err);
    assert_eq!(home.run(&["models", "auth", "logout", "openai:work", "--yes"]).code, 0);
    assert_eq!(store(&home)["order"], json!({"openai": ["openai:manual"]}));
    assert_eq!(home.run(&["models", "auth", "order", "clear", "--provider", "openai"]).code, 0);
    assert_eq!(home.run(&["models", "auth", "logout", "openai:work", "--yes"]).code, 1);
}

#[test]
fn mistakes_with_credentials_name_the_way_out() {
    let home = Home::new();
    for (args, input, says) in [
        (&["models", "auth", "paste-api-key", "--provider", "openai"][..], "\n", "Nothing was pasted"),
        (&["models", "auth", "paste-api-key", "--provider", "openai"], "two words\n", "no credential"),
        (&["models", "auth", "paste-token", "--provider", "openai", "--expires-in", "soon"], "x\n", "no duration"),
        (&["models", "auth", "add"], "", "paste-api-key"),
        (&["models", "auth", "login", "--provider", "openai", "--method", "oauth"], "", "--token-url"),
        (&["models", "auth", "login"], "", "--provider"),
        (&["models", "auth", "login-github-copilot"], "", "GitHub Copilot"),
        (&["models", "auth", "setup-token", "--provider", "openai"], "", "No program"),
        (&["models", "auth", "activate", "openai:x"], "", "no stored credential"),
    ] {
        let ran = with_input(&home, args, input);
        assert!(ran.code == 1 && ran.err.contains(says), "{args:?}: {} {}", ran.code, ran.err);
    }
    assert!(!home.state().join("agents/main/agent/auth-profiles.json").exists());
}

#[test]
fn a_sign_in_with_a_browser_ends_in_a_profile_that_renews_itself() {
    let server = Server::start(|_, _| (200, json!({"access_token": "at-secret-1", "refresh_token": "rt-secret-1", "expires_in": 3600}).to_string()));
    let home = Home::new();
    let token_url = format!("{}/token", server.url);
    let args = [
        "models",
        "auth",
        "login",
        "--provider",
        "near",
        "--authorize-url",
        "https://id.example/authorize",
        "--token-url",
        &token_url,
        "--client-id",
        "app",
        "--scope",
        "a b",
    ];
    let mut child = home.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("https://id.example")).unwrap();
    let query: Vec<(String, String)> = url::Url::parse(&address).unwrap().query_pairs().into_owned().collect();
    let get = |name: &str| query.iter().find(|(key, _)| key == name).unwrap().1.clone();
    let back = url::Url::parse(&get("redirect_uri")).unwrap();
    let visit = |path: &str| {
        let mut socket = TcpStream::connect(("127.0.0.1", back.port().unwrap())).unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
        let mut said = String::new();
        socket.read_to_string(&mut said).unwrap();
        said
    };
    assert!(visit("/favicon.ico").starts_with("HTTP/1.1 404"));
    assert!(visit("/callback?code=evil&state=other").starts_with("HTTP/1.1 400"), "a stranger does not end the sign-in");
    assert!(visit(&format!("/callback?code=c1&state={}", get("state"))).starts_with("HTTP/1.1 200"));
    assert!(child.wait().unwrap().success());
    let said: String = lines.map(|line| line.unwrap() + "\n").collect();
    assert!(said.contains("Stored near:default") && !said.contains("secret"), "{said}");
    let row = store(&home)["profiles"]["near:default"].clone();
    assert_eq!(
        (row["type"].as_str(), row["refresh"].as_str(), row["tokenUrl"].as_str(), row["clientId"].as_str()),
        (Some("oauth"), Some("rt-secret-1"), Some(token_url.as_str()), Some("app"))
    );
    let body = &server.seen()[0].1;
    assert!(body.contains("code=c1") && body.contains("code_verifier=") && body.contains("grant_type=authorization_code"), "{body}");
    let listed = home.run(&["models", "auth", "list"]);
    assert!(listed.out.contains("renewed by itself") && !listed.out.contains("secret"), "{}", listed.out);
}

#[test]
fn a_sign_in_with_a_device_code_waits_for_the_person() {
    let asked = Mutex::new(0);
    let server = Server::start(move |line, _| {
        if line.contains("/device") {
            let code =
                json!({"device_code": "dc-secret", "user_code": "AB-CD", "verification_uri": "https://id.example/device", "interval": 0, "expires_in": 60});
            return (200, code.to_string());
        }
        *asked.lock().unwrap() += 1;
        if *asked.lock().unwrap() < 3 {
            (400, json!({"error": "authorization_pending"}).to_string())
        } else {
            (200, json!({"access_token": "at-secret-2", "refresh_token": "rt-secret-2", "expires_in": 3600}).to_string())
        }
    });
    let home = Home::new();
    let (device, token) = (format!("{}/device", server.url), format!("{}/token", server.url));
    let ran = home.run(&[
        "models",
        "auth",
        "login",
        "--provider",
        "near",
        "--device-code",
        "--device-url",
        &device,
        "--token-url",
        &token,
        "--client-id",
        "app",
        "--profile-id",
        "me",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("https://id.example/device") && ran.out.contains("AB-CD") && !ran.out.contains("secret"), "{}", ran.out);
    assert_eq!(store(&home)["profiles"]["near:me"]["access"], "at-secret-2");
}

/// A model server: lists two models, one calls tools.
fn models() -> Server {
    Server::start(|line, body| {
        if line.starts_with("GET ") {
            return (200, json!({"data": [{"id": "good-8b"}, {"id": "plain-1b"}]}).to_string());
        }
        let delta = if body.contains("good-8b") && body.contains("\"tools\"") {
            json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "ping", "arguments": "{}"}}]})
        } else {
            json!({"content": "OK"})
        };
        (200, format!("data: {}\n\ndata: [DONE]\n\n", json!({"choices": [{"delta": delta, "finish_reason": "stop"}]})))
    })
}

#[test]
fn a_scan_lists_tries_and_writes_only_when_told() {
    let server = models();
    let home = Home::with_config(&format!(
        "{{gateway: {{mode: 'local'}}, models: {{mode: 'replace', providers: {{near: {{baseUrl: '{}'}}}}}}}} // mine\n",
        server.url
    ));
    let before = home.text();
    let ran = home.run(&["models", "scan", "--json"]);
    let found = ran.json();
    assert_eq!((ran.code, found["selected"].clone(), found["written"].as_bool()), (0, json!(["near/good-8b"]), Some(false)), "{}", ran.err);
    let rows = found["results"].as_array().unwrap();
    assert_eq!((rows[0]["tool"]["ok"].as_bool(), rows[1]["tool"]["ok"].as_bool(), rows[0]["inferredParamB"].as_f64()), (Some(true), Some(false), Some(8.0)));
    assert_eq!(home.text(), before);
    let asked = server.seen().len();
    let listed = home.run(&["models", "scan", "--no-probe", "--json"]).json();
    assert_eq!((listed.as_array().unwrap().len(), server.seen().len()), (2, asked + 1), "nothing is asked without probing");
    let ran = home.run(&["models", "scan", "--set-default", "--yes"]);
    assert!(ran.code == 0 && ran.out.contains("Default model: near/good-8b"), "{} {}", ran.out, ran.err);
    assert_eq!(home.run(&["config", "get", "agents.defaults.model", "--json"]).json(), json!({"primary": "near/good-8b", "fallbacks": ["near/good-8b"]}));
    assert!(home.text().contains("// mine"));
    let ran = home.run(&["models", "scan", "--provider", "nobody"]);
    assert!(ran.code == 1 && ran.err.contains("nobody"), "{}", ran.err);
}

#[test]
fn a_credential_is_tried_before_it_is_preferred() {
    let server = models();
    let home = Home::with_config(&format!(
        "{{gateway: {{mode: 'local'}}, models: {{providers: {{near: {{baseUrl: '{}'}}, gone: {{baseUrl: 'http://127.0.0.1:9'}}}}}}}}",
        server.url
    ));
    for id in ["near:a", "near:b", "gone:a"] {
        let provider = id.split(':').next().unwrap();
        assert_eq!(with_input(&home, &["models", "auth", "paste-api-key", "--provider", provider, "--profile-id", id], &format!("{KEY}-{id}\n")).code, 0);
    }
    let ran = home.run(&["models", "auth", "activate", "near:b"]);
    assert!(ran.code == 0 && ran.out.contains("near:b works (near/good-8b answered)."), "{} {}", ran.out, ran.err);
    assert_eq!(store(&home)["order"], json!({"near": ["near:b", "near:a"]}));
    let ran = home.run(&["models", "auth", "activate", "gone:a"]);
    assert!(ran.code == 1 && ran.err.contains("was not activated") && !ran.err.contains(KEY), "{}", ran.err);
}

#[test]
fn a_running_gateway_takes_a_stored_key_up() {
    let home = Home::with_config("{gateway: {mode: 'local'}}");
    let port = common::free_port();
    let _gateway = home.gateway(port);
    let port = port.to_string();
    let vars = [("OPENCLAW_GATEWAY_PORT", port.as_str())];
    let status = || home.run_with(&["gateway", "call", "models.authStatus", "--json"], &vars).out;
    assert!(!status().contains("groq:manual"));
    let ran = with_input(&home, &["models", "auth", "paste-api-key", "--provider", "groq"], &format!("{KEY}\n"));
    assert!(ran.out.contains("takes it up"), "{}", ran.out);
    let began = Instant::now();
    while !status().contains("groq:manual") {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", status());
    }
}
