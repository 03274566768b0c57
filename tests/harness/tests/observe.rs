//! A farm of two as it is seen from outside: one trace over both gateways at a collector, figures that move and say no
//! secrets, events over the socket and on the command line, alert rules that Prometheus understands.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use clawstead_harness::{
    PATIENCE,
    cli::Cli,
    client::Client,
    engines::skipped,
    free_port,
    gateway::{Gateway, Setup, TOKEN, Whose, config},
    http,
    mock::{MockModel, Options, Rule},
    platform::Platform,
    until,
};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

/// Sent to the collector with every request, and to nobody else.
const COLLECTOR_KEY: &str = "hush-hush-0987654321";
/// What is said; must not leave the gateways.
const QUESTION: &str = "Please check the nomad status";
const ANSWER: &str = "All seven Nomad jobs are running.";

fn program(variable: &str, suite: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        skipped(suite, variable, &format!("{variable} names no program (cargo xtask engines)"));
    }
    found
}

/// Consul as a child process with a folder of its own.
struct Consul {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Consul {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Consul {
    async fn start(program: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<u16> = (0..4).map(|_| free_port().unwrap()).collect();
        let more = format!("ports {{ dns = -1 grpc = -1 server = {} serf_lan = {} serf_wan = {} http = {} }}", ports[0], ports[1], ports[2], ports[3]);
        let mut command = Command::new(program);
        command.args(["agent", "-dev", "-client", "127.0.0.1", "-bind", "127.0.0.1", "-data-dir"]).arg(folder.path()).args(["-hcl", &more]);
        let child = command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let consul = Self { child, port: ports[3], _folder: folder };
        let leads = async || http::get(consul.port, "/v1/status/leader").await.ok().filter(|answer| answer.body.contains(&b':')).map(drop);
        assert!(until(PATIENCE, leads).await.is_some(), "Consul has no leader");
        consul
    }
}

/// An OpenTelemetry collector: keeps what it is sent, as text.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, String, String)>>>);

/// A body of one piece.
struct Once(Option<Bytes>);

impl Body for Once {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A span as it came.
#[derive(Clone, Debug)]
struct Span {
    gateway: String,
    name: String,
    trace: String,
    id: String,
    parent: Option<String>,
    attributes: BTreeMap<String, String>,
}

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kept = collector.clone();
        tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let kept = kept.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| kept.clone().answer(request));
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        (collector, url)
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Once>, Infallible> {
        let (path, key) =
            (request.uri().path().to_owned(), request.headers().get("x-collector-key").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned());
        let (mut body, mut all) = (request.into_body(), Vec::new());
        while let Some(Ok(frame)) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
            if let Ok(data) = frame.into_data() {
                all.extend_from_slice(&data);
            }
        }
        self.0.lock().unwrap().push((path, key, String::from_utf8(all).unwrap()));
        Ok(Response::new(Once(Some(Bytes::from_static(b"{}")))))
    }

    fn got(&self) -> Vec<(String, String, String)> {
        self.0.lock().unwrap().clone()
    }

    fn spans(&self) -> Vec<Span> {
        let mut out = Vec::new();
        for (_, _, body) in self.got().into_iter().filter(|(path, ..)| path == "/v1/traces") {
            let body: Value = serde_json::from_str(&body).unwrap();
            for resource in body["resourceSpans"].as_array().unwrap() {
                let gateway = attributes(&resource["resource"]["attributes"]).remove("openclaw.gateway").unwrap();
                for span in resource["scopeSpans"][0]["spans"].as_array().unwrap() {
                    let text = |name: &str| span[name].as_str().map(str::to_owned);
                    assert!(text("startTimeUnixNano").unwrap().parse::<u64>().unwrap() <= text("endTimeUnixNano").unwrap().parse::<u64>().unwrap());
                    out.push(Span {
                        gateway: gateway.clone(),
                        name: text("name").unwrap(),
                        trace: text("traceId").unwrap(),
                        id: text("spanId").unwrap(),
                        parent: text("parentSpanId"),
                        attributes: attributes(&span["attributes"]),
                    });
                }
            }
        }
        out
    }
}

