//! Commands that run: each has a supervisor of its own, which outlives the call that started it when the command
//! goes to the background, and ends with the gateway.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use serde_json::json;
use tokio::{process::ChildStdin, sync::watch, time::Instant};

use clawstead_terms::{AgentId, SessionKey};
use clawstead_world::{Rng, TaskKind};

use super::{
    child::{Input, Job, Running, Watchdog, code_and_signal},
    output::Output,
};
use crate::{ToolCx, ToolError};

/// Commands that run at the same time, all agents together.
pub const RUNNING_MAX: usize = 64;
/// Ended commands that are remembered.
const ENDED_MAX: usize = 64;
/// A command that runs longer than this gets a watchdog, which ends it when the gateway is killed.
const WATCHDOG_AFTER: Duration = Duration::from_millis(500);
/// Output named in the notice of a background command's end, bytes.
const NOTICE_BYTES: usize = 800;

const FIRST: [&str; 24] = [
    "amber", "brisk", "calm", "clear", "coral", "dawn", "deep", "fresh", "glow", "good", "kind", "lucky", "mild", "neat", "nimble", "oceanic", "quick",
    "quiet", "salty", "sharp", "swift", "tidal", "warm", "young",
];
const SECOND: [&str; 24] = [
    "basil",
    "bloom",
    "canyon",
    "cedar",
    "claw",
    "cloud",
    "comet",
    "cove",
    "crest",
    "ember",
    "falcon",
    "fjord",
    "forest",
    "haven",
    "lagoon",
    "lobster",
    "meadow",
    "nudibranch",
    "orbit",
    "pine",
    "reef",
    "ridge",
    "shell",
    "wharf",
];

/// Why a command is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopWhy {
    /// The call that waits for it was dropped.
    Dropped,
    /// The `process` tool ends it.
    Asked,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// `exit`, `signal`, `timeout`, `killed`, `stopped` (the gateway stops) or `lost`.
    pub reason: &'static str,
    /// How long it ran, ms.
    pub duration_ms: u64,
}

/// One command.
pub struct Session {
    /// Its name: two words.
    pub id: String,
    /// The agent that started it.
    pub agent: AgentId,
    /// Its session.
    pub session: SessionKey,
    /// What is shown of it.
    pub command: String,
    /// Where it runs.
    pub cwd: PathBuf,
    /// Its process id.
    pub pid: i32,
    /// When it began, ms since 1970.
    pub started_at: i64,
    started: Instant,
    output: Arc<Mutex<Output>>,
    /// Up to where `process poll` has told its output.
    told: AtomicU64,
    background: AtomicBool,
    ended: watch::Receiver<Option<Ended>>,
    stop: watch::Sender<Option<StopWhy>>,
    stdin: tokio::sync::Mutex<Option<ChildStdin>>,
    ended_since: Mutex<Option<Instant>>,
}

/// A command as lists show it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    /// Its name.
    pub session_id: String,
    /// `running`, `completed` or `failed`.
    pub status: &'static str,
    /// Its process id.
    pub pid: i32,
    /// When it began, ms since 1970.
    pub started_at: i64,
    /// How long it runs or ran, ms.
    pub runtime_ms: u64,
    /// Where it runs.
    pub cwd: PathBuf,
    /// What is shown of it.
    pub command: String,
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub exit_signal: Option<String>,
}

/// What is needed to start a command.
pub struct Start {
    /// What is run.
    pub job: Job,
    /// What is shown of it.
    pub command: String,
    /// Where.
    pub cwd: PathBuf,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Its input.
    pub input: Input,
    /// Its time limit.
    pub limit: Duration,
    /// Whether the end of a background command is told.
    pub notify: Notify,
}

/// Whether the end of a background command is told to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// Not.
    No,
    /// Yes, unless it worked and printed nothing.
    Output,
    /// Always.
    Always,
}

/// All commands of a gateway.
#[derive(Default)]
pub struct Sessions(Mutex<BTreeMap<String, Arc<Session>>>);

