//! Sessions of all gateways in one list: everybody is asked at once, for a short while; who does not answer is named.

use std::{cmp::Reverse, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};

use clawstead_farm::{Farm, link::Call};

/// Lists the sessions here that the asker may see: `{params}`.
pub const SESSIONS: &str = "gateway.sessions";
/// How long the other gateways have. Nobody waits longer for a list.
pub const LIST_LIMIT: Duration = Duration::from_millis(1_500);
/// Rows of a page when the caller names no number; as the method has it.
const PAGE_DEFAULT: u64 = 100;
/// Rows of a page at most; as the method has it.
const PAGE_MAX: u64 = 1_000;

/// Which rows of a list are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    offset: usize,
    limit: usize,
}

impl Page {
    fn of(params: &Value) -> Self {
        let number = |name: &str| params.get(name).and_then(Value::as_u64);
        let small = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Self { offset: small(number("offset").unwrap_or(0)), limit: small(number("limit").unwrap_or(PAGE_DEFAULT).min(PAGE_MAX)) }
    }
}

/// The parameters that each gateway is asked with: everything up to the end of the page, since any row of it may be any
/// gateway's. Rows behind the first 1,000 of one gateway are not in a list of several.
#[must_use]
pub fn widened(params: &Value) -> Value {
    let page = Page::of(params);
    let mut params = if params.is_object() { params.clone() } else { json!({}) };
    if let Some(map) = params.as_object_mut() {
        map.remove("offset");
        map.insert("limit".into(), json!(u64::try_from(page.offset.saturating_add(page.limit)).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX)));
    }
    params
}

/// What the other gateways answered, and who did not, with the reason.
#[derive(Default)]
pub struct Others {
    /// Answers of `sessions.list`.
    pub lists: Vec<Value>,
    /// `(gateway, why)`.
    pub unreachable: Vec<(String, String)>,
}

/// Asks every other gateway at once. `caller` says who asks, as the desks agree.
pub async fn ask(farm: &Farm, params: &Value, caller: &Value) -> Others {
    let mut others = Others::default();
    let mut asked = Vec::new();
    for gateway in farm.membership.gateways().into_iter().filter(|gateway| !gateway.is_self && !gateway.agents.is_empty()) {
        match &farm.links {
            Some(links) if gateway.healthy => asked.push((gateway.name, links.clone())),
            Some(_) => others.unreachable.push((gateway.name, format!("it is {}", gateway.health))),
            None => others.unreachable.push((gateway.name, "there is no link to it: set farm.peer at both gateways".into())),
        }
    }
    let answers = asked.into_iter().map(|(gateway, links)| async move {
        let deadline_ms = u64::try_from(LIST_LIMIT.as_millis()).unwrap_or(u64::MAX);
        let call = Call { caller: caller.clone(), deadline_ms, ..Call::new(SESSIONS, json!({ "params": params })) };
        let answer = tokio::time::timeout(LIST_LIMIT, links.call(&gateway, call)).await;
        (gateway, answer)
    });
    for (gateway, answer) in join_all(answers).await {
        match answer {
            Ok(Ok(list)) => others.lists.push(list),
            Ok(Err(failure)) => others.unreachable.push((gateway, failure.message)),
            Err(_) => others.unreachable.push((gateway, format!("no answer within {} ms", LIST_LIMIT.as_millis()))),
        }
    }
    others
}

