//! Everything that gateways wrote about letters between them, and everything that was carried: what the invariants of a
//! farm are decided on. It survives what gateways forget.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use clawstead_bus::Sealed;
use clawstead_cluster::envelope::{Envelope, Kind, open};
use clawstead_farm::mailroom::{DeadRow, OUT, RemoteRun, SentRow, TakenRow};
use clawstead_state::{MemoryStore, Op, Scan, Store as _, Table, TxError};
use clawstead_terms::Unit;

use crate::{actors::store::Scribe, invariants::farm as invariants, outside::Outside};

/// Before the key of a received letter.
const IN: &str = "farm/in/";
/// Before the key of a run elsewhere.
const RUN: &str = "farm/run/";
/// Rows read of one table.
const ROWS_MAX: usize = 100_000;
/// Violations of one kind that are told; the others are alike.
const TOLD_MAX: usize = 10;

/// A letter that was written.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The unit that keeps the row.
    pub unit: String,
    /// The row as it was last.
    pub row: SentRow,
    /// Its place among everything that was written for the first time.
    pub first: u64,
}

/// A letter that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The row as it was last.
    pub row: TakenRow,
    /// Its place among everything that was written for the first time.
    pub first: u64,
    /// Every letter that the row stood for.
    pub letters: BTreeSet<String>,
}

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Letters by id.
    pub sent: BTreeMap<String, Sent>,
    /// Received letters by unit and key.
    pub taken: BTreeMap<(String, String), Taken>,
    /// Dead letters by id.
    pub dead: BTreeMap<String, DeadRow>,
    /// What became of runs elsewhere, by the letter that asked.
    pub runs: BTreeMap<String, RemoteRun>,
    /// Attempts of letters that were handed to the bus, by gateway and letter.
    pub attempts: BTreeMap<(String, String), BTreeSet<u32>>,
    /// Letters that the stranger wrote and that may be taken.
    pub honest: BTreeSet<String>,
    /// Letters that nobody may take, with what is wrong with them.
    pub forged: BTreeMap<String, String>,
    firsts: u64,
    told: BTreeMap<&'static str, usize>,
}

/// A change of a row about a letter.
pub enum Written<'a> {
    /// Of the sender.
    Sent {
        /// The row before; none for a new one.
        before: Option<&'a SentRow>,
        /// The row now.
        now: &'a SentRow,
    },
    /// Of the receiver.
    Taken {
        /// The row before; none for a new one.
        before: Option<&'a TakenRow>,
        /// The row now.
        now: &'a TakenRow,
    },
}

/// A letter on its way.
pub struct Carried<'a> {
    /// The gateway that handed it over.
    pub by: &'a str,
    /// The letter.
    pub envelope: &'a Envelope,
}

/// See the module.
pub struct Ledger {
    outside: Arc<Outside>,
    books: Mutex<Books>,
}

impl Ledger {
    /// Empty books.
    #[must_use]
    pub fn new(outside: Arc<Outside>) -> Arc<Self> {
        Arc::new(Self { outside, books: Mutex::default() })
    }