impl Sessions {
    /// Starts a command and its supervisor.
    ///
    /// # Errors
    /// When too many run, or the system cannot start it.
    pub fn start(&self, cx: &ToolCx, start: Start, cleanup: Duration) -> Result<Arc<Session>, ToolError> {
        let mut all = self.lock();
        tidy(&mut all, cleanup);
        if all.values().filter(|s| s.ended().is_none()).count() >= RUNNING_MAX {
            return Err(ToolError::Failed(format!("{RUNNING_MAX} commands are running already; end one with process kill, or wait")));
        }
        let output = Arc::new(Mutex::new(Output::default()));
        let (running, stdin) = Running::start(&start.job, &start.cwd, &start.env, start.input, &output)
            .map_err(|e| ToolError::Failed(format!("cannot start {}: {e}", start.command)))?;
        let (ended_tx, ended) = watch::channel(None);
        let (stop, mut stop_rx) = watch::channel(None);
        let session = Arc::new(Session {
            id: name(&*cx.world.rng, &all),
            agent: cx.agent.clone(),
            session: cx.session.clone(),
            command: start.command,
            cwd: start.cwd,
            pid: running.pid(),
            started_at: cx.world.clock.now().0,
            started: Instant::now(),
            output,
            told: AtomicU64::new(0),
            background: AtomicBool::new(false),
            ended,
            stop,
            stdin: tokio::sync::Mutex::new(stdin),
            ended_since: Mutex::new(None),
        });
        all.insert(session.id.clone(), session.clone());
        drop(all);
        let (watched, stopping, cx) = (session.clone(), cx.world.tasks.stopping(), cx.clone());
        let tasks = cx.world.tasks.clone();
        tasks.spawn::<_, ToolError>(TaskKind::logged("exec"), async move {
            let mut running = running;
            let limit = tokio::time::sleep(start.limit);
            let mut watchdog = None;
            tokio::pin!(limit);
            // Short commands are over before they need one.
            let early = tokio::select! {
                biased;
                status = running.wait() => Some(status),
                () = stopping.cancelled() => None,
                true = asked(&mut stop_rx) => None,
                () = tokio::time::sleep(WATCHDOG_AFTER.min(start.limit)) => {
                    watchdog = Watchdog::start(running.pid()).ok();
                    None
                }
            };
            let (status, reason) = if let Some(status) = early {
                (status, None)
            } else {
                tokio::select! {
                    biased;
                    status = running.wait() => (status, None),
                    () = stopping.cancelled() => (running.kill().await, Some("stopped")),
                    // A sender that is gone means that nobody can ask any more, not that the command is to end.
                    true = asked(&mut stop_rx) => (running.kill().await, Some("killed")),
                    () = &mut limit => (running.kill().await, Some("timeout")),
                }
            };
            running.finish().await;
            if let Some(watchdog) = watchdog {
                watchdog.dismiss().await;
            }
            let duration_ms = u64::try_from(watched.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let end = match status {
                Ok(status) => {
                    let (code, signal) = code_and_signal(status);
                    let natural = if signal.is_some() { "signal" } else { "exit" };
                    Ended { code, signal, reason: reason.unwrap_or(natural), duration_ms }
                }
                Err(_) => Ended { code: None, signal: None, reason: reason.unwrap_or("lost"), duration_ms },
            };
            *watched.ended_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            watched.stdin.lock().await.take();
            let _ = ended_tx.send(Some(end.clone()));
            if watched.background.load(Ordering::SeqCst) && matches!(reason, None | Some("timeout")) {
                tell(&cx, &watched, &end, start.notify).await;
            }
            Ok(())
        });
        Ok(session)
    }

    /// An agent's command by its name.
    #[must_use]
    pub fn get(&self, agent: &AgentId, id: &str) -> Option<Arc<Session>> {
        self.lock().get(id.trim()).filter(|s| s.agent == *agent).cloned()
    }

    /// An agent's background commands, oldest first.
    #[must_use]
    pub fn list(&self, agent: &AgentId) -> Vec<SessionView> {
        let mut views: Vec<SessionView> = self.lock().values().filter(|s| s.agent == *agent && s.background.load(Ordering::SeqCst)).map(|s| s.view()).collect();
        views.sort_by_key(|v| v.started_at);
        views
    }

    /// Forgets a command that ended.
    pub fn forget(&self, id: &str) {
        let mut all = self.lock();
        if all.get(id).is_some_and(|s| s.ended().is_some()) {
            all.remove(id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// How it ended; `None` while it runs.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Ended {
        let mut ended = self.ended.clone();
        let lost = Ended { code: None, signal: None, reason: "lost", duration_ms: 0 };
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(lost),
            Err(_) => lost,
        }
    }

    /// Asks for its end; see [`Session::wait`].
    pub fn stop(&self, why: StopWhy) {
        self.stop.send_replace(Some(why));
    }

    /// Leaves it to itself: the call that started it does not wait any longer.
    pub fn to_background(&self) {
        self.background.store(true, Ordering::SeqCst);
    }

    /// Its output.
    pub fn output<T>(&self, look: impl FnOnce(&Output) -> T) -> T {
        look(&self.output.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Output not told before.
    #[must_use]
    pub fn news(&self) -> String {
        let told = self.told.load(Ordering::SeqCst);
        let (text, lost, total) = self.output(|o| {
            let (text, lost) = o.since(told);
            (text, lost, o.total())
        });
        self.told.store(total, Ordering::SeqCst);
        if lost > 0 { format!("[... {lost} bytes left out ...]\n{text}") } else { text }
    }

    /// Marks what was printed so far as told.
    pub fn mark_told(&self) {
        self.told.store(self.output(Output::total), Ordering::SeqCst);
    }

    /// Writes to its input; `end` closes it afterwards.
    ///
    /// # Errors
    /// When it has no input, or does not read.
    pub async fn write(&self, text: &str, end: EndOfInput) -> Result<(), ToolError> {
        use tokio::io::AsyncWriteExt;
        let mut stdin = self.stdin.lock().await;
        let pipe = stdin.as_mut().ok_or_else(|| ToolError::Failed(format!("{} takes no input; start it with background: true", self.id)))?;
        let wrote = tokio::time::timeout(Duration::from_secs(5), async {
            pipe.write_all(text.as_bytes()).await?;
            pipe.flush().await
        });
        match wrote.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(ToolError::Failed(format!("{} does not take input any more: {e}", self.id))),
            Err(_) => return Err(ToolError::Failed(format!("{} did not read its input within 5 s", self.id))),
        }
        if end == EndOfInput::Yes {
            stdin.take();
        }
        Ok(())
    }

    /// As lists show it.
    #[must_use]
    pub fn view(&self) -> SessionView {
        let ended = self.ended();
        SessionView {
            session_id: self.id.clone(),
            status: match &ended {
                None => "running",
                Some(end) if end.code == Some(0) => "completed",
                Some(_) => "failed",
            },
            pid: self.pid,
            started_at: self.started_at,
            runtime_ms: ended.as_ref().map_or_else(|| u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX), |e| e.duration_ms),
            cwd: self.cwd.clone(),
            command: self.command.clone(),
            exit_code: ended.as_ref().and_then(|e| e.code),
            exit_signal: ended.and_then(|e| e.signal),
        }
    }
}

/// Whether the input ends after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfInput {
    /// More may come.
    No,
    /// It is closed.
    Yes,
}

/// Waits until the end is asked for; false when nobody can ask any more.
async fn asked(stop: &mut watch::Receiver<Option<StopWhy>>) -> bool {
    stop.wait_for(Option::is_some).await.is_ok()
}

fn tidy(all: &mut BTreeMap<String, Arc<Session>>, cleanup: Duration) {
    let since = |s: &Arc<Session>| *s.ended_since.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, s| since(s).is_none_or(|at| at.elapsed() < cleanup));
    let mut ended: Vec<(Instant, String)> = all.values().filter_map(|s| Some((since(s)?, s.id.clone()))).collect();
    ended.sort();
    let over = ended.len().saturating_sub(ENDED_MAX);
    for (_, id) in ended.into_iter().take(over) {
        all.remove(&id);
    }
}