/// Puts lists together in the order that was asked for, and cuts the page. `own` gives everything besides the rows.
#[must_use]
pub fn merged(params: &Value, own: Value, others: Others, mut visible: impl FnMut(&Value) -> bool) -> Value {
    let page = Page::of(params);
    let (mut rows, mut total) = (Vec::new(), 0_u64);
    let mut take = |list: &Value, keep: &mut dyn FnMut(&Value) -> bool| {
        let all = list["sessions"].as_array().map_or(&[][..], Vec::as_slice);
        let kept: Vec<Value> = all.iter().filter(|row| keep(row)).cloned().collect();
        let hidden = u64::try_from(all.len() - kept.len()).unwrap_or(0);
        total += list["totalCount"].as_u64().unwrap_or(0).saturating_sub(hidden);
        rows.extend(kept);
    };
    take(&own, &mut |_| true);
    for list in &others.lists {
        take(list, &mut visible);
    }
    let at = |row: &Value, name: &str| row.get(name).and_then(Value::as_i64);
    // Stable: rows of one gateway keep their order.
    match params.get("sortBy").and_then(Value::as_str) {
        Some("lastInteractionAt") => rows.sort_by_key(|row| Reverse(at(row, "lastInteractionAt"))),
        Some("activity") => rows.sort_by_key(|row| Reverse((row["hasActiveRun"] == json!(true), at(row, "lastInteractionAt"), at(row, "updatedAt")))),
        _ => rows.sort_by_key(|row| Reverse(at(row, "updatedAt"))),
    }
    let shown: Vec<Value> = rows.into_iter().skip(page.offset).take(page.limit).collect();
    let next = u64::try_from(page.offset.saturating_add(shown.len())).unwrap_or(u64::MAX);
    let more = next < total && !shown.is_empty();
    let mut out = own;
    out["count"] = json!(shown.len());
    out["totalCount"] = json!(total);
    out["limitApplied"] = json!(page.limit);
    out["nextOffset"] = if more { json!(next) } else { Value::Null };
    out["hasMore"] = json!(more);
    out["sessions"] = Value::Array(shown);
    if !others.unreachable.is_empty() {
        out["unreachable"] = others.unreachable.into_iter().map(|(gateway, why)| json!({ "gateway": gateway, "why": why })).collect();
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Others, merged, widened};

    fn list(total: u64, rows: &[(&str, i64)]) -> Value {
        let rows: Vec<Value> =
            rows.iter().map(|(key, at)| json!({"key": key, "updatedAt": at, "lastInteractionAt": 1_000 - at, "hasActiveRun": *at == 2})).collect();
        json!({"ts": 1, "path": "(multiple)", "totalCount": total, "sessions": rows})
    }

    fn keys(list: &Value) -> Vec<&str> {
        list["sessions"].as_array().unwrap().iter().filter_map(|row| row["key"].as_str()).collect()
    }

    #[test]
    fn lists_of_several_gateways_are_one_list_in_order() {
        let others = || Others { lists: vec![list(2, &[("b9", 9), ("b2", 2)]), list(1, &[("c5", 5)])], unreachable: vec![("d".into(), "it is silent".into())] };
        let own = || list(2, &[("a7", 7), ("a1", 1)]);
        let all = merged(&json!({}), own(), others(), |_| true);
        assert_eq!(keys(&all), ["b9", "a7", "c5", "b2", "a1"]);
        assert_eq!((&all["count"], &all["totalCount"], &all["hasMore"], &all["nextOffset"]), (&json!(5), &json!(5), &json!(false), &Value::Null));
        assert_eq!(all["unreachable"], json!([{"gateway": "d", "why": "it is silent"}]));
        let second = merged(&json!({"offset": 2, "limit": 2}), own(), others(), |_| true);
        assert_eq!((keys(&second), &second["nextOffset"], &second["limitApplied"]), (vec!["c5", "b2"], &json!(4), &json!(2)));
        assert_eq!(keys(&merged(&json!({"sortBy": "lastInteractionAt"}), own(), others(), |_| true))[0], "a1");
        assert_eq!(keys(&merged(&json!({"sortBy": "activity"}), own(), others(), |_| true))[0], "b2");
        let hidden = merged(&json!({}), own(), others(), |row| row["key"] != "b2");
        assert_eq!((keys(&hidden).len(), &hidden["totalCount"]), (4, &json!(4)));
        let alone = merged(&json!({}), own(), Others::default(), |_| true);
        assert!(alone.get("unreachable").is_none(), "nobody is missing");
    }

    #[test]
    fn each_gateway_is_asked_for_everything_up_to_the_end_of_the_page() {
        assert_eq!(widened(&json!({"offset": 40, "limit": 20, "label": "x"})), json!({"limit": 60, "label": "x"}));
        assert_eq!(widened(&Value::Null), json!({"limit": 100}));
        assert_eq!(widened(&json!({"offset": 5_000})), json!({"limit": 1_000}));
    }
}
