//! What must hold for a farm whose gateways die, stand still and are cut off: decided from what the chat platform saw, what
//! clients were told, the ownership records and what each gateway says. The numbers are those of the farm's fault matrix.

use std::collections::BTreeMap;

use crate::{
    platform::{Called, What},
    soak::{Fate, Verdict},
};

/// An owner of a unit, as its record said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The epoch.
    pub epoch: u64,
    /// The gateway; empty when it was released.
    pub gateway: String,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What became of the messages that clients were told `ok` for.
    pub fates: Verdict,
    /// How many messages were written on the platform.
    pub written: usize,
    /// Which of them the platform showed an answer to, and how often.
    pub shown: BTreeMap<String, usize>,
    /// Answers of any kind (apologies included).
    pub answers: usize,
    /// Calls at the platform, in the order of their arrival.
    pub calls: Vec<Called>,
    /// Owners of the platform's account, oldest first.
    pub account: Vec<Owner>,
    /// Every unit's owners, oldest first.
    pub owners: BTreeMap<String, Vec<Owner>>,
    /// What each gateway says about who has what: gateway → unit → owner, `*` appended where it acts for the unit itself.
    pub maps: BTreeMap<String, BTreeMap<String, String>>,
}

/// Every violation, with the name of what it breaks.
#[must_use]
pub fn violations(evidence: &Evidence) -> Vec<String> {
    let checks: [(&str, fn(&Evidence) -> Vec<String>); 6] = [
        ("I1 no repeated effect", repeated),
        ("I2 no lost message", lost),
        ("I3 one owner acts", owners),
        ("I5 what was accepted is there", gone),
        ("I12 convergence", apart),
        ("I15 no split-brain reply", split),
    ];
    checks.iter().flat_map(|(name, check)| check(evidence).into_iter().map(move |what| format!("{name}: {what}"))).collect()
}

fn repeated(evidence: &Evidence) -> Vec<String> {
    let twice = evidence.fates.broken.iter().filter(|(_, fate)| matches!(fate, Fate::Twice(_)));
    twice.map(|(mark, fate)| format!("{mark}: {fate:?}")).collect()
}

fn lost(evidence: &Evidence) -> Vec<String> {
    let lost = evidence.fates.broken.iter().filter(|(_, fate)| matches!(fate, Fate::Lost(_)));
    let mut out: Vec<String> = lost.map(|(mark, fate)| format!("{mark}: {fate:?}")).collect();
    if evidence.answers < evidence.written {
        out.push(format!("{} messages were written on the platform, and {} answers were shown", evidence.written, evidence.answers));
    }
    out
}

fn gone(evidence: &Evidence) -> Vec<String> {
    let gone = evidence.fates.broken.iter().filter(|(_, fate)| matches!(fate, Fate::Misplaced(_)));
    gone.map(|(mark, fate)| format!("{mark} does not stand once in its history: {fate:?}")).collect()
}

/// Who sends for the account changes only as its record does, in that order; epochs only grow, by one for each owner.
fn owners(evidence: &Evidence) -> Vec<String> {
    let mut out = Vec::new();
    for (unit, owners) in &evidence.owners {
        for pair in owners.windows(2) {
            if let [before, after] = pair
                && after.epoch <= before.epoch
            {
                out.push(format!("{unit} went from epoch {} ({}) to {} ({})", before.epoch, before.gateway, after.epoch, after.gateway));
            }
        }
    }
    let mut senders: Vec<&str> = evidence.calls.iter().filter(|call| matches!(call.what, What::Sent { .. })).map(|call| call.from.as_str()).collect();
    senders.dedup();
    let mut records = evidence.account.iter();
    let in_order = senders.iter().all(|sender| records.any(|owner| owner.gateway == *sender));
    if !in_order {
        let owned: Vec<String> = evidence.account.iter().map(|owner| format!("{} {}", owner.epoch, owner.gateway)).collect();
        out.push(format!("senders were {senders:?}, owners were {owned:?}"));
    }
    out
}

fn apart(evidence: &Evidence) -> Vec<String> {
    let mut out = Vec::new();
    let bare = |map: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        map.iter().map(|(unit, owner)| (unit.clone(), owner.trim_end_matches('*').to_owned())).collect()
    };
    let mut views = evidence.maps.iter();
    if let Some((first, map)) = views.next() {
        for (other, theirs) in views.filter(|(_, theirs)| bare(theirs) != bare(map)) {
            out.push(format!("{first} says {map:?}, {other} says {theirs:?}"));
        }
    }
    for unit in evidence.maps.values().flat_map(BTreeMap::keys).collect::<std::collections::BTreeSet<_>>() {
        let acting: Vec<&str> =
            evidence.maps.iter().filter(|(_, map)| map.get(unit).is_some_and(|owner| owner.ends_with('*'))).map(|(name, _)| name.as_str()).collect();
        if acting.len() != 1 {
            out.push(format!("{unit} is acted for by {acting:?}"));
        }
    }
    out
}

fn split(evidence: &Evidence) -> Vec<String> {
    evidence.shown.iter().filter(|(_, times)| **times > 1).map(|(mark, times)| format!("{mark} was answered {times} times on the platform")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn good() -> Evidence {
        let owner = |epoch, gateway: &str| Owner { epoch, gateway: gateway.into() };
        let sent = |from: &str| Called { at: Instant::now(), from: from.into(), what: What::Sent { nonce: "n".into() } };
        let owners = vec![owner(1, "two"), owner(2, "three"), owner(3, "two")];
        let map = |acts: &str| -> BTreeMap<String, String> { [("agent.bobby".to_owned(), format!("two{acts}"))].into() };
        Evidence {
            fates: Verdict { answered: 2, ..Verdict::default() },
            written: 2,
            shown: [("msg-000001".to_owned(), 1), ("msg-000002".to_owned(), 1)].into(),
            answers: 2,
            calls: vec![sent("two"), sent("two"), sent("three"), sent("two")],
            account: owners.clone(),
            owners: [("chan.loopback.default".to_owned(), owners)].into(),
            maps: [("one".to_owned(), map("")), ("two".to_owned(), map("*"))].into(),
        }
    }

    #[test]
    fn each_invariant_notices_what_breaks_it() {
        assert_eq!(violations(&good()), Vec::<String>::new());
        let breaks: [(&str, fn(&mut Evidence)); 9] = [
            ("I1", |e| e.fates.broken.push(("a".into(), Fate::Twice(2)))),
            ("I2", |e| e.fates.broken.push(("a".into(), Fate::Lost("none".into())))),
            ("I2", |e| e.written = 3),
            ("I3", |e| e.calls.push(Called { at: Instant::now(), from: "three".into(), what: What::Sent { nonce: "n".into() } })),
            ("I3", |e| e.owners.get_mut("chan.loopback.default").unwrap()[2].epoch = 2),
            ("I5", |e| e.fates.broken.push(("a".into(), Fate::Misplaced(0)))),
            ("I12", |e| drop(e.maps.get_mut("one").unwrap().insert("agent.bobby".into(), "three".into()))),
            ("I12", |e| drop(e.maps.get_mut("one").unwrap().insert("agent.bobby".into(), "two*".into()))),
            ("I15", |e| drop(e.shown.insert("msg-000001".into(), 2))),
        ];
        for (name, hurt) in breaks {
            let mut evidence = good();
            hurt(&mut evidence);
            let found = violations(&evidence);
            assert!(found.iter().any(|what| what.starts_with(&format!("{name} "))), "{name}: {found:?}");
        }
    }
}
