//! `openclaw agent`: one turn.

use std::{io::IsTerminal as _, path::PathBuf, sync::Arc, time::Duration};

use clap::builder::PossibleValuesParser;
use clawstead_gateway::{
    doors::auth::AuthOverrides,
    run::{AllowUnconfigured, RunOptions, run as run_gateway},
};
use clawstead_wire::client::Heard;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::Outcome;
use crate::{
    cx::{Cx, interrupted},
    device,
    fail::Fail,
    format::{list, text},
    local, print,
    rpc::{self, Connect, Gateway, Target},
};

/// Largest prompt file.
const PROMPT_BYTES_MAX: u64 = 4 << 20;
/// Beyond the turn's own limit, for queueing and the way back.
const GRACE: Duration = Duration::from_secs(30);
/// Without a limit the call still ends some day.
const NO_LIMIT: Duration = Duration::from_secs(7 * 86_400);
/// Time for an embedded gateway to come up.
const UP_LIMIT: Duration = Duration::from_secs(30);

/// One turn of an agent through the gateway.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  openclaw agent --agent jerry --message \"What is new?\"\n  openclaw agent --session-key agent:jerry:main -m \"Go on\" --json\n  openclaw agent --agent jerry --message-file prompt.md --timeout 300"
)]
pub struct Args {
    /// The prompt
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// File with the prompt (UTF-8, 4 MiB at most; - reads standard input)
    #[arg(long, value_name = "PATH", conflicts_with = "message")]
    message_file: Option<PathBuf>,
    /// Recipient (E.164); its session is used
    #[arg(short, long, value_name = "E.164")]
    to: Option<String>,
    /// Agent; its main session is used
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Exact session id
    #[arg(long, value_name = "ID")]
    session_id: Option<String>,
    /// Exact session key
    #[arg(long, value_name = "KEY")]
    session_key: Option<String>,
    /// Delivery channel
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// Also send the reply to the chat
    #[arg(long)]
    deliver: bool,
    /// Delivery target
    #[arg(long, value_name = "TARGET")]
    reply_to: Option<String>,
    /// Channel of the delivery target
    #[arg(long, value_name = "CHANNEL")]
    reply_channel: Option<String>,
    /// Account of the delivery target
    #[arg(long, value_name = "ACCOUNT")]
    reply_account: Option<String>,
    /// Model for this turn
    #[arg(long, value_name = "PROVIDER/MODEL")]
    model: Option<String>,
    /// How much the model thinks
    #[arg(long, value_name = "LEVEL", value_parser = PossibleValuesParser::new(["off", "minimal", "low", "medium", "high", "xhigh", "adaptive", "max", "ultra"]))]
    thinking: Option<String>,
    /// Tool details in the session, from now on
    #[arg(long, value_name = "ON|OFF", value_parser = PossibleValuesParser::new(["on", "off"]))]
    verbose: Option<String>,
    /// Seconds for the turn; 0 means no limit [default: agents.defaults.timeoutSeconds]
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// In this process, without a running gateway
    #[arg(long)]
    local: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let prompt = prompt(args)?;
    if args.to.is_none() && args.session_key.is_none() && args.session_id.is_none() && args.agent.is_none() {
        return Err(Fail::new("Choose a session: pass --agent, --session-key, --session-id or --to.").hint("openclaw agents list"));
    }
    let (_, config) = cx.config_or_defaults();
    // A remote gateway has agents of its own; a gateway of a farm knows those of the others.
    let elsewhere =
        config.gateway.mode == Some(clawstead_config::GatewayMode::Remote) || config.farm.as_ref().is_some_and(clawstead_config::FarmConfig::has_others);
    let here = args.local || !elsewhere;
    if let Some(id) = args.agent.as_deref().filter(|_| here)
        && config.agents.get(id).is_none()
        && config.agents.get(clawstead_terms::AgentId::normalise(id).as_str()).is_none()
    {
        return Err(unknown_agent(id));
    }
    let seconds = args.timeout.unwrap_or(config.agents.default_agent().timeout_seconds);
    let limit = if seconds == 0 { NO_LIMIT } else { Duration::from_secs(seconds).saturating_add(GRACE) };
    if args.local {
        return embedded(args, cx, &prompt, limit);
    }
    let answer = cx.block_on(async {
        let gateway = rpc::open(cx, &Connect::configured(None), 15_000).await?;
        let done = turn(args, &gateway, &prompt, limit).await;
        gateway.client.close().await;
        done
    })?;
    show(args, &answer.value, answer.streamed, Shape::Gateway)
}

