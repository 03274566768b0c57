//! Sessions and runs as the gateway's rooms ask for them: the lanes, with the config's agents in view.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_agent::{ArchiveFilter, Lanes, OutboxRow, RunRow, SessionFilter, SessionRow, Settings as _};
use clawstead_config::Config;
use clawstead_state::{Scan, Table};
use clawstead_terms::{AgentId, Failure, Millis, RunId, SessionKey, Unit, Usage};
use clawstead_world::World;

use crate::{cron::RunDesk, keeper::Keeper, outbox::Outbox, settings::Agents};

/// How long one wait for a run's end lasts before it is renewed.
const WAIT_STEP: Duration = Duration::from_secs(3_600);
/// Runs read for a cost overview.
const RUNS_READ_MAX: usize = 50_000;

/// See the module.
pub struct Desk {
    lanes: Lanes,
    config: Arc<ArcSwap<Config>>,
    keeper: Keeper,
    outbox: Outbox,
    settings: Arc<Agents>,
    world: World,
}

impl Desk {
    /// Over these lanes.
    #[must_use]
    pub fn new(lanes: Lanes, config: Arc<ArcSwap<Config>>, keeper: Keeper, outbox: Outbox, settings: Arc<Agents>, world: World) -> Self {
        Self { lanes, config, keeper, outbox, settings, world }
    }

    /// The lanes.
    #[must_use]
    pub const fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// An agent of the config; the default one without a name.
    ///
    /// # Errors
    /// `InvalidRequest` for one that is not there.
    pub fn agent(&self, id: Option<&str>) -> Result<AgentId, Failure> {
        let config = self.config.load();
        let Some(id) = id else { return Ok(config.default_agent().clone()) };
        let id = AgentId::normalise(id);
        if config.agents.get(id.as_str()).is_some() {
            return Ok(id);
        }
        Err(Failure::invalid(format!("unknown agent id \"{id}\"")))
    }

    /// The session a client means: a full key, or a short one of the named or default agent.
    ///
    /// # Errors
    /// `InvalidRequest` for a key that cannot be read or an unknown agent.
    pub fn key(&self, text: &str, agent: Option<&str>) -> Result<SessionKey, Failure> {
        let default = self.agent(agent)?;
        SessionKey::resolve(text, &default).map_err(|e| Failure::invalid(e.to_string()))
    }

    /// All sessions of an agent.
    #[must_use]
    pub fn rows(&self, agent: &AgentId) -> Vec<Arc<SessionRow>> {
        let all = SessionFilter { agent: Some(agent.clone()), archived: ArchiveFilter::Show, limit: usize::MAX, ..SessionFilter::default() };
        self.lanes.list(&all).rows
    }

    /// One session.
    #[must_use]
    pub fn row(&self, key: &SessionKey) -> Option<Arc<SessionRow>> {
        self.lanes.session(key)
    }

    /// Tokens and cost of each of the last `days` days, oldest first, from the run ledger.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn usage_by_day(&self, agents: &[AgentId], days: u64) -> Result<Vec<Value>, Failure> {
        let zone = jiff::tz::TimeZone::system();
        let day_of = |at: Millis| jiff::Timestamp::from_millisecond(at.0).map(|t| t.to_zoned(zone.clone()).date()).ok();
        let Some(today) = day_of(self.world.clock.now()) else { return Ok(Vec::new()) };
        let mut list: Vec<(jiff::civil::Date, Usage)> = (0..days)
            .rev()
            .filter_map(|back| today.checked_sub(jiff::Span::new().days(i64::try_from(back).unwrap_or(0))).ok())
            .map(|day| (day, Usage::default()))
            .collect();
        for agent in agents {
            let rows = self.keeper.scan::<RunRow>(&Unit::Agent(agent.clone()), Table::Runs, &Scan { limit: RUNS_READ_MAX, ..Scan::prefix("") }).await?;
            for row in rows {
                let day = row.value.ended_at.and_then(day_of);
                if let Some((_, sum)) = list.iter_mut().find(|(date, _)| Some(*date) == day) {
                    sum.add(&row.value.usage);
                }
            }
        }
        Ok(list
            .into_iter()
            .map(|(day, u)| {
                json!({"date": day.to_string(), "input": u.input, "output": u.output, "cacheRead": u.cache_read, "cacheWrite": u.cache_write, "totalTokens": u.total(), "totalCost": u.cost_usd, "inputCost": 0, "outputCost": 0, "cacheReadCost": 0, "cacheWriteCost": 0, "missingCostEntries": 0})
            })
            .collect())
    }

    /// The settings of an agent as its lanes have them.
    #[must_use]
    pub fn settings(&self, agent: &AgentId) -> Option<Arc<clawstead_agent::AgentSettings>> {
        self.settings.agent(agent)
    }

    /// The workspace of an agent.
    #[must_use]
    pub fn workspace(&self, agent: &AgentId) -> Option<PathBuf> {
        self.config.load().agents.get(agent.as_str()).map(|a| a.workspace.clone())
    }
}

#[async_trait]
impl RunDesk for Desk {
    async fn ended(&self, _: &AgentId, run: &RunId) -> Result<RunRow, Failure> {
        loop {
            if let Some(row) = self.lanes.wait(run, WAIT_STEP).await? {
                return Ok(row);
            }
            if self.lanes.report(run).await?.is_none() {
                return Err(Failure::not_found(format!("there is no run {run}")));
            }
        }
    }

    async fn session(&self, key: &SessionKey) -> Option<Arc<SessionRow>> {
        self.row(key)
    }

    async fn delivered(&self, agent: &AgentId, run: &RunId, limit: Duration) -> Option<OutboxRow> {
        self.outbox.ended(agent, run, limit).await
    }

    async fn heartbeat_file(&self, agent: &AgentId) -> Option<String> {
        let path = self.workspace(agent)?.join("HEARTBEAT.md");
        self.world.tasks.blocking(move || std::fs::read_to_string(path).ok()).await.flatten()
    }

    async fn forget_cron_sessions(&self, agent: &AgentId, age_ms: i64) {
        let now = self.world.clock.now();
        let old: Vec<SessionKey> = self
            .rows(agent)
            .into_iter()
            .filter(|row| row.key.is_cron() && row.key.rest().contains(":run:") && !row.has_active_run() && now.since(row.updated_at) > age_ms)
            .map(|row| row.key.clone())
            .collect();
        for key in old {
            if let Err(failure) = self.lanes.delete(&key).await {
                tracing::warn!(session = %key, err = %failure, "an old cron session could not be removed");
            }
        }
    }
}
