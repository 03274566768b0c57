use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::host::{Peer, TaskRef};
use crate::proto::{StreamResponse, Task, TaskPushNotificationConfig, TaskState};

/// Most events of a task that are kept for readers who come back.
pub(crate) const LOG_EVENTS_MAX: usize = 512;

/// Most bytes of them.
pub(crate) const LOG_BYTES_MAX: usize = 1024 * 1024;

/// What is stored of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// The task as callers see it.
    pub task: Task,
    /// Number of the last event.
    pub seq: u64,
    /// The time under which the order of tasks has it, milliseconds.
    pub indexed_ms: i64,
    /// The key of its last turn.
    pub turn_key: String,
}

/// One event with its number and its JSON, which is made once for all readers.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub seq: u64,
    pub event: Arc<StreamResponse>,
    pub json: Arc<str>,
}

impl Entry {
    pub fn new(seq: u64, event: StreamResponse) -> Self {
        let json = serde_json::to_string(&event).unwrap_or_default().into();
        Self { seq, event: Arc::new(event), json }
    }
}

pub(crate) struct Inner {
    pub record: Record,
    /// The task as it was before the first event of the log.
    base: Task,
    base_seq: u64,
    log: VecDeque<Entry>,
    log_bytes: usize,
    /// Set when this process may not go on with the task.
    closed: bool,
    /// Where changes are sent; None until asked for.
    pub push: Option<Vec<TaskPushNotificationConfig>>,
}

/// A task that somebody works on or looks at. Readers keep their own place in its log; a reader that fell behind the log
/// gets the whole task. Nobody waits for a reader.
pub(crate) struct Live {
    pub at: TaskRef,
    /// Held by whoever starts or stops a turn; taken before `door`. The end of a turn's stream waits here, so that a turn
    /// that is being stopped is not taken for one that failed.
    pub turn_door: tokio::sync::Mutex<()>,
    /// Held by whoever changes the task.
    pub door: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    running: Mutex<Running>,
}

/// The run that listens to the task's turn, if one does.
#[derive(Default)]
struct Running {
    number: u64,
    stop: Option<CancellationToken>,
}

/// One run: what ends it, and its number.
pub(crate) struct Run {
    pub stop: CancellationToken,
    number: u64,
}

