//! `exec`: runs a command on this host.
//!
//! With `full` security the text goes to a shell. With `allowlist` there is no shell: the text is split into
//! words (quotes and pipes are understood, everything else a shell would act upon is refused), each program is
//! found along PATH and must be on the allowlist or be a safe filter; what a person is asked about is exactly
//! what is run afterwards. A command that takes longer than `yieldMs` goes on in the background, see `process`.

pub mod child;
pub mod decide;
pub mod environment;
pub mod output;
pub mod safe_bins;
pub mod sessions;
pub mod words;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use clawstead_terms::EffectClass;

use crate::{
    Places, Tool, ToolCx, ToolError, ToolOutput, ToolSpec,
    approvals::{ApprovalsFile, Ask, Decision, Security},
};
use child::{Input, Job};
use decide::{ExecRules, Judged, Plan, judge};
use sessions::{Ended, Notify, Session, Start, StopWhy};
pub use sessions::{SessionView, Sessions};

/// Time limit when neither the call nor `tools.exec.timeoutSec` names one.
const LIMIT_DEFAULT_S: u64 = 1800;
/// The longest limit a call may name.
const LIMIT_MAX_S: u64 = 24 * 3600;
/// When a command goes to the background, `tools.exec.backgroundMs`.
const YIELD_DEFAULT_MS: u64 = 10_000;
/// How long ended commands are remembered, `tools.exec.cleanupMs`.
const CLEANUP_DEFAULT_MS: u64 = 1_800_000;
/// How long a person has to answer.
pub const APPROVAL_MS: u64 = 120_000;
/// Progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Progress holds the end of the output, bytes.
const PROGRESS_BYTES: usize = 8 * 1024;

/// Runs commands.
pub struct Exec {
    /// The host.
    pub places: Arc<Places>,
    /// Commands that run.
    pub sessions: Arc<Sessions>,
}

/// Where a command is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// As the gateway is set.
    Auto,
    /// In the sandbox.
    Sandbox,
    /// On the gateway's host.
    Gateway,
    /// On a paired node.
    Node,
}

/// Arguments of `exec`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// The command.
    #[serde(alias = "cmd")]
    command: String,
    /// The folder to run it in. Default: the workspace.
    #[serde(default, alias = "cwd")]
    workdir: Option<String>,
    /// Further environment variables.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Milliseconds to wait before it goes on in the background. Default 10000.
    #[serde(default, alias = "yield_ms")]
    yield_ms: Option<u64>,
    /// True to put it in the background at once; only then it takes input from process write.
    #[serde(default)]
    background: Option<bool>,
    /// Time limit in seconds; it is stopped then. Default 1800.
    #[serde(default, alias = "timeoutSec", alias = "timeoutSeconds")]
    timeout: Option<f64>,
    /// Where to run it: auto (default), gateway, sandbox or node.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    host: Option<Host>,
    /// A stricter security for this call: deny, allowlist or full.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    security: Option<Security>,
    /// A stricter approval for this call: off, on-miss or always.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    ask: Option<Ask>,
}

#[async_trait]
impl Tool for Exec {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "exec",
        title: "Exec",
        description: "Run a command on the gateway's host and get its output. Long commands go on in the background; see process. \
                      With allowlist security only plain commands and pipes of allowed programs run, without a shell.",
        group: "group:runtime",
        class: EffectClass::Once,
        timeout_ms: 0,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        check_host(&cx, args.host)?;
        if args.command.trim().is_empty() {
            return Err(ToolError::BadArguments("field `command` must not be empty".into()));
        }
        if args.command.len() > words::COMMAND_BYTES_MAX || args.command.contains('\0') {
            return Err(ToolError::BadArguments(format!("field `command` must have at most {} bytes and no NUL", words::COMMAND_BYTES_MAX)));
        }
        let limit = limit(&cx, args.timeout)?;
        let cwd = self.folder(&cx, args.workdir.as_deref())?;
        let prepend: Vec<String> =
            cx.setting(&["exec", "pathPrepend"]).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let search = environment::search_path(&self.places, &prepend);
        let env = environment::of_child(&self.places, &search, &args.env)?;
        let rules = rules(&cx, &args).await?;
        let job = self.admit(&cx, &args, &rules, &cwd, &search).await?;

