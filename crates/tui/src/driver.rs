//! The loop: events in, commands out, frames when something changed.

use std::{future::Future, io, pin::Pin, time::Duration};

use clawstead_wire::{
    Client, ClientError, ConnectOptions,
    client::{Events, Heard},
};
use crossterm::event::{Event as TermEvent, EventStream, MouseEventKind};
use futures_util::{Stream, StreamExt as _, stream::FuturesUnordered};
use ratatui::{Terminal, backend::Backend};
use tokio::time::{Instant, sleep_until};

use crate::{
    command::Command,
    event::{CallFault, Event, Link},
    options::{TuiError, TuiOptions},
    state::State,
    terminal::Screen,
    update::{WHEEL_LINES, update},
    view::View,
};

/// Frames are at least this far apart.
const FRAME_MS: u64 = 33;
/// How often the picture is looked at while it moves by itself.
const TICK_MS: u64 = 100;
/// The first pause between two connects; it doubles up to [`PAUSE_MS_MAX`].
const PAUSE_MS: u64 = 1_000;
/// The longest pause between two connects.
const PAUSE_MS_MAX: u64 = 30_000;
/// Events taken in before the next frame.
const BATCH_MAX: usize = 256;

type Work = Pin<Box<dyn Future<Output = Event> + Send>>;

/// Runs the interface until the user leaves.
///
/// # Errors
/// When there is no terminal, or the gateway refuses the very first connection for a reason that does not pass.
pub async fn run(options: TuiOptions) -> Result<(), TuiError> {
    let mut screen = Screen::take()?;
    drive(options, &mut screen.terminal, EventStream::new()).await
}

/// The same on any terminal, with what happens there as a stream.
///
/// # Errors
/// As [`run`].
pub async fn drive<B, S>(options: TuiOptions, terminal: &mut Terminal<B>, mut keys: S) -> Result<(), TuiError>
where
    B: Backend,
    B::Error: Send + Sync + 'static,
    S: Stream<Item = io::Result<TermEvent>> + Unpin,
{
    let mut session = Session::new(&options);
    let mut moving = tokio::time::interval(Duration::from_millis(TICK_MS));
    moving.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut ended = std::pin::pin!(told_to_end());
    session.paint(terminal)?;
    let mut drawn = Instant::now();
    loop {
        let due = drawn + Duration::from_millis(FRAME_MS);
        tokio::select! {
            biased;
            () = sleep_until(due), if session.stale => {
                session.paint(terminal)?;
                drawn = Instant::now();
            }
            key = keys.next() => match key {
                Some(Ok(event)) => {
                    if let Some(event) = translate(event) {
                        session.take(event);
                    }
                }
                Some(Err(err)) => return Err(err.into()),
                None => session.done = true,
            },
            step = session.line.next(&options.connect) => session.line_step(step)?,
            Some(event) = session.work.next() => session.take(event),
            () = &mut ended => session.done = true,
            _ = moving.tick(), if session.state.is_moving() => session.take(Event::Tick),
        }
        if session.done {
            let client = session.line.client().cloned();
            if let Some(client) = client {
                client.close().await;
            }
            return Ok(());
        }
    }
}

/// Waits until the system asks us to end: the terminal must be given back then too.
async fn told_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut term), Ok(mut hangup)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) {
            tokio::select! {
                biased;
                _ = term.recv() => {}
                _ = hangup.recv() => {}
            }
            return;
        }
    }
    std::future::pending().await
}

fn translate(event: TermEvent) -> Option<Event> {
    match event {
        TermEvent::Key(key) => Some(Event::Key(key)),
        TermEvent::Paste(text) => Some(Event::Paste(text)),
        TermEvent::Resize(..) => Some(Event::Resize),
        TermEvent::Mouse(mouse) => match mouse.kind {
            MouseEventKind::ScrollUp => Some(Event::Wheel(-WHEEL_LINES)),
            MouseEventKind::ScrollDown => Some(Event::Wheel(WHEEL_LINES)),
            _ => None,
        },
        TermEvent::FocusGained | TermEvent::FocusLost => None,
    }
}

struct Session {
    state: State,
    view: View,
    line: Line,
    work: FuturesUnordered<Work>,
    start: Instant,
    stale: bool,
    done: bool,
}

impl Session {
    fn new(options: &TuiOptions) -> Self {
        Self {
            state: State::new(options),
            view: View::new(options.colour),
            line: Line::Idle { attempt: 0, at: Instant::now() },
            work: FuturesUnordered::new(),
            start: Instant::now(),
            stale: true,
            done: false,
        }
    }

    fn paint<B: Backend>(&mut self, terminal: &mut Terminal<B>) -> Result<(), TuiError>
    where
        B::Error: Send + Sync + 'static,
    {
        let (state, view) = (&self.state, &mut self.view);
        let mut measures = None;
        terminal.draw(|frame| measures = Some(view.paint(state, frame.area(), frame.buffer_mut()))).map_err(io::Error::other)?;
        if let Some(measures) = measures {
            self.state.measured(measures);
        }
        self.stale = false;
        Ok(())
    }