fn unknown_agent(id: &str) -> Fail {
    Fail::new(format!("Unknown agent id \"{id}\". Use \"openclaw agents list\" to see configured agents.")).hint("openclaw agents list")
}

fn prompt(args: &Args) -> Result<String, Fail> {
    use std::io::Read as _;
    let text = match (&args.message, &args.message_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) if path.as_os_str() == "-" => {
            let mut text = String::new();
            std::io::stdin().take(PROMPT_BYTES_MAX).read_to_string(&mut text)?;
            text
        }
        (None, Some(path)) => {
            let problem = |why: String| Fail::new(format!("--message-file {}: {why}", path.display()));
            let size = std::fs::metadata(path).map_err(|err| problem(err.to_string()))?.len();
            if size > PROMPT_BYTES_MAX {
                return Err(problem(format!("{size} bytes are more than {PROMPT_BYTES_MAX}")));
            }
            std::fs::read_to_string(path).map_err(|err| problem(err.to_string()))?
        }
        (None, None) => String::new(),
    };
    if text.trim().is_empty() {
        return Err(Fail::new("Missing message. Use openclaw agent --message \"...\" or --message-file <path>.").hint("openclaw agent --help"));
    }
    Ok(text)
}

struct Answer {
    value: Value,
    /// What was printed while it came.
    streamed: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Gateway,
    Embedded,
}

fn params(args: &Args, prompt: &str, run: &str) -> Value {
    let mut params = json!({"message": prompt, "idempotencyKey": run});
    let mut put = |name: &str, value: Option<&String>| {
        if let Some(value) = value {
            params[name] = value.as_str().into();
        }
    };
    put("agentId", args.agent.as_ref());
    put("sessionId", args.session_id.as_ref());
    put("sessionKey", args.session_key.as_ref());
    put("to", args.to.as_ref());
    put("channel", args.channel.as_ref());
    put("replyTo", args.reply_to.as_ref());
    put("replyChannel", args.reply_channel.as_ref());
    put("replyAccountId", args.reply_account.as_ref());
    put("model", args.model.as_ref());
    put("thinking", args.thinking.as_ref());
    if args.deliver {
        params["deliver"] = true.into();
    }
    if let Some(seconds) = args.timeout.filter(|s| *s > 0) {
        params["timeout"] = seconds.into();
    }
    params
}

/// One turn. Prints text as it comes when a person watches; an interrupt also stops the run.
async fn turn(args: &Args, gateway: &Gateway, prompt: &str, limit: Duration) -> Result<Answer, Fail> {
    let run = crate::device::new_id();
    let mut events = gateway.client.events();
    let live = !args.json && std::io::stdout().is_terminal();
    if let (Some(level), Some(key)) = (&args.verbose, session_key(args)) {
        gateway.call("sessions.patch", json!({"key": key, "verboseLevel": level})).await?;
    }
    let asked = gateway.call_final("agent", params(args, prompt, &run), limit);
    tokio::pin!(asked);
    let mut streamed = String::new();
    let mut key = session_key(args);
    let stopped = interrupted();
    tokio::pin!(stopped);
    let mut hearing = true;
    loop {
        tokio::select! {
            biased;
            code = &mut stopped => {
                if let Some(key) = key {
                    let _ = gateway.client.call_within("chat.abort", json!({"sessionKey": key, "runId": run}), Duration::from_secs(2)).await;
                }
                return Err(Fail::silent(code));
            }
            // Events of a run come before its answer: hear them out first.
            heard = events.next(), if hearing => match heard {
                Ok(Heard::Event(event)) => {
                    let payload = event.payload.unwrap_or_default();
                    if payload.get("runId").and_then(Value::as_str) != Some(run.as_str()) {
                        continue;
                    }
                    if key.is_none() {
                        key = payload.get("sessionKey").and_then(Value::as_str).map(str::to_owned);
                    }
                    if live && event.event == "agent" {
                        tell(&payload, &mut streamed);
                    }
                }
                Ok(Heard::Missed(_)) => {}
                Err(_) => hearing = false,
            },
            answer = &mut asked => {
                let value = answer.map_err(|fail| {
                    if !streamed.is_empty() {
                        print::line("");
                    }
                    match &args.agent {
                        Some(id) if fail.message.to_lowercase().starts_with("unknown agent id") => unknown_agent(id),
                        _ => fail,
                    }
                })?;
                return Ok(Answer { value, streamed });
            }
        }
    }
}

