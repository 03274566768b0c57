//! Engines as processes, and bursts of letters with a ledger.

#![allow(dead_code, clippy::unwrap_used, reason = "each suite uses its part, and a test may panic")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use clawstead_bus::{Bus, MailBox, Published, Sealed};
use futures_util::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

/// What should happen without a fault, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
/// A whole burst, faults included.
pub const BURST: Duration = Duration::from_secs(120);
/// A request to a dead engine ends within this.
pub const AWAY_WITHIN: Duration = Duration::from_millis(2500);

/// Letters settled at once.
const SETTLING: usize = 16;

/// The program of an engine, or none and a line that says so.
pub fn engine(suite: &str, name: &str, variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        clawstead_harness::engines::skipped(suite, name, &format!("{variable} is not set or names a file that does not exist"));
    }
    found
}

/// A server that can be killed and started again at the same port.
pub struct Server {
    program: PathBuf,
    arguments: Mutex<Vec<String>>,
    pub port: u16,
    pub folder: tempfile::TempDir,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// Prepares one; `arguments` get the port and the folder.
    pub fn new(program: &Path, arguments: impl FnOnce(u16, &str) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = clawstead_harness::free_port().unwrap();
        let arguments = Mutex::new(arguments(port, folder.path().to_str().unwrap()));
        Self { program: program.to_owned(), arguments, port, folder, child: Mutex::new(None) }
    }

    /// More arguments from the next start on.
    pub fn add_arguments(&self, more: &[String]) {
        self.arguments.lock().unwrap().extend_from_slice(more);
    }

    pub fn start(&self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("output")).unwrap();
        let child = Command::new(&self.program)
            .args(&*self.arguments.lock().unwrap())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.child.lock().unwrap() = Some(child);
    }

    /// SIGKILL.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// What it wrote, for failed tests.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn unit(name: &str) -> MailBox {
    MailBox::Unit(format!("agents/{name}"))
}

pub fn letter(id: &str, attempt: u32, body: &[u8]) -> Sealed {
    Sealed { message_id: id.to_owned(), attempt, bytes: body.to_vec().into() }
}

/// Asks until it is true.
pub async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !is().await {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Publishes until the engine takes it. Answers how many attempts failed.
pub async fn insist(bus: &dyn Bus, to: &MailBox, id: &str, body: &[u8]) -> u32 {
    let end = Instant::now() + BURST;
    let mut failed = 0;
    loop {
        match bus.publish(to, &letter(id, failed, body)).await {
            Ok(Published::Accepted | Published::Duplicate) => return failed,
            Ok(Published::Busy(pause)) => sleep(pause).await,
            Err(error) => {
                assert!(Instant::now() < end, "still not taken after {BURST:?}: {error}");
                sleep(Duration::from_millis(20)).await;
            }
        }
        failed += 1;
    }
}

/// What a burst went through.
#[derive(Debug)]
pub struct Outcome {
    pub attempts_failed: u32,
    pub copies: u32,
    pub faults_told: u32,
    pub took: Duration,
}

/// Publishes `count` letters, 16 at a time, each until the engine accepts it, reads and settles until all have come,
/// and lets `fault` happen when half of them are accepted. Fails when one that was accepted does not come.
pub async fn burst(sender: &dyn Bus, receiver: &dyn Bus, to: &MailBox, count: u32, fault: impl Future<Output = ()>) -> Outcome {
    let began = Instant::now();
    let (accepted, half) = (AtomicU32::new(0), Notify::new());
    let publish = async {
        let all = stream::iter(0..count).map(|n| {
            let (accepted, half) = (&accepted, &half);
            async move {
                let failed = insist(sender, to, &format!("burst-{n}"), &n.to_be_bytes()).await;
                if accepted.fetch_add(1, Ordering::Relaxed) + 1 == count / 2 {
                    half.notify_one();
                }
                failed
            }
        });
        all.buffer_unordered(16).fold(0, async |sum, failed| sum + failed).await
    };
    let read = async {
        let mut mail = receiver.subscribe(to, "reader.1");
        let (mut seen, mut copies, mut faults_told) = (BTreeSet::new(), 0, 0);
        // As a gateway does: letters of different sessions are settled side by side.
        let mut settling = FuturesUnordered::new();
        while seen.len() < count as usize {
            let item = tokio::select! {
                biased;
                Some(_) = settling.next() => continue,
                item = timeout(BURST, mail.next()), if settling.len() < SETTLING => item,
            };
            let Ok(item) = item else {
                panic!("{} letters that were accepted did not come", accepted.load(Ordering::Relaxed) as usize - seen.len());
            };
            match item.unwrap() {
                Ok(delivery) => {
                    copies += u32::from(!seen.insert(delivery.raw));
                    // A settle that fails brings a copy; nothing else.
                    settling.push(delivery.settle.done());
                }
                Err(error) => {
                    faults_told += 1;
                    assert!(began.elapsed() < BURST, "{} of {count} letters came; the last fault: {error}", seen.len());
                }
            }
        }
        while settling.next().await.is_some() {}
        (copies, faults_told)
    };
    let fault = async {
        half.notified().await;
        fault.await;
    };
    let (attempts_failed, (copies, faults_told), ()) = timeout(BURST * 2, async { tokio::join!(publish, read, fault) }).await.expect("the burst ends");
    Outcome { attempts_failed, copies, faults_told, took: began.elapsed() }
}
