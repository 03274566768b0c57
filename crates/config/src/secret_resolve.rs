//! Putting secrets in the place of references, once, when a configuration is activated.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    env::Env,
    paths::Paths,
    secret::{Secret, SecretRef, SecretSource},
    secret_exec::run_bounded,
    view::View,
};

const TIMEOUT_MS: u64 = 5000;
const TIMEOUT_MS_MAX: u64 = 120_000;
const BYTES_MAX: u64 = 1024 * 1024;
const BYTES_MAX_LIMIT: u64 = 20 * 1024 * 1024;

/// Whether helper programs may be run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecRefs {
    /// Their references stay unresolved, without a complaint (dry runs, editing).
    #[default]
    Skip,
    /// Run them; blocks up to their time limits, so use a blocking thread.
    Run,
}

/// Looks up one secret of the built-in store.
pub type StoreLookup<'a> = &'a dyn Fn(&str) -> Option<Secret>;

/// A reference that has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// Where in the normalised value.
    pub path: Vec<String>,
    /// Which.
    pub reference: SecretRef,
    /// Why; without any secret.
    pub reason: String,
}

/// Replaces every reference in `root` that can be resolved and gives back the others. File and exec providers are
/// read once each.
pub(crate) fn resolve_all(root: &mut Value, paths: &Paths, env: &Env, exec: ExecRefs, store: Option<StoreLookup<'_>>) -> Vec<Unresolved> {
    let mut found = Vec::new();
    for part in root.as_object().into_iter().flatten().filter(|(k, _)| k.as_str() != "secrets") {
        collect(part.1, &mut vec![part.0.clone()], &mut found);
    }
    if found.is_empty() {
        return Vec::new();
    }
    let secrets = root.get("secrets").cloned().unwrap_or_default();
    let values = lookup(&secrets, paths, env, exec, store, found.iter().map(|(_, r)| r));
    let mut unresolved = Vec::new();
    for (path, reference) in found {
        match values.get(&reference) {
            Some(Ok(text)) => {
                if let Some(slot) = slot_at(root, &path) {
                    *slot = Value::String(text.clone());
                }
            }
            Some(Err(reason)) => unresolved.push(Unresolved { path, reference, reason: reason.clone() }),
            None => {}
        }
    }
    unresolved
}

/// Resolves references by themselves, as a dry run of `config set` does.
#[must_use]
pub fn resolve_refs(secrets: &Value, paths: &Paths, env: &Env, exec: ExecRefs, refs: &[SecretRef]) -> Vec<Result<Secret, String>> {
    let values = lookup(secrets, paths, env, exec, None, refs.iter());
    refs.iter()
        .map(|r| match values.get(r) {
            Some(Ok(text)) => Ok(Secret::new(text.as_str())),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err("exec references are not resolved here".into()),
        })
        .collect()
}

fn slot_at<'a>(root: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(root, |here, segment| match here {
        Value::Object(map) => map.get_mut(segment),
        Value::Array(list) => segment.parse::<usize>().ok().and_then(|i| list.get_mut(i)),
        _ => None,
    })
}

fn collect(value: &Value, at: &mut Vec<String>, out: &mut Vec<(Vec<String>, SecretRef)>) {
    if let Some(reference) = SecretRef::from_value(value) {
        out.push((at.clone(), reference));
        return;
    }
    match value {
        Value::String(text) if text.starts_with('$') => {
            let secret_place = at.last().is_some_and(|k| crate::redact::is_secret_key(k)) || crate::schema::is_secret(at);
            if secret_place && let Some(reference) = SecretRef::from_short(text) {
                out.push((at.clone(), reference));
            }
        }
        Value::Array(list) => {
            for (i, inner) in list.iter().enumerate() {
                at.push(i.to_string());
                collect(inner, at, out);
                at.pop();
            }
        }
        Value::Object(map) => {
            for (key, inner) in map {
                at.push(key.clone());
                collect(inner, at, out);
                at.pop();
            }
        }
        _ => {}
    }
}

type Values = BTreeMap<SecretRef, Result<String, String>>;

