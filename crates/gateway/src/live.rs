//! The config in force: read, changed through RPC, watched on disk. An invalid edit never replaces a running config.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use clawstead_config::{
    Config, Edit, EditError, EditOptions, Env, ExecRefs, Guard, Invalid, Paths, Planned, ReadOptions, ReloadMode, ReloadPlan, SecretOptions, ShellImport,
    Snapshot, Strictness, diff, keep_last_good, plan, plan_edit, write,
};
use clawstead_terms::Failure;
use clawstead_world::{TaskKind, World};

use crate::doors::{DoorSettings, auth::AuthOverrides};

/// Shortest wait after a file event, so that an editor's several writes count as one.
const DEBOUNCE_MS_MIN: u64 = 100;

/// What a reload found.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// The config before.
    pub old: Arc<Config>,
    /// The config now.
    pub new: Arc<Config>,
    /// Changed paths.
    pub changed: Vec<Vec<String>>,
    /// What to restart.
    pub plan: ReloadPlan,
}

/// The config of a running gateway.
pub struct Live {
    /// In force. Rooms hold this.
    pub config: Arc<ArcSwap<Config>>,
    paths: Paths,
    env: Env,
    cwd: Option<PathBuf>,
    strictness: Strictness,
    held: Mutex<Arc<Snapshot>>,
    /// Edits and reloads happen one after the other.
    turn: tokio::sync::Mutex<()>,
    applied: mpsc::Sender<Reloaded>,
    /// What the command line said stays in force over reloads.
    overrides: OnceLock<AuthOverrides>,
}

impl Live {
    /// Around what was loaded. Reloads are handed to the receiver, in order.
    #[must_use]
    pub fn new(snapshot: Snapshot, config: Arc<Config>, env: Env, cwd: Option<PathBuf>, strictness: Strictness) -> (Arc<Self>, mpsc::Receiver<Reloaded>) {
        let (applied, reloads) = mpsc::channel(16);
        let live = Self {
            config: Arc::new(ArcSwap::new(config)),
            paths: snapshot.paths.clone(),
            env,
            cwd,
            strictness,
            held: Mutex::new(Arc::new(snapshot)),
            turn: tokio::sync::Mutex::default(),
            applied,
            overrides: OnceLock::new(),
        };
        (Arc::new(live), reloads)
    }

    /// The file as it was last read.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the command line said about credentials; call once, before anything is served.
    pub fn keep_overrides(&self, overrides: AuthOverrides) {
        let _ = self.overrides.set(overrides);
    }

    /// The doors' settings of a config, with what the command line said.
    #[must_use]
    pub fn door_settings(&self, config: &Config) -> DoorSettings {
        let settings = DoorSettings::from_config(&config.gateway);
        match self.overrides.get() {
            Some(overrides) => overrides.over(settings),
            None => settings,
        }
    }

    /// The process environment that the config is read with.
    #[must_use]
    pub const fn env(&self) -> &Env {
        &self.env
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        tokio::task::spawn_blocking(work).await.map_err(|e| Failure::internal(format!("reading the config ended early: {e}")))
    }

    async fn read(&self) -> Result<Snapshot, Failure> {
        let (paths, env, cwd) = (self.paths.clone(), self.env.clone(), self.cwd.clone());
        self.blocking(move || Snapshot::read(&paths, &env, ReadOptions { cwd: cwd.as_deref(), shell: ShellImport::Run })).await
    }

    async fn load(&self, snapshot: &Snapshot) -> Result<Result<Arc<Config>, Invalid>, Failure> {
        let (snapshot, strictness) = (snapshot.clone(), self.strictness);
        self.blocking(move || snapshot.load(strictness, SecretOptions { exec: ExecRefs::Run, store: None }).map(|loaded| loaded.config)).await
    }

    /// Works an edit out, writes it, and takes the result into force.
    ///
    /// # Errors
    /// As [`plan_edit`] and [`write`]; nothing was written then.
    pub async fn edit(&self, edits: Vec<Edit>, base_hash: Option<String>, guard: Guard, now_ms: u64) -> Result<Planned, EditError> {
        let _one = self.turn.lock().await;
        let io = |failure: Failure| EditError::Io(failure.message);
        let fresh = self.read().await.map_err(io)?;
        let env = self.env.clone();
        let planned = self
            .blocking(move || {
                let options = EditOptions { base_hash: base_hash.as_deref(), version: Some(crate::VERSION) };
                let planned = plan_edit(&fresh, &edits, &env, options)?;
                if !planned.files.is_empty() {
                    write(&planned, guard, now_ms)?;
                }
                Ok(planned)
            })
            .await
            .map_err(io)??;
        if !planned.files.is_empty() {
            self.take(planned.snapshot.clone()).await.map_err(io)?;
        }
        Ok(planned)
    }

