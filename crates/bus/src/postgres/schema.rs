//! Tables and functions. Each step is run once, in one transaction with its number. Steps only add; a released step
//! never changes.

/// Serialises migrations of all gateways: "Bus!".
pub(super) const MIGRATION_LOCK: i64 = 0x4275_7321;

/// The channel on which changed keys are told.
pub(super) fn channel(schema: &str) -> String {
    format!("{schema}_changed")
}

/// The steps for a schema. `$S` is its name, `$C` its channel, `$L` the number of its lock.
///
/// Keys compare by bytes: `COLLATE "C"`. Versions come from one sequence, so none comes twice. Writes of one key share a
/// lock that a transaction of several has alone: what it checked, absent keys included, holds until it commits.
const STEPS: [&str; 1] = [r#"
CREATE TABLE kv(key text COLLATE "C" PRIMARY KEY, value bytea NOT NULL, version bigint NOT NULL) WITH (fillfactor=50);
CREATE SEQUENCE kv_version;
CREATE TABLE member(service text NOT NULL, id text NOT NULL, address text NOT NULL, port int NOT NULL, tags text[] NOT NULL, meta jsonb NOT NULL,
  check_ttl interval NOT NULL, note text NOT NULL DEFAULT '', beat_at timestamptz, PRIMARY KEY(service, id)) WITH (fillfactor=50);
CREATE VIEW member_health AS SELECT *, CASE WHEN beat_at > clock_timestamp() - check_ttl THEN 'passing' ELSE 'critical' END AS status FROM member;

CREATE FUNCTION kv_put_if(k text, v bytea, expect bigint) RETURNS bigint LANGUAGE plpgsql SET search_path = "$S" AS $$
DECLARE n bigint;
BEGIN
  PERFORM pg_advisory_xact_lock_shared($L);
  IF expect IS NULL THEN
    INSERT INTO kv VALUES(k, v, nextval('kv_version')) ON CONFLICT DO NOTHING RETURNING version INTO n;
  ELSE
    UPDATE kv SET value=v, version=nextval('kv_version') WHERE key=k AND version=expect RETURNING version INTO n;
  END IF;
  IF n IS NOT NULL THEN PERFORM pg_notify('$C', k); END IF;
  RETURN n;
END $$;

CREATE FUNCTION kv_put(k text, v bytea) RETURNS bigint LANGUAGE plpgsql SET search_path = "$S" AS $$
DECLARE n bigint;
BEGIN
  PERFORM pg_advisory_xact_lock_shared($L);
  INSERT INTO kv VALUES(k, v, nextval('kv_version')) ON CONFLICT (key) DO UPDATE SET value=excluded.value, version=nextval('kv_version')
    RETURNING version INTO n;
  PERFORM pg_notify('$C', k);
  RETURN n;
END $$;

CREATE FUNCTION kv_delete(k text, expect bigint) RETURNS boolean LANGUAGE plpgsql SET search_path = "$S" AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared($L);
  DELETE FROM kv WHERE key=k AND (expect IS NULL OR version=expect);
  IF FOUND THEN
    PERFORM pg_notify('$C', k);
    RETURN true;
  END IF;
  RETURN NOT EXISTS (SELECT 1 FROM kv WHERE key=k);
END $$;

CREATE FUNCTION kv_txn(check_keys text[], check_versions bigint[], put_keys text[], put_values bytea[], delete_keys text[]) RETURNS text
LANGUAGE plpgsql SET search_path = "$S" AS $$
DECLARE wrong text;
BEGIN
  PERFORM pg_advisory_xact_lock($L);
  SELECT c.key INTO wrong FROM unnest(check_keys, check_versions) WITH ORDINALITY AS c(key, version, at) LEFT JOIN kv ON kv.key=c.key
    WHERE kv.version IS DISTINCT FROM c.version ORDER BY c.at LIMIT 1;
  IF FOUND THEN RETURN wrong; END IF;
  INSERT INTO kv SELECT p.key, p.value, nextval('kv_version') FROM unnest(put_keys, put_values) AS p(key, value)
    ON CONFLICT (key) DO UPDATE SET value=excluded.value, version=nextval('kv_version');
  DELETE FROM kv WHERE key = ANY(delete_keys);
  PERFORM pg_notify('$C', k) FROM unnest(put_keys || delete_keys) AS k;
  RETURN NULL;
END $$;
"#];

/// How many steps there are: the newest version that is known.
pub(super) const KNOWN: i64 = STEPS.len() as i64;

/// The step that leads to version `version + 1`.
pub(super) fn step(version: usize, schema: &str) -> Option<String> {
    // The lock is this schema's: farms that share a database do not wait for each other.
    let lock = schema.bytes().fold(0x6b76_i64, |sum, byte| (sum * 31 + i64::from(byte)) % 0x7fff_ffff);
    STEPS.get(version).map(|sql| sql.replace("$S", schema).replace("$C", &channel(schema)).replace("$L", &lock.to_string()))
}
