//! Who lives in a schema: one lone gateway, or the gateways of a farm, each name once.
//!
//! Kept by session locks of the server on a connection of its own, so that they end with the process, however it
//! ends. They keep a second gateway out early and with clear words; what keeps data whole are the fences.

use std::{sync::Arc, time::Duration};

use clawstead_world::TaskKind;
use thiserror::Error;
use tokio_postgres::{Client, error::SqlState};

use super::{
    PostgresStore,
    connect::{Connector, Patience},
    fault,
};
use crate::{Store, TxError, shared::FARM_OWNER};
use clawstead_terms::Unit;

/// How long one that dies is waited for: its connection ends a moment after it.
const WAIT: Duration = Duration::from_secs(5);
/// How often the connection is looked at; this asks nobody.
const LOOK: Duration = Duration::from_secs(1);

/// As what one lives in a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenancy {
    /// As the only one: a gateway without a farm, or a command that moves everything.
    Alone,
    /// As the gateway of this name, beside others.
    Member(String),
}

/// Why one cannot live in a schema.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TenancyError {
    /// A gateway of this name is there.
    #[error(
        "a gateway named \"{name}\" uses {place} already{holder}: stop it, or give this one another name (farm.gateway); after a crash of its machine it is let go within 15 seconds"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Server, database and schema.
        place: String,
        /// ` (from <address> since <time>)`, where the server tells.
        holder: String,
    },
    /// Somebody else is there, and one of the two wants to be alone.
    #[error("{place} is in use by {holder}: {way_out}")]
    Occupied {
        /// Server, database and schema.
        place: String,
        /// By whom.
        holder: String,
        /// What to do.
        way_out: String,
    },
    /// The server cannot be asked.
    #[error("{0}")]
    Store(#[from] TxError),
}

/// A lock that is tried: its number, and whether others may hold it too.
struct Lock {
    number: i64,
    with_others: &'static str,
}

impl Tenancy {
    /// The house of a lone gateway is locked for one; members lock it together, and each its own name.
    fn locks(&self, schema: &str) -> Vec<Lock> {
        let whole = number(schema, "");
        match self {
            Self::Alone => vec![Lock { number: whole, with_others: "" }],
            Self::Member(name) => vec![Lock { number: whole, with_others: "_shared" }, Lock { number: number(schema, name), with_others: "" }],
        }
    }
}

/// FNV-1a, the same on every machine and in every version.
fn number(schema: &str, name: &str) -> i64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in ["openclaw tenancy", schema, name].iter().flat_map(|part| part.bytes().chain([0xff])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash.cast_signed()
}

