//! What is asked of Redis: one script for each call, so that nothing comes between its steps.

use std::sync::LazyLock;

use redis::Script;

/// Keys: value, index. Arguments: value, milliseconds or 0, what is expected, stamp, name, most keys, prefix of the
/// space, try. Answers the stamp; `-` for a conflict, `+` for a full space.
pub(super) static SET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local now = redis.call('GET', KEYS[1])
        local same = now and now == ARGV[1] and tonumber(ARGV[8]) > 0
        if not same then
            if ARGV[3] == 'absent' and now then return '-' end
            if ARGV[3] == 'version' and (not now or redis.sha1hex(now) ~= ARGV[4]) then return '-' end
        end
        if not now and redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[6]) then
            for _, name in ipairs(redis.call('SMEMBERS', KEYS[2])) do
                if redis.call('EXISTS', ARGV[7] .. name) == 0 then redis.call('SREM', KEYS[2], name) end
            end
            if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[6]) then return '+' end
        end
        if ARGV[2] == '0' then redis.call('SET', KEYS[1], ARGV[1]) else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
        redis.call('SADD', KEYS[2], ARGV[5])
        return redis.sha1hex(ARGV[1])",
    )
});

/// Key: value. Answers value, stamp and the milliseconds it has left (-1 for ever), or nothing.
pub(super) static GET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local now = redis.call('GET', KEYS[1])
        if not now then return {} end
        return { now, redis.sha1hex(now), redis.call('PTTL', KEYS[1]) }",
    )
});

/// Keys: value, index. Arguments: what is expected, stamp, name. Answers 1, 0, or -1 for a conflict.
pub(super) static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local now = redis.call('GET', KEYS[1])
        if ARGV[1] == 'absent' and now then return -1 end
        if ARGV[1] == 'version' and (not now or redis.sha1hex(now) ~= ARGV[2]) then return -1 end
        redis.call('SREM', KEYS[2], ARGV[3])
        return redis.call('DEL', KEYS[1])",
    )
});

/// Key: index. Argument: prefix of the space. Answers the names that are there.
pub(super) static KEYS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local names = {}
        for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
            if redis.call('EXISTS', ARGV[1] .. name) == 1 then names[#names + 1] = name else redis.call('SREM', KEYS[1], name) end
        end
        return names",
    )
});

/// Keys: events, mark of this event or the same key again. Arguments: line, most events, milliseconds the mark is kept.
pub(super) static PUSH_EVENT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        if KEYS[2] ~= KEYS[1] and not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[3]) then return 0 end
        redis.call('RPUSH', KEYS[1], ARGV[1])
        redis.call('LTRIM', KEYS[1], -tonumber(ARGV[2]), -1)
        return 1",
    )
});

/// Keys: queue, mark of this task. Arguments: task, most tasks, milliseconds the mark is kept. Answers how many wait,
/// or -1 when it is full.
pub(super) static PUSH_TASK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local waiting = redis.call('LLEN', KEYS[1])
        if redis.call('EXISTS', KEYS[2]) == 1 then return waiting end
        if waiting >= tonumber(ARGV[2]) then return -1 end
        redis.call('SET', KEYS[2], '1', 'PX', ARGV[3])
        return redis.call('RPUSH', KEYS[1], ARGV[1])",
    )
});

/// Keys: queue, claim of this request. Argument: milliseconds the claim is kept. Answers task and how many wait.
pub(super) static POP_TASK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local task = redis.call('GET', KEYS[2])
        if not task then
            task = redis.call('LPOP', KEYS[1])
            if not task then return {} end
            redis.call('SET', KEYS[2], task, 'PX', ARGV[1])
        end
        return { task, redis.call('LLEN', KEYS[1]) }",
    )
});

/// Key: list. Arguments: first, last. Answers the items.
pub(super) static RANGE: LazyLock<Script> = LazyLock::new(|| Script::new("return redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])"));