fn name(rng: &dyn Rng, taken: &BTreeMap<String, Arc<Session>>) -> String {
    let word = |list: &'static [&'static str]| list[usize::try_from(rng.below(list.len() as u64)).unwrap_or(0)];
    for _ in 0..32 {
        let name = format!("{}-{}", word(&FIRST), word(&SECOND));
        if !taken.contains_key(&name) {
            return name;
        }
    }
    format!("{}-{}-{}", word(&FIRST), word(&SECOND), crate::bound::head(&rng.uuid(), 8))
}

/// Tells the session that a background command ended.
async fn tell(cx: &ToolCx, session: &Session, end: &Ended, notify: Notify) {
    let tail = session.output(|o| o.tail(NOTICE_BYTES));
    let quiet = end.code == Some(0) && tail.trim().is_empty();
    if notify == Notify::No || (notify == Notify::Output && quiet) {
        return;
    }
    let how = match (end.code, &end.signal) {
        _ if end.reason == "timeout" => "stopped by its time limit".into(),
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => signal.clone(),
        (None, None) => "unknown".into(),
    };
    let text = format!("Exec finished ({}, {how})\nCommand: {}\n{}", session.id, crate::bound::head(&session.command, 300), tail.trim());
    let params = json!({"mode": "now", "text": text, "sessionKey": session.session, "agentId": session.agent});
    if let Err(err) = cx.rpc("wake", params).await {
        tracing::warn!(agent = %session.agent, err = %err, "the end of a background command could not be told");
    }
}