        let number = |key: &str, default: u64| cx.setting(&["exec", key]).and_then(Value::as_u64).filter(|n| *n > 0).unwrap_or(default);
        let background = args.background.unwrap_or(false);
        let start = Start { job, command: args.command, cwd, env, input: if background { Input::Piped } else { Input::Closed }, limit, notify: notify(&cx) };
        let session = self.sessions.start(&cx, start, Duration::from_millis(number("cleanupMs", CLEANUP_DEFAULT_MS)))?;
        let wait =
            if background { Duration::ZERO } else { Duration::from_millis(args.yield_ms.unwrap_or_else(|| number("backgroundMs", YIELD_DEFAULT_MS)).max(10)) };
        follow(&cx, session, wait, &self.sessions).await
    }
}

impl Exec {
    /// The folder a command runs in: real, so that it stays the one that was approved.
    fn folder(&self, cx: &ToolCx, workdir: Option<&str>) -> Result<PathBuf, ToolError> {
        let text = workdir.map(str::trim).filter(|t| !t.is_empty()).unwrap_or(".");
        let path = if let Some(rest) = text.strip_prefix("~/") {
            self.places.home.join(rest)
        } else if text == "~" {
            self.places.home.clone()
        } else {
            cx.workspace.join(text)
        };
        match path.canonicalize() {
            Ok(real) if real.is_dir() => Ok(real),
            Ok(_) => Err(ToolError::BadArguments(format!("field `workdir`: {} is not a folder", path.display()))),
            Err(e) => Err(ToolError::BadArguments(format!("field `workdir`: {} cannot be used: {e}", path.display()))),
        }
    }

    /// Decides whether and as what the command may run; asks a person where the rules say so.
    async fn admit(&self, cx: &ToolCx, args: &Args, rules: &ExecRules, cwd: &Path, search: &str) -> Result<Job, ToolError> {
        if rules.security == Security::Deny {
            return Err(ToolError::Denied("exec is denied (security: deny)".into()));
        }
        if rules.security == Security::Full {
            let job = Job::Shell(args.command.clone());
            if rules.ask != Ask::Always {
                return Ok(job);
            }
            return match self.ask(cx, args, rules, cwd, &job, &[]).await? {
                Asked::Allowed => Ok(job),
                Asked::Denied => Err(denied_by_person()),
                Asked::NoAnswer if rules.fallback == Security::Full => Ok(job),
                Asked::NoAnswer => Err(no_answer()),
            };
        }
        let workspace = cx.workspace.canonicalize().unwrap_or_else(|_| cx.workspace.clone());
        let plan = Plan::of(&args.command, cwd, search);
        let (mut misses, mut remedies, mut used) = (Vec::new(), Vec::new(), Vec::new());
        match &plan {
            Err(why) => misses.push(why.clone()),
            Ok(plan) => {
                for stage in &plan.stages {
                    match judge(stage, rules, &self.places.home, &workspace) {
                        Judged::Listed { pattern } => used.push((pattern, stage.program.real.display().to_string())),
                        Judged::SafeBin => {}
                        Judged::Miss { why, remedy } => {
                            misses.push(why);
                            remedies.push(remedy);
                        }
                    }
                }
            }
        }
        let job = match plan {
            Ok(plan) => Job::Plain(plan),
            Err(_) => Job::Shell(args.command.clone()),
        };
        let listed = misses.is_empty();
        if rules.ask == Ask::Always || (rules.ask == Ask::OnMiss && !listed) {
            // Only if every missed program can be named does "always" mean something.
            let patterns: Vec<String> = if matches!(job, Job::Plain(_)) { remedies.into_iter().collect::<Option<_>>().unwrap_or_default() } else { Vec::new() };
            match self.ask(cx, args, rules, cwd, &job, &patterns).await? {
                Asked::Allowed => {}
                Asked::Denied => return Err(denied_by_person()),
                Asked::NoAnswer => match rules.fallback {
                    Security::Full => {}
                    Security::Allowlist if listed => {}
                    _ => return Err(no_answer()),
                },
            }
            let moved = cwd.canonicalize().ok().as_deref() != Some(cwd);
            if moved || matches!(&job, Job::Plain(plan) if !plan.unchanged()) {
                return Err(ToolError::Denied("the program or its folder changed while the approval was awaited; it was not run".into()));
            }
        } else if !listed {
            return Err(ToolError::Denied(format!("exec denied, not on the allowlist: {}", misses.join("; "))));
        }
        for (pattern, resolved) in used {
            let params = json!({"agentId": cx.agent, "pattern": pattern, "command": args.command, "resolvedPath": resolved});
            if let Err(err) = cx.rpc("internal.exec.used", params).await {
                tracing::debug!(agent = %cx.agent, err = %err, "the use of an allowlist entry was not noted");
            }
        }
        Ok(job)
    }

