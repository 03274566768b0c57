//! Consul keeps the promises, with one server and with three of which the leader is killed.

mod engines;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use clawstead_bus::{
    Bus, CasError, Change, Coord, CoordError, Delivery, MailBox, Member, Published, Sealed, Version,
    conformance::{self, Rig},
    consul::{Consul, Settings},
};
use engines::{consul::Cluster, percentile, until, world};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(15);

/// All servers of a cluster.
struct Servers(Cluster);

impl Servers {
    fn client(&self) -> Consul {
        // More than the budget, or a burst of a thousand takes its time; the budget has a test of its own.
        let settings = Settings { letters_per_second: 500, burst: 500, ..Settings::at(self.0.urls()) };
        Consul::new(&settings, &world()).unwrap()
    }
}

#[async_trait]
impl Rig for Servers {
    async fn coord(&self) -> Result<Arc<dyn Coord>, String> {
        Ok(self.client().coord())
    }

    async fn bus(&self) -> Result<Arc<dyn Bus>, String> {
        Ok(self.client().bus())
    }

    async fn stop(&self) -> Result<(), String> {
        for server in &self.0.servers {
            server.kill().await;
        }
        Ok(())
    }

    async fn start(&self) -> Result<(), String> {
        for server in &self.0.servers {
            server.start();
        }
        Ok(())
    }

    fn again_within(&self) -> Duration {
        Duration::from_secs(1)
    }
}

#[tokio::test]
async fn one_server() {
    let Some(cluster) = Cluster::start(1, json!({})).await else { return };
    let rig = Servers(cluster);
    assert_eq!(conformance::coord(&rig, "1").await, Ok(16));
    assert_eq!(conformance::bus(&rig, "1").await, Ok(10));
}

#[tokio::test]
async fn three_servers() {
    let Some(cluster) = Cluster::start(3, json!({})).await else { return };
    let rig = Servers(cluster);
    assert_eq!(conformance::coord(&rig, "1").await, Ok(16));
    assert_eq!(conformance::bus(&rig, "1").await, Ok(10));
}
