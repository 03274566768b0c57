//! The keys.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio_postgres::{Row, types::Type};

use super::{ENGINE, link::Link, listen::Listener, member, watch};
use crate::{CasError, Change, Check, Coord, CoordError, Entry, Member, Op, Version, rules};

pub(super) struct PostgresCoord {
    link: Arc<Link>,
    listener: Arc<Listener>,
}

impl PostgresCoord {
    pub(super) fn new(link: Arc<Link>, listener: Arc<Listener>) -> Self {
        Self { link, listener }
    }
}

/// Versions are positive in the database, and stay below what it can count to.
fn to_database(version: Version) -> i64 {
    i64::try_from(version.0).unwrap_or(i64::MAX)
}

fn from_database(version: i64) -> Version {
    Version(version.unsigned_abs())
}

pub(super) fn entry(row: &Row) -> Entry {
    Entry { key: row.get(0), value: Bytes::from(row.get::<_, Vec<u8>>(1)), version: from_database(row.get(2)) }
}

/// Everything below a prefix.
pub(super) async fn list(link: &Link, prefix: &str) -> Result<Vec<Entry>, CoordError> {
    const SQL: &str = "SELECT key, value, version FROM kv WHERE key >= $1 AND starts_with(key, $1) ORDER BY key";
    let rows = link.request(async |client| client.query_typed(SQL, &[(&prefix, Type::TEXT)]).await).await?;
    Ok(rows.iter().map(entry).collect())
}

/// These keys, as far as they are there.
pub(super) async fn some(link: &Link, keys: &[String]) -> Result<Vec<Entry>, CoordError> {
    const SQL: &str = "SELECT key, value, version FROM kv WHERE key = ANY($1) ORDER BY key";
    let rows = link.request(async |client| client.query_typed(SQL, &[(&keys, Type::TEXT_ARRAY)]).await).await?;
    Ok(rows.iter().map(entry).collect())
}

#[async_trait]
impl Coord for PostgresCoord {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordError> {
        rules::key(key)?;
        Ok(some(&self.link, &[key.to_owned()]).await?.pop())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, CoordError> {
        rules::prefix(prefix)?;
        list(&self.link, prefix).await
    }

    async fn put_if(&self, key: &str, value: Bytes, expect: Option<Version>) -> Result<Version, CasError> {
        rules::key(key)?;
        rules::value(key, value.len())?;
        let (value, expect) = (&value[..], expect.map(to_database));
        let work = async |client: &tokio_postgres::Client| {
            client.query_typed("SELECT kv_put_if($1, $2, $3)", &[(&key, Type::TEXT), (&value, Type::BYTEA), (&expect, Type::INT8)]).await
        };
        let rows = self.link.request(work).await?;
        let version: Option<i64> = rows.first().and_then(|row| row.get(0));
        version.map(from_database).ok_or_else(|| CasError::Conflict { key: key.to_owned() })
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Version, CoordError> {
        rules::key(key)?;
        rules::value(key, value.len())?;
        let value = &value[..];
        let work = async |client: &tokio_postgres::Client| client.query_typed("SELECT kv_put($1, $2)", &[(&key, Type::TEXT), (&value, Type::BYTEA)]).await;
        let rows = self.link.request(work).await?;
        rows.first().map(|row| from_database(row.get(0))).ok_or_else(|| self.link.unavailable("a write was answered without its version"))
    }

    async fn txn(&self, checks: &[Check], ops: &[Op]) -> Result<(), CasError> {
        rules::txn(checks, ops)?;
        let check_keys: Vec<&str> = checks.iter().map(|check| &*check.key).collect();
        let check_versions: Vec<Option<i64>> = checks.iter().map(|check| check.expect.map(to_database)).collect();
        let (mut put_keys, mut put_values, mut delete_keys): (Vec<&str>, Vec<&[u8]>, Vec<&str>) = Default::default();
        for op in ops {
            match op {
                Op::Put { key, value } => {
                    put_keys.push(key);
                    put_values.push(value);
                }
                Op::Delete { key } => delete_keys.push(key),
            }
        }
        let work = async |client: &tokio_postgres::Client| {
            client
                .query_typed(
                    "SELECT kv_txn($1, $2, $3, $4, $5)",
                    &[
                        (&check_keys, Type::TEXT_ARRAY),
                        (&check_versions, Type::INT8_ARRAY),
                        (&put_keys, Type::TEXT_ARRAY),
                        (&put_values, Type::BYTEA_ARRAY),
                        (&delete_keys, Type::TEXT_ARRAY),
                    ],
                )
                .await
        };
        let rows = self.link.request(work).await?;
        match rows.first().and_then(|row| row.get::<_, Option<String>>(0)) {
            None => Ok(()),
            Some(key) => Err(CasError::Conflict { key }),
        }
    }

    async fn delete(&self, key: &str, expect: Option<Version>) -> Result<(), CasError> {
        rules::key(key)?;
        let expect = expect.map(to_database);
        let work = async |client: &tokio_postgres::Client| client.query_typed("SELECT kv_delete($1, $2)", &[(&key, Type::TEXT), (&expect, Type::INT8)]).await;
        let rows = self.link.request(work).await?;
        if rows.first().is_some_and(|row| row.get(0)) { Ok(()) } else { Err(CasError::Conflict { key: key.to_owned() }) }
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, Change> {
        watch::watch(self.link.clone(), &self.listener, prefix)
    }

    async fn register(&self, me: &Member) -> Result<(), CoordError> {
        member::register(&self.link, me).await
    }

    async fn beat(&self, me: &Member, note: &str) -> Result<(), CoordError> {
        member::beat(&self.link, me, note).await
    }

    async fn deregister(&self, me: &Member) -> Result<(), CoordError> {
        member::deregister(&self.link, me).await
    }
}
