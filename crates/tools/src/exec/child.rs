//! Starting a command and ending it: one process group a command, TERM first, KILL after a grace time, and no
//! member of the group left.

use std::{
    collections::BTreeMap,
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, ChildStdin, Command},
    task::JoinHandle,
};

use super::{decide::Plan, output::Output};

/// Time between TERM and KILL.
pub const GRACE: Duration = Duration::from_secs(2);
/// How often the end of a stopping command is looked for.
const POLL: Duration = Duration::from_millis(20);
/// How long output is awaited after the command ended: a child of its own may hold the pipe open.
const DRAIN: Duration = Duration::from_millis(300);
/// Output beyond this many bytes is read slowly, so that a flood does not eat a processor.
const FAST_BYTES: u64 = 4 * 1024 * 1024;
/// The pause after each piece of a flood.
const FLOOD_PAUSE: Duration = Duration::from_millis(5);

/// What is run.
#[derive(Clone, Debug)]
pub enum Job {
    /// Programs with literal arguments, joined by pipes.
    Plain(Plan),
    /// A text for the shell.
    Shell(String),
}

/// How a command is given its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// None: it reads the end of input at once.
    Closed,
    /// A pipe that the `process` tool writes to.
    Piped,
}

/// A running command. Dropping it kills the group.
pub struct Running {
    children: Vec<Child>,
    group: Pid,
    readers: Vec<JoinHandle<()>>,
    done: bool,
}

/// The shell commands are given to.
#[must_use]
pub fn shell() -> &'static str {
    if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" }
}

impl Running {
    /// Starts a command.
    ///
    /// # Errors
    /// When the system cannot start one of its programs; those already started are killed.
    pub fn start(
        job: &Job,
        cwd: &PathBuf,
        env: &BTreeMap<String, String>,
        input: Input,
        output: &Arc<Mutex<Output>>,
    ) -> io::Result<(Self, Option<ChildStdin>)> {
        let stages: Vec<(PathBuf, String, Vec<String>)> = match job {
            Job::Shell(text) => vec![(shell().into(), shell().into(), vec!["-c".into(), text.clone()])],
            Job::Plain(plan) => plan
                .stages
                .iter()
                .map(|s| {
                    // Programs that serve many names look at the name; others look for their files beside it.
                    let name = if s.program.named.contains('/') { s.program.found.display().to_string() } else { s.program.named.clone() };
                    (s.program.real.clone(), name, s.args.clone())
                })
                .collect(),
        };
        let count = stages.len();
        let mut running: Option<Self> = None;
        let (mut previous, mut stdin) = (None::<Stdio>, None);
        for (index, (program, name, args)) in stages.into_iter().enumerate() {
            let mut command = Command::new(program);
            command.arg0(name).args(args).current_dir(cwd).env_clear().envs(env).kill_on_drop(true);
            command.process_group(running.as_ref().map_or(0, |r| r.group.as_raw_nonzero().get()));
            command.stdin(match previous.take() {
                Some(pipe) => pipe,
                None if input == Input::Piped => Stdio::piped(),
                None => Stdio::null(),
            });
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn()?;
            if index == 0 {
                stdin = child.stdin.take();
            }
            let mut readers = Vec::new();
            if let Some(stderr) = child.stderr.take() {
                readers.push(tokio::spawn(drain(stderr, output.clone())));
            }
            if let Some(stdout) = child.stdout.take() {
                if index + 1 == count {
                    readers.push(tokio::spawn(drain(stdout, output.clone())));
                } else {
                    previous = Some(stdout.try_into()?);
                }
            }
            match &mut running {
                Some(r) => {
                    r.children.push(child);
                    r.readers.extend(readers);
                }
                None => {
                    let raw = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
                    let group = raw.ok_or_else(|| io::Error::other("the command ended before it began"))?;
                    running = Some(Self { children: vec![child], group, readers, done: false });
                }
            }
        }
        running.map(|r| (r, stdin)).ok_or_else(|| io::Error::other("there is nothing to run"))
    }

    /// The process id of its first program, which is the group's.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// Waits until every program of it ended; answers with the last one's status. May be dropped and called again.
    ///
    /// # Errors
    /// When the system cannot say.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let mut last = None;
        for child in &mut self.children {
            last = Some(child.wait().await?);
        }
        last.ok_or_else(|| io::Error::other("there is nothing to wait for"))
    }

    /// Waits for the rest of the output, for a short time.
    pub async fn finish(mut self) {
        self.done = true;
        let mut readers = std::mem::take(&mut self.readers);
        let all = async {
            for reader in &mut readers {
                let _ = reader.await;
            }
        };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            readers.iter().for_each(JoinHandle::abort);
        }
    }

    /// Ends the whole group: TERM, a grace time, KILL.
    ///
    /// # Errors
    /// When the system cannot say how it ended.
    pub async fn kill(&mut self) -> io::Result<ExitStatus> {
        // No program is reaped before the last signal, so that the group's number cannot be given to others.
        let _ = rustix::process::kill_process_group(self.group, Signal::TERM);
        let mut waited = Duration::ZERO;
        while waited < GRACE && !self.all_ended() {
            tokio::time::sleep(POLL).await;
            waited += POLL;
        }
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        self.wait().await
    }

    /// Whether all programs ended, without reaping them.
    fn all_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.children
            .iter()
            .filter_map(|c| c.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
            .all(|pid| !matches!(rustix::process::waitid(WaitId::Pid(pid), options), Ok(None)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // While one child is not reaped the group's number is still ours.
        if !self.done && self.children.iter().any(|c| c.id().is_some()) {
            let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        }
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

/// A small process that kills a command's group when the gateway is gone: it waits at a pipe whose other end only
/// the gateway holds, and the kernel closes that end however the gateway dies.
pub struct Watchdog {
    child: Child,
    /// Closed by its drop, or by the end of this process.
    leash: Option<ChildStdin>,
}

impl Watchdog {
    /// Starts one for a group.
    ///
    /// # Errors
    /// When the system cannot start it.
    pub fn start(group: i32) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg("read -r word || kill -KILL \"-$1\"").arg("watchdog").arg(group.to_string());
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let leash = child.stdin.take();
        Ok(Self { child, leash })
    }

    /// Ends it: the command is over, nothing is to be killed.
    pub async fn dismiss(mut self) {
        // Killed before the pipe closes, so that it never acts.
        let _ = self.child.kill().await;
        drop(self.leash.take());
    }

    /// What the death of the gateway does.
    #[cfg(test)]
    pub async fn let_go(mut self) {
        drop(self.leash.take());
        let _ = self.child.wait().await;
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
    }
}

async fn drain(mut from: impl AsyncRead + Unpin, output: Arc<Mutex<Output>>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        let total = {
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            output.push(&buffer[..count]);
            output.total()
        };
        if total > FAST_BYTES {
            tokio::time::sleep(FLOOD_PAUSE).await;
        }
    }
}

/// Exit code and signal name of a status.
#[must_use]
pub fn code_and_signal(status: ExitStatus) -> (Option<i32>, Option<String>) {
    (status.code(), status.signal().map(signal_name))
}

fn signal_name(number: i32) -> String {
    match number {
        1 => "SIGHUP".into(),
        2 => "SIGINT".into(),
        3 => "SIGQUIT".into(),
        6 => "SIGABRT".into(),
        9 => "SIGKILL".into(),
        11 => "SIGSEGV".into(),
        13 => "SIGPIPE".into(),
        15 => "SIGTERM".into(),
        other => format!("signal {other}"),
    }
}
