//! Says that something changed, to any number of listeners, in the order in which they began to listen. Tokio's `watch`
//! wakes its receivers in an order of chance, and then one seed gives two histories.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Inner {
    count: AtomicU64,
    notify: Notify,
}

/// What is rung. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<Inner>);

/// Hears a [`Bell`]; rings that come together count as one.
#[derive(Clone, Debug)]
pub struct Ear {
    bell: Arc<Inner>,
    seen: u64,
}

impl Bell {
    /// Tells everybody who listens.
    pub fn ring(&self) {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        self.0.notify.notify_waiters();
    }

    /// Hears rings from now on.
    #[must_use]
    pub fn listen(&self) -> Ear {
        Ear { bell: Arc::clone(&self.0), seen: self.0.count.load(Ordering::Acquire) }
    }
}

impl Ear {
    /// What was rung so far is known.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.bell.count.load(Ordering::Acquire);
    }

    /// Waits for a ring since the last call.
    ///
    /// # Errors
    /// None; it has the form of the listeners of channels.
    pub async fn changed(&mut self) -> Result<(), Infallible> {
        loop {
            let rung = self.bell.notify.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            let count = self.bell.count.load(Ordering::Acquire);
            if count != self.seen {
                self.seen = count;
                return Ok(());
            }
            rung.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::Bell;

    #[tokio::test]
    async fn listeners_wake_in_their_order_and_miss_nothing() {
        let (bell, heard) = (Bell::default(), Arc::new(Mutex::new(Vec::new())));
        let tasks: Vec<_> = (0..50)
            .map(|number| {
                let (mut ear, heard) = (bell.listen(), Arc::clone(&heard));
                tokio::spawn(async move {
                    ear.changed().await.unwrap();
                    heard.lock().unwrap().push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        bell.ring();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*heard.lock().unwrap(), (0..50).collect::<Vec<_>>());
        let mut late = bell.listen();
        bell.ring();
        bell.ring();
        late.changed().await.unwrap();
        late.mark_unchanged();
        assert!(tokio::time::timeout(std::time::Duration::from_millis(5), late.changed()).await.is_err());
    }
}
