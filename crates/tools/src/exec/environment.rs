//! The environment of a command: the gateway's own, cleaned, and what the call adds.

use std::collections::BTreeMap;

use crate::{Places, ToolError};

/// Variables that make a program load or run other code; neither inherited nor set by a call.
const REFUSED: [&str; 47] = [
    "BASH_ENV",
    "ENV",
    "SHELLOPTS",
    "BASHOPTS",
    "PS4",
    "IFS",
    "PROMPT_COMMAND",
    "ZDOTDIR",
    "CDPATH",
    "GLOBIGNORE",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_REPL_EXTERNAL_MODULE",
    "PYTHONSTARTUP",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONBREAKPOINT",
    "PERL5OPT",
    "PERL5LIB",
    "PERL5DB",
    "RUBYOPT",
    "RUBYLIB",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "GCONV_PATH",
    "HOSTALIASES",
    "LOCPATH",
    "NLSPATH",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_EXTERNAL_DIFF",
    "GIT_EXEC_PATH",
    "GIT_PAGER",
    "GIT_EDITOR",
    "GIT_ASKPASS",
    "SSH_ASKPASS",
    "GIT_TEMPLATE_DIR",
    "LUA_INIT",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "RUSTC_WRAPPER",
    "MAKEFLAGS",
    "GLIBC_TUNABLES",
    "LESSOPEN",
    "LESSCLOSE",
];
/// Beginnings of such names.
const REFUSED_PREFIXES: [&str; 5] = ["LD_", "DYLD_", "BASH_FUNC_", "MALLOC_", "GIT_CONFIG"];
/// What a call may not set besides: where programs are found, and who we are.
const REFUSED_FROM_CALL: [&str; 6] = ["PATH", "HOME", "SHELL", "USER", "LOGNAME", "TMPDIR"];
/// Most variables of one call.
const VARS_MAX: usize = 128;

fn refused(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    REFUSED.contains(&upper.as_str()) || REFUSED_PREFIXES.iter().any(|p| upper.starts_with(p))
}

/// The gateway's own secrets; a command has no use for them.
fn own_secret(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    (upper.starts_with("OPENCLAW_") || upper.starts_with("CLAWSTEAD_")) && ["TOKEN", "PASSWORD", "SECRET", "KEY"].iter().any(|word| upper.contains(word))
}

/// PATH of a command: `tools.exec.pathPrepend`, then the gateway's. Relative folders are left out.
pub fn search_path(places: &Places, prepend: &[String]) -> String {
    let own = places.env.get("PATH").map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
    prepend.iter().map(String::as_str).chain(own.split(':')).filter(|dir| dir.starts_with('/')).collect::<Vec<_>>().join(":")
}

/// The whole environment of a command.
///
/// # Errors
/// When the call sets a variable that could change what runs; the error names it.
pub fn of_child(places: &Places, path: &str, call: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ToolError> {
    if call.len() > VARS_MAX {
        return Err(ToolError::BadArguments(format!("field `env` must have at most {VARS_MAX} entries")));
    }
    let mut env: BTreeMap<String, String> =
        places.env.iter().filter(|(name, _)| !refused(name) && !own_secret(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
    for (name, value) in call {
        let proper = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
        if !proper || value.contains('\0') {
            return Err(ToolError::BadArguments(format!("field `env` has an invalid entry {name:?}")));
        }
        if refused(name) || REFUSED_FROM_CALL.contains(&name.to_ascii_uppercase().as_str()) {
            return Err(ToolError::Denied(format!("the variable {name} may not be set: it could change what program runs")));
        }
        env.insert(name.clone(), value.clone());
    }
    env.insert("PATH".into(), path.into());
    env.insert("OPENCLAW_SHELL".into(), "exec".into());
    Ok(env)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{of_child, search_path};
    use crate::Places;

    #[test]
    fn dangerous_variables_neither_pass_nor_are_set() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<BTreeMap<_, _>>();
        let env = map(&[
            ("LD_PRELOAD", "x"),
            ("NODE_OPTIONS", "x"),
            ("OPENCLAW_GATEWAY_TOKEN", "t"),
            ("OPENCLAW_HOME", "/h"),
            ("NOMAD_TOKEN", "n"),
            ("PATH", "/bin:.:rel:/usr/bin"),
        ]);
        let places = Places { env, ..Places::default() };
        let path = search_path(&places, &["/opt/x".into(), "also/rel".into()]);
        assert_eq!(path, "/opt/x:/bin:/usr/bin");
        let child = of_child(&places, &path, &map(&[("A", "1")])).unwrap();
        let names: Vec<&str> = child.keys().map(String::as_str).collect();
        assert_eq!(names, ["A", "NOMAD_TOKEN", "OPENCLAW_HOME", "OPENCLAW_SHELL", "PATH"]);
        for bad in ["LD_PRELOAD", "ld_library_path", "DYLD_INSERT_LIBRARIES", "NODE_OPTIONS", "BASH_ENV", "PATH", "GIT_SSH_COMMAND", "A B", "1A", "A=B", ""] {
            assert!(of_child(&places, &path, &map(&[(bad, "x")])).is_err(), "{bad}");
        }
    }
}
