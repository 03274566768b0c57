//! The page that Prometheus reads: at the path, with the rights and in the format of the original's exporter.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Router, extract::State, response::IntoResponse, response::Response, routing::get};
use clawstead_agent::Lanes;
use clawstead_wire::Scope;
use clawstead_world::{M, World};
use http::{StatusCode, header};
use tokio::{sync::Mutex, time::Instant};

use super::process;
use crate::{
    doors::{HttpCaller, error_response},
    fanout::Fanout,
    farm::Cell,
};

/// Where the page is.
pub const PATH: &str = "/api/diagnostics/prometheus";
/// Rows are read at most this often, however often somebody asks.
const ROWS_EVERY: Duration = Duration::from_secs(2);

/// Reads what nobody counts: how full things are now.
pub struct Collector {
    /// Metrics and clock.
    pub world: World,
    /// Turns.
    pub lanes: Lanes,
    /// Connections.
    pub fanout: Fanout,
    /// The farm, where there is one.
    pub farm: Cell,
    /// When rows were read.
    pub rows_read: Mutex<Option<Instant>>,
}

impl Collector {
    /// Brings gauges up to date.
    pub async fn collect(&self) {
        let metrics = &self.world.metrics;
        if !metrics.is_on() {
            return;
        }
        process::read(metrics);
        let figures = self.lanes.figures();
        let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        metrics.set(M::Connections, &[], count(self.fanout.listeners()));
        metrics.set(M::LaneSize, &["main"], count(figures.running));
        metrics.set(M::SessionQueue, &["processing"], count(figures.running));
        metrics.set(M::SessionQueue, &["waiting"], count(figures.waiting));
        let Some(farm) = self.farm.get() else { return };
        // Held while rows are read: whoever asks meanwhile gets the same figures.
        let mut read = self.rows_read.lock().await;
        if read.is_some_and(|at| at.elapsed() < ROWS_EVERY) {
            return;
        }
        if let Err(failure) = farm.measure(metrics, self.world.clock.now()).await {
            tracing::debug!(err = %failure, "letters cannot be counted now");
        }
        *read = Some(Instant::now());
    }
}

/// The route of the page.
pub fn routes(collector: Arc<Collector>) -> Router {
    Router::new().route(PATH, get(page)).with_state(collector)
}

async fn page(State(collector): State<Arc<Collector>>, Extension(HttpCaller(caller)): Extension<HttpCaller>) -> Response {
    if !caller.may(Scope::Read) {
        return error_response(StatusCode::FORBIDDEN, "missing scope: operator.read", "forbidden");
    }
    collector.collect().await;
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (headers, collector.world.metrics.text()).into_response()
}
