//! The A2A protocol's own compatibility kit (a2aproject/a2a-tck, branch `1.0-dev`) against a real gateway with a mock
//! model, over JSON-RPC and HTTP+JSON. The kit is an outside program: `CLAWSTEAD_A2A_TCK` names its folder,
//! `CLAWSTEAD_A2A_PYTHON` a Python that has its packages. `cargo xtask tck` runs this and prints the table.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use clawstead_harness::{
    engines::skipped,
    free_port,
    gateway::{Gateway, Setup, config},
    mock::{MockModel, Options, Rule},
};
use serde_json::{Value, json};
use tokio::process::Command;

const SUITE: &str = "A2A compatibility kit";
const TOKEN: &str = "the-token-of-the-kit-0001";
/// How long one run of the kit may take.
const LIMIT: Duration = Duration::from_secs(600);
/// The transports that a gateway offers; gRPC is not one of them.
const OFFERED: [&str; 3] = ["jsonrpc", "http_json", "agent_card"];

fn kit() -> Option<(PathBuf, PathBuf)> {
    let found = |variable: &str, file: &str| {
        std::env::var_os(variable).map(PathBuf::from).filter(|path| path.join(file).exists() || (file.is_empty() && path.exists()))
    };
    let beside = || std::env::var_os("CLAWSTEAD_ENGINES").map(|all| PathBuf::from(all).join("a2a-tck-src")).filter(|path| path.join("run_tck.py").exists());
    let Some(folder) = found("CLAWSTEAD_A2A_TCK", "run_tck.py").or_else(beside) else {
        skipped(SUITE, "a2a-tck", "CLAWSTEAD_A2A_TCK names no folder with the kit");
        return None;
    };
    let Some(python) = found("CLAWSTEAD_A2A_PYTHON", "") else {
        skipped(SUITE, "a2a-tck", "CLAWSTEAD_A2A_PYTHON names no Python with the packages of the kit");
        return None;
    };
    Some((folder, python))
}

/// What the agent does in each scenario of the kit.
fn rules() -> Vec<Rule> {
    let say = |name: &str, say: &str| Rule { contains: name.into(), say: Some(say.into()), ..Rule::default() };
    let does = |name: &str, arguments: Value| Rule {
        contains: name.into(),
        tool: Some("a2a_task".into()),
        arguments,
        say: Some("NO_REPLY".into()),
        ..Rule::default()
    };
    let file = json!({"results": [{"file": "output.txt", "name": "output.txt", "mediaType": "text/plain"}]});
    vec![
        does("tck-artifact-file-url", json!({"results": [{"url": "https://example.com/output.txt", "name": "output.txt", "mediaType": "text/plain"}]})),
        does("tck-artifact-file", file.clone()),
        does("tck-stream-artifact-file", file),
        does("tck-artifact-data", json!({"results": [{"data": {"key": "value", "count": 42}}]})),
        does("tck-input-required", json!({"state": "input-required", "words": "Say more."})),
        does("tck-reject-task", json!({"state": "rejected", "words": "rejected"})),
        say("tck-artifact-text", "Generated text content"),
        say("tck-message-response", "Direct message response"),
        say("tck-stream-001", "Stream hello from TCK"),
        say("tck-stream-003", "Stream task lifecycle"),
        say("tck-stream-ordering-001", "Ordered output"),
        say("tck-stream-artifact-text", "Streamed text content"),
        say("tck-stream-artifact-chunked", "chunk-1 chunk-2"),
        say("tck-", "Hello from TCK"),
    ]
}

/// One run of the kit: the words of pytest's end, and what became of each requirement.
struct Ran {
    summary: String,
    requirements: BTreeMap<String, Value>,
}