fn lookup<'r>(secrets: &Value, paths: &Paths, env: &Env, exec: ExecRefs, store: Option<StoreLookup<'_>>, refs: impl Iterator<Item = &'r SecretRef>) -> Values {
    let v = View(Some(secrets));
    let mut groups: BTreeMap<(SecretSource, String), BTreeSet<SecretRef>> = BTreeMap::new();
    for r in refs {
        let alias = r.provider.clone().or_else(|| v.at("defaults").at(r.source.as_str()).word()).unwrap_or_else(|| "default".into());
        groups.entry((r.source, alias)).or_default().insert(r.clone());
    }
    let mut out = Values::new();
    for ((source, alias), refs) in groups {
        let (good, bad): (BTreeSet<_>, BTreeSet<_>) = refs.into_iter().partition(|r| r.check().is_ok());
        out.extend(bad.into_iter().map(|r| {
            let reason = r.check().err().unwrap_or_default().to_owned();
            (r, Err(reason))
        }));
        let provider = v.at("providers").at(&alias);
        let known = provider.at("source").str() == Some(source.as_str());
        let each = |out: &mut Values, get: &dyn Fn(&str) -> Result<String, String>| {
            for r in &good {
                out.insert(r.clone(), get(&r.id));
            }
        };
        let missing = || Err(format!("Secret provider \"{alias}\" is not configured for source \"{}\"", source.as_str()));
        match source {
            SecretSource::Env if known || alias == "default" => {
                let allow = provider.at("allowlist").texts();
                each(&mut out, &|id| match (&allow, env.get(id)) {
                    (Some(list), _) if !list.iter().any(|a| a == id) => {
                        Err(format!("Environment variable \"{id}\" is not allowlisted in secrets.providers.{alias}.allowlist"))
                    }
                    (_, Some(value)) => Ok(value.to_owned()),
                    (_, None) => Err(format!("Environment variable \"{id}\" is missing or empty")),
                });
            }
            SecretSource::Store => each(&mut out, &|id| match store.and_then(|s| s(id)) {
                Some(secret) => Ok(secret.expose().to_owned()),
                None => Err(format!("Secret store has no entry \"{id}\"")),
            }),
            SecretSource::File if known => {
                let read = read_file(provider, paths);
                let single = provider.at("mode").str() == Some("singleValue");
                each(&mut out, &|id| from_file(&read, single, id));
            }
            SecretSource::Exec if known => {
                if exec == ExecRefs::Run {
                    let ids: Vec<&str> = good.iter().map(|r| r.id.as_str()).collect();
                    let answer = ask_program(provider, &alias, &ids, env);
                    each(&mut out, &|id| from_program(&answer, id));
                }
            }
            _ => each(&mut out, &|_| missing()),
        }
    }
    out
}

fn read_file(provider: View<'_>, paths: &Paths) -> Result<String, String> {
    let path = provider.at("path").word().ok_or("secret file provider has no path")?;
    let path = paths.expand(&path);
    let shown = paths.display(&path);
    let meta = std::fs::symlink_metadata(&path).map_err(|e| format!("secret file {shown}: {e}"))?;
    if !meta.is_file() {
        return Err(format!("secret file {shown} is not a regular file"));
    }
    private_file(&meta, &shown)?;
    let max = provider.at("maxBytes").u64().unwrap_or(BYTES_MAX).min(BYTES_MAX_LIMIT);
    if meta.len() > max {
        return Err(format!("secret file {shown} is larger than {max} bytes"));
    }
    std::fs::read_to_string(&path).map_err(|e| format!("secret file {shown}: {e}"))
}

