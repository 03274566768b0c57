use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// Work for a thread: bounded by number and bytes, closed once.
pub(super) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    bell: Condvar,
    jobs_max: usize,
    bytes_max: usize,
}

struct Inner<T> {
    jobs: VecDeque<(T, usize)>,
    bytes: usize,
    closed: bool,
}

/// Why a job was not taken.
pub(super) enum NotTaken {
    Full,
    Closed,
}

impl<T> Queue<T> {
    pub(super) fn new(jobs_max: usize, bytes_max: usize) -> Self {
        Self { inner: Mutex::new(Inner { jobs: VecDeque::new(), bytes: 0, closed: false }), bell: Condvar::new(), jobs_max, bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, job: T, bytes: usize) -> Result<(), NotTaken> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(NotTaken::Closed);
        }
        // A single job may be larger than the bound, else it could never be done.
        if inner.jobs.len() >= self.jobs_max || inner.bytes >= self.bytes_max {
            return Err(NotTaken::Full);
        }
        inner.bytes += bytes;
        inner.jobs.push_back((job, bytes));
        self.bell.notify_one();
        Ok(())
    }

    /// Waits for work and takes up to `most` jobs; empty means closed and done.
    pub(super) fn take(&self, most: usize) -> Vec<T> {
        let mut inner = self.lock();
        while inner.jobs.is_empty() {
            if inner.closed {
                return Vec::new();
            }
            inner = self.bell.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        let count = most.min(inner.jobs.len());
        let taken: Vec<(T, usize)> = inner.jobs.drain(..count).collect();
        inner.bytes -= taken.iter().map(|(_, bytes)| bytes).sum::<usize>();
        taken.into_iter().map(|(job, _)| job).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().jobs.is_empty()
    }

    /// Takes no more jobs; what waits is still done.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_all();
    }
}
