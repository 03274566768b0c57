//! What must hold for letters between gateways whatever happens: one file each, decided from what the outside can see. The
//! numbers are those of the farm's fault matrix.

mod bounded_sends;
mod in_time;
mod no_repeat;
mod none_lost;
mod order;
mod secrets;

use std::collections::BTreeMap;

use serde_json::Value;

/// A message that a gateway said it took.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taken {
    /// Its number as text, `msg-000042`, which is in its body.
    pub mark: String,
    /// The session it is for. Messages of one session were given one after another.
    pub session: String,
    /// The run it asks for.
    pub run: String,
}

/// What was found after a run.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What the client was told `accepted` for, in this order.
    pub taken: Vec<Taken>,
    /// Marks that reached the target's work, by session, in the order of its history.
    pub handled: BTreeMap<String, Vec<String>>,
    /// Rows of the sender's outbox (`row`, `head`, `run`, `history`, ...).
    pub sent: Vec<Value>,
    /// Rows of the sender's dead letters.
    pub dead: Vec<Value>,
    /// Rows of the receiver's inbox.
    pub received: Vec<Value>,
    /// Logs and what else must not tell secrets: name and text.
    pub texts: Vec<(String, String)>,
    /// A word that is in every body.
    pub canary: String,
}

/// An invariant: its name, and what breaks it.
pub struct Invariant {
    /// `I1`, as in the matrix, and what it says.
    pub name: &'static str,
    /// One sentence for each violation.
    pub check: fn(&Evidence) -> Vec<String>,
}

/// All of them.
pub const INVARIANTS: [Invariant; 6] =
    [no_repeat::INVARIANT, none_lost::INVARIANT, bounded_sends::INVARIANT, in_time::INVARIANT, order::INVARIANT, secrets::INVARIANT];

/// Every violation, with the name of what it breaks.
#[must_use]
pub fn violations(evidence: &Evidence) -> Vec<String> {
    INVARIANTS.iter().flat_map(|one| (one.check)(evidence).into_iter().map(move |what| format!("{}: {what}", one.name))).collect()
}

/// The text at a place of a row.
fn text<'a>(row: &'a Value, place: &str) -> &'a str {
    row.pointer(place).and_then(Value::as_str).unwrap_or_default()
}

/// The row of the outbox of a run.
fn row_of<'a>(evidence: &'a Evidence, run: &str) -> Option<&'a Value> {
    evidence.sent.iter().find(|row| row["run"] == run)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Evidence, Taken, violations};

    fn good() -> Evidence {
        let taken = |n: u32| Taken { mark: format!("msg-{n:06}"), session: "agent:bobby:a".into(), run: format!("run-{n}") };
        let sent = |n: u32, state: &str| {
            json!({"row": {"message_id": format!("id-{n}"), "state": state, "sends": 2, "expires_at": 9_000}, "run": format!("run-{n}"),
                "head": {"message_id": format!("id-{n}"), "expires_at": 9_000}, "history": []})
        };
        Evidence {
            taken: vec![taken(1), taken(2), taken(3)],
            handled: [("agent:bobby:a".to_owned(), vec!["msg-000001".to_owned(), "msg-000002".to_owned()])].into(),
            sent: vec![sent(1, "acked"), sent(2, "acked"), sent(3, "dead-letter")],
            dead: vec![json!({"reason": "expired", "head": {"message_id": "id-3"}})],
            received: vec![json!({"head": {"message_id": "id-1", "expires_at": 9_000}, "history": [{"at": 100, "event": "processing"}]})],
            texts: vec![("log".into(), "all is well".into())],
            canary: "CANARY".into(),
        }
    }

    #[test]
    fn each_invariant_notices_what_breaks_it() {
        assert_eq!(violations(&good()), Vec::<String>::new());
        let breaks: [(&str, fn(&mut Evidence)); 8] = [
            ("I1", |e| e.handled.get_mut("agent:bobby:a").unwrap().push("msg-000002".into())),
            ("I2", |e| drop(e.handled.get_mut("agent:bobby:a").unwrap().pop())),
            ("I2", |e| drop(e.sent.remove(0))),
            ("I2", |e| e.sent[1]["row"]["state"] = json!("queued")),
            ("I2", |e| e.dead.clear()),
            ("I6", |e| e.sent[0]["row"]["sends"] = json!(13)),
            ("I13", |e| e.handled.get_mut("agent:bobby:a").unwrap().reverse()),
            ("I14", |e| e.texts[0].1.push_str("... CANARY ...")),
        ];
        for (name, hurt) in breaks {
            let mut evidence = good();
            hurt(&mut evidence);
            let found = violations(&evidence);
            assert!(found.iter().any(|what| what.starts_with(&format!("{name} "))), "{name}: {found:?}");
        }
        let mut late = good();
        late.received[0]["history"][0]["at"] = json!(9_001);
        assert!(violations(&late)[0].starts_with("I7 "));
    }
}
