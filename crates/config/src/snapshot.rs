use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value};

use crate::{
    config::Config,
    env::{Env, EnvTrust, login_shell_env},
    include::{INCLUDE_KEY, Includes, SourceFile},
    issue::{Invalid, Issue, Severity},
    normalise,
    paths::Paths,
    secret_resolve::{ExecRefs, StoreLookup, Unresolved, resolve_all},
    subst, text, validate,
    view::View,
};

/// What unknown keys do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    /// Ignored with a warning: how a gateway starts. `gateway.strictConfig: true` or `OPENCLAW_STRICT_CONFIG=1`
    /// makes it strict.
    #[default]
    Tolerant,
    /// Refused: `config validate`, `config set`, `doctor`.
    Strict,
}

/// Beside the paths and the process environment, what reading needs.
#[derive(Clone, Copy, Default)]
pub struct ReadOptions<'a> {
    /// The working folder, for its `.env`; none reads none.
    pub cwd: Option<&'a Path>,
    /// Whether the login shell may be asked when the file says so; it may take 15 seconds.
    pub shell: ShellImport,
}

/// Whether `env.shellEnv.enabled` is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShellImport {
    /// No.
    #[default]
    Skip,
    /// Yes, when the file or `OPENCLAW_LOAD_SHELL_ENV` asks for it.
    Run,
}

/// How secrets are resolved.
#[derive(Clone, Copy, Default)]
pub struct SecretOptions<'a> {
    /// Helper programs.
    pub exec: ExecRefs,
    /// The built-in store.
    pub store: Option<StoreLookup<'a>>,
}

/// A usable configuration and what is to be said about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Ready to use.
    pub config: Arc<Config>,
    /// Warnings and infos, one line each.
    pub notices: Vec<Issue>,
    /// References without a value. On a surface in use this should stop a start.
    pub unresolved: Vec<Unresolved>,
}

/// Everything that was read, also of a file that cannot be used, so that diagnostic commands work with it.
#[derive(Clone)]
pub struct Snapshot {
    /// Where everything lies.
    pub paths: Paths,
    /// False when there is no file.
    pub exists: bool,
    /// The root file's text without byte order mark.
    pub text: String,
    /// The root file as written: `$include` and `${}` in place. Empty object when it cannot be parsed.
    pub parsed: Value,
    /// Included files in the order they were read.
    pub included: Vec<SourceFile>,
    /// With includes and variables in place, spellings as in the file.
    pub resolved: Value,
    /// In today's spelling.
    pub normal: Value,
    /// Variables in force.
    pub env: Env,
    /// Everything to say, worst first. Unknown keys have [`Severity::Unknown`].
    pub issues: Vec<Issue>,
    /// Opaque mark of the content, for `baseHash`.
    pub hash: String,
}

impl Snapshot {
    /// Reads the file of `paths` with the process environment `env`. Never fails: see `issues`.
    #[must_use]
    pub fn read(paths: &Paths, env: &Env, options: ReadOptions<'_>) -> Self {
        match read_regular(&paths.config_path) {
            Ok(bytes) => Self::from_bytes(&bytes, paths, env, options),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Self::build(None, &BTreeMap::new(), paths, env, options),
            Err(e) => {
                let mut made = Self::build(None, &BTreeMap::new(), paths, env, options);
                made.exists = true;
                let mut issue = Issue::error(&[], format!("Failed to read config file: {e}"));
                issue.file = Some(paths.config_path.clone());
                made.issues.insert(0, issue);
                made
            }
        }
    }

