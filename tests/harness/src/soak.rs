//! The ledger check: what became of every numbered message the gateway said `ok` to.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    client::{Client, message_text},
    mock::marks_of,
};

/// A message the gateway accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Accepted {
    /// Its number as text: `msg-000042`.
    pub mark: String,
    /// The session it went to.
    pub session: String,
    /// The run (the idempotency key).
    pub run: String,
}

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Exactly one answer in the history.
    Answered,
    /// No answer, and the run says so: `unknown`, `error`, `interrupted`, ... with this word.
    Marked(String),
    /// Neither an answer nor a mark.
    Lost(String),
    /// More than one answer.
    Twice(usize),
    /// The message itself is not in the history exactly once.
    Misplaced(usize),
}

/// The result of a soak.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Answered exactly once.
    pub answered: usize,
    /// Reported as not answered.
    pub marked: BTreeMap<String, usize>,
    /// What must not be: mark and fate.
    pub broken: Vec<(String, Fate)>,
}

impl Verdict {
    /// Sorts the fates.
    #[must_use]
    pub fn of(fates: impl IntoIterator<Item = (String, Fate)>) -> Self {
        let mut verdict = Self::default();
        for (mark, fate) in fates {
            match fate {
                Fate::Answered => verdict.answered += 1,
                Fate::Marked(word) => *verdict.marked.entry(word).or_default() += 1,
                bad => verdict.broken.push((mark, bad)),
            }
        }
        verdict
    }
}

/// Asks the gateway what became of the accepted messages. All runs must have come to rest before.
///
/// # Errors
/// When the gateway cannot be asked.
pub async fn judge(client: &mut Client, accepted: &[Accepted]) -> anyhow::Result<Verdict> {
    let mut histories: BTreeMap<&str, Tally> = BTreeMap::new();
    for one in accepted {
        if !histories.contains_key(one.session.as_str()) {
            let history = client.call("chat.history", json!({"sessionKey": one.session, "limit": 1000})).await?;
            histories.insert(&one.session, Tally::of(history["messages"].as_array().map_or(&[], Vec::as_slice)));
        }
    }
    let mut fates = Vec::new();
    for one in accepted {
        let tally = &histories[one.session.as_str()];
        let fate = match (tally.asked.get(&one.mark).copied().unwrap_or(0), tally.answered.get(&one.mark).copied().unwrap_or(0)) {
            (1, 1) => Fate::Answered,
            (1, 0) => rest(client, &one.run).await?,
            (1, more) => Fate::Twice(more),
            (asked, _) => Fate::Misplaced(asked),
        };
        fates.push((one.mark.clone(), fate));
    }
    Ok(Verdict::of(fates))
}

/// What the run itself says when the history has no answer.
async fn rest(client: &mut Client, run: &str) -> anyhow::Result<Fate> {
    let end = client.call("agent.wait", json!({"runId": run, "timeoutMs": 100})).await?;
    let status = end["status"].as_str().unwrap_or("none");
    Ok(match status {
        "error" | "unknown" | "failed" | "aborted" | "interrupted" => Fate::Marked(status.to_owned()),
        other => Fate::Lost(format!("agent.wait says {other}")),
    })
}

/// How often each mark was asked and answered in a history.
#[derive(Debug, Default)]
struct Tally {
    asked: BTreeMap<String, usize>,
    answered: BTreeMap<String, usize>,
}

impl Tally {
    fn of(messages: &[Value]) -> Self {
        let mut tally = Self::default();
        for message in messages {
            let Some(text) = message_text(message) else { continue };
            let side = match message["role"].as_str() {
                Some("user") => &mut tally.asked,
                Some("assistant") => &mut tally.answered,
                _ => continue,
            };
            for mark in marks_of(&text) {
                *side.entry(mark).or_default() += 1;
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Fate, Tally, Verdict};

    #[test]
    fn a_history_is_counted() {
        let tally = Tally::of(&[
            json!({"role": "user", "content": "msg-000001"}),
            json!({"role": "assistant", "content": [{"type": "text", "text": "echo: msg-000001"}]}),
            json!({"role": "assistant", "content": [{"type": "text", "text": "echo: msg-000001"}]}),
            json!({"role": "user", "content": [{"type": "text", "text": "msg-000002"}]}),
        ]);
        assert_eq!((tally.asked["msg-000001"], tally.answered["msg-000001"], tally.answered.get("msg-000002")), (1, 2, None));
        let verdict = Verdict::of([("a".into(), Fate::Answered), ("b".into(), Fate::Twice(2)), ("c".into(), Fate::Marked("unknown".into()))]);
        assert_eq!((verdict.answered, verdict.marked["unknown"], verdict.broken.len()), (1, 1, 1));
    }
}
