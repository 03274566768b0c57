//! What a disk holds and what the outside saw, read for the invariants.

use std::collections::BTreeMap;

use clawstead_agent::{LetterRow, OutboxRow, OutboxState, RunRow, SessionRow};
use clawstead_gateway::cron::job::{Job, SlotEnd, SlotRow};
use clawstead_state::{MemoryStore, Scan, Store, Table, TxError, read_journal_json, scan_json};
use clawstead_terms::{JournalEvent, Unit};

use crate::outside::{Arrival, KnownJob, Outside, Taken, ToolEffect};

/// Rows read of one table.
const ROWS_MAX: usize = 100_000;

/// A session with its journal.
pub struct SessionFile {
    /// Its agent.
    pub agent: String,
    /// Its row.
    pub row: SessionRow,
    /// Its lines.
    pub journal: Vec<(u64, JournalEvent)>,
}

/// See the module.
#[derive(Default)]
pub struct Evidence {
    /// All sessions.
    pub sessions: Vec<SessionFile>,
    /// The run ledger, by agent and run.
    pub runs: BTreeMap<(String, String), RunRow>,
    /// Replies.
    pub replies: Vec<OutboxRow>,
    /// Letters owed.
    pub letters: Vec<LetterRow>,
    /// Keys of letters that were given up, with their rows.
    pub dead_letters: Vec<(String, String)>,
    /// Cron instants by agent, job, wall time.
    pub slots: BTreeMap<(String, String, i64), SlotRow>,
    /// Jobs by agent and id.
    pub jobs: BTreeMap<(String, String), Job>,
    /// Letters that were taken.
    pub taken: Vec<Taken>,
    /// Executions of tools.
    pub tools: Vec<ToolEffect>,
    /// What reached platforms.
    pub arrivals: Vec<Arrival>,
    /// Ends that were stored at earlier deaths: what, how.
    pub earlier_ends: BTreeMap<String, String>,
    /// Jobs as they were made.
    pub known_jobs: BTreeMap<String, KnownJob>,
}

impl Evidence {
    /// Reads everything.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn read(outside: &Outside, store: &MemoryStore) -> Result<Self, TxError> {
        Self::read_all_of(outside, std::slice::from_ref(store))
    }

    /// Reads everything of several gateways, of which each has agents of its own.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn read_all_of(outside: &Outside, stores: &[MemoryStore]) -> Result<Self, TxError> {
        let mut evidence = Self::default();
        for store in stores {
            // The memory store answers reads at once.
            futures_util::FutureExt::now_or_never(evidence.read_all(store))
                .unwrap_or_else(|| Err(TxError::Away { path: "memory".into(), why: "a read of the memory store waited".into(), maybe: false }))?;
        }
        let seen = outside.seen();
        evidence.taken.clone_from(&seen.taken);
        evidence.tools.clone_from(&seen.tools);
        evidence.arrivals.clone_from(&seen.arrivals);
        evidence.known_jobs.clone_from(&seen.jobs);
        evidence.earlier_ends.clone_from(&seen.ends);
        drop(seen);
        Ok(evidence)
    }

    async fn read_all(&mut self, store: &MemoryStore) -> Result<(), TxError> {
        let all = |prefix: &str| Scan { limit: ROWS_MAX, ..Scan::prefix(prefix) };
        for unit in store.units().await? {
            let Unit::Agent(agent) = &unit else { continue };
            let agent = agent.to_string();
            for session in scan_json::<SessionRow>(store, &unit, Table::Sessions, &all("")).await? {
                let journal = read_journal_json::<JournalEvent>(store, &unit, session.value.session_id.as_str(), 1, ROWS_MAX).await?;
                self.sessions.push(SessionFile { agent: agent.clone(), row: session.value, journal });
            }
            for run in scan_json::<RunRow>(store, &unit, Table::Runs, &all("")).await? {
                self.runs.insert((agent.clone(), run.key), run.value);
            }
            for prefix in [OutboxRow::PREFIX, OutboxRow::ENDED_PREFIX] {
                self.replies.extend(scan_json::<OutboxRow>(store, &unit, Table::Outbox, &all(prefix)).await?.into_iter().map(|row| row.value));
            }
            self.letters.extend(scan_json::<LetterRow>(store, &unit, Table::Outbox, &all(LetterRow::PREFIX)).await?.into_iter().map(|row| row.value));
            self.dead_letters.extend(store.scan(&unit, Table::DeadLetters, &all("")).await?.into_iter().map(|row| (row.key, row.value)));
            for slot in scan_json::<SlotRow>(store, &unit, Table::CronRuns, &all("")).await? {
                if let Some((job, at)) = slot.key.rsplit_once('/') {
                    self.slots.insert((agent.clone(), job.into(), at.parse().unwrap_or(0)), slot.value);
                }
            }
            for job in scan_json::<Job>(store, &unit, Table::CronJobs, &all("")).await? {
                self.jobs.insert((agent.clone(), job.key), job.value);
            }
        }
        Ok(())
    }

    /// Everything that has ended: what, how.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<String, String> {
        let mut ends = BTreeMap::new();
        for ((agent, run), row) in self.runs.iter().filter(|(_, row)| row.is_over()) {
            ends.insert(format!("run {run} of {agent}"), format!("{:?} {:?} {:?}", row.status, row.text, row.merged_into));
        }
        for row in self.replies.iter().filter(|row| !matches!(row.state, OutboxState::Queued | OutboxState::Sending)) {
            ends.insert(format!("reply {}", row.id), format!("{:?}", row.state));
        }
        for ((agent, job, at), slot) in self.slots.iter().filter(|(_, slot)| slot.end != SlotEnd::Started) {
            let how = match slot.end {
                SlotEnd::Ran { .. } => "ran",
                SlotEnd::Skipped { .. } => "skipped",
                SlotEnd::Missed { .. } => "missed",
                SlotEnd::Started => "started",
            };
            ends.insert(format!("instant {at} of {job} ({agent})"), how.into());
        }
        ends
    }

    /// Replies by effect id.
    #[must_use]
    pub fn reply(&self, id: &str) -> Option<&OutboxRow> {
        self.replies.iter().find(|row| row.id == id)
    }
}