    /// Asks a person. Hanging up ends the wait; the time limit is a no.
    async fn ask(&self, cx: &ToolCx, args: &Args, rules: &ExecRules, cwd: &Path, job: &Job, patterns: &[String]) -> Result<Asked, ToolError> {
        let (argv, resolved): (Vec<String>, Option<String>) = match job {
            Job::Shell(text) => (vec![child::shell().into(), "-c".into(), text.clone()], Some(child::shell().into())),
            Job::Plain(plan) => {
                let mut argv = Vec::new();
                for (index, stage) in plan.stages.iter().enumerate() {
                    if index > 0 {
                        argv.push("|".into());
                    }
                    argv.push(stage.program.real.display().to_string());
                    argv.extend(stage.args.iter().cloned());
                }
                (argv, plan.stages.first().map(|s| s.program.real.display().to_string()))
            }
        };
        let id = cx.world.rng.uuid();
        // Written anew from the words that run, so that nobody approves a look-alike.
        let preview = match job {
            Job::Shell(text) => text.clone(),
            Job::Plain(plan) => plan.preview(),
        };
        let request = json!({
            "id": id, "command": args.command, "commandPreview": preview, "commandArgv": argv, "cwd": cwd, "env": args.env, "host": "gateway",
            "security": rules.security, "ask": rules.ask, "agentId": cx.agent, "sessionKey": cx.session, "resolvedPath": resolved,
            "allowAlwaysPatterns": patterns, "timeoutMs": APPROVAL_MS, "twoPhase": true,
        });
        let answer = tokio::time::timeout(Duration::from_millis(APPROVAL_MS), async {
            let opened = cx.rpc("exec.approval.request", request).await?;
            if opened.get("decision").is_some() {
                return Ok(opened);
            }
            let id = opened.get("id").and_then(Value::as_str).unwrap_or(&id).to_owned();
            cx.rpc("exec.approval.waitDecision", json!({"id": id})).await
        });
        match answer.await {
            Err(_) => Ok(Asked::NoAnswer),
            Ok(Err(ToolError::Denied(why))) => Err(ToolError::Denied(why)),
            Ok(Err(err)) => Err(ToolError::Denied(format!("exec needs an approval, and it could not be asked for: {err}"))),
            Ok(Ok(answer)) => match answer.get("decision") {
                None | Some(Value::Null) => Ok(Asked::NoAnswer),
                Some(word) => match serde_json::from_value::<Decision>(word.clone()) {
                    Ok(Decision::AllowOnce | Decision::AllowAlways) => Ok(Asked::Allowed),
                    Ok(Decision::Deny) | Err(_) => Ok(Asked::Denied),
                },
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Allowed,
    Denied,
    NoAnswer,
}

fn denied_by_person() -> ToolError {
    ToolError::Denied("exec denied: the approval was refused".into())
}

fn no_answer() -> ToolError {
    ToolError::Denied(format!("exec denied: nobody answered the approval within {} s", APPROVAL_MS / 1000))
}

fn check_host(cx: &ToolCx, wanted: Option<Host>) -> Result<(), ToolError> {
    let set = cx.setting(&["exec", "host"]).and_then(|v| serde_json::from_value::<Host>(v.clone()).ok());
    for host in [set, wanted].into_iter().flatten() {
        match host {
            Host::Sandbox => {
                return Err(ToolError::Failed("exec is to run in a sandbox, and this gateway has no sandbox engine; it is not run on the host instead".into()));
            }
            Host::Node => {
                return Err(ToolError::Failed(
                    "exec is to run on a node, and this gateway cannot run commands on nodes yet; it is not run here instead".into(),
                ));
            }
            Host::Auto | Host::Gateway => {}
        }
    }
    Ok(())
}

fn limit(cx: &ToolCx, wanted: Option<f64>) -> Result<Duration, ToolError> {
    let set = ["timeoutSeconds", "timeoutSec"]
        .iter()
        .find_map(|key| cx.setting(&["exec", key]).and_then(Value::as_u64))
        .filter(|s| *s > 0)
        .unwrap_or(LIMIT_DEFAULT_S);
    match wanted {
        None => Ok(Duration::from_secs(set.min(LIMIT_MAX_S))),
        Some(seconds) if seconds.is_finite() && seconds > 0.0 => Ok(Duration::from_secs_f64(seconds.min(LIMIT_MAX_S as f64))),
        Some(0.0) => Ok(Duration::from_secs(set.min(LIMIT_MAX_S))),
        Some(_) => Err(ToolError::BadArguments("field `timeout` must be a positive number of seconds".into())),
    }
}

fn notify(cx: &ToolCx) -> Notify {
    let flag = |key: &str| cx.setting(&["exec", key]).and_then(Value::as_bool);
    match (flag("notifyOnExit").unwrap_or(true), flag("notifyOnExitEmptySuccess").unwrap_or(false)) {
        (false, _) => Notify::No,
        (true, true) => Notify::Always,
        (true, false) => Notify::Output,
    }
}

async fn rules(cx: &ToolCx, args: &Args) -> Result<ExecRules, ToolError> {
    let answer = cx
        .rpc("internal.exec.policy", json!({"agentId": cx.agent}))
        .await
        .map_err(|e| ToolError::Failed(format!("the exec approvals cannot be read, so nothing is run: {e}")))?;
    let file: ApprovalsFile = match answer.get("file").filter(|f| !f.is_null()) {
        None => ApprovalsFile::default(),
        Some(file) => {
            serde_json::from_value(file.clone()).map_err(|e| ToolError::Failed(format!("the exec approvals cannot be understood, so nothing is run: {e}")))?
        }
    };
    Ok(ExecRules::of(cx.setting(&["exec"]), file.of(cx.agent.as_str()), args.security, args.ask))
}

/// A command that ends with the call that waits for it.
struct Foreground(Option<Arc<Session>>);

impl Drop for Foreground {
    fn drop(&mut self) {
        if let Some(session) = &self.0 {
            session.stop(StopWhy::Dropped);
        }
    }
}

/// Waits for a command, tells its progress, and leaves it to itself after `wait`.
async fn follow(cx: &ToolCx, session: Arc<Session>, wait: Duration, sessions: &Sessions) -> Result<ToolOutput, ToolError> {
    let mut held = Foreground(Some(session.clone()));
    let until = Instant::now() + wait;
    let (mut seen, mut tick) = (0, tokio::time::interval(PROGRESS_EVERY));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tokio::select! {
            biased;
            end = session.wait() => {
                held.0 = None;
                let output = session.output(output::Output::text);
                sessions.forget(&session.id);
                return ended(&session, &end, output);
            }
            () = tokio::time::sleep_until(until) => break,
            _ = tick.tick() => {
                let (total, tail) = session.output(|o| (o.total(), if o.total() == seen { String::new() } else { o.tail(PROGRESS_BYTES) }));
                if total != seen {
                    seen = total;
                    // A watcher that does not keep up misses a step, never slows the command.
                    let _ = cx.progress.try_send(tail);
                }
            }
        }
    }
    session.to_background();
    held.0 = None;
    session.mark_told();
    let tail = session.output(|o| o.tail(PROGRESS_BYTES));
    let shown = if tail.trim().is_empty() { String::new() } else { format!("\n\n{}", tail.trim_end()) };
    let text = format!("Command still running (session {}, pid {}). Use process (list, poll, log, write, kill) to follow it.{shown}", session.id, session.pid);
    Ok(ToolOutput::text(text).with_details(json!({
        "status": "running", "sessionId": session.id, "pid": session.pid, "startedAt": session.started_at, "cwd": session.cwd, "tail": tail,
    })))
}

/// The answer for a command that ended.
fn ended(session: &Session, end: &Ended, output: String) -> Result<ToolOutput, ToolError> {
    let output = output.trim_end().to_owned();
    let with = |note: String| if output.is_empty() { note } else { format!("{output}\n\n{note}") };
    let text = match (end.reason, end.code, &end.signal) {
        ("timeout", ..) => return Err(ToolError::Failed(with(format!("Command timed out after {} s and was stopped", end.duration_ms / 1000)))),
        ("killed" | "stopped" | "lost", ..) => return Err(ToolError::Unknown(with("Command was stopped before it ended".into()))),
        (_, Some(0), _) if output.is_empty() => "(no output)".to_owned(),
        (_, Some(0), _) => output.clone(),
        (_, Some(code), _) => with(format!("Command exited with code {code}")),
        (_, None, Some(signal)) => with(format!("Command was ended by {signal}")),
        (_, None, None) => with("Command ended".into()),
    };
    let status = if end.code == Some(0) { "completed" } else { "failed" };
    Ok(ToolOutput::text(text).with_details(json!({
        "status": status, "exitCode": end.code, "exitSignal": end.signal, "exitReason": end.reason, "durationMs": end.duration_ms,
        "aggregated": output, "noOutputTimedOut": false, "cwd": session.cwd,
    })))
}

#[cfg(test)]
mod tests;
