//! The keys.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{
    ENGINE,
    client::{Answer, Ask, Client, in_path},
    service, watch,
};
use crate::{CasError, Change, Check, Coord, CoordError, Entry, Member, Op, Version, rules};

pub(super) struct ConsulCoord {
    client: Arc<Client>,
    wait: Duration,
}

/// A key as Consul shows it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    key: String,
    value: Option<String>,
    modify_index: u64,
}

/// The answer to a transaction.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Outcome {
    results: Option<Vec<Result_>>,
    errors: Option<Vec<Error_>>,
}

#[derive(Deserialize)]
struct Result_ {
    #[serde(rename = "KV")]
    pair: Option<Pair>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Error_ {
    op_index: usize,
    what: String,
}

/// How a transaction ended that was answered.
pub(super) enum Txn {
    /// The new versions of the keys that were set, in their order.
    Done(Vec<Version>),
    /// Nothing was written: this part, and the server's words.
    Refused(usize, String),
}

impl ConsulCoord {
    pub(super) fn new(client: Arc<Client>, wait: Duration) -> Self {
        Self { client, wait }
    }

    /// A write of one key that answers its version.
    async fn write(&self, verb: &str, key: &str, value: &[u8], index: u64) -> Result<Version, CasError> {
        rules::key(key)?;
        rules::value(key, value.len())?;
        let parts = [json!({"KV": {"Verb": verb, "Key": key, "Value": STANDARD.encode(value), "Index": index, "Flags": self.client.flags()}})];
        match txn(&self.client, &parts).await? {
            Txn::Done(versions) => versions.first().copied().ok_or_else(|| CasError::Unknown(self.client.odd("a write without its version"))),
            Txn::Refused(_, what) if verb == "cas" && what.contains("stale") => Err(CasError::Conflict { key: key.to_owned() }),
            Txn::Refused(_, what) => Err(refused(&what).into()),
        }
    }
}

/// Sends a transaction. A conflict after an attempt that may have succeeded is no conflict that is known.
pub(super) async fn txn(client: &Client, parts: &[serde_json::Value]) -> Result<Txn, CasError> {
    let body = serde_json::to_vec(parts).map_err(|err| CoordError::Invalid(err.to_string()))?;
    let answer = client.ask(Ask::put("/v1/txn", body)).await.map_err(|fault| if fault.maybe { CasError::Unknown(fault.err) } else { fault.err.into() })?;
    let outcome: Outcome = serde_json::from_slice(&answer.body).map_err(|err| CasError::Unknown(client.odd(&err.to_string())))?;
    if answer.status == StatusCode::OK {
        let versions = outcome.results.into_iter().flatten().filter_map(|result| result.pair).map(|pair| Version(pair.modify_index)).collect();
        return Ok(Txn::Done(versions));
    }
    if answer.maybe_before {
        return Err(CasError::Unknown(client.odd("a refusal after a server that did not answer")));
    }
    let first = outcome.errors.into_iter().flatten().min_by_key(|err| err.op_index);
    first.map(|err| Txn::Refused(err.op_index, err.what)).ok_or_else(|| client.odd("a refusal without a reason").into())
}

fn refused(what: &str) -> CoordError {
    if what.contains("Permission denied") {
        return CoordError::Denied { engine: ENGINE, at: "/v1/txn".into(), why: format!("{what}; check the rights of its ACL token") };
    }
    CoordError::Invalid(format!("{ENGINE} refuses the transaction: {what}"))
}

/// The keys of an answer; none for 404.
pub(super) fn entries(client: &Client, answer: &Answer) -> Result<Vec<Entry>, CoordError> {
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(Vec::new());
    }
    let pairs: Vec<Pair> = serde_json::from_slice(&answer.body).map_err(|err| client.odd(&err.to_string()))?;
    let entry = |pair: Pair| {
        let value = STANDARD.decode(pair.value.unwrap_or_default()).map_err(|err| client.odd(&err.to_string()))?;
        Ok(Entry { key: pair.key, value: value.into(), version: Version(pair.modify_index) })
    };
    let mut entries = pairs.into_iter().map(entry).collect::<Result<Vec<Entry>, CoordError>>()?;
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(entries)
}