fn session_key(args: &Args) -> Option<String> {
    args.session_key.clone().or_else(|| args.agent.as_ref().map(|agent| format!("agent:{agent}:main")))
}

fn tell(payload: &Value, streamed: &mut String) {
    let data = &payload["data"];
    match text(payload, "stream") {
        "assistant" => {
            let delta = text(data, "delta");
            streamed.push_str(delta);
            print::piece(delta);
        }
        "tool" if text(data, "phase") == "start" => {
            use owo_colors::OwoColorize as _;
            if !streamed.is_empty() && !streamed.ends_with('\n') {
                streamed.push('\n');
                print::line("");
            }
            anstream::eprintln!("{}", format!("· {}", text(data, "name")).dimmed());
        }
        _ => {}
    }
}

fn show(args: &Args, answer: &Value, streamed: String, shape: Shape) -> Outcome {
    let result = &answer["result"];
    let good = text(answer, "status") == "ok";
    if args.json {
        print::json(if shape == Shape::Embedded { result } else { answer });
        return Ok(u8::from(!good));
    }
    let said: Vec<&str> = list(result, "payloads").iter().map(|p| text(p, "text")).filter(|t| !t.is_empty()).collect();
    let whole = said.join("\n\n");
    if streamed.trim().is_empty() {
        if whole.is_empty() {
            anstream::eprintln!("(no reply)");
        } else {
            print::line(&whole);
        }
    } else if !streamed.trim_end().ends_with(whole.trim_end()) {
        // What was streamed is not the final word (a retry, another model): the final word counts.
        print::line("");
        print::line(&whole);
    } else {
        print::line("");
    }
    for media in list(result, "payloads").iter().map(|p| text(p, "mediaUrl")).filter(|u| !u.is_empty()) {
        print::line(&format!("MEDIA: {media}"));
    }
    if good {
        return Ok(0);
    }
    Err(Fail::new(format!("The turn ended with status {}.", text(answer, "status"))).hint("openclaw logs"))
}

/// `--local`: a gateway in this process for the time of one turn, on a port nobody knows.
fn embedded(args: &Args, cx: &Cx, prompt: &str, limit: Duration) -> Outcome {
    if let Some(holder) = local::running(cx) {
        return Err(Fail::new(format!("A gateway runs here already (pid {}, port {}); use it without --local.", holder.pid, holder.port))
            .hint("openclaw agent without --local"));
    }
    let token = device::new_token();
    let options = RunOptions {
        paths: cx.paths.clone(),
        env: cx.env.clone(),
        cwd: std::env::current_dir().ok(),
        port: Some(0),
        bind: Some(clawstead_config::Bind::Loopback),
        auth: AuthOverrides { token: Some(token.clone()), password: None, mode: Some(clawstead_config::AuthMode::Token) },
        allow_unconfigured: AllowUnconfigured::Yes,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let answer = runtime.block_on(async {
        let stop = CancellationToken::new();
        let (told, up) = oneshot::channel();
        let mut told = Some(told);
        let ended = tokio::spawn(run_gateway(options, stop.clone(), Arc::new(Notify::new()), move |up| {
            if let Some(told) = told.take() {
                let _ = told.send(up.port);
            }
        }));
        let port = match tokio::time::timeout(UP_LIMIT, up).await {
            Ok(Ok(port)) => port,
            _ => {
                stop.cancel();
                let why = match ended.await {
                    Ok(Err(err)) => err.to_string(),
                    _ => "it did not come up".into(),
                };
                return Err(Fail::new(format!("The embedded gateway did not start: {why}")));
            }
        };
        let target = Target {
            url: format!("ws://127.0.0.1:{port}"),
            source: "embedded",
            token: Some(clawstead_config::Secret::new(token)),
            password: None,
            by_hand: true,
        };
        let gateway = rpc::open_target(cx, target, 15_000).await?;
        let done = turn(args, &gateway, prompt, limit).await;
        gateway.client.close().await;
        stop.cancel();
        let _ = ended.await;
        done
    })?;
    show(args, &answer.value, answer.streamed, Shape::Embedded)
}
