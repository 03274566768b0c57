//! Gateways as rows; the view `member_health` says who is alive, by the database's clock.

use serde_json::Value;
use tokio_postgres::types::{Json, Type};

use super::link::Link;
use crate::{CoordError, Member};

/// Bytes of a note that are kept.
const NOTE_MAX: usize = 4096;

pub(super) async fn register(link: &Link, me: &Member) -> Result<(), CoordError> {
    write(link, me, None).await
}

pub(super) async fn beat(link: &Link, me: &Member, note: &str) -> Result<(), CoordError> {
    let note: String = note.char_indices().filter(|(_, c)| *c != '\0').take_while(|(at, c)| at + c.len_utf8() <= NOTE_MAX).map(|(_, c)| c).collect();
    write(link, me, Some(note)).await
}

/// The whole row each time: one that somebody removed is there again after the next sign of life.
async fn write(link: &Link, me: &Member, note: Option<String>) -> Result<(), CoordError> {
    const SQL: &str = "INSERT INTO member(service, id, address, port, tags, meta, check_ttl, note, beat_at)
        VALUES($1, $2, $3, $4, $5, $6, $7 * interval '1 millisecond', coalesce($8, ''), CASE WHEN $8 IS NOT NULL THEN clock_timestamp() END)
        ON CONFLICT (service, id) DO UPDATE SET address=excluded.address, port=excluded.port, tags=excluded.tags, meta=excluded.meta,
        check_ttl=excluded.check_ttl, note=coalesce($8, member.note), beat_at=coalesce(excluded.beat_at, member.beat_at)";
    let port = i32::from(me.port);
    let meta = Json(Value::Object(me.meta.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect()));
    let ttl = f64::from(u32::try_from(me.check_ttl.as_millis()).unwrap_or(u32::MAX));
    let work = async |client: &tokio_postgres::Client| {
        client
            .query_typed(
                SQL,
                &[
                    (&me.service, Type::TEXT),
                    (&me.id, Type::TEXT),
                    (&me.address, Type::TEXT),
                    (&port, Type::INT4),
                    (&me.tags, Type::TEXT_ARRAY),
                    (&meta, Type::JSONB),
                    (&ttl, Type::FLOAT8),
                    (&note, Type::TEXT),
                ],
            )
            .await
    };
    link.request(work).await?;
    Ok(())
}

pub(super) async fn deregister(link: &Link, me: &Member) -> Result<(), CoordError> {
    const SQL: &str = "DELETE FROM member WHERE service=$1 AND id=$2";
    let work = async |client: &tokio_postgres::Client| client.query_typed(SQL, &[(&me.service, Type::TEXT), (&me.id, Type::TEXT)]).await;
    link.request(work).await?;
    Ok(())
}
