use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use crate::{
    env::Env,
    ports::{DEFAULT_PORT, DEV_PORT},
};

/// Which gateway of this host is meant, from the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// The ordinary one.
    #[default]
    Main,
    /// `--profile <name>`: own state folder `~/.openclaw-<name>`.
    Named(String),
    /// `--dev`: state folder `~/.openclaw-dev`, base port 19001.
    Dev,
}

/// Why the profile flags cannot be used. The command line exits 2 with the message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProfileError {
    /// A character that is not a letter, digit, `_` or `-`.
    #[error("Invalid --profile (use letters, numbers, \"_\", \"-\" only)")]
    Invalid,
    /// Both flags.
    #[error("Cannot combine --dev with --profile")]
    Both,
}

/// The flag `--dev`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DevFlag {
    /// Not given.
    #[default]
    Off,
    /// Given.
    On,
}

impl Profile {
    /// From `--profile` and `--dev`. `default` means the ordinary gateway.
    ///
    /// # Errors
    /// When the name has other characters than letters, digits, `_` and `-`, or both flags are given.
    pub fn from_flags(profile: Option<&str>, dev: DevFlag) -> Result<Self, ProfileError> {
        match (profile.map(str::trim), dev) {
            (Some(_), DevFlag::On) => Err(ProfileError::Both),
            (None, DevFlag::On) => Ok(Self::Dev),
            (None, DevFlag::Off) => Ok(Self::Main),
            (Some(name), DevFlag::Off) => {
                let ok = (1..=64).contains(&name.len())
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
                    && name.as_bytes()[0].is_ascii_alphanumeric();
                match name {
                    _ if !ok => Err(ProfileError::Invalid),
                    name if name.eq_ignore_ascii_case("default") => Ok(Self::Main),
                    name => Ok(Self::Named(name.to_owned())),
                }
            }
        }
    }

    /// The name behind `--profile`, `dev` for `--dev`, none for the ordinary gateway.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Main => None,
            Self::Named(name) => Some(name),
            Self::Dev => Some("dev"),
        }
    }
}

/// Where everything of one gateway lies. All paths are absolute when home is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The profile these belong to.
    pub profile: Profile,
    /// `OPENCLAW_HOME`, else the home of the user.
    pub home: PathBuf,
    /// `OPENCLAW_STATE_DIR`, else `~/.openclaw` or `~/.openclaw-<profile>`.
    pub state_dir: PathBuf,
    /// `OPENCLAW_CONFIG_PATH`, else `<state>/openclaw.json`.
    pub config_path: PathBuf,
    /// `<state>/.env`.
    pub env_file: PathBuf,
    /// Folder of the daily log files: `/tmp/openclaw`.
    pub log_dir: PathBuf,
    /// The workspace of the default agent when the config names none.
    pub default_workspace: PathBuf,
    /// Old folders that exist and that `doctor` may offer to move: `~/.clawdbot`, `~/.moltbot`.
    pub legacy_state_dirs: Vec<PathBuf>,
    /// Old config files that exist: `clawdbot.json`, `moltbot.json` in the state folder or an old one.
    pub legacy_configs: Vec<PathBuf>,
    /// Extra folders that `$include` may read from (`OPENCLAW_INCLUDE_ROOTS`).
    pub include_roots: Vec<PathBuf>,
    /// `OPENCLAW_GATEWAY_PORT`, when it is a port.
    pub env_port: Option<u16>,
}

const STATE_NAME: &str = ".openclaw";
const CONFIG_NAME: &str = "openclaw.json";
const LEGACY_STATE_NAMES: [&str; 2] = [".clawdbot", ".moltbot"];
const LEGACY_CONFIG_NAMES: [&str; 2] = ["clawdbot.json", "moltbot.json"];

