//! The gateway as it is seen from outside: figures for Prometheus, spans and figures for OpenTelemetry, events of the
//! farm for clients. What is counted is counted where it happens ([`clawstead_world::Metrics`]); here it is read.

mod calls;
mod collect;
mod farm_events;
mod otlp;
mod process;

use clawstead_config::Config;
use clawstead_world::{M, World};

pub(crate) use calls::{delivered, delivery, settled};
pub use calls::{http, measured, message, received, relayed, traceparent};
pub use collect::{Collector, PATH, routes};
pub use farm_events::broadcast;

/// Begins to count, and to send spans and figures where the config wants that.
pub fn begin(config: &Config, world: &World, version: &str, instance: &str, gateway: &str) {
    if !config.diagnostics.enabled {
        world.metrics.switch_off();
        return;
    }
    world.metrics.set(M::BuildInfo, &[instance, version], 1.0);
    // There from the start, so that the first one is an increase.
    for kind in ["reply", "tool"] {
        world.metrics.add(M::UncertainEffects, &[kind], 0.0);
    }
    if let Some(otel) = &config.diagnostics.otel {
        otlp::start(
            otel,
            world,
            &otlp::Resource { service: otel.service_name.clone(), version: version.into(), instance: instance.into(), gateway: gateway.into() },
        );
    }
}