fn attributes(list: &Value) -> BTreeMap<String, String> {
    let value = |value: &Value| {
        value.as_object().and_then(|map| map.values().next()).map_or_else(String::new, |v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
    };
    list.as_array().unwrap().iter().map(|pair| (pair["key"].as_str().unwrap().to_owned(), value(&pair["value"]))).collect()
}

/// Two gateways, made with the command line; people write to jerry on a chat platform.
struct Farm {
    jerry: Gateway,
    bobby: Gateway,
    homes: (PathBuf, PathBuf),
    platform: Platform,
    collector: Collector,
    _model: MockModel,
    _consul: Consul,
    _folders: (tempfile::TempDir, tempfile::TempDir),
}

async fn run(home: &Path, args: &[&str]) -> Value {
    let ran = Cli::in_home(Whose::Ours, home).run(args).await.unwrap();
    assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap_or(Value::String(ran.stdout))
}

impl Farm {
    async fn make(consul: Consul) -> Self {
        let send = json!({"agentId": "bobby", "message": QUESTION, "timeoutSeconds": 40});
        let rules = vec![
            Rule {
                contains: "ask bobby to check".into(),
                tool: Some("sessions_send".into()),
                arguments: send,
                say: Some("Bobby answered: {result}".into()),
                ..Rule::default()
            },
            Rule { contains: "check the nomad status".into(), say: Some(ANSWER.into()), ..Rule::default() },
        ];
        let model = MockModel::start(Options { rules, ..Options::default() }).await.unwrap();
        let (platform, (collector, url)) = (Platform::start().await.unwrap(), Collector::start().await);
        let folders = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |folder: &tempfile::TempDir, agent: &str| {
            let mut text = config(free_port().unwrap(), &model.v1(), &[agent]);
            text["tools"] = json!({"agentToAgent": {"enabled": true}});
            text["diagnostics"] = json!({"otel": {"enabled": true, "endpoint": url, "headers": {"x-collector-key": COLLECTOR_KEY}, "flushIntervalMs": 1_000}});
            if agent == "jerry" {
                text["channels"] = json!({"loopback": {"enabled": true, "url": platform.url(), "dmPolicy": "open", "allowFrom": ["*"]}});
            }
            std::fs::create_dir_all(folder.path().join(".openclaw")).unwrap();
            std::fs::write(folder.path().join(".openclaw/openclaw.json"), serde_json::to_string_pretty(&text).unwrap()).unwrap();
            folder.path().to_owned()
        };
        let homes = (write(&folders.0, "jerry"), write(&folders.1, "bobby"));
        let coord = format!("http://127.0.0.1:{}", consul.port);
        let peers = (format!("127.0.0.1:{}", free_port().unwrap()), format!("127.0.0.1:{}", free_port().unwrap()));
        let common = ["--id", "octant", "--coord", "consul", "--coord-addr", &coord, "--bus", "consul", "--json"];
        let mut init = vec!["farm", "init", "--gateway", "jerry-gateway", "--peer-listen", &peers.0, "--agent", "bobby", "--yes"];
        init.extend(common);
        run(&homes.0, &init).await;
        let pin = run(&homes.0, &["config", "get", "farm.roots", "--json"]).await[0].as_str().unwrap().to_owned();
        let mut enroll = vec!["farm", "enroll", "--gateway", "bobby-gateway", "--root", &pin, "--peer-listen", &peers.1, "--agent", "jerry"];
        enroll.extend(common);
        run(&homes.1, &enroll).await;
        run(&homes.0, &["farm", "approve", "bobby-gateway", "--yes", "--json"]).await;
        let start = async |home: &Path| {
            let text = std::fs::read_to_string(home.join(".openclaw/openclaw.json")).unwrap();
            let read: Value = json5::from_str(&text).unwrap();
            let port = u16::try_from(read["gateway"]["port"].as_u64().unwrap()).unwrap();
            Gateway::start(Setup { config: None, port, ..Setup::ours(&json!({})) }.home(home)).await.unwrap()
        };
        let (jerry, bobby) = (start(&homes.0).await, start(&homes.1).await);
        let farm = Self { jerry, bobby, homes, platform, collector, _model: model, _consul: consul, _folders: folders };
        let together = until(PATIENCE, async || {
            let (one, other) = (run(&farm.homes.0, &["farm", "status", "--json"]).await, run(&farm.homes.1, &["farm", "status", "--json"]).await);
            let knows =
                |status: &Value, agent: &str| status["agents"].as_array().is_some_and(|all| all.iter().any(|a| a["id"] == agent && a["healthy"] == true));
            (knows(&one, "bobby") && knows(&other, "jerry")).then_some(())
        });
        assert!(together.await.is_some(), "{}", run(&farm.homes.0, &["farm", "status", "--json"]).await);
        farm
    }
}

/// The page as Prometheus gets it.
async fn scrape(gateway: &Gateway) -> String {
    let bearer = format!("Bearer {TOKEN}");
    let answer = http::request(gateway.port, "GET", "/api/diagnostics/prometheus", &[("authorization", &bearer)], b"", PATIENCE).await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")), "{}", answer.text());
    answer.text()
}

/// The sum of a family's series with all of these labels.
fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    let of = |line: &&str| line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label));
    page.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn one<'a>(spans: &'a [Span], gateway: &str, name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.gateway == gateway && span.name == name).collect();
    assert!(!found.is_empty(), "{gateway} has no span {name} in {spans:#?}");
    found[0]
}