    /// As [`Snapshot::read`] with the root file's content given.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], paths: &Paths, env: &Env, options: ReadOptions<'_>) -> Self {
        Self::build(Some(bytes), &BTreeMap::new(), paths, env, options)
    }

    /// As [`Snapshot::from_bytes`], with the text of included files given instead of the disk's.
    pub(crate) fn from_texts(bytes: &[u8], texts: &BTreeMap<PathBuf, String>, paths: &Paths, env: &Env, options: ReadOptions<'_>) -> Self {
        Self::build(Some(bytes), texts, paths, env, options)
    }

    fn build(bytes: Option<&[u8]>, texts: &BTreeMap<PathBuf, String>, paths: &Paths, process_env: &Env, options: ReadOptions<'_>) -> Self {
        let mut issues = Vec::new();
        let mut parsed = Value::Object(Map::new());
        if let Some(bytes) = bytes {
            match text::parse_bytes(bytes) {
                Ok(value @ Value::Object(_)) => parsed = value,
                Ok(other) => issues.push(Issue::error(&[], format!("Invalid input: expected object, received {}", validate::type_name(&other)))),
                Err(problem) => issues.push(at_place(Issue::error(&[], problem.message), &paths.config_path, problem.line, problem.column)),
            }
        }
        let text = bytes.map(|b| text::strip_bom(&String::from_utf8_lossy(b)).to_owned()).unwrap_or_default();
        let (mut resolved, included) = expand_includes(&parsed, texts, paths, &mut issues);
        let mut blocked = Vec::new();
        text::blocked_keys(&resolved, &mut Vec::new(), &mut blocked);
        issues.extend(blocked.iter().map(|at| Issue::error(at, format!("Blocked key: \"{}\"", at.last().map_or("", String::as_str)))));

        let env = effective_env(&resolved, paths, process_env, options);
        let mut missing = Vec::new();
        subst::substitute(&mut resolved, &env, &mut Vec::new(), &mut missing);
        issues.extend(missing.iter().map(|m| Issue::warning(&m.at, format!("Missing env var \"{}\" - feature using this value will be unavailable", m.name))));

        let broken = issues.iter().any(|i| i.severity == Severity::Error);
        let mut normal = resolved.clone();
        let moves = normalise::normalise(&mut normal, paths, &mut issues);
        if !broken {
            validate::validate(&normal, paths, &env, &moves, &mut issues);
        }
        let mut made = Self { paths: paths.clone(), exists: bytes.is_some(), text, parsed, included, resolved, normal, env, issues, hash: String::new() };
        made.hash = crate::hash::content_hash(bytes, made.included.iter().map(|f| f.text.as_str()));
        made.place_issues();
        made
    }

    /// The reasons why it cannot be used with this strictness; empty when it can.
    #[must_use]
    pub fn blocking(&self, strictness: Strictness) -> Vec<&Issue> {
        let strict = strictness == Strictness::Strict || self.wants_strict();
        self.issues.iter().filter(|i| i.severity == Severity::Error || (strict && i.severity == Severity::Unknown)).collect()
    }

    /// True when the file or the environment wants unknown keys to stop a start.
    #[must_use]
    pub fn wants_strict(&self) -> bool {
        View(Some(&self.normal)).path("gateway.strictConfig").flag(false) || self.env.flag("OPENCLAW_STRICT_CONFIG")
    }

    /// The usable configuration.
    ///
    /// # Errors
    /// When there are blocking issues.
    pub fn load(&self, strictness: Strictness, secrets: SecretOptions<'_>) -> Result<Loaded, Invalid> {
        let blocking = self.blocking(strictness);
        if !blocking.is_empty() {
            return Err(Invalid { file: self.paths.config_path.clone(), issues: blocking.into_iter().cloned().collect() });
        }
        let mut root = self.normal.clone();
        let unresolved = resolve_all(&mut root, &self.paths, &self.env, secrets.exec, secrets.store);
        let config = Config::from_value(root, &self.paths, &self.env, self.exists, self.hash.clone());
        Ok(Loaded { config: Arc::new(config), notices: self.notices(), unresolved })
    }

    /// What to print at a start besides errors: warnings, ignored keys, infos.
    #[must_use]
    pub fn notices(&self) -> Vec<Issue> {
        self.issues
            .iter()
            .filter(|i| i.severity != Severity::Error)
            .map(|i| {
                let mut notice = i.clone();
                if notice.severity == Severity::Unknown {
                    notice.message.push_str(" (ignored)");
                }
                notice
            })
            .collect()
    }

    /// The value at a path as the user sees it: variables in place, spelling of the file or of today. Not redacted.
    #[must_use]
    pub fn get(&self, path: &[String]) -> Option<&Value> {
        crate::view::value_at(&self.resolved, path).or_else(|| crate::view::value_at(&self.normal, path))
    }

    /// Gives every issue its file, line and column.
    fn place_issues(&mut self) {
        let mut issues = std::mem::take(&mut self.issues);
        for issue in issues.iter_mut().filter(|i| i.file.is_none()) {
            let (file, place) = self.place_of(&issue.at);
            issue.file = self.exists.then_some(file);
            issue.line = place.map(|p| p.0);
            issue.column = place.map(|p| p.1);
        }
        issues.sort_by_key(|issue| std::cmp::Reverse(issue.severity));
        self.issues = issues;
    }

    /// The file that holds a path of the resolved value, with line and column.
    #[must_use]
    pub fn place_of(&self, path: &[String]) -> (PathBuf, Option<(u32, u32)>) {
        let mut file = (self.paths.config_path.clone(), self.text.as_str(), &self.parsed);
        let mut start = 0;
        // follow single includes downwards as long as the key is not right there
        for _ in 0..=crate::include::INCLUDE_DEPTH_MAX {
            let mut here = file.2;
            let mut next = None;
            for (i, segment) in path.iter().enumerate().skip(start) {
                if here.get(segment).is_none()
                    && let Some(name) = here.get(INCLUDE_KEY)
                {
                    next = self.included_with(name, file.0.as_path(), segment).map(|f| (f, i));
                    break;
                }
                match crate::view::value_at(here, std::slice::from_ref(segment)) {
                    Some(inner) => here = inner,
                    None => break,
                }
            }
            let Some((found, at)) = next else { break };
            file = (found.path.clone(), found.text.as_str(), &found.value);
            start = at;
        }
        let place = text::locate(file.1, path.get(start..).unwrap_or_default()).map(|p| p.0);
        (file.0, place)
    }

    fn included_with(&self, names: &Value, from: &Path, segment: &str) -> Option<&SourceFile> {
        let names: Vec<&str> = match names {
            Value::String(name) => vec![name],
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        names.iter().rev().find_map(|name| {
            let path = crate::paths::clean(&from.parent()?.join(name)).canonicalize().ok()?;
            self.included.iter().find(|f| f.path == path && (f.value.get(segment).is_some() || f.value.get(INCLUDE_KEY).is_some()))
        })
    }
}

