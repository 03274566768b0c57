use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// Environment variables as a value, given in from outside so that tests and simulations have their own.
///
/// Holds the *effective* environment after [`Env::underlay`]: earlier sources win.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Env {
    vars: BTreeMap<String, String>,
}

/// Which names a source may not bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvTrust {
    /// All names.
    Full,
    /// No `OPENCLAW_*` and no credentials: a `.env` in whatever folder the user happens to be in.
    Folder,
}

const DOTENV_BYTES_MAX: u64 = 1024 * 1024;

impl Env {
    /// From name and value pairs; the last of equal names wins.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self { vars: pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect() }
    }

    /// A variable; an empty one counts as not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// A variable trimmed; none when nothing is left.
    #[must_use]
    pub fn trimmed(&self, name: &str) -> Option<&str> {
        self.get(name).map(str::trim).filter(|v| !v.is_empty())
    }

    /// True for `1`, `true`, `yes`, `on`.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.trimmed(name).is_some_and(|v| ["1", "true", "yes", "on"].contains(&v.to_ascii_lowercase().as_str()))
    }

    /// All variables in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.vars.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Sets one.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.vars.insert(name.into(), value.into());
    }

    /// Adds what `lower` has and we have not (or only empty).
    pub fn underlay(&mut self, lower: &Env, trust: EnvTrust) {
        for (name, value) in &lower.vars {
            if trust == EnvTrust::Folder && (name.starts_with("OPENCLAW_") || looks_like_credential(name)) {
                continue;
            }
            if self.get(name).is_none() {
                self.vars.insert(name.clone(), value.clone());
            }
        }
    }

    /// Reads a `.env` file; empty when there is none or it is larger than 1 MiB.
    #[must_use]
    pub fn read_dotenv(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() && meta.len() <= DOTENV_BYTES_MAX => {}
            _ => return Self::default(),
        }
        std::fs::read(path).map(|bytes| Self::parse_dotenv(&String::from_utf8_lossy(&bytes))).unwrap_or_default()
    }

    /// Reads the text of a `.env` file: `NAME=value`, `export NAME=value`, quotes, `#` comments. Lines that are
    /// none of these are passed over. The first of equal names wins.
    #[must_use]
    pub fn parse_dotenv(text: &str) -> Self {
        let mut vars = BTreeMap::new();
        let mut lines = text.trim_start_matches('\u{feff}').lines();
        while let Some(line) = lines.next() {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            let Some((name, rest)) = line.split_once('=') else { continue };
            let name = name.trim();
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '-') {
                continue;
            }
            let rest = rest.trim_start();
            let value = match rest.chars().next() {
                Some(q @ ('"' | '\'' | '`')) => {
                    let mut body = rest[1..].to_owned();
                    while find_close(&body, q).is_none() {
                        let Some(next) = lines.next() else { break };
                        body.push('\n');
                        body.push_str(next);
                    }
                    let inner = find_close(&body, q).map_or(body.as_str(), |end| &body[..end]);
                    if q == '"' { inner.replace("\\n", "\n").replace("\\r", "\r").replace("\\\"", "\"") } else { inner.to_owned() }
                }
                _ => rest.split('#').next().unwrap_or_default().trim().to_owned(),
            };
            vars.entry(name.to_owned()).or_insert(value);
        }
        Self { vars }
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.vars.keys()).finish()
    }
}

fn find_close(body: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in body.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' && quote == '"' {
            escaped = true;
        } else if c == quote {
            return Some(i);
        }
    }
    None
}

fn looks_like_credential(name: &str) -> bool {
    ["API_KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "PRIVATE_KEY"].iter().any(|part| name.contains(part))
}

/// Asks the user's login shell for its environment (`env.shellEnv.enabled`). Blocks for at most `timeout`; use a
/// blocking thread. Empty when there is no shell or it does not answer in time.
#[must_use]
pub fn login_shell_env(shell: &str, timeout: Duration) -> Env {
    if !Path::new(shell).is_absolute() {
        return Env::default();
    }
    let mut command = Command::new(shell);
    command.args(["-l", "-c", "env -0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    match crate::secret_exec::run_bounded(command, None, timeout, 1024 * 1024) {
        Ok(bytes) => Env::from_pairs(bytes.split(|b| *b == 0).filter_map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            let (name, value) = pair.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })),
        Err(_) => Env::default(),
    }
}
