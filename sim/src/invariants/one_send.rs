//! An effect id is seen by people at most once, always with the same text, and a run has at most one reply.

use std::collections::BTreeMap;

use clawstead_agent::turn;

use crate::evidence::Evidence;

pub fn check(evidence: &Evidence) -> Vec<String> {
    let mut faults = Vec::new();
    let mut shown: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let replies: BTreeMap<String, &str> = evidence.runs.keys().map(|(_, run)| (turn::reply_id(&run.as_str().into()), run.as_str())).collect();
    for arrival in &evidence.arrivals {
        let texts = shown.entry(&arrival.effect_id).or_default();
        if arrival.shown {
            texts.push(&arrival.text);
            if texts.len() > 1 {
                faults.push(format!("{} of account {} was shown {} times: {texts:?}", arrival.effect_id, arrival.account, texts.len()));
            }
        } else if !texts.contains(&arrival.text.as_str()) {
            faults.push(format!("{} came again with another text: {texts:?} and {:?}", arrival.effect_id, arrival.text));
        }
        if !replies.contains_key(&arrival.effect_id) {
            faults.push(format!("{} is no reply of any run: {:?}", arrival.effect_id, arrival.text));
        }
    }
    let mut of_run: BTreeMap<&str, usize> = BTreeMap::new();
    for reply in &evidence.replies {
        *of_run.entry(reply.run_id.as_str()).or_default() += 1;
    }
    faults.extend(of_run.into_iter().filter(|(_, count)| *count > 1).map(|(run, count)| format!("run {run} has {count} replies")));
    faults
}