    /// Reads the file again. Answers the paths that changed; nothing for an invalid file, which is only reported.
    ///
    /// # Errors
    /// When reading itself broke off.
    pub async fn reread(&self) -> Result<Vec<Vec<String>>, Failure> {
        let _one = self.turn.lock().await;
        let fresh = self.read().await?;
        if fresh.hash == self.snapshot().hash {
            return Ok(Vec::new());
        }
        self.take(fresh).await
    }

    async fn take(&self, fresh: Snapshot) -> Result<Vec<Vec<String>>, Failure> {
        if self.snapshot().exists && !fresh.exists {
            tracing::warn!(path = %self.paths.config_path.display(), "config reload skipped (the file is gone); the running config stays");
            return Ok(Vec::new());
        }
        let config = match self.load(&fresh).await? {
            Ok(config) => config,
            Err(invalid) => {
                tracing::error!(err = %invalid, "config reload skipped (invalid config); the running config stays");
                return Ok(Vec::new());
            }
        };
        let old = self.config.load_full();
        let changed = diff(old.root(), config.root());
        let kept = fresh.clone();
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        if changed.is_empty() {
            return Ok(changed);
        }
        self.config.store(config.clone());
        let reloaded = Reloaded { old, new: config, plan: plan(&changed), changed: changed.clone() };
        let _ = self.applied.send(reloaded).await;
        let _ = self.blocking(move || keep_last_good(&kept)).await;
        Ok(changed)
    }

    /// Watches the file and what it includes, unless the config switches reloads off.
    ///
    /// # Errors
    /// When the system cannot watch (too many watches); the gateway works on without.
    pub fn watch(self: &Arc<Self>, world: &World) -> Result<(), notify::Error> {
        let (told, mut events) = mpsc::channel::<()>(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|e| !matches!(e.kind, notify::EventKind::Access(_))) {
                // Full means that a look is due already.
                let _ = told.try_send(());
            }
        })?;
        let mut watched = Vec::new();
        self.watch_folders(&mut watcher, &mut watched)?;
        let (this, stop) = (self.clone(), world.tasks.stopping());
        world.tasks.spawn::<_, Failure>(TaskKind::logged("config watch"), async move {
            loop {
                tokio::select! { biased; () = stop.cancelled() => return Ok(()), event = events.recv() => if event.is_none() { return Ok(()) } }
                let config = this.config.load_full();
                tokio::time::sleep(Duration::from_millis(config.gateway.reload_debounce_ms.max(DEBOUNCE_MS_MIN))).await;
                while events.try_recv().is_ok() {}
                if config.gateway.reload == ReloadMode::Off {
                    continue;
                }
                match this.reread().await {
                    Ok(changed) if !changed.is_empty() => {
                        let paths: Vec<String> = changed.iter().map(|p| clawstead_config::join_path(p)).collect();
                        tracing::info!(paths = paths.join(", "), "config reloaded");
                        if let Err(err) = this.watch_folders(&mut watcher, &mut watched) {
                            tracing::warn!(err = %err, "a folder of the config cannot be watched");
                        }
                    }
                    Ok(_) => {}
                    Err(failure) => tracing::warn!(err = %failure, "the config could not be read again"),
                }
            }
        });
        Ok(())
    }

    /// Folders, not files: editors replace files.
    fn watch_folders(&self, watcher: &mut RecommendedWatcher, watched: &mut Vec<PathBuf>) -> Result<(), notify::Error> {
        let snapshot = self.snapshot();
        let files = std::iter::once(self.paths.config_path.as_path()).chain(snapshot.included.iter().map(|f| f.path.as_path()));
        for folder in files.filter_map(Path::parent).filter(|folder| folder.is_dir()) {
            if !watched.iter().any(|known| known == folder) {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
                watched.push(folder.to_owned());
            }
        }
        Ok(())
    }
}