impl Live {
    pub fn new(at: TaskRef, record: Record) -> Self {
        let inner = Inner { base: record.task.clone(), base_seq: record.seq, record, log: VecDeque::new(), log_bytes: 0, closed: false, push: None };
        let changed = watch::Sender::new(inner.record.seq);
        Self { at, turn_door: tokio::sync::Mutex::new(()), door: tokio::sync::Mutex::new(()), inner: Mutex::new(inner), changed, running: Mutex::default() }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn peer(&self) -> &Peer {
        &self.at.peer
    }

    pub fn state(&self) -> TaskState {
        self.lock().record.task.status.state
    }

    pub fn snapshot(&self) -> (Task, u64) {
        let inner = self.lock();
        (inner.record.task.clone(), inner.record.seq)
    }

    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes over a changed record with the events that changed it.
    pub fn publish(&self, record: Record, events: Vec<StreamResponse>) {
        let mut inner = self.lock();
        let mut seq = inner.record.seq;
        for event in events {
            seq += 1;
            let entry = Entry::new(seq, event);
            inner.log_bytes += entry.json.len();
            inner.log.push_back(entry);
        }
        inner.record = record;
        while inner.log.len() > LOG_EVENTS_MAX || inner.log_bytes > LOG_BYTES_MAX {
            let Some(oldest) = inner.log.pop_front() else { break };
            inner.log_bytes -= oldest.json.len();
            inner.base.apply(&oldest.event);
            inner.base_seq = oldest.seq;
        }
        drop(inner);
        self.changed.send_replace(seq);
    }

    /// Takes over a record that no events lead to: readers get the whole task.
    pub fn replace(&self, record: Record) {
        let mut inner = self.lock();
        inner.base = record.task.clone();
        inner.base_seq = record.seq;
        inner.log.clear();
        inner.log_bytes = 0;
        let seq = record.seq;
        inner.record = record;
        drop(inner);
        self.changed.send_replace(seq);
    }

    /// Ends all readers and the run: the task goes on elsewhere or not at all.
    pub fn close(&self) {
        self.lock().closed = true;
        self.stop();
        self.changed.send_modify(|_| {});
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Marks a run as begun.
    pub fn run(&self) -> Run {
        let mut running = self.running();
        running.number += 1;
        let stop = CancellationToken::new();
        running.stop = Some(stop.clone());
        Run { stop, number: running.number }
    }

    /// Marks a run as over.
    pub fn over(&self, run: &Run) {
        let mut running = self.running();
        if running.number == run.number {
            running.stop = None;
        }
    }

    pub fn is_running(&self) -> bool {
        self.running().stop.is_some()
    }

    /// Ends the run that listens to the turn, not the turn.
    pub fn stop(&self) {
        if let Some(stop) = self.running().stop.take() {
            stop.cancel();
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task as a reader knows it that has seen everything up to `seq`; the whole task now, if the log does not reach
    /// back so far.
    pub fn resume_at(&self, seq: u64) -> (Task, u64) {
        let inner = self.lock();
        if seq < inner.base_seq || seq > inner.record.seq {
            return (inner.record.task.clone(), inner.record.seq);
        }
        let mut task = inner.base.clone();
        for entry in inner.log.iter().take_while(|entry| entry.seq <= seq) {
            task.apply(&entry.event);
        }
        (task, seq)
    }

    /// What comes after `seq` for a reader.
    pub fn after(&self, seq: u64) -> Next {
        let inner = self.lock();
        if seq < inner.base_seq {
            return Next::Event(Entry::new(inner.record.seq, StreamResponse::Task(inner.record.task.clone())));
        }
        let behind = usize::try_from(seq - inner.base_seq).unwrap_or(usize::MAX);
        match inner.log.get(behind) {
            Some(entry) => Next::Event(entry.clone()),
            None if inner.closed => Next::End,
            None => Next::Nothing(inner.record.task.status.state),
        }
    }
}

/// What a reader finds.
pub(crate) enum Next {
    Event(Entry),
    Nothing(TaskState),
    End,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{LOG_EVENTS_MAX, Live, Next, Record};
    use crate::{
        proto::{StreamResponse, Task},
        server::{Peer, TaskRef},
    };

    fn live() -> Live {
        let task: Task = serde_json::from_value(json!({"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}})).unwrap();
        let at = TaskRef { agent: "a".into(), peer: Peer::Anonymous, task_id: "t".into(), context_id: "c".into() };
        Live::new(at, Record { task, seq: 0, indexed_ms: 0, turn_key: "k".into() })
    }

    fn piece(live: &Live, text: &str) {
        let event: StreamResponse = serde_json::from_value(
            json!({"artifactUpdate": {"taskId": "t", "contextId": "c", "append": true, "artifact": {"artifactId": "x", "parts": [{"text": text}]}}}),
        )
        .unwrap();
        let mut record = live.lock().record.clone();
        record.task.apply(&event);
        record.seq += 1;
        live.publish(record, vec![event]);
    }

    #[test]
    fn a_reader_that_comes_back_gets_what_it_missed_and_nothing_twice() {
        let live = live();
        for text in ["a", "b", "c"] {
            piece(&live, text);
        }
        let (task, seq) = live.resume_at(2);
        assert_eq!((task.answer().as_str(), seq), ("ab", 2));
        let Next::Event(missed) = live.after(2) else { panic!("the third event is there") };
        let mut task = task;
        task.apply(&missed.event);
        assert_eq!(task.answer(), "abc");
        assert!(matches!(live.after(3), Next::Nothing(_)));
    }

    #[test]
    fn a_reader_behind_the_log_gets_the_whole_task() {
        let live = live();
        for _ in 0..LOG_EVENTS_MAX + 5 {
            piece(&live, "x");
        }
        let whole = "x".repeat(LOG_EVENTS_MAX + 5);
        assert_eq!(live.resume_at(1).0.answer(), whole);
        let Next::Event(entry) = live.after(1) else { panic!("there is something to tell") };
        assert!(matches!(&*entry.event, StreamResponse::Task(task) if task.answer() == whole));
    }
}
