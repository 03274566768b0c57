//! Running a helper program with limits.

use std::{
    io::{Read, Write},
    process::{Child, Command},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Why a helper gave nothing. Never holds its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RunError {
    Start(String),
    Timeout,
    Output(usize),
    Exit(Option<i32>),
}

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start(reason) => write!(f, "could not be started: {reason}"),
            Self::Timeout => f.write_str("did not answer in time"),
            Self::Output(max) => write!(f, "wrote more than {max} bytes"),
            Self::Exit(Some(code)) => write!(f, "ended with exit code {code}"),
            Self::Exit(None) => f.write_str("was ended by a signal"),
        }
    }
}

/// Runs a command with `input` on its standard input and gives back its standard output. Blocks at most `timeout`.
/// The command must have its output piped.
pub(crate) fn run_bounded(mut command: Command, input: Option<Vec<u8>>, timeout: Duration, bytes_max: usize) -> Result<Vec<u8>, RunError> {
    let started = Instant::now();
    let mut child = command.spawn().map_err(|e| RunError::Start(e.to_string()))?;
    if let (Some(bytes), Some(mut pipe)) = (input, child.stdin.take()) {
        // own thread: a helper that does not read must not hold us; it ends with the helper
        thread::spawn(move || pipe.write_all(&bytes));
    }
    let Some(out) = child.stdout.take() else { return Err(RunError::Start("no output".into())) };
    let (send, receive) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = out.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map(|_| bytes);
        let _ = send.send(read);
    });
    let bytes = match receive.recv_timeout(timeout) {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(e)) => return Err(stop(&mut child, RunError::Start(e.to_string()))),
        Err(_) => return Err(stop(&mut child, RunError::Timeout)),
    };
    if bytes.len() > bytes_max {
        return Err(stop(&mut child, RunError::Output(bytes_max)));
    }
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(bytes),
            Ok(Some(status)) => return Err(RunError::Exit(status.code())),
            Ok(None) if started.elapsed() < timeout => thread::sleep(Duration::from_millis(2)),
            Ok(None) => return Err(stop(&mut child, RunError::Timeout)),
            Err(e) => return Err(RunError::Start(e.to_string())),
        }
    }
}

fn stop(child: &mut Child, why: RunError) -> RunError {
    let _ = child.kill();
    let _ = child.wait();
    why
}
