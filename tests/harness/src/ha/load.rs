//! Clients that behave as real ones do: they keep what was not said `ok` to, and send it again with the same key, to
//! whichever gateway answers.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};

use crate::{
    PATIENCE,
    client::{Client, Refused},
    platform::Platform,
    soak::{Accepted, Verdict, judge},
};

/// A try of a call may take this long.
const TRY_WITHIN: Duration = Duration::from_secs(40);

#[derive(Default)]
struct Book {
    accepted: Mutex<Vec<Accepted>>,
    trouble: Mutex<Vec<(Instant, u16, String)>>,
    longest_ms: AtomicU64,
    next: AtomicU64,
    over: AtomicBool,
}

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Habit {
    /// Clients at once, each with a session of its own at each agent.
    pub clients: usize,
    /// Agents written to, in turn.
    pub agents: Vec<&'static str>,
    /// Between an `ok` and the next message.
    pub pause: Duration,
    /// Appended to each message: orders to the mock model.
    pub orders: &'static str,
}

/// Clients at work.
pub struct Load {
    book: Arc<Book>,
    tasks: JoinSet<anyhow::Result<()>>,
}

/// What came of it.
pub struct Told {
    /// What was said `ok` to.
    pub accepted: Vec<Accepted>,
    /// Refusals and broken connections that clients went on after: when, at which port, what.
    pub trouble: Vec<(Instant, u16, String)>,
    /// The longest time from a message's first try to its `ok`.
    pub longest: Duration,
}

impl Load {
    /// Starts; `ports` are tried in turn, client n begins with the n-th. Marks begin with `first`.
    #[must_use]
    pub fn start(ports: &[u16], habit: &Habit, first: u64) -> Self {
        let book = Arc::new(Book { next: AtomicU64::new(first), ..Book::default() });
        let mut tasks = JoinSet::new();
        for client in 0..habit.clients {
            tasks.spawn(write(ports.to_vec(), client, habit.clone(), book.clone()));
        }
        Self { book, tasks }
    }

    /// How many messages were said `ok` to so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.book.accepted.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Each client gets its last `ok`, and ends.
    ///
    /// # Errors
    /// When a message was not taken within a minute by anybody.
    pub async fn end(mut self) -> anyhow::Result<Told> {
        self.book.over.store(true, Ordering::Release);
        while let Some(done) = self.tasks.join_next().await {
            done??;
        }
        let book = &self.book;
        let accepted = book.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let trouble = book.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Told { accepted, trouble, longest: Duration::from_millis(book.longest_ms.load(Ordering::Relaxed)) })
    }
}

async fn write(ports: Vec<u16>, number: usize, habit: Habit, book: Arc<Book>) -> anyhow::Result<()> {
    let (mut at, mut client, mut turn) = (number, None, number);
    while !book.over.load(Ordering::Acquire) {
        let agent = habit.agents.get(turn % habit.agents.len().max(1)).copied().unwrap_or("jerry");
        turn += 1;
        let mark = format!("msg-{:06}", book.next.fetch_add(1, Ordering::Relaxed) + 1);
        let message = Accepted { run: format!("run-{mark}"), session: format!("agent:{agent}:load-{number}"), mark };
        let began = Instant::now();
        loop {
            let port = ports.get(at % ports.len().max(1)).copied().unwrap_or_default();
            match send(&mut client, port, &message, habit.orders).await {
                Ok(()) => break,
                Err(err) => {
                    book.trouble.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), port, format!("{err:#}")));
                    ensure!(began.elapsed() < PATIENCE, "{} was not taken within a minute: {err:#}", message.mark);
                    client = None;
                    at += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        book.longest_ms.fetch_max(took, Ordering::Relaxed);
        book.accepted.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        tokio::time::sleep(habit.pause).await;
    }
    Ok(())
}

async fn send(client: &mut Option<Client>, port: u16, message: &Accepted, orders: &str) -> anyhow::Result<()> {
    let attempt = async {
        if client.is_none() {
            *client = Some(Client::connect(port).await?);
        }
        let client = client.as_mut().context("no client")?;
        let text = format!("{} {orders}", message.mark);
        client.call("chat.send", json!({"sessionKey": message.session, "message": text, "idempotencyKey": message.run})).await
    };
    tokio::time::timeout(TRY_WITHIN, attempt).await.context("no answer in time")??;
    Ok(())
}

/// People on the platform, who write on whatever happens.
pub struct Chatter {
    over: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Chatter {
    /// Starts: a message each `every`, in four chats; marks begin after `first`.
    #[must_use]
    pub fn start(platform: &Arc<Platform>, every: Duration, orders: &'static str, first: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (to, ended) = (platform.clone(), over.clone());
        let task = tokio::spawn(async move {
            let mut count = 0;
            while !ended.load(Ordering::Acquire) {
                count += 1;
                to.write(&format!("U{}", count % 4), &format!("msg-{:06} {orders}", first + count));
                tokio::time::sleep(every).await;
            }
            count
        });
        Self { over, task }
    }

    /// They stop. Answers how many messages they wrote.
    ///
    /// # Errors
    /// When the task failed.
    pub async fn end(self) -> anyhow::Result<usize> {
        self.over.store(true, Ordering::Release);
        Ok(self.task.await?)
    }
}

impl Told {
    /// Nobody was told anything.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { accepted: Vec::new(), trouble: Vec::new(), longest: Duration::ZERO }
    }

    /// What became of everything, asked of this gateway.
    ///
    /// # Errors
    /// When a run does not come to rest.
    pub async fn judge(&self, port: u16) -> anyhow::Result<Verdict> {
        let mut client = Client::connect(port).await?;
        for one in &self.accepted {
            let wait = json!({"runId": one.run, "timeoutMs": 40_000});
            let end = match client.call("agent.wait", wait.clone()).await {
                Ok(end) => end,
                Err(err) if err.is::<Refused>() => anyhow::bail!("agent.wait for {}: {err:#}", one.mark),
                Err(_) => {
                    client = Client::connect(port).await?;
                    client.call("agent.wait", wait).await?
                }
            };
            ensure!(end["status"] != "timeout", "{} never came to rest: {end}", one.mark);
        }
        judge(&mut client, &self.accepted).await
    }
}
