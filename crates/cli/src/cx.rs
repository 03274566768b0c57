//! What every command gets: paths, environment, output mode.

use std::{future::Future, sync::Arc};

use clawstead_config::{Config, DevFlag, Env, ExecRefs, Loaded, Paths, Profile, ReadOptions, SecretOptions, ShellImport, Snapshot, Strictness};

use crate::{fail::Fail, globals::Globals};

/// The context of a command.
pub struct Cx {
    /// Global flags.
    pub globals: Globals,
    /// Where everything lies.
    pub paths: Paths,
    /// The process environment.
    pub env: Env,
    /// Whether standard output holds JSON only.
    pub json: bool,
}

impl Cx {
    /// From the global flags and the process.
    ///
    /// # Errors
    /// For a profile that is not one (exit code 2).
    pub fn new(globals: Globals, json: bool) -> Result<Self, Fail> {
        let dev = if globals.dev { DevFlag::On } else { DevFlag::Off };
        let profile = match Profile::from_flags(globals.profile.as_deref(), dev) {
            Ok(profile) => profile,
            Err(err) => {
                eprintln!("[openclaw] {err}");
                return Err(Fail::silent(2));
            }
        };
        let mut env = Env::from_pairs(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))));
        if let Some(name) = profile.name() {
            env.set("OPENCLAW_PROFILE", name);
        }
        let paths = Paths::resolve(profile, &env);
        Ok(Self { globals, paths, env, json })
    }

    /// The config file as it is, usable or not.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let cwd = std::env::current_dir().ok();
        Snapshot::read(&self.paths, &self.env, ReadOptions { cwd: cwd.as_deref(), shell: ShellImport::Skip })
    }

    /// The config as a start would take it.
    ///
    /// # Errors
    /// With the reasons, each with file and line.
    pub fn loaded(&self) -> Result<(Snapshot, Loaded), Fail> {
        let snapshot = self.snapshot();
        let loaded = snapshot.load(Strictness::Tolerant, SecretOptions { exec: ExecRefs::Run, store: None }).map_err(|invalid| invalid_config(&invalid))?;
        Ok((snapshot, loaded))
    }

    /// The config as a start would take it, or the defaults when the file cannot be used.
    #[must_use]
    pub fn config_or_defaults(&self) -> (Snapshot, Arc<Config>) {
        let snapshot = self.snapshot();
        let config = snapshot
            .load(Strictness::Tolerant, SecretOptions { exec: ExecRefs::Run, store: None })
            .map_or_else(|_| Config::defaults(&self.paths, &snapshot.env), |loaded| loaded.config);
        (snapshot, config)
    }

    /// Runs a future on this thread.
    ///
    /// # Errors
    /// When the system gives us no event queue.
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T, Fail>>) -> Result<T, Fail> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                biased;
                done = future => done,
                code = interrupted() => Err(Fail::silent(code)),
            }
        })
    }
}

/// Waits for SIGINT or SIGTERM; answers the exit code.
pub async fn interrupted() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        _ = int.recv() => 130,
        _ = term.recv() => 143,
    }
}

/// A config that cannot be used, with the next step.
#[must_use]
pub fn invalid_config(invalid: &clawstead_config::Invalid) -> Fail {
    Fail::new(invalid.to_string()).hint("openclaw doctor")
}