fn is_below(below: &Span, above: &Span) {
    assert_eq!(below.parent.as_ref(), Some(&above.id), "{} is not below {}: {below:?} {above:?}", below.name, above.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_covers_both_gateways_figures_move_and_nothing_secret_leaves() {
    let suite = "a farm seen from outside";
    let Some(consul) = program("CLAWSTEAD_CONSUL", suite) else { return };
    let farm = Farm::make(Consul::start(consul).await).await;
    let mut client = Client::connect(farm.jerry.port).await.unwrap();
    let before = scrape(&farm.jerry).await;
    assert_eq!(sum(&before, "openclaw_farm_sends_total", &[]), 0.0, "{before}");

    farm.platform.write("U1", "Please ask bobby to check");
    let shown = until(PATIENCE, async || farm.platform.shown().into_iter().find(|shown| shown.text.contains(ANSWER))).await;
    assert!(shown.is_some(), "{:?}\n{}", farm.platform.shown(), farm.jerry.log_tail(40));

    // Events over the socket.
    let told = client.event(PATIENCE, |event| event["event"] == "farm").await.unwrap();
    let first = &told["payload"]["events"][0];
    assert!(first["event"].as_str().unwrap().starts_with("farm.") && first["seq"].as_u64().unwrap() > 0, "{told}");

    // The letter's life, step by step, in the list and in the events.
    let letters = until(PATIENCE, async || {
        let found = run(&farm.homes.0, &["farm", "letters", "--json"]).await["letters"].as_array()?.clone();
        (found.len() == 2 && found.iter().all(|letter| letter["state"] == "acked")).then_some(found)
    });
    let letters = letters.await.expect("both letters are done");
    let sent = letters.iter().find(|letter| letter["direction"] == "out").unwrap();
    let steps: Vec<&str> = sent["history"].as_array().unwrap().iter().map(|step| step["event"].as_str().unwrap()).collect();
    assert_eq!((steps.first(), steps.last()), (Some(&"queued"), Some(&"acked")), "{sent}");
    assert!(steps.contains(&"sent") && sent["history"].as_array().unwrap().iter().all(|step| step["at"].is_i64()), "{sent}");
    let events = run(&farm.homes.0, &["farm", "events", "--limit", "512", "--json"]).await;
    let names: Vec<&str> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["messageId"] == sent["messageId"])
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(names, steps.iter().map(|step| format!("farm.msg.{step}")).collect::<Vec<_>>(), "every step of its life is an event");
    assert!(!events.to_string().contains(QUESTION), "events say no bodies");

    // One trace over both gateways.
    let spans = until(PATIENCE, async || {
        let spans = farm.collector.spans();
        let root = spans.iter().find(|span| span.name == "openclaw.message.received")?.trace.clone();
        let spans: Vec<Span> = spans.into_iter().filter(|span| span.trace == root).collect();
        let has = |gateway: &str, name: &str| spans.iter().any(|span| span.gateway == gateway && span.name == name);
        (has("jerry-gateway", "openclaw.message.delivery") && has("jerry-gateway", "openclaw.farm.reply") && has("bobby-gateway", "openclaw.farm.receive"))
            .then_some(spans)
    });
    let spans = spans.await.unwrap_or_else(|| panic!("no whole trace: {:#?}", farm.collector.spans()));
    let (jerry, bobby) = ("jerry-gateway", "bobby-gateway");
    let root = one(&spans, jerry, "openclaw.message.received");
    assert_eq!(root.parent, None);
    let turn = one(&spans, jerry, "openclaw.run");
    is_below(turn, root);
    assert_eq!((turn.attributes["openclaw.agent"].as_str(), turn.attributes["openclaw.outcome"].as_str()), ("jerry", "completed"));
    is_below(one(&spans, jerry, "openclaw.model.call"), turn);
    let tool = one(&spans, jerry, "openclaw.tool.execution");
    is_below(tool, turn);
    assert_eq!(tool.attributes["openclaw.toolName"], "sessions_send");
    let send = one(&spans, jerry, "openclaw.farm.send");
    is_below(send, tool);
    let receive = one(&spans, bobby, "openclaw.farm.receive");
    is_below(receive, send);
    assert_eq!(receive.attributes["openclaw.farm.source_gateway"], jerry);
    let remote = one(&spans, bobby, "openclaw.run");
    is_below(remote, receive);
    is_below(one(&spans, bobby, "openclaw.model.call"), remote);
    is_below(one(&spans, jerry, "openclaw.farm.reply"), send);
    is_below(one(&spans, jerry, "openclaw.message.delivery"), root);
    let ids: std::collections::BTreeSet<&String> = spans.iter().map(|span| &span.id).collect();
    assert_eq!(ids.len(), spans.len(), "a span was sent twice");

    // A person who reaches bobby through jerry's gateway is in one trace too.
    run(&farm.homes.0, &["agent", "--agent", "bobby", "--message", "hello through jerry"]).await;
    let relayed = until(PATIENCE, async || {
        let spans = farm.collector.spans();
        let relay = spans.iter().find(|span| span.gateway == bobby && span.name == "openclaw.farm.relay")?;
        let asked = spans.iter().find(|span| relay.parent.as_ref() == Some(&span.id))?;
        let ran = spans.iter().find(|span| span.name == "openclaw.run" && span.trace == relay.trace)?;
        Some((asked.clone(), relay.clone(), ran.clone()))
    });
    let (asked, relay, ran) = relayed.await.unwrap_or_else(|| panic!("no trace of the relayed call: {:#?}", farm.collector.spans()));
    assert_eq!(
        (asked.gateway.as_str(), asked.name.as_str(), asked.attributes["openclaw.gateway.rpc.method"].as_str()),
        (jerry, "openclaw.gateway.rpc.handler", "agent")
    );
    assert_eq!(ran.gateway, bobby);
    is_below(&ran, &relay);

    // Figures move.
    let (page, other) = (scrape(&farm.jerry).await, scrape(&farm.bobby).await);
    for (name, labels, at_least) in [
        ("openclaw_farm_sends_total", &[][..], 1.0),
        ("openclaw_farm_receipts_total", &["direction=\"in\"", "type=\"acked\""], 1.0),
        ("openclaw_farm_delivery_seconds_count", &[], 1.0),
        ("openclaw_farm_heartbeats_total", &["outcome=\"ok\""], 1.0),
        ("openclaw_farm_coord_seconds_count", &["op=\"put\"", "outcome=\"ok\""], 1.0),
        ("openclaw_farm_member_up", &["gateway=\"bobby-gateway\""], 1.0),
        ("openclaw_farm_members", &["state=\"healthy\""], 2.0),
        ("openclaw_farm_coord_up", &["engine=\"consul\""], 1.0),
        ("openclaw_farm_bus_up", &["engine=\"consul\""], 1.0),
        ("openclaw_farm_units", &["state=\"owned\""], 2.0),
        ("openclaw_run_completed_total", &["agent=\"jerry\"", "channel=\"loopback\"", "outcome=\"completed\"", "trigger=\"user\""], 1.0),
        ("openclaw_model_call_total", &["provider=\"mock\"", "outcome=\"completed\""], 2.0),
        ("openclaw_model_tokens_total", &["token_type=\"output\""], 1.0),
        ("openclaw_tool_execution_total", &["tool=\"sessions_send\"", "outcome=\"completed\""], 1.0),
        ("openclaw_message_received_total", &["channel=\"loopback\""], 1.0),
        ("openclaw_message_delivery_total", &["channel=\"loopback\"", "outcome=\"completed\""], 1.0),
        ("openclaw_gateway_rpc_requests_total", &["method=\"farm.letters\""], 1.0),
        ("openclaw_gateway_connections", &[], 1.0),
        ("openclaw_telemetry_exporter_total", &["signal=\"traces\"", "status=\"success\""], 1.0),
        ("process_resident_memory_bytes", &[], 1_000_000.0),
        ("process_start_time_seconds", &[], 1_000_000_000.0),
    ] {
        assert!(sum(&page, name, labels) >= at_least, "{name}{labels:?} is {} in\n{page}", sum(&page, name, labels));
    }
    assert!(sum(&other, "openclaw_farm_receipts_total", &["direction=\"out\"", "type=\"acked\""]) >= 1.0, "{other}");
    assert_eq!(sum(&page, "openclaw_farm_oldest_queued_seconds", &[]), 0.0, "{page}");
    assert_eq!(sum(&page, "openclaw_telemetry_spans_dropped_total", &[]), 0.0, "{page}");

    // Nothing secret, nothing that was said, in figures, spans and events.
    assert!(farm.collector.got().iter().all(|(_, key, _)| key == COLLECTOR_KEY), "the header of the config goes to the collector");
    assert!(
        farm.collector.got().iter().any(|(path, _, body)| path == "/v1/metrics" && body.contains("openclaw_farm_sends_total")),
        "figures go to the collector too"
    );
    let mut seen: Vec<String> = farm.collector.got().into_iter().map(|(_, _, body)| body).collect();
    seen.extend([page.clone(), other, told.to_string()]);
    for text in &seen {
        for secret in [TOKEN, COLLECTOR_KEY, "mock-key", "nomad", "Nomad", "ask bobby", "hello through", "agent:bobby", "U1\""] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }

    // Strangers get nothing.
    let stranger = http::get(farm.jerry.port, "/api/diagnostics/prometheus").await.unwrap();
    assert_eq!(stranger.status, 401, "{}", stranger.text());

    if let Some(promtool) = program("CLAWSTEAD_PROMTOOL", "figures as promtool reads them") {
        let mut child = Command::new(promtool).args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let checked = child.wait_with_output().unwrap();
        assert!(checked.status.success(), "{}{}\n{page}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    }

    // A member that dies is told of, and followed.
    let mut follow = tokio::process::Command::from(Command::new(clawstead_harness::engines::our_binary().unwrap()));
    follow.args(["farm", "events", "--follow", "--json", "--limit", "1"]).env("HOME", &farm.homes.0).env("NO_COLOR", "1");
    let mut follow = follow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(follow.stdout.take().unwrap()));
    // The first line says that it listens.
    tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let Farm { bobby, .. } = farm;
    drop(bobby.kill().await);
    let silent = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == "farm.member.silent" {
                return event;
            }
        }
        panic!("the events ended");
    };
    let silent = tokio::time::timeout(Duration::from_secs(90), silent).await.expect("a dead gateway is told of");
    assert_eq!(silent["gateway"], "bobby-gateway", "{silent}");
}