    /// The books.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complain(&self, books: &mut Books, name: &'static str, faults: Vec<String>) {
        for fault in faults {
            let told = books.told.entry(name).or_default();
            *told += 1;
            if *told <= TOLD_MAX {
                self.outside.violation(format!("{name}: {fault}"));
            }
        }
    }

    /// Somebody handed a letter to the bus.
    pub fn carried(&self, by: &str, letter: &Sealed, receipt: bool) {
        let Ok(opened) = open(&letter.bytes) else { return };
        let envelope = opened.envelope;
        let mut books = self.books();
        if !receipt && envelope.kind != Kind::Receipt && by != "stranger" {
            books.attempts.entry((by.to_owned(), envelope.message_id.clone())).or_default().insert(letter.attempt);
        }
        if by != "stranger" {
            for invariant in invariants::ALL {
                if let Some(check) = invariant.carried {
                    let faults = check(&Carried { by, envelope: &envelope });
                    self.complain(&mut books, invariant.name, faults);
                }
            }
        }
        drop(books);
        self.outside.tell(
            "carried",
            format!("{by} {:?} {} -> {} {} attempt {}", envelope.kind, envelope.source_agent, envelope.target_agent, envelope.message_id, letter.attempt),
        );
    }

    fn sent(&self, unit: &Unit, row: SentRow) {
        let mut books = self.books();
        let id = row.row.message_id.clone();
        let before = books.sent.get(&id).cloned();
        if before.as_ref().is_some_and(|before| before.row == row) {
            return;
        }
        self.judge(&mut books, &Written::Sent { before: before.as_ref().map(|sent| &sent.row), now: &row });
        if before.is_none() {
            books.firsts += 1;
        }
        let first = before.map_or(books.firsts, |sent| sent.first);
        books.sent.insert(id, Sent { unit: unit.to_string(), row, first });
    }

    fn taken(&self, unit: &Unit, key: &str, row: TakenRow) {
        let mut books = self.books();
        let place = (unit.to_string(), key.to_owned());
        let before = books.taken.get(&place).cloned();
        if before.as_ref().is_some_and(|before| before.row == row) {
            return;
        }
        self.judge(&mut books, &Written::Taken { before: before.as_ref().map(|taken| &taken.row), now: &row });
        if before.is_none() {
            books.firsts += 1;
        }
        let mut taken = before.unwrap_or_else(|| Taken { row: row.clone(), first: books.firsts, letters: BTreeSet::new() });
        taken.letters.extend([row.head.message_id.clone(), row.row.message_id.clone()]);
        taken.row = row;
        books.taken.insert(place, taken);
    }

    fn judge(&self, books: &mut Books, written: &Written<'_>) {
        for invariant in invariants::ALL {
            if let Some(check) = invariant.written {
                let faults = check(written);
                self.complain(books, invariant.name, faults);
            }
        }
    }

    fn put(&self, unit: &Unit, table: Table, key: &str, value: &str) {
        match table {
            Table::Outbox if key.starts_with(OUT) => match serde_json::from_str(value) {
                Ok(row) => self.sent(unit, row),
                Err(err) => self.outside.violation(format!("{unit} {key} cannot be read: {err}")),
            },
            Table::Inbox if key.starts_with(IN) => match serde_json::from_str(value) {
                Ok(row) => self.taken(unit, key, row),
                Err(err) => self.outside.violation(format!("{unit} {key} cannot be read: {err}")),
            },
            Table::DeadLetters => {
                // Letters between sessions of one gateway have a shape of their own.
                if let Ok(row) = serde_json::from_str::<DeadRow>(value) {
                    self.books().dead.insert(key.to_owned(), row);
                }
            }
            Table::Meta if key.starts_with(RUN) => {
                if let Ok(row) = serde_json::from_str::<RemoteRun>(value) {
                    self.books().runs.insert(row.message_id.clone(), row);
                }
            }
            _ => {}
        }
    }

    /// Reads what a store holds, as if it had been told: a write whose answer was lost is not heard of otherwise.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn read(&self, store: &MemoryStore) -> Result<(), TxError> {
        let read = async {
            for unit in store.units().await? {
                for table in [Table::Outbox, Table::Inbox, Table::DeadLetters, Table::Meta] {
                    for row in store.scan(&unit, table, &Scan { limit: ROWS_MAX, ..Scan::prefix("") }).await? {
                        self.put(&unit, table, &row.key, &row.value);
                    }
                }
            }
            Ok(())
        };
        // The memory store answers reads at once.
        futures_util::FutureExt::now_or_never(read)
            .unwrap_or_else(|| Err(TxError::Away { path: "memory".into(), why: "a read of the memory store waited".into(), maybe: false }))
    }
}

impl Scribe for Ledger {
    fn wrote(&self, unit: &Unit, ops: &[Op]) {
        for op in ops {
            if let Op::Put(table, key, value) = op {
                self.put(unit, *table, key, value);
            }
        }
    }

    /// A letter that breaks whoever handles it: the process ends as soon as its run is to be written.
    fn breaks(&self, ops: &[Op]) -> bool {
        let books = self.books();
        ops.iter().any(|op| match op {
            Op::Put(Table::Runs, key, _) | Op::Insert(Table::Runs, key, _) => books.forged.get(key).is_some_and(|what| what == "Poison"),
            _ => false,
        })
    }
}
