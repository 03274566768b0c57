//! What is asked of Redis: the scripts, and the commands of the stream with their answers as letters.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use redis::{
    RedisResult, Script,
    aio::MultiplexedConnection,
    from_redis_value,
    streams::{StreamAutoClaimReply, StreamClaimReply, StreamId, StreamReadReply},
};

use crate::mail::Sealed;

/// The one group of a stream.
const GROUP: &str = "owner";
/// Letters taken at once.
pub(super) const BATCH: usize = 64;

/// One letter of a stream.
#[derive(Debug)]
pub(super) struct Letter {
    /// The id Redis gave it.
    pub(super) id: String,
    /// What was put there; empty when somebody else than us put something without our field.
    pub(super) raw: Bytes,
}

/// What [`take`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The box is ours under this number.
    Ours {
        /// Our number from now on.
        number: u64,
        /// The group was not there: a box nobody used yet, or its data was lost.
        made: bool,
    },
    /// A later owner has it.
    Theirs(String),
}

// XLEN and XADD in one step: no two senders pass the cap together, and MAXLEN never finds anything to cut.
static PUBLISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
         redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'm', ARGV[2], 'a', ARGV[3], 'b', ARGV[4])
         return 1",
    )
});

// ARGV: our number (0 = none yet), the time in milliseconds, our name, the group. Numbers follow the clock where they
// can and always grow, so a later owner wins also after the key was lost together with everything else.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local held = redis.call('GET', KEYS[2])
         local theirs, who = 0, ''
         if held then
           local number, name = string.match(held, '^(%d+) (.*)$')
           if number then theirs, who = tonumber(number), name end
         end
         local mine = tonumber(ARGV[1])
         if mine == 0 then mine = math.max(tonumber(ARGV[2]), theirs + 1) end
         if theirs > mine then return {'0', who, 0} end
         if theirs < mine then redis.call('SET', KEYS[2], string.format('%.0f', mine) .. ' ' .. ARGV[3]) end
         local made = 1
         local answer = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[4], '0', 'MKSTREAM')
         if answer.err then
           if not string.find(answer.err, 'BUSYGROUP', 1, true) then return answer end
           made = 0
         end
         return {string.format('%.0f', mine), ARGV[3], made}",
    )
});

/// Appends a letter. False: the box is full.
pub(super) async fn publish(mut to: MultiplexedConnection, key: String, cap: u32, letter: Sealed) -> RedisResult<bool> {
    let mut call = PUBLISH.key(key);
    call.arg(cap).arg(letter.message_id).arg(letter.attempt).arg(&letter.bytes[..]);
    call.invoke_async(&mut to).await
}

/// Takes the box, or looks whether it is still ours, and makes stream and group where they are missing.
pub(super) async fn take(on: &mut MultiplexedConnection, keys: (&str, &str), number: Option<u64>, now_ms: i64, consumer: &str) -> RedisResult<Taken> {
    let mut call = TAKE.key(keys.0);
    call.key(keys.1).arg(number.unwrap_or(0)).arg(now_ms.max(1)).arg(consumer).arg(GROUP);
    let (number, who, made): (String, String, u8) = call.invoke_async(on).await?;
    Ok(match number.parse() {
        Ok(number) if number > 0 => Taken::Ours { number, made: made == 1 },
        _ => Taken::Theirs(who),
    })
}

/// Letters nobody has read yet. Waits up to `block` for the first.
pub(super) async fn read(on: &mut MultiplexedConnection, key: &str, consumer: &str, block: Duration) -> RedisResult<Vec<Letter>> {
    let block = u64::try_from(block.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut cmd = redis::cmd("XREADGROUP");
    cmd.arg("GROUP").arg(GROUP).arg(consumer).arg("COUNT").arg(BATCH).arg("BLOCK").arg(block).arg("STREAMS").arg(key).arg(">");
    let answer: Option<StreamReadReply> = cmd.query_async(on).await?;
    answer.map(|answer| answer.keys).unwrap_or_default().into_iter().flat_map(|key| key.ids).map(letter).collect()
}

/// Takes over letters somebody read at least `idle` ago and did not settle, from `cursor` on. Answers the next cursor,
/// `0-0` after the last.
pub(super) async fn claim_idle(on: &mut MultiplexedConnection, key: &str, consumer: &str, idle: Duration, cursor: &str) -> RedisResult<(String, Vec<Letter>)> {
    let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
    let mut cmd = redis::cmd("XAUTOCLAIM");
    cmd.arg(key).arg(GROUP).arg(consumer).arg(idle).arg(cursor).arg("COUNT").arg(BATCH);
    let answer: StreamAutoClaimReply = cmd.query_async(on).await?;
    Ok((answer.next_stream_id, answer.claimed.into_iter().map(letter).collect::<RedisResult<_>>()?))
}

/// Reads dropped letters again.
pub(super) async fn claim(on: &mut MultiplexedConnection, key: &str, consumer: &str, ids: &[String]) -> RedisResult<Vec<Letter>> {
    let answer: StreamClaimReply = redis::cmd("XCLAIM").arg(key).arg(GROUP).arg(consumer).arg(0).arg(ids).query_async(on).await?;
    answer.ids.into_iter().map(letter).collect()
}

/// Forgets a letter: out of the stream and out of the group, or neither.
pub(super) async fn settle(mut on: MultiplexedConnection, key: String, id: String) -> RedisResult<()> {
    let mut both = redis::pipe();
    both.atomic();
    both.cmd("XDEL").arg(&key).arg(&id).ignore();
    both.cmd("XACK").arg(&key).arg(GROUP).arg(&id).ignore();
    both.query_async(&mut on).await
}

/// Letters in the box, read or not: settled ones are gone.
pub(super) async fn waiting(mut on: MultiplexedConnection, key: String) -> RedisResult<u64> {
    redis::cmd("XLEN").arg(&key).query_async(&mut on).await
}

fn letter(entry: StreamId) -> RedisResult<Letter> {
    let StreamId { id, mut map, .. } = entry;
    let raw = map.remove("b").map(from_redis_value::<Vec<u8>>).transpose()?.unwrap_or_default();
    Ok(Letter { id, raw: Bytes::from(raw) })
}
