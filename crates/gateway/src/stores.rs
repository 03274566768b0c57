//! Which store a gateway keeps its rows and journals in: the SQLite file of its state folder, or the PostgreSQL server
//! that `farm.state` names.

use std::sync::Arc;

use clawstead_config::{Config, StateKind};
use clawstead_state::{PostgresStore, SqliteStore, Store, TxError, postgres, sqlite};
use clawstead_terms::Failure;
use clawstead_world::{TaskKind, Tasks, World};
use thiserror::Error;

/// The SQLite database in the state folder.
pub const DATABASE: &str = "clawstead.sqlite";

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
    /// Anything else.
    #[error("{0}")]
    Failure(#[from] Failure),
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
/// As [`OpenError`] lists. A PostgreSQL server that is away is waited for, 30 s at most.
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
    let options = postgres::Options { ca_file: state.ca_file.clone(), tasks: tasks.clone(), ..postgres::Options::default() };
    let store = PostgresStore::connect(url.expose(), &state.schema, options).await?;
    watch(&tasks, world);
    let mut notices = Vec::new();
    if file.exists() {
        notices.push(format!(
            "the state is kept in {}; what {} holds is not used: move it with `openclaw state copy --to <url> --schema {}` into an empty database, or remove the file",
            store.describe(),
            config.paths.display(&file),
            state.schema
        ));
    }
    Ok(Opened { place: store.describe(), store: Arc::new(store), notices })
}

/// The end of the store's own task ends the gateway: nothing could be accepted any more.
fn watch(tasks: &Tasks, world: &World) {
    let (failed, stop) = (tasks.failed(), world.tasks.stopping());
    world.tasks.spawn(TaskKind::vital("state store"), async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            () = failed.cancelled() => Err(Failure::internal("the task that writes the state ended")),
        }
    });
}
