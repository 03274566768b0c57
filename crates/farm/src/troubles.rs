//! How the engines answer now, and which letters and calls were refused and why: for `farm status` and `doctor`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clawstead_bus::MailBox;
use serde_json::{Value, json};

use crate::Farm;

/// An engine that needs longer for something small is called slow.
const SLOW: Duration = Duration::from_millis(1_000);
/// No answer within this time is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Something small that every farm has.
const SMALL: &str = "openclaw/cluster/id";
/// What is not taken is counted under this name and the reason's code.
const REJECTED: &str = "farm.msg.rejected.";

/// What an engine answered: after how long, or why not.
type Answered = Result<Duration, String>;

async fn timed<T, E: std::fmt::Display>(asking: impl Future<Output = Result<T, E>>) -> Answered {
    let began = Instant::now();
    match tokio::time::timeout(ANSWER_WITHIN, asking).await {
        Ok(Ok(_)) => Ok(began.elapsed()),
        Ok(Err(err)) => Err(err.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
    }
}

/// What `farm status` says of an engine, and the problem where there is one. `known` is why it is away already.
fn engine(name: &str, what: &str, answered: Answered, known: Option<String>) -> (Value, Option<String>) {
    let answered = match known {
        Some(why) => Err(why),
        None => answered,
    };
    match answered {
        Ok(took) => {
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let slow = (took >= SLOW).then(|| format!("{what}: {name} is slow, it answers after {ms} ms"));
            (json!({"engine": name, "ok": true, "ms": ms}), slow)
        }
        Err(why) => {
            let problem = format!("{what}: {why}");
            (json!({"engine": name, "ok": false, "why": why}), Some(problem))
        }
    }
}

/// Asks both engines something small, at once. Writes `coord` and `bus`, and adds what is wrong to `problems`.
pub(crate) async fn look(farm: &Farm, out: &mut Value) {
    let (coord, own) = (farm.coord(), MailBox::Gateway(farm.membership.me().gateway.clone()));
    let (kept, carried) = tokio::join!(timed(coord.get(SMALL)), timed(farm.bus.depth(&own)));
    let lost = farm.membership.lost();
    let told = lost.is_some();
    let (coord, coord_problem) = engine(coord.engine(), "the coordination store", kept, lost);
    let (bus, bus_problem) = engine(farm.bus.engine(), "letters", carried, None);
    (out["coord"], out["bus"]) = (coord, bus);
    if let Some(problems) = out["problems"].as_array_mut() {
        // Membership tells of a store that is away in words of its own.
        problems.extend(coord_problem.filter(|_| !told).into_iter().chain(bus_problem).map(Value::from));
    }
}

/// How often something was not taken since the start, by the reason's code.
pub(crate) fn refused(counts: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    counts.iter().filter_map(|(name, count)| Some((name.strip_prefix(REJECTED)?.to_owned(), *count))).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::{engine, refused};

    #[test]
    fn engines_are_well_slow_or_away() {
        let (shown, problem) = engine("consul", "the coordination store", Ok(Duration::from_millis(3)), None);
        assert!(shown["ok"] == true && shown["ms"] == 3 && problem.is_none());
        let (shown, problem) = engine("redis", "letters", Ok(Duration::from_millis(1_700)), None);
        assert_eq!((shown["ok"] == true, problem.as_deref()), (true, Some("letters: redis is slow, it answers after 1700 ms")));
        let (shown, problem) = engine("redis", "letters", Err("no answer within 3 s".into()), None);
        assert!(shown["ok"] == false && problem.as_deref() == Some("letters: no answer within 3 s"));
        let (shown, _) = engine("consul", "the coordination store", Ok(Duration::ZERO), Some("no leader".into()));
        assert_eq!(shown["why"], "no leader", "what is known for longer is told");
    }

    #[test]
    fn refusals_are_counted_by_their_reason() {
        let counts = BTreeMap::from([("farm.msg.rejected.forbidden".to_owned(), 3), ("farm.msg.acked".to_owned(), 7)]);
        assert_eq!(refused(&counts), BTreeMap::from([("forbidden".to_owned(), 3)]));
    }
}