    fn take(&mut self, event: Event) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.stale = true;
        for command in update(&mut self.state, event, now) {
            match command {
                Command::Quit => self.done = true,
                Command::Reconnect => self.line = Line::Idle { attempt: 0, at: Instant::now() },
                Command::Call { tag, method, params } => {
                    let client = self.line.client().cloned();
                    self.work.push(Box::pin(async move {
                        let result = match client {
                            Some(client) => client.call_raw(method, params).await.map_err(|err| fault(&err)),
                            None => Err(CallFault::Lost("not connected".into())),
                        };
                        Event::Answer { tag, result }
                    }));
                }
            }
        }
    }

    fn line_step(&mut self, step: Step) -> Result<(), TuiError> {
        match step {
            Step::Trying(attempt) => self.take(Event::Link(Link::Connecting(attempt))),
            Step::Up(hello) => self.take(Event::Link(Link::Up(hello))),
            Step::Heard(first) => {
                self.take(first);
                for _ in 1..BATCH_MAX {
                    let Some(next) = self.line.at_hand() else { break };
                    self.take(next);
                }
            }
            Step::Down(err, retry_ms) => {
                if !self.state.greeted && is_final(&err) {
                    return Err(TuiError::Connect(err));
                }
                self.take(Event::Link(Link::Down { why: words(&err), retry_ms }));
            }
        }
        Ok(())
    }
}

/// A refusal that trying again does not change. Waiting for a pairing decision does change.
fn is_final(err: &ClientError) -> bool {
    match err {
        ClientError::BadUrl { .. } => true,
        ClientError::Auth(shape) => shape.retryable != Some(true) && shape.code != clawstead_wire::error::code::NOT_PAIRED,
        _ => false,
    }
}

fn words(err: &ClientError) -> String {
    match err {
        ClientError::Auth(shape) if shape.code == clawstead_wire::error::code::NOT_PAIRED => {
            format!("{shape}: let an operator run `openclaw devices approve`")
        }
        other => other.to_string(),
    }
}

fn fault(err: &ClientError) -> CallFault {
    match err {
        ClientError::Failed(shape) if shape.retryable != Some(true) => CallFault::Refused(shape.to_string()),
        other => CallFault::Lost(other.to_string()),
    }
}

/// The connection and its next step.
enum Line {
    /// Waiting for the next attempt.
    Idle { attempt: u32, at: Instant },
    /// The handshake is on its way.
    Trying { attempt: u32, work: Pin<Box<dyn Future<Output = Result<Client, ClientError>> + Send>> },
    /// It stands.
    Up { client: Client, events: Events, silence: Duration, heard: Instant },
}

enum Step {
    Trying(u32),
    Up(Box<clawstead_wire::connect::HelloOk>),
    Heard(Event),
    Down(ClientError, u64),
}

impl Line {
    const fn client(&self) -> Option<&Client> {
        match self {
            Self::Up { client, .. } => Some(client),
            _ => None,
        }
    }

    /// The next step. Dropping the future loses nothing.
    async fn next(&mut self, options: &ConnectOptions) -> Step {
        match self {
            Self::Idle { attempt, at } => {
                sleep_until(*at).await;
                let attempt = attempt.saturating_add(1);
                *self = Self::Trying { attempt, work: Box::pin(Client::connect(options.clone())) };
                Step::Trying(attempt)
            }
            Self::Trying { attempt, work } => match work.await {
                Ok(client) => {
                    let hello = Box::new(client.hello().clone());
                    let events = client.events();
                    // The gateway ticks; two ticks missed in a row mean that the connection is dead.
                    let silence = Duration::from_millis(client.hello().policy.tick_interval_ms.saturating_mul(2).max(PAUSE_MS));
                    *self = Self::Up { client, events, silence, heard: Instant::now() };
                    Step::Up(hello)
                }
                Err(err) => {
                    let (attempt, pause) = (*attempt, pause_ms(*attempt));
                    *self = Self::Idle { attempt, at: Instant::now() + Duration::from_millis(pause) };
                    Step::Down(err, pause)
                }
            },
            Self::Up { events, silence, heard, .. } => match tokio::time::timeout_at(*heard + *silence, events.next()).await {
                Ok(Ok(news)) => {
                    *heard = Instant::now();
                    Step::Heard(match news {
                        Heard::Event(event) => Event::Gateway(event),
                        Heard::Missed(count) => Event::Missed(count),
                    })
                }
                ended => {
                    let err = ended.map_or_else(
                        |_| ClientError::Timeout { what: "the gateway's tick".into(), ms: silence.as_millis() },
                        |end| end.err().unwrap_or(ClientError::Closed { code: 1006, reason: String::new() }),
                    );
                    *self = Self::Idle { attempt: 0, at: Instant::now() + Duration::from_millis(PAUSE_MS) };
                    Step::Down(err, PAUSE_MS)
                }
            },
        }
    }

    /// An event that is there already.
    fn at_hand(&mut self) -> Option<Event> {
        let Self::Up { events, .. } = self else { return None };
        match futures_util::FutureExt::now_or_never(events.next()) {
            Some(Ok(Heard::Event(event))) => Some(Event::Gateway(event)),
            Some(Ok(Heard::Missed(count))) => Some(Event::Missed(count)),
            // The end comes again at the next step.
            Some(Err(_)) | None => None,
        }
    }
}

fn pause_ms(attempt: u32) -> u64 {
    PAUSE_MS.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(PAUSE_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::pause_ms;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let all: Vec<u64> = (1..8).map(pause_ms).collect();
        assert_eq!(all, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(pause_ms(u32::MAX), 30_000);
    }
}