/// A transaction's condition.
fn check(check: &Check) -> serde_json::Value {
    match check.expect {
        None => json!({"KV": {"Verb": "check-not-exists", "Key": check.key}}),
        Some(version) => json!({"KV": {"Verb": "check-index", "Key": check.key, "Index": version.0}}),
    }
}

fn operation(op: &Op, flags: u64) -> serde_json::Value {
    match op {
        Op::Put { key, value } => json!({"KV": {"Verb": "set", "Key": key, "Value": STANDARD.encode(value), "Flags": flags}}),
        Op::Delete { key } => json!({"KV": {"Verb": "delete", "Key": key}}),
    }
}

#[async_trait]
impl Coord for ConsulCoord {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordError> {
        rules::key(key)?;
        let answer = self.client.ask(Ask::get(format!("/v1/kv/{}?consistent", in_path(key)))).await?;
        Ok(entries(&self.client, &answer)?.pop())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, CoordError> {
        rules::prefix(prefix)?;
        let answer = self.client.ask(Ask::get(format!("/v1/kv/{}?recurse&consistent", in_path(prefix)))).await?;
        entries(&self.client, &answer)
    }

    async fn put_if(&self, key: &str, value: Bytes, expect: Option<Version>) -> Result<Version, CasError> {
        // Index 0 means that the key must not exist; a version is never 0.
        if expect == Some(Version(0)) {
            return Err(CasError::Conflict { key: key.to_owned() });
        }
        self.write("cas", key, &value, expect.map_or(0, |version| version.0)).await
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Version, CoordError> {
        self.write("set", key, &value, 0).await.map_err(|err| match err {
            CasError::Coord(err) | CasError::Unknown(err) => err,
            conflict @ CasError::Conflict { .. } => self.client.odd(&conflict.to_string()),
        })
    }

    async fn txn(&self, checks: &[Check], ops: &[Op]) -> Result<(), CasError> {
        rules::txn(checks, ops)?;
        if checks.is_empty() && ops.is_empty() {
            return Ok(());
        }
        let parts: Vec<_> = checks.iter().map(check).chain(ops.iter().map(|op| operation(op, self.client.flags()))).collect();
        match txn(&self.client, &parts).await? {
            Txn::Done(_) => Ok(()),
            Txn::Refused(at, what) => match checks.get(at) {
                Some(check) if !what.contains("Permission denied") => Err(CasError::Conflict { key: check.key.clone() }),
                _ => Err(refused(&what).into()),
            },
        }
    }

    async fn delete(&self, key: &str, expect: Option<Version>) -> Result<(), CasError> {
        rules::key(key)?;
        let query = expect.map(|version| format!("?cas={}", version.0)).unwrap_or_default();
        let ask = Ask { method: Method::DELETE, path: format!("/v1/kv/{}{query}", in_path(key)), body: None };
        let answer = self.client.ask(ask).await.map_err(|fault| if fault.maybe { CasError::Unknown(fault.err) } else { fault.err.into() })?;
        // Gone already is as good; another version is not ours to judge, also after a server that did not answer.
        if answer.body.trim_ascii() == b"true" { Ok(()) } else { Err(CasError::Conflict { key: key.to_owned() }) }
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, Change> {
        watch::watch(self.client.clone(), prefix, self.wait)
    }

    async fn register(&self, me: &Member) -> Result<(), CoordError> {
        service::register(&self.client, me).await
    }

    async fn beat(&self, me: &Member, note: &str) -> Result<(), CoordError> {
        service::beat(&self.client, me, note).await
    }

    async fn deregister(&self, me: &Member) -> Result<(), CoordError> {
        service::deregister(&self.client, me).await
    }
}
