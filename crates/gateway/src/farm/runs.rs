//! Which gateway has a run: remembered for the calls that were passed on, asked for otherwise.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

use clawstead_agent::Lanes;
use clawstead_farm::{Farm, link::Call};
use clawstead_terms::{Failure, RunId};
use futures_util::{StreamExt as _, stream::FuturesUnordered};

/// Asks a gateway whether it has a run: `{runId}` gives `{known}`.
pub const RUN: &str = "gateway.run";
/// Runs elsewhere that are remembered; the oldest is forgotten.
const RUNS_MAX: usize = 4_096;
/// How long the other gateways have to say whether a run is theirs.
const ASK_LIMIT: Duration = Duration::from_millis(1_500);
/// Methods about one run, with the parameter that names it.
const ABOUT_A_RUN: [(&str, &str); 6] = [
    ("agent.wait", "runId"),
    ("chat.abort", "runId"),
    ("sessions.abort", "runId"),
    ("artifacts.list", "runId"),
    ("tasks.get", "taskId"),
    ("tasks.cancel", "taskId"),
];

/// The run that a call is about.
#[must_use]
pub fn run_named<'a>(method: &str, params: &'a Value) -> Option<&'a str> {
    let (_, name) = ABOUT_A_RUN.iter().find(|(known, _)| *known == method)?;
    params.get(name)?.as_str().filter(|run| !run.is_empty())
}

#[derive(Default)]
struct Seen {
    gateways: BTreeMap<String, String>,
    order: VecDeque<String>,
}

/// Runs of calls that were passed on.
#[derive(Default)]
pub struct Runs(Mutex<Seen>);

impl Runs {
    /// This run is that gateway's.
    pub fn remember(&self, run: &str, gateway: &str) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.gateways.insert(run.to_owned(), gateway.to_owned()).is_none() {
            seen.order.push_back(run.to_owned());
            if seen.order.len() > RUNS_MAX
                && let Some(oldest) = seen.order.pop_front()
            {
                seen.gateways.remove(&oldest);
            }
        }
    }

    /// What a call that was passed on begins: its own key is the run's id.
    pub fn remember_call(&self, params: &Value, gateway: &str) {
        if let Some(run) = params.get("idempotencyKey").and_then(Value::as_str).filter(|run| !run.is_empty()) {
            self.remember(run, gateway);
        }
    }

    fn known(&self, run: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).gateways.get(run).cloned()
    }

    /// The other gateway that has a run; none when it is ours, or nobody knows it.
    pub async fn gateway_of(&self, farm: &Farm, lanes: &Lanes, run: &str) -> Option<String> {
        if let Some(gateway) = self.known(run) {
            return Some(gateway);
        }
        let id = RunId::from(run);
        if lanes.report(&id).await.ok().flatten().is_some() || farm.mailroom.find(run).await.ok().flatten().is_some() {
            return None;
        }
        let links = farm.links.as_ref()?;
        let mut asked: FuturesUnordered<_> = farm
            .membership
            .peers()
            .into_iter()
            .map(|peer| async move {
                let call = Call { deadline_ms: u64::try_from(ASK_LIMIT.as_millis()).unwrap_or(u64::MAX), ..Call::new(RUN, json!({ "runId": run })) };
                let answer = links.call(&peer, call).await;
                (peer, answer.is_ok_and(|answer| answer["known"] == json!(true)))
            })
            .collect();
        let found = tokio::time::timeout(ASK_LIMIT, async {
            while let Some((peer, known)) = asked.next().await {
                if known {
                    return Some(peer);
                }
            }
            None
        });
        let peer = found.await.ok().flatten()?;
        self.remember(run, &peer);
        Some(peer)
    }
}

/// The answer to [`RUN`].
///
/// # Errors
/// When the ledger cannot be read.
pub async fn known_here(lanes: &Lanes, params: &Value) -> Result<Value, Failure> {
    let run = params.get("runId").and_then(Value::as_str).ok_or_else(|| Failure::invalid("runId is missing"))?;
    Ok(json!({ "known": lanes.report(&RunId::from(run)).await?.is_some() }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{RUNS_MAX, Runs, run_named};

    #[test]
    fn calls_about_runs_are_known() {
        assert_eq!(run_named("agent.wait", &json!({"runId": "r"})), Some("r"));
        assert_eq!(run_named("tasks.get", &json!({"taskId": "t"})), Some("t"));
        assert_eq!(run_named("chat.abort", &json!({"sessionKey": "main"})), None);
        assert_eq!(run_named("cron.runs", &json!({"runId": "r"})), None, "a run of cron is this gateway's");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let runs = Runs::default();
        for n in 0..=RUNS_MAX {
            runs.remember_call(&json!({"idempotencyKey": format!("run-{n}")}), "bobby-gateway");
            runs.remember_call(&json!({"idempotencyKey": format!("run-{n}")}), "bobby-gateway");
        }
        runs.remember_call(&json!({"sessionKey": "no run"}), "bobby-gateway");
        assert_eq!(runs.known("run-0"), None);
        assert_eq!(runs.known("run-1").as_deref(), Some("bobby-gateway"));
        assert_eq!(runs.known(&format!("run-{RUNS_MAX}")).as_deref(), Some("bobby-gateway"));
    }
}