#[tokio::test]
async fn switched_off_the_page_is_empty_and_alone_it_has_no_farm() {
    let model = MockModel::start(Options::default()).await.unwrap();
    let (mut off, on) = (config(free_port().unwrap(), &model.v1(), &["main"]), config(free_port().unwrap(), &model.v1(), &["main"]));
    off["diagnostics"] = json!({"enabled": false});
    for (config, counted) in [(off, false), (on, true)] {
        let port = u16::try_from(config["gateway"]["port"].as_u64().unwrap()).unwrap();
        let gateway = Gateway::start(Setup { port, ..Setup::ours(&config) }).await.unwrap();
        let mut client = Client::connect(gateway.port).await.unwrap();
        client.turn("agent:main:main", "hello", "one").await.unwrap();
        let page = scrape(&gateway).await;
        if counted {
            assert!(sum(&page, "openclaw_run_completed_total", &["channel=\"webchat\"", "outcome=\"completed\""]) >= 1.0, "{page}");
            assert!(sum(&page, "openclaw_gateway_rpc_handler_seconds_count", &["method=\"chat.send\""]) >= 1.0, "{page}");
            assert!(!page.contains("openclaw_farm_"), "{page}");
        } else {
            assert_eq!(page, "");
        }
    }
}

#[tokio::test]
async fn prometheus_understands_the_alert_rules_that_the_binary_prints() {
    let suite = "alert rules with promtool";
    let Some(promtool) = program("CLAWSTEAD_PROMTOOL", suite) else { return };
    let folder = tempfile::tempdir().unwrap();
    let printed = Cli::in_home(Whose::Ours, folder.path()).run(&["farm", "alerts"]).await.unwrap();
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    let kept: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "..", "examples", "prometheus"].iter().collect();
    assert_eq!(printed.stdout, std::fs::read_to_string(kept.join("openclaw.rules.yml")).unwrap());
    std::fs::write(folder.path().join("openclaw.rules.yml"), &printed.stdout).unwrap();
    std::fs::copy(kept.join("openclaw.rules.test.yml"), folder.path().join("openclaw.rules.test.yml")).unwrap();
    for args in [["check", "rules", "openclaw.rules.yml"], ["test", "rules", "openclaw.rules.test.yml"]] {
        let ran = Command::new(&promtool).args(args).current_dir(folder.path()).output().unwrap();
        assert!(ran.status.success(), "{args:?}: {}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    }
    // A rule about a figure that is not there would be silent for ever.
    let known =
        std::fs::read_to_string([env!("CARGO_MANIFEST_DIR"), "..", "..", "crates", "world", "src", "metrics", "families.rs"].iter().collect::<PathBuf>())
            .unwrap();
    for word in printed.stdout.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("openclaw_")) {
        let family = word.trim_end_matches("_bucket");
        assert!(known.contains(&format!("\"{family}\"")), "{family} is in the rules and not among our figures");
    }
}