impl PostgresStore {
    /// Moves in until [`Store::close`], or until the process ends. When the server is lost the place is taken again at
    /// the next one; if somebody else has it by then, a vital task of [`super::Options::tasks`] fails.
    ///
    /// # Errors
    /// `NameTaken`, `Occupied` when somebody is there for longer than five seconds; else what the server says.
    pub async fn move_in(&self, tenancy: Tenancy) -> Result<(), TenancyError> {
        let connector = Arc::clone(&self.connector);
        let place = format!("{} schema {}", connector.name, connector.schema);
        if tenancy == Tenancy::Alone && self.fence(&Unit::Global).await?.is_some_and(|fence| fence.owner == FARM_OWNER) {
            return Err(TenancyError::Occupied {
                place,
                holder: "the gateways of a farm".into(),
                way_out: "give this gateway a schema of its own (farm.state.schema), or its place in the farm (farm.id, farm.gateway, farm.coord)".into(),
            });
        }
        let client = take(&connector, &tenancy).await?;
        let (stop, mut closed) = (connector.options.tasks.stopping(), self.leaving.subscribe());
        connector.options.tasks.clone().spawn::<_, TenancyError>(TaskKind::vital("state tenancy"), async move {
            let mut client = Some(client);
            loop {
                let lost = match &client {
                    Some(client) => client.is_closed(),
                    None => true,
                };
                if lost {
                    client = match take(&connector, &tenancy).await {
                        Ok(client) => Some(client),
                        Err(TenancyError::Store(err)) => {
                            tracing::warn!(store = %connector.name, %err, "the place in the state store is not confirmed yet");
                            None
                        }
                        Err(taken) => return Err(taken),
                    };
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    _ = closed.wait_for(|closed| *closed) => return Ok(()),
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        });
        Ok(())
    }
}

async fn take(connector: &Connector, tenancy: &Tenancy) -> Result<Client, TenancyError> {
    let mut patience = Patience::new(connector.options.retry_limit);
    loop {
        let client = connector.connect(&mut patience).await?;
        match lock(connector, &client, tenancy).await {
            Ok(None) => return Ok(client),
            Ok(Some(taken)) => return Err(taken),
            Err(err) if fault::is_passing(&err) && patience.pause().await => {}
            Err(err) => return Err(fault::explain(&connector.name, &err, false).into()),
        }
    }
}

/// Takes all locks of a tenancy; who has one of them, when that does not work.
async fn lock(connector: &Connector, client: &Client, tenancy: &Tenancy) -> Result<Option<TenancyError>, tokio_postgres::Error> {
    let called = match tenancy {
        Tenancy::Alone => "openclaw".to_owned(),
        Tenancy::Member(name) => format!("openclaw {name}"),
    };
    client
        .query(
            "SELECT set_config('application_name', $1, false), set_config('lock_timeout', $2, false), set_config('statement_timeout', '0', false)",
            &[&called, &WAIT.as_millis().to_string()],
        )
        .await?;
    for (at, lock) in tenancy.locks(&connector.schema).into_iter().enumerate() {
        match client.execute(&format!("SELECT pg_advisory_lock{}($1)", lock.with_others), &[&lock.number]).await {
            Ok(_) => {}
            Err(err) if err.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                let holder = holder(client, lock.number).await?;
                let place = format!("{} schema {}", connector.name, connector.schema);
                return Ok(Some(match tenancy {
                    Tenancy::Member(name) if at == 1 => {
                        TenancyError::NameTaken { name: name.clone(), place, holder: holder.map(|text| format!(" ({text})")).unwrap_or_default() }
                    }
                    Tenancy::Member(_) => TenancyError::Occupied {
                        place,
                        holder: format!(
                            "a gateway that is not of this farm, or a command that moves its state{}",
                            holder.map(|text| format!(" ({text})")).unwrap_or_default()
                        ),
                        way_out: "stop that one, or set another farm.state.schema".into(),
                    },
                    Tenancy::Alone => TenancyError::Occupied {
                        place,
                        holder: format!("another gateway{}", holder.map(|text| format!(" ({text})")).unwrap_or_default()),
                        way_out: "stop it first, or name another schema".into(),
                    },
                }));
            }
            Err(err) => return Err(err),
        }
    }
    Ok(None)
}

/// Who holds a lock: what the server tells of its connection.
async fn holder(client: &Client, number: i64) -> Result<Option<String>, tokio_postgres::Error> {
    let row = client
        .query_opt(
            "SELECT a.application_name, host(a.client_addr), to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ')
             FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             WHERE l.locktype='advisory' AND l.granted AND l.objsubid=1
               AND l.database=(SELECT oid FROM pg_database WHERE datname=current_database())
               AND ((l.classid::bigint << 32) | l.objid::bigint)=$1 LIMIT 1",
            &[&number],
        )
        .await?;
    Ok(row.map(|row| {
        let text = |at: usize| row.get::<_, Option<String>>(at);
        let name = text(0).and_then(|name| name.strip_prefix("openclaw").map(|name| name.trim().to_owned())).filter(|name| !name.is_empty());
        let parts = [name.map(|name| format!("named {name}")), text(1).map(|from| format!("from {from}")), text(2).map(|at| format!("since {at}"))];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }))
    .map(|text| text.filter(|text| !text.is_empty()))
}
