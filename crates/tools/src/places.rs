//! Where tools stand on this host.

use std::{collections::BTreeMap, path::PathBuf};

/// The host as tools see it: fixed when the gateway starts.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The gateway's state directory, absolute. Its credential files are closed to every file tool.
    pub state_dir: PathBuf,
    /// The user's home directory, for `~`.
    pub home: PathBuf,
    /// The environment of the gateway process; children of `exec` inherit a cleaned copy.
    pub env: BTreeMap<String, String>,
}

impl Places {
    /// The places of this process: its environment and home, and the state directory given.
    #[must_use]
    pub fn of_process(state_dir: PathBuf) -> Self {
        let env: BTreeMap<String, String> = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
        let home = env.get("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        Self { state_dir, home, env }
    }
}
