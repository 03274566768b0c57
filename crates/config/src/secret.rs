use std::{fmt, sync::Arc};

use serde_json::{Map, Value};

/// What stands for a secret wherever a value is shown.
pub const REDACTED: &str = "__OPENCLAW_REDACTED__";

/// A credential. Never printed: `Debug` and `Display` show a placeholder; it is not serialisable.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself: only for the place that sends or compares it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Where a secret comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretSource {
    /// An environment variable.
    Env,
    /// A private file.
    File,
    /// A program that speaks the exec protocol.
    Exec,
    /// The secret store of the state database.
    Store,
}

impl SecretSource {
    /// The word in the config.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::File => "file",
            Self::Exec => "exec",
            Self::Store => "store",
        }
    }
}

/// `{source, provider, id}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    /// Which kind.
    pub source: SecretSource,
    /// The alias under `secrets.providers`; none means the default of the kind.
    pub provider: Option<String>,
    /// Variable name, JSON pointer or key.
    pub id: String,
}

impl SecretRef {
    /// Reads a reference object; none when the value is something else.
    #[must_use]
    pub fn from_value(value: &Value) -> Option<Self> {
        let map: &Map<String, Value> = value.as_object()?;
        if !map.keys().all(|k| matches!(k.as_str(), "source" | "provider" | "id")) {
            return None;
        }
        let source = match map.get("source")?.as_str()? {
            "env" => SecretSource::Env,
            "file" => SecretSource::File,
            "exec" => SecretSource::Exec,
            "store" => SecretSource::Store,
            _ => return None,
        };
        let provider = match map.get("provider") {
            None => None,
            Some(Value::String(p)) => Some(p.clone()),
            Some(_) => return None,
        };
        Some(Self { source, provider, id: map.get("id")?.as_str()?.to_owned() })
    }

    /// Reads the short forms `${NAME}` and `$NAME` of a credential field.
    #[must_use]
    pub fn from_short(text: &str) -> Option<Self> {
        let inner = text.strip_prefix('$')?;
        let name = inner.strip_prefix('{').and_then(|n| n.strip_suffix('}')).unwrap_or(inner);
        is_env_id(name).then(|| Self { source: SecretSource::Env, provider: None, id: name.to_owned() })
    }

    /// What is wrong with the id or alias, in words.
    ///
    /// # Errors
    /// With the rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        if let Some(p) = &self.provider
            && !is_alias(p)
        {
            return Err("Secret provider alias must match ^[a-z][a-z0-9_-]{0,63}$");
        }
        let ok = match self.source {
            SecretSource::Env | SecretSource::Store => is_env_id(&self.id),
            SecretSource::File => self.id == "value" || is_pointer(&self.id),
            SecretSource::Exec => is_exec_id(&self.id),
        };
        match (ok, self.source) {
            (true, _) => Ok(()),
            (false, SecretSource::Env) => Err("Env secret reference id must match ^[A-Z][A-Z0-9_]{0,127}$"),
            (false, SecretSource::Store) => Err("Store secret reference id must match ^[A-Z][A-Z0-9_]{0,127}$"),
            (false, SecretSource::File) => Err("File secret reference id must be an absolute JSON pointer or \"value\""),
            (false, SecretSource::Exec) => Err("Exec secret reference id must match ^[A-Za-z0-9][A-Za-z0-9._:/#-]{0,255}$ without . or .. segments"),
        }
    }
}

pub(crate) fn is_env_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.as_bytes()[0].is_ascii_uppercase() && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn is_alias(alias: &str) -> bool {
    (1..=64).contains(&alias.len())
        && alias.as_bytes()[0].is_ascii_lowercase()
        && alias.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

fn is_pointer(id: &str) -> bool {
    id.starts_with('/') && id.len() <= 1024 && id.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}

fn is_exec_id(id: &str) -> bool {
    (1..=256).contains(&id.len())
        && id.as_bytes()[0].is_ascii_alphanumeric()
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'/' | b'-' | b'#'))
        && id.split('/').all(|s| s != "." && s != "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_do_not_print() {
        let s = Secret::new("hunter2");
        assert!(!format!("{s:?} {s}").contains("hunter2"));
        assert_eq!(s.expose(), "hunter2");
    }

    #[test]
    fn references_are_read_and_checked() {
        let r = |v: Value| SecretRef::from_value(&v).map(|r| r.check().is_ok());
        assert_eq!(r(json!({"source": "env", "provider": "default", "id": "A_B"})), Some(true));
        assert_eq!(r(json!({"source": "env", "id": "a"})), Some(false));
        assert_eq!(r(json!({"source": "file", "provider": "v", "id": "/a/b~1c"})), Some(true));
        assert_eq!(r(json!({"source": "file", "provider": "v", "id": "a"})), Some(false));
        assert_eq!(r(json!({"source": "exec", "provider": "v", "id": "a/../b"})), Some(false));
        assert_eq!(r(json!({"source": "exec", "provider": "V", "id": "a/b#c"})), Some(false));
        assert_eq!(r(json!({"source": "exec", "provider": "v", "id": "a/b#c"})), Some(true));
        assert_eq!(r(json!({"source": "env", "id": "A", "x": 1})), None);
        assert_eq!(r(json!({"source": "env", "path": "/x"})), None);
        assert_eq!(SecretRef::from_short("${A_B}").map(|r| r.id), Some("A_B".into()));
        assert_eq!(SecretRef::from_short("$A").map(|r| r.id), Some("A".into()));
        assert_eq!(SecretRef::from_short("$a"), None);
        assert_eq!(SecretRef::from_short("A"), None);
    }
}
