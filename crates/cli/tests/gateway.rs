//! Commands against a gateway of our own.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use common::{Home, free_port};

#[test]
fn a_first_start_is_safe_and_every_command_finds_it() {
    let home = Home::new();
    let port = free_port();
    let number = port.to_string();
    let vars = [("OPENCLAW_GATEWAY_PORT", number.as_str())];
    let mut gateway = home.gateway(port);
    let run = |args: &[&str]| home.run_with(args, &vars);

    let token = std::fs::read_to_string(home.state().join("gateway-token")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(home.state().join("gateway-token")).unwrap().permissions()) & 0o777;
    assert_eq!((mode, token.trim().len()), (0o600, 48));
    let said = std::fs::read_to_string(home.dir.path().join("gateway.out")).unwrap();
    assert!(said.contains(&format!("http://127.0.0.1:{port}/")) && !said.contains(token.trim()), "{said}");

    let health = run(&["health", "--json"]).json();
    assert_eq!((health["ok"].as_bool(), health["defaultAgentId"].as_str()), (Some(true), Some("main")));
    let status = run(&["gateway", "status", "--json", "--require-rpc"]);
    assert_eq!(status.code, 0, "{}", status.out);
    assert_eq!((status.json()["rpc"]["kind"].as_str(), status.json()["port"]["status"].as_str()), (Some("read"), Some("busy")));
    let status = run(&["status", "--json"]).json();
    assert_eq!(status["gateway"]["reachable"], true);
    assert!(run(&["dashboard", "--no-open"]).out.contains(&format!("#token={}", token.trim())));

    let wrong = run(&["gateway", "call", "health", "--url", &format!("ws://127.0.0.1:{port}"), "--token", "wrong", "--json"]);
    assert_eq!((wrong.code, wrong.json()["error"]["type"].as_str()), (1, Some("gateway_transport_error")));
    let unknown = run(&["gateway", "call", "no.such.method", "--json"]).json();
    assert_eq!(
        (unknown["error"]["type"].as_str(), unknown["error"]["code"].as_str(), unknown["error"]["retryable"].as_bool()),
        (Some("gateway_request_error"), Some("INVALID_REQUEST"), Some(false))
    );

    let answer = run(&["agent", "--agent", "main", "-m", "Hello there", "--json"]);
    let json = answer.json();
    assert_eq!((answer.code, json["status"].as_str()), (0, Some("ok")), "{}", answer.out);
    assert!(json["result"]["payloads"][0]["text"].is_string() && json["runId"].is_string() && json["result"]["meta"]["agentMeta"]["sessionId"].is_string());
    let sessions = run(&["sessions", "--json"]).json();
    assert_eq!((sessions["count"].as_u64(), sessions["sessions"][0]["key"].as_str()), (Some(1), Some("agent:main:main")));
    assert!(run(&["sessions", "get", "main", "main"]).out.contains("Hello there"));

    let job = run(&["cron", "add", "--name", "tea", "--every", "1h", "--agent", "main", "--message", "Tea?", "--no-deliver"]);
    let id = job.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(job.json()["schedule"]["everyMs"], 3_600_000);
    assert_eq!(run(&["cron", "list", "--json"]).json()["jobs"].as_array().unwrap().iter().filter(|j| j["name"] == "tea").count(), 1);
    assert!(run(&["cron", "list"]).out.contains("every 1h"));
    assert_eq!(run(&["cron", "disable", "tea"]).json()["enabled"], false);
    assert_eq!(run(&["cron", "rm", &id]).json()["removed"], true);
    let gone = run(&["cron", "rm", &id]);
    assert!(gone.code == 1 && gone.err.contains("Automation not found"), "{} {}", gone.out, gone.err);

    assert_eq!(run(&["devices", "list", "--json"]).code, 0);
    assert_eq!(run(&["models", "list", "--json"]).code, 0);
    assert_eq!(run(&["channels", "status", "--json"]).code, 0);
    assert_eq!(run(&["system", "event", "--text", "x", "--mode", "next-heartbeat"]).out, "ok\n");
    assert_eq!(run(&["logs", "--json", "--limit", "5"]).code, 0);
    assert!(run(&["doctor"]).code == 0);

    let second = home.run(&["gateway", "run", "--port", &free_port().to_string()]);
    assert_eq!(second.code, 1, "{}", second.err);
    assert!(second.err.contains(&format!("port {port}")) && second.err.contains("in use"), "{}", second.err);

    let restarted = run(&["gateway", "restart", "--json"]);
    assert_eq!((restarted.code, restarted.json()["result"].as_str()), (0, Some("restarted")), "{}", restarted.out);

    let refused = run(&["gateway", "stop", "--json"]);
    assert_eq!((refused.code, refused.json()["ok"].as_bool()), (1, Some(false)));
    let stopped = run(&["gateway", "stop", "--force", "--json"]);
    assert_eq!((stopped.code, stopped.json()["result"].as_str()), (0, Some("stopped")), "{}", stopped.out);
    assert_eq!(gateway.wait(), Some(0));
    let said = std::fs::read_to_string(home.dir.path().join("gateway.out")).unwrap();
    assert!(said.contains("received SIGUSR2; restarting") && said.contains("received SIGTERM; shutting down"), "{said}");

    // without a gateway the database still answers
    let stored = run(&["sessions", "--json"]).json();
    assert_eq!((stored["count"].as_u64(), stored["sessions"][0]["key"].as_str()), (Some(1), Some("agent:main:main")));
    let local = run(&["agent", "--local", "--agent", "main", "-m", "Again", "--json"]);
    assert!(local.code == 0 && local.json()["payloads"][0]["text"].is_string(), "{} {}", local.out, local.err);
}

