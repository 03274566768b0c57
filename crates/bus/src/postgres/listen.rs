//! One connection that listens for changed keys, for all watches of this gateway.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clawstead_world::{Rng, TaskKind, Tasks, World};
use tokio::{
    sync::{broadcast, watch},
    time::{sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Client};

use super::{
    link::{Fault, Link, Told},
    schema,
};
use crate::{CoordError, coord::REQUEST_TIMEOUT};

/// Keys that a watch may be behind; one that is further behind lists everything again.
const BEHIND_MAX: usize = 1024;
/// How often the connection is tried out: a server that hangs says nothing by itself.
const TRIED_EVERY: Duration = Duration::from_secs(1);
/// Pause before the connection is made again, at most; a random part of it.
const PAUSE_MS: u64 = 500;

/// Whether changes are heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Nobody has tried yet.
    Starting,
    /// They are, since this connection (numbered from 1).
    Up(u64),
    /// They are not.
    Down(CoordError),
}

pub(super) struct Listener {
    link: Arc<Link>,
    tasks: Tasks,
    rng: Arc<dyn Rng>,
    line: watch::Sender<Line>,
    keys: broadcast::Sender<String>,
    started: AtomicBool,
}

impl Listener {
    pub(super) fn new(link: Arc<Link>, world: &World) -> Self {
        let (line, keys) = (watch::Sender::new(Line::Starting), broadcast::Sender::new(BEHIND_MAX));
        Self { link, tasks: world.tasks.clone(), rng: world.rng.clone(), line, keys, started: AtomicBool::new(false) }
    }

    /// What is told from now on. Starts listening at the first call.
    pub(super) fn hear(self: &Arc<Self>) -> (watch::Receiver<Line>, broadcast::Receiver<String>) {
        let heard = (self.line.subscribe(), self.keys.subscribe());
        if !self.started.swap(true, Ordering::Relaxed) {
            let (this, stop) = (self.clone(), self.tasks.stopping());
            self.tasks.spawn::<_, std::convert::Infallible>(TaskKind::logged("farm database watch"), async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = this.run() => {}
                }
                Ok(())
            });
        }
        heard
    }

    async fn run(&self) {
        for number in 1.. {
            let fault = self.listen(number).await;
            self.line.send_replace(Line::Down(fault.err));
            sleep(Duration::from_millis(self.rng.below(PAUSE_MS + 1))).await;
        }
    }

    /// Listens until the connection fails.
    async fn listen(&self, number: u64) -> Fault {
        let told = || -> Told {
            let keys = self.keys.clone();
            Box::new(move |message| {
                if let AsyncMessage::Notification(note) = message {
                    // Without watches nobody takes it.
                    let _ = keys.send(note.payload().to_owned());
                }
            })
        };
        let client = match timeout(REQUEST_TIMEOUT, self.link.connect(told)).await {
            Ok(Ok(client)) => client,
            Ok(Err(fault)) => return fault,
            Err(_) => return self.silent(),
        };
        let listen = format!("LISTEN \"{}\"", schema::channel(&self.link.schema));
        if let Err(fault) = self.execute(&client, &listen).await {
            return fault;
        }
        self.line.send_replace(Line::Up(number));
        loop {
            sleep(TRIED_EVERY).await;
            // A server that takes no writes any more keeps its connections and tells nothing.
            match timeout(REQUEST_TIMEOUT, client.query_one("SELECT current_setting('transaction_read_only')::boolean", &[])).await {
                Ok(Ok(row)) if !row.get::<_, bool>(0) => {}
                Ok(Ok(_)) => return Fault { err: self.link.unavailable("this server takes no writes any more"), maybe: false },
                Ok(Err(err)) => return self.link.explain(&err),
                Err(_) => return self.silent(),
            }
        }
    }

    async fn execute(&self, client: &Client, sql: &str) -> Result<(), Fault> {
        match timeout(REQUEST_TIMEOUT, client.batch_execute(sql)).await {
            Ok(outcome) => outcome.map_err(|err| self.link.explain(&err)),
            Err(_) => Err(self.silent()),
        }
    }

    fn silent(&self) -> Fault {
        Fault { err: self.link.unavailable(&format!("no answer within {} ms", REQUEST_TIMEOUT.as_millis())), maybe: true }
    }
}