// what was read may hold credentials
impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("file", &self.paths.config_path).field("hash", &self.hash).field("issues", &self.issues).finish_non_exhaustive()
    }
}

fn at_place(mut issue: Issue, file: &Path, line: Option<u32>, column: Option<u32>) -> Issue {
    issue.file = Some(file.to_path_buf());
    issue.line = line;
    issue.column = column;
    issue
}

pub(crate) fn read_regular(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(text::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn expand_includes(parsed: &Value, texts: &BTreeMap<PathBuf, String>, paths: &Paths, issues: &mut Vec<Issue>) -> (Value, Vec<SourceFile>) {
    if !has_include(parsed) {
        return (parsed.clone(), Vec::new());
    }
    let read = |p: &Path| texts.get(p).map_or_else(|| read_regular(p), |t| Ok(t.clone().into_bytes()));
    let mut includes = Includes::new(paths, &paths.config_path, &read);
    let value = includes.expand(parsed, &paths.config_path);
    for p in includes.problems {
        let issue = Issue::error(&p.at, p.problem.message);
        issues.push(if p.problem.line.is_some() { at_place(issue, &p.file, p.problem.line, p.problem.column) } else { issue });
    }
    (value, includes.files)
}

fn has_include(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key(INCLUDE_KEY) || map.values().any(has_include),
        Value::Array(list) => list.iter().any(has_include),
        _ => false,
    }
}

fn effective_env(resolved: &Value, paths: &Paths, process: &Env, options: ReadOptions<'_>) -> Env {
    let mut env = process.clone();
    if let Some(cwd) = options.cwd {
        env.underlay(&Env::read_dotenv(&cwd.join(".env")), EnvTrust::Folder);
    }
    env.underlay(&Env::read_dotenv(&paths.env_file), EnvTrust::Full);
    let block = View(Some(resolved)).at("env");
    let flat = block.map().filter(|(k, _)| !matches!(*k, "vars" | "shellEnv")).filter_map(|(k, v)| Some((k.to_owned(), v.text()?)));
    let vars = block.at("vars").map().filter_map(|(k, v)| Some((k.to_owned(), v.text()?)));
    env.underlay(&Env::from_pairs(flat.chain(vars)), EnvTrust::Full);
    let wanted = block.path("shellEnv.enabled").flag(false) || process.flag("OPENCLAW_LOAD_SHELL_ENV");
    if wanted
        && options.shell == ShellImport::Run
        && let Some(shell) = process.trimmed("SHELL")
    {
        let timeout = block.path("shellEnv.timeoutMs").u64().unwrap_or(15_000).min(60_000);
        env.underlay(&login_shell_env(shell, Duration::from_millis(timeout)), EnvTrust::Full);
    }
    env
}
