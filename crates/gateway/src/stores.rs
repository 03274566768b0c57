//! Which store a gateway keeps its rows and journals in: the SQLite file of its state folder, or the PostgreSQL server
//! that `farm.state` names.

use std::sync::Arc;

use clawstead_config::{Config, FarmConfig, StateKind};
use clawstead_state::{
    PostgresStore, Shared, SqliteStore, Store, TxError,
    postgres::{self, RECALL_FILE, Tenancy, TenancyError},
    sqlite,
};
use clawstead_terms::Failure;
use clawstead_world::{TaskKind, Tasks, World};
use thiserror::Error;

/// The SQLite database in the state folder.
pub const DATABASE: &str = "clawstead.sqlite";

/// The rows of `Meta` that belong to all gateways of a farm that share a store; see [`Shared`].
pub const COMMON_META: &[&str] = &[crate::rpc::surfaces::PREFS_KEY, crate::rpc::sessions::GROUPS_KEY];

/// Why there is no store.
#[derive(Debug, Error)]
pub enum OpenError {
    /// `farm.state.url` is a reference without a value: a restart alone does not help.
    #[error(
        "farm.state.kind is \"postgres\", but farm.state.url has no value: set what its secret reference names, or remove farm.state to keep the state in the folder"
    )]
    NoUrl,
    /// The store says no.
    #[error("{0}")]
    Store(#[from] TxError),
    /// Somebody else lives in the schema. A restart helps when that one ends.
    #[error("{0}")]
    Taken(TenancyError),
    /// Anything else.
    #[error("{0}")]
    Failure(#[from] Failure),
}

impl From<TenancyError> for OpenError {
    fn from(err: TenancyError) -> Self {
        match err {
            TenancyError::Store(err) => Self::Store(err),
            taken => Self::Taken(taken),
        }
    }
}

/// A store that is open.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Where it is, for `status` and the log: a file, or `postgres:<host>/<database>`. No secrets.
    pub place: String,
    /// Things to say at the start.
    pub notices: Vec<String>,
}

/// Opens what the config names.
///
/// # Errors
/// As [`OpenError`] lists. A PostgreSQL server that is away is waited for, 30 s at most; one that dies there, 5 s.
pub async fn open(config: &Config, world: &World) -> Result<Opened, OpenError> {
    let file = config.paths.state_dir.join(DATABASE);
    let Some(state) = config.farm.as_ref().map(|farm| &farm.state).filter(|state| state.kind == StateKind::Postgres) else {
        let opened = tokio::task::spawn_blocking({
            let file = file.clone();
            move || SqliteStore::open(&file, sqlite::Options::default())
        });
        let store = opened.await.map_err(|err| Failure::internal(err.to_string()))??;
        return Ok(Opened { store: Arc::new(store), place: file.display().to_string(), notices: Vec::new() });
    };
    let url = state.url.as_ref().ok_or(OpenError::NoUrl)?;
    // Tasks of its own: they end with `close`, after everything that writes has ended.
    let tasks = Tasks::new();
    let recall = Some(config.paths.state_dir.join(RECALL_FILE));
    let options = postgres::Options { ca_file: state.ca_file.clone(), recall, tasks: tasks.clone(), ..postgres::Options::default() };
    let store = PostgresStore::connect(url.expose(), &state.schema, options).await?;
    let member = config.farm.as_ref().filter(|farm| farm.has_others()).and_then(|farm: &FarmConfig| farm.gateway.clone());
    if let Err(err) = store.move_in(member.clone().map_or(Tenancy::Alone, Tenancy::Member)).await {
        store.close().await;
        return Err(err.into());
    }
    watch(&tasks, world);
    let mut notices = Vec::new();
    if file.exists() {
        notices.push(format!(
            "the state is kept in {}; what {} holds is not used: move it with `openclaw state copy --to farm`, or remove the file",
            store.describe(),
            config.paths.display(&file)
        ));
    }
    let place = store.describe();
    let store: Arc<dyn Store> = Arc::new(store);
    // Each gateway of a farm has its own part of what a lone one calls the global unit.
    let store = match member {
        Some(name) => Arc::new(Shared::new(store, &name, COMMON_META)) as Arc<dyn Store>,
        None => store,
    };
    Ok(Opened { store, place, notices })
}

/// The end of the store's own task ends the gateway: nothing could be accepted any more.
fn watch(tasks: &Tasks, world: &World) {
    let (failed, stop) = (tasks.failed(), world.tasks.stopping());
    world.tasks.spawn(TaskKind::vital("state store"), async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            () = failed.cancelled() => Err(Failure::internal("the state store cannot be used any more; the line above says why")),
        }
    });
}
