//! Tasks that are held still or ended from outside, all at once: how a simulation stops one gateway (a process that
//! gets SIGSTOP) or kills it (SIGKILL) while others beside it in the same thread go on.
//!
//! A task belongs to the pen of the task that started it. Whoever starts tasks does it with [`spawn`], or hands
//! [`penned`] to something that starts it; outside of a pen both do nothing more than tokio does.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::task::JoinHandle;

thread_local! {
    /// The pen whose task is being polled on this thread.
    static CURRENT: RefCell<Option<Pen>> = const { RefCell::new(None) };
}

/// Whether the tasks of a pen are polled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Going {
    #[default]
    On,
    Held,
    Over,
}

#[derive(Default)]
struct State {
    going: Going,
    number: u64,
    /// Who is to be woken when the state changes.
    wakers: BTreeMap<u64, Waker>,
}

/// A set of tasks with one switch. Clones are the same one.
#[derive(Clone, Default)]
pub struct Pen(Arc<Mutex<State>>);

impl std::fmt::Debug for Pen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        f.debug_struct("Pen").field("going", &state.going).field("tasks", &state.wakers.len()).finish()
    }
}

impl Pen {
    /// An empty one, whose tasks run.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The pen of the task that is polled now on this thread; none outside of pens.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.with(|current| current.borrow().clone())
    }

    /// Starts a task in this pen. When the pen ends, the handle waits for ever: what comes of the task is told by other
    /// means.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        tokio::spawn(self.hold_in(future))
    }

    /// None of its tasks is polled until [`Self::release`]. Time goes on meanwhile.
    pub fn hold(&self) {
        let mut state = self.lock();
        if state.going == Going::On {
            state.going = Going::Held;
        }
    }

    /// Ends [`Self::hold`].
    pub fn release(&self) {
        let mut state = self.lock();
        if state.going != Going::Held {
            return;
        }
        state.going = Going::On;
        Self::wake(state);
    }

    /// None of its tasks is polled any more; what they hold is dropped as soon as the runtime comes to them.
    pub fn end(&self) {
        let mut state = self.lock();
        state.going = Going::Over;
        Self::wake(state);
    }

    fn wake(state: MutexGuard<'_, State>) {
        let wakers: Vec<Waker> = state.wakers.values().cloned().collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn hold_in<F: Future>(&self, future: F) -> Penned<F> {
        let mut state = self.lock();
        state.number += 1;
        Penned { pen: Some((self.clone(), state.number)), future: Some(Box::pin(future)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the task may be polled; if it may not, it is woken when that changes.
    fn ask(&self, number: u64, waker: &Waker) -> Going {
        let mut state = self.lock();
        let going = state.going;
        match state.wakers.get_mut(&number) {
            Some(known) => known.clone_from(waker),
            None => drop(state.wakers.insert(number, waker.clone())),
        }
        going
    }
}

/// Marks a thread as polling for a pen, until it is dropped.
struct Inside(Option<Pen>);

impl Inside {
    fn of(pen: &Pen) -> Self {
        Self(CURRENT.with(|current| current.borrow_mut().replace(pen.clone())))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let before = self.0.take();
        CURRENT.with(|current| *current.borrow_mut() = before);
    }
}

/// A future that is polled only while its pen lets it.
pub struct Penned<F> {
    pen: Option<(Pen, u64)>,
    future: Option<Pin<Box<F>>>,
}

impl<F> Unpin for Penned<F> {}

impl<F: Future> Future for Penned<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some((pen, number)) = self.pen.clone() else {
            return match &mut self.future {
                Some(future) => future.as_mut().poll(cx),
                None => Poll::Pending,
            };
        };
        match pen.ask(number, cx.waker()) {
            Going::Held => Poll::Pending,
            Going::Over => {
                self.future = None;
                Poll::Pending
            }
            Going::On => {
                let _inside = Inside::of(&pen);
                match &mut self.future {
                    Some(future) => future.as_mut().poll(cx),
                    None => Poll::Pending,
                }
            }
        }
    }
}

impl<F> Drop for Penned<F> {
    fn drop(&mut self) {
        if let Some((pen, number)) = &self.pen {
            let waker = pen.lock().wakers.remove(number);
            drop(waker);
        }
    }
}

/// The future, in the pen of whoever calls; for starters of tasks other than [`spawn`].
pub fn penned<F: Future>(future: F) -> Penned<F> {
    match Pen::current() {
        Some(pen) => pen.hold_in(future),
        None => Penned { pen: None, future: Some(Box::pin(future)) },
    }
}

/// Starts a task, in the pen of whoever calls.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    match Pen::current() {
        Some(pen) => pen.spawn(future),
        None => tokio::spawn(future),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use tokio::time::{Instant, sleep};

    use super::{Pen, spawn};

    /// Counts seconds in a task that another task of the pen starts.
    fn seconds(pen: &Pen) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        pen.spawn(async move {
            spawn(async move {
                loop {
                    sleep(Duration::from_secs(1)).await;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_pen_stands_still_while_time_and_others_go_on() {
        let (held, free) = (Pen::new(), Pen::new());
        let (counted, other) = (seconds(&held), seconds(&free));
        sleep(Duration::from_millis(2_500)).await;
        held.hold();
        let began = Instant::now();
        sleep(Duration::from_secs(10)).await;
        assert_eq!((counted.load(Ordering::Relaxed), other.load(Ordering::Relaxed)), (2, 12));
        held.release();
        sleep(Duration::from_millis(10)).await;
        // The timer that fired meanwhile is noticed at once, and once only.
        assert_eq!(counted.load(Ordering::Relaxed), 3);
        assert!(began.elapsed() >= Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_pen_drops_what_its_tasks_hold_and_starts_nothing_more() {
        let pen = Pen::new();
        let held = Arc::new(());
        let kept = Arc::clone(&held);
        pen.spawn(async move {
            sleep(Duration::from_secs(3600)).await;
            drop(kept);
        });
        sleep(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&held), 2);
        pen.end();
        let late = seconds(&pen);
        sleep(Duration::from_secs(5)).await;
        assert_eq!((Arc::strong_count(&held), late.load(Ordering::Relaxed)), (1, 0));
    }
}