impl Paths {
    /// Reads flags and environment. Looks at the file system only to see which old folders exist.
    #[must_use]
    pub fn resolve(profile: Profile, env: &Env) -> Self {
        let os_home = env.trimmed("HOME").or_else(|| env.trimmed("USERPROFILE")).map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let home = env.trimmed("OPENCLAW_HOME").map_or_else(|| os_home.clone(), |h| expand_tilde(h, &os_home));
        let state_name = profile.name().map_or_else(|| STATE_NAME.to_owned(), |p| format!("{STATE_NAME}-{p}"));
        let state_dir = env.trimmed("OPENCLAW_STATE_DIR").map_or_else(|| home.join(state_name), |d| expand_tilde(d, &home));
        let config_path = env.trimmed("OPENCLAW_CONFIG_PATH").map_or_else(|| state_dir.join(CONFIG_NAME), |p| expand_tilde(p, &home));
        let old_profile_workspace = profile.name().map(|p| home.join(STATE_NAME).join(format!("workspace-{p}")));
        let default_workspace = match env.trimmed("OPENCLAW_WORKSPACE_DIR") {
            Some(dir) => expand_tilde(dir, &home),
            None => match old_profile_workspace {
                Some(dir) if dir.is_dir() => dir,
                _ => state_dir.join("workspace"),
            },
        };
        let legacy_state_dirs: Vec<PathBuf> = LEGACY_STATE_NAMES.iter().map(|n| home.join(n)).filter(|d| d.is_dir()).collect();
        let legacy_configs = std::iter::once(&state_dir)
            .chain(&legacy_state_dirs)
            .flat_map(|dir| LEGACY_CONFIG_NAMES.iter().map(|n| dir.join(n)))
            .filter(|f| f.is_file())
            .collect();
        let include_roots = env
            .trimmed("OPENCLAW_INCLUDE_ROOTS")
            .map(|list| std::env::split_paths(list).filter(|p| !p.as_os_str().is_empty()).map(|p| expand_tilde(&p.to_string_lossy(), &home)).collect())
            .unwrap_or_default();
        Self {
            env_file: state_dir.join(".env"),
            log_dir: std::path::PathBuf::from("/tmp/openclaw"),
            env_port: env.trimmed("OPENCLAW_GATEWAY_PORT").and_then(|p| p.parse().ok()).filter(|p| *p != 0),
            profile,
            home,
            state_dir,
            config_path,
            default_workspace,
            legacy_state_dirs,
            legacy_configs,
            include_roots,
        }
    }

    /// The base port when neither flag, environment nor config names one: 18789, with `--dev` 19001.
    #[must_use]
    pub fn default_port(&self) -> u16 {
        if self.profile == Profile::Dev { DEV_PORT } else { DEFAULT_PORT }
    }

    /// A path from the config: `~` is home, a relative one starts at the
    /// folder of the config file. `.` and `..` are taken out.
    #[must_use]
    pub fn expand(&self, text: &str) -> PathBuf {
        let path = expand_tilde(text.trim(), &self.home);
        let base = self.config_path.parent().unwrap_or(&self.state_dir);
        clean(&if path.is_absolute() { path } else { base.join(path) })
    }

    /// `<state>/agents/<agent>/agent`.
    #[must_use]
    pub fn agent_dir(&self, agent: &str) -> PathBuf {
        self.state_dir.join("agents").join(agent).join("agent")
    }

    /// `<state>/agents/<agent>/sessions`.
    #[must_use]
    pub fn sessions_dir(&self, agent: &str) -> PathBuf {
        self.state_dir.join("agents").join(agent).join("sessions")
    }

    /// systemd user unit: `openclaw-gateway.service` or `openclaw-gateway-<profile>.service`.
    #[must_use]
    pub fn service_name(&self) -> String {
        self.profile.name().map_or_else(|| "openclaw-gateway.service".to_owned(), |p| format!("openclaw-gateway-{p}.service"))
    }

    /// A path as messages show it: home becomes `~`.
    #[must_use]
    pub fn display(&self, path: &Path) -> String {
        match path.strip_prefix(&self.home) {
            Ok(rest) if self.home != Path::new("/") => format!("~/{}", rest.display()).trim_end_matches('/').to_owned(),
            _ => path.display().to_string(),
        }
    }
}

fn expand_tilde(text: &str, home: &Path) -> PathBuf {
    match text.strip_prefix('~') {
        Some("") => home.to_path_buf(),
        Some(rest) if rest.starts_with('/') || rest.starts_with('\\') => home.join(rest.trim_start_matches(['/', '\\'])),
        _ => PathBuf::from(text),
    }
}