async fn run(folder: &Path, python: &Path, port: u16, more: &[&str]) -> Ran {
    let out = tempfile::tempdir().unwrap();
    let plugins: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "peers"].iter().collect();
    let mut command = Command::new(python);
    command.current_dir(folder).args(["-m", "pytest", "tests/compatibility/", "-q", "--tb=line", "-p", "a2a_tck", "-p", "no:cacheprovider"]);
    command.arg(format!("--sut-host=http://127.0.0.1:{port}")).arg(format!("--compatibility-report={}", out.path().join("kit").display()));
    command.args(["--transport=jsonrpc,http_json", "--webhook-host=127.0.0.1"]).args(more).kill_on_drop(true);
    command.env("PYTHONPATH", plugins).env("TCK_TOKEN", TOKEN).env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("the kit ends").unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report = std::fs::read_to_string(out.path().join("kit.json")).unwrap_or_else(|err| panic!("the kit wrote no report ({err}):\n{said}"));
    let report: Value = serde_json::from_str(&report).unwrap();
    let requirements = report["per_requirement"].as_object().unwrap().iter().map(|(id, one)| (id.clone(), one.clone())).collect();
    let failed: Vec<&str> = said.lines().filter(|line| line.starts_with("FAILED") || line.starts_with("E  ")).collect();
    if !failed.is_empty() {
        eprintln!("{}", failed.join("\n"));
    }
    Ran { summary: said.lines().rev().find(|line| line.contains(" passed")).unwrap_or_default().to_owned(), requirements }
}

impl Ran {
    /// Requirements of a level that were judged on a transport we offer, and those that were not met, with the reason.
    fn judged(&self, level: &str) -> (Vec<String>, Vec<String>) {
        let (mut passed, mut failed) = (Vec::new(), Vec::new());
        for (id, one) in self.requirements.iter().filter(|(_, one)| one["level"] == level) {
            let on = |verdict: &str| OFFERED.iter().any(|transport| one["transports"][transport] == verdict);
            if on("FAIL") || one["status"] == "FAIL" {
                failed.push(format!("{id}: {}", one["errors"]));
            } else if on("PASS") {
                passed.push(id.clone());
            }
        }
        (passed, failed)
    }
}

async fn gateway(model: &MockModel, change: impl Fn(&mut Value)) -> Gateway {
    let port = free_port().unwrap();
    let mut settings = config(port, &model.v1(), &["main"]);
    settings["a2a"] = json!({"enabled": true, "peers": [{"name": "kit", "token": TOKEN}], "push": {"targets": ["127.0.0.1"]}});
    change(&mut settings);
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&settings) }).await.unwrap();
    let workspace = gateway.state().join("workspace-main");
    std::fs::create_dir_all(&workspace).unwrap();
    std::fs::write(workspace.join("output.txt"), "file content").unwrap();
    gateway
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mandatory_requirement_of_the_kit_is_met_by_a_gateway() {
    let Some((folder, python)) = kit() else { return };
    let model = MockModel::start(Options { rules: rules(), ..Options::default() }).await.unwrap();
    // All that is offered; then without streams and push notifications, whose refusals the kit sees only so.
    let all = gateway(&model, |_| {}).await;
    let first = run(&folder, &python, all.port, &[]).await;
    let log = all.log_tail(20);
    drop(all);
    let plain = gateway(&model, |settings| {
        settings["a2a"]["streaming"] = json!(false);
        settings["a2a"]["push"] = json!({"enabled": false});
    })
    .await;
    let second = run(&folder, &python, plain.port, &["-k", "Capability"]).await;

    for (what, ran) in [("everything offered", &first), ("without streams and push", &second)] {
        eprintln!("{what}: {}", ran.summary);
        for level in ["MUST", "SHOULD", "MAY"] {
            let (passed, failed) = ran.judged(level);
            eprintln!("  {level}: {} met, {} not met", passed.len(), failed.len());
        }
    }
    let (passed, failed) = first.judged("MUST");
    assert!(failed.is_empty(), "{}\n{log}", failed.join("\n"));
    assert!(passed.len() >= 75, "the kit judged only {} mandatory requirements: {passed:?}", passed.len());
    let (passed, failed) = second.judged("MUST");
    assert!(failed.is_empty() && passed.iter().any(|id| id == "CORE-CAP-001") && passed.iter().any(|id| id == "CORE-CAP-002"), "{passed:?} {failed:?}");
}
