//! Every effect we want to fake: clock, randomness and ids, guarded HTTP, task supervision and the `Post`
//! trait; a real and a simulated set.
//!
//! Below the composition root nobody asks the operating system for the time or for randomness: they ask
//! the [`World`] they were given, so that a whole gateway can run from one seed.

mod bell;
mod clock;
mod http;
pub mod metrics;
mod pen;
mod post;
mod rng;
mod tasks;
pub mod trace;

use std::sync::Arc;

pub use bell::{Bell, Ear};
pub use clock::{Clock, SimClock, SystemClock};
pub use http::{Guard, Http, HttpError, HttpRequest, HttpResponse, NetPolicy};
pub use metrics::{M, Metrics};
pub use pen::{Pen, Penned, penned, spawn};
pub use post::{Accepted, Post};
pub use rng::{Rng, SeededRng, SystemRng};
pub use tasks::{OnFailure, TaskKind, Tasks};
pub use trace::{Span, SpanKind, Tracer};

/// The outside as one gateway sees it.
#[derive(Clone)]
pub struct World {
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Randomness and ids.
    pub rng: Arc<dyn Rng>,
    /// The one HTTP client.
    pub http: Http,
    /// The supervisor of background tasks.
    pub tasks: Tasks,
    /// What is counted.
    pub metrics: Metrics,
    /// Who begins spans; off until somebody wants them.
    pub tracer: Tracer,
}

impl World {
    /// The real one. Call inside a tokio runtime, after a rustls crypto provider is installed.
    ///
    /// # Errors
    /// When the HTTP client cannot be built (no TLS roots).
    pub fn real() -> Result<Self, HttpError> {
        Ok(Self {
            clock: Arc::new(SystemClock),
            rng: Arc::new(SystemRng),
            http: Http::new()?,
            tasks: Tasks::new(),
            metrics: Metrics::new(),
            tracer: Tracer::off(),
        })
    }

    /// A simulated one: time is tokio's (pause it), randomness comes from `seed`, HTTP refuses everything.
    #[must_use]
    pub fn simulated(seed: u64) -> Self {
        Self {
            clock: Arc::new(SimClock::starting_at(1_767_225_600_000)),
            rng: Arc::new(SeededRng::new(seed)),
            http: Http::refusing(),
            tasks: Tasks::simulated(),
            metrics: Metrics::new(),
            tracer: Tracer::off(),
        }
    }
}