/// Takes `.` and `..` out without asking the file system.
#[must_use]
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                if !matches!(out.components().next_back(), None | Some(Component::RootDir | Component::ParentDir)) {
                    out.pop();
                } else if !out.has_root() {
                    out.push("..");
                }
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        Env::from_pairs(std::iter::once(("HOME", "/home/nobody-here")).chain(pairs.iter().copied()))
    }

    #[test]
    fn flags_choose_the_profile() {
        let f = Profile::from_flags;
        assert_eq!(f(None, DevFlag::Off), Ok(Profile::Main));
        assert_eq!(f(Some("default"), DevFlag::Off), Ok(Profile::Main));
        assert_eq!(f(Some("rescue"), DevFlag::Off), Ok(Profile::Named("rescue".into())));
        assert_eq!(f(None, DevFlag::On), Ok(Profile::Dev));
        assert_eq!(f(Some("x"), DevFlag::On), Err(ProfileError::Both));
        for bad in ["", "a/b", "a b", "../x", "ä", "a.b"] {
            assert_eq!(f(Some(bad), DevFlag::Off), Err(ProfileError::Invalid), "{bad}");
        }
    }

    #[test]
    fn folders_follow_flags_and_environment() {
        let h = "/home/nobody-here";
        for (profile, vars, state, config) in [
            (Profile::Main, &[][..], format!("{h}/.openclaw"), format!("{h}/.openclaw/openclaw.json")),
            (Profile::Named("p".into()), &[], format!("{h}/.openclaw-p"), format!("{h}/.openclaw-p/openclaw.json")),
            (Profile::Dev, &[], format!("{h}/.openclaw-dev"), format!("{h}/.openclaw-dev/openclaw.json")),
            (Profile::Main, &[("OPENCLAW_PROFILE", "foo")], format!("{h}/.openclaw"), format!("{h}/.openclaw/openclaw.json")),
            (Profile::Main, &[("OPENCLAW_STATE_DIR", "/s")], "/s".into(), "/s/openclaw.json".into()),
            (Profile::Main, &[("OPENCLAW_HOME", "/o")], "/o/.openclaw".into(), "/o/.openclaw/openclaw.json".into()),
            (Profile::Main, &[("OPENCLAW_HOME", "~/x")], format!("{h}/x/.openclaw"), format!("{h}/x/.openclaw/openclaw.json")),
            (Profile::Main, &[("OPENCLAW_CONFIG_PATH", "~/c.json")], format!("{h}/.openclaw"), format!("{h}/c.json")),
            (Profile::Named("p".into()), &[("OPENCLAW_STATE_DIR", "/s")], "/s".into(), "/s/openclaw.json".into()),
        ] {
            let paths = Paths::resolve(profile, &env(vars));
            assert_eq!(paths.state_dir, PathBuf::from(state), "{vars:?}");
            assert_eq!(paths.config_path, PathBuf::from(config), "{vars:?}");
        }
        let dev = Paths::resolve(Profile::Dev, &env(&[("OPENCLAW_GATEWAY_PORT", "4711")]));
        assert_eq!((dev.default_port(), dev.env_port), (19001, Some(4711)));
        assert_eq!(dev.service_name(), "openclaw-gateway-dev.service");
        assert_eq!(dev.display(&dev.config_path), "~/.openclaw-dev/openclaw.json");
        assert_eq!(dev.default_workspace, dev.state_dir.join("workspace"));
    }

    #[test]
    fn old_folders_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        std::fs::create_dir_all(home.join(".openclaw/workspace-macbook")).unwrap();
        std::fs::create_dir_all(home.join(".clawdbot")).unwrap();
        std::fs::write(home.join(".clawdbot/clawdbot.json"), "{}").unwrap();
        let env = Env::from_pairs([("HOME", home.to_str().unwrap())]);
        let paths = Paths::resolve(Profile::Named("macbook".into()), &env);
        assert_eq!(paths.default_workspace, home.join(".openclaw/workspace-macbook"));
        assert_eq!(paths.legacy_state_dirs, [home.join(".clawdbot")]);
        assert_eq!(paths.legacy_configs, [home.join(".clawdbot/clawdbot.json")]);
    }

    #[test]
    fn paths_are_cleaned() {
        for (given, want) in [("/a/./b/../c", "/a/c"), ("/../x", "/x"), ("a/../../b", "../b"), ("/", "/")] {
            assert_eq!(clean(Path::new(given)), PathBuf::from(want), "{given}");
        }
    }
}