#[cfg(unix)]
fn private_file(meta: &std::fs::Metadata, shown: &str) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    if meta.nlink() > 1 {
        return Err(format!("secret file {shown} has hard links"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(format!("secret file {shown} can be read by others; use mode 0600"));
    }
    if ![0, rustix::process::geteuid().as_raw()].contains(&meta.uid()) {
        return Err(format!("secret file {shown} belongs to another user"));
    }
    Ok(())
}

#[cfg(not(unix))]
fn private_file(_meta: &std::fs::Metadata, _shown: &str) -> Result<(), String> {
    Ok(())
}

fn from_file(read: &Result<String, String>, single: bool, id: &str) -> Result<String, String> {
    let text = read.as_ref().map_err(Clone::clone)?;
    if single {
        return match (id, text.trim_end_matches(['\r', '\n'])) {
            ("value", "") => Err("secret file is empty".into()),
            ("value", value) => Ok(value.to_owned()),
            _ => Err("a singleValue secret file has only the id \"value\"".into()),
        };
    }
    let value: Value = serde_json::from_str(text).map_err(|_| "secret file is not JSON".to_owned())?;
    match value.pointer(id) {
        Some(Value::String(s)) if !s.is_empty() => Ok(s.clone()),
        Some(_) => Err(format!("secret file value at \"{id}\" is not a text")),
        None => Err(format!("secret file has nothing at \"{id}\"")),
    }
}

enum Answer {
    Text(String),
    Json(Value),
}

fn ask_program(provider: View<'_>, alias: &str, ids: &[&str], env: &Env) -> Result<Answer, String> {
    let program = provider.at("command").word().ok_or_else(|| format!("secrets.providers.{alias} has no command"))?;
    check_program(Path::new(&program), provider, alias)?;
    let mut command = Command::new(&program);
    command.args(provider.at("args").texts().unwrap_or_default()).env_clear();
    for name in provider.at("passEnv").texts().unwrap_or_default() {
        if let Some(value) = env.get(&name) {
            command.env(name, value);
        }
    }
    for (name, value) in provider.at("env").map() {
        command.env(name, value.text().unwrap_or_default());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let request = json!({"protocolVersion": 1, "provider": alias, "ids": ids}).to_string();
    let timeout = provider.at("timeoutMs").u64().unwrap_or(TIMEOUT_MS).clamp(1, TIMEOUT_MS_MAX);
    let timeout = provider.at("noOutputTimeoutMs").u64().map_or(timeout, |t| t.clamp(1, timeout));
    let max = provider.at("maxOutputBytes").u64().unwrap_or(BYTES_MAX).min(BYTES_MAX_LIMIT);
    let bytes = run_bounded(command, Some(request.into_bytes()), Duration::from_millis(timeout), usize::try_from(max).unwrap_or(usize::MAX))
        .map_err(|e| format!("Secret program of \"{alias}\" {e}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("Secret program of \"{alias}\" wrote something that is not UTF-8"))?;
    match serde_json::from_str::<Value>(&text) {
        Ok(value) if value.get("protocolVersion") == Some(&json!(1)) => Ok(Answer::Json(value)),
        _ if !provider.at("jsonOnly").flag(true) && ids.len() == 1 => Ok(Answer::Text(text.trim_end_matches(['\r', '\n']).to_owned())),
        Ok(_) => Err(format!("Secret program of \"{alias}\" did not answer with protocolVersion 1")),
        Err(_) => Err(format!("Secret program of \"{alias}\" did not answer with JSON")),
    }
}

fn from_program(answer: &Result<Answer, String>, id: &str) -> Result<String, String> {
    match answer.as_ref().map_err(Clone::clone)? {
        Answer::Text(text) if !text.is_empty() => Ok(text.clone()),
        Answer::Text(_) => Err("Secret program wrote nothing".into()),
        Answer::Json(value) => match value.get("values").and_then(|v| v.get(id)) {
            Some(Value::String(s)) if !s.is_empty() => Ok(s.clone()),
            Some(_) => Err(format!("Secret program gave no text for \"{id}\"")),
            None => {
                let code = value.get("errors").and_then(|e| e.get(id)).and_then(|e| e.get("code")).and_then(Value::as_str).unwrap_or("NOT_FOUND");
                let code: String = code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
                Err(format!("Secret program has no \"{id}\" ({code})"))
            }
        },
    }
}

fn check_program(program: &Path, provider: View<'_>, alias: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("secrets.providers.{alias}.command {why}"));
    if !program.is_absolute() {
        return refuse("must be an absolute path");
    }
    let Ok(meta) = std::fs::symlink_metadata(program) else { return refuse("does not exist") };
    if meta.file_type().is_symlink() && !provider.at("allowSymlinkCommand").flag(false) {
        return refuse("must not be a symlink");
    }
    if let Some(dirs) = provider.at("trustedDirs").texts()
        && !dirs.iter().any(|d| program.starts_with(d))
    {
        return refuse("is outside trustedDirs");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let Ok(meta) = std::fs::metadata(program) else { return refuse("does not exist") };
        if meta.mode() & 0o022 != 0 {
            return refuse("must not be writable by group or others");
        }
    }
    Ok(())
}