#[test]
fn a_taken_port_is_named() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let ran = home.run(&["gateway", "run", "--port", &port.to_string()]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains(&port.to_string()), "{}", ran.err);
}

#[test]
fn a_suspended_gateway_takes_nothing_new_until_it_is_resumed() {
    let home = Home::new();
    let port = free_port();
    let number = port.to_string();
    let _gateway = home.gateway(port);
    let run = |args: &[&str]| home.run_with(args, &[("OPENCLAW_GATEWAY_PORT", number.as_str())]);
    let ready = run(&["gateway", "suspend", "--request-id", "nightly", "--json"]);
    let json = ready.json();
    assert_eq!((ready.code, json["status"].as_str(), json["requestId"].as_str()), (0, Some("ready"), Some("nightly")), "{}", ready.out);
    let id = json["suspensionId"].as_str().unwrap().to_owned();
    let refused = run(&["agent", "--agent", "main", "-m", "Hello", "--json"]);
    assert_eq!((refused.code, refused.json()["error"]["code"].as_str()), (1, Some("UNAVAILABLE")), "{}", refused.out);
    assert!(refused.out.contains("during gateway suspension"), "{}", refused.out);
    assert_eq!(run(&["sessions", "--json"]).code, 0, "reading goes on");
    let again = run(&["gateway", "suspend", "--request-id", "nightly"]);
    assert!(again.code == 0 && again.out.contains(&format!("openclaw gateway resume {id}")), "{} {}", again.out, again.err);
    let other = run(&["gateway", "suspend", "--json"]);
    assert_eq!((other.code, other.json()["error"]["code"].as_str()), (1, Some("UNAVAILABLE")), "{}", other.out);
    assert_eq!(run(&["gateway", "resume", "wrong"]).code, 1);
    assert_eq!(run(&["gateway", "resume", &id]).out, "Gateway resumed.\n");
    assert_eq!(run(&["gateway", "resume", &id, "--json"]).json()["resumed"], false);
    assert_eq!(run(&["agent", "--agent", "main", "-m", "Hello", "--json"]).json()["status"], "ok");
    assert_eq!(run(&["gateway", "suspend", "--wait", "-1"]).code, 1);
}
