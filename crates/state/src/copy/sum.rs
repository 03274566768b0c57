//! What a store holds, as counts and checksums.

use std::collections::{BTreeMap, BTreeSet};

use clawstead_terms::Unit;

use super::{PAGE, is_own};
use crate::{Scan, Store, Table, TxError};

/// What was copied, and verified by reading both stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Units.
    pub units: usize,
    /// Journals.
    pub journals: usize,
    /// Per table name, and `journal` for lines.
    pub tables: BTreeMap<&'static str, TableSum>,
    /// Per unit, all its rows and lines.
    pub per_unit: BTreeMap<String, TableSum>,
    /// Rows that the target had already, with another value, and that stayed there: table and key.
    pub kept: Vec<String>,
}

/// What one table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSum {
    /// Rows or lines.
    pub count: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// A 64-bit checksum (FNV-1a) over units, keys and values in order.
    pub checksum: u64,
}

impl TableSum {
    fn add(&mut self, unit: &str, key: &str, value: &str) {
        if self.count == 0 {
            self.checksum = 0xcbf2_9ce4_8422_2325;
        }
        self.count += 1;
        self.bytes += (key.len() + value.len()) as u64;
        for part in [unit, key, value] {
            for byte in part.bytes().chain([0xff]) {
                self.checksum = (self.checksum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
}

impl Report {
    fn add(&mut self, table: &'static str, unit: &str, key: &str, value: &str) {
        self.tables.entry(table).or_default().add(unit, key, value);
        self.per_unit.entry(unit.to_owned()).or_default().add(table, key, value);
    }
}

/// Counts and sums up everything a store holds. Reads all of it.
///
/// # Errors
/// When the store cannot be read.
pub async fn sum(store: &dyn Store) -> Result<Report, TxError> {
    let mut report = Report::default();
    for unit in store.units().await? {
        add_unit(store, &unit, &mut report).await?;
    }
    Ok(report)
}

/// Adds one unit to a report.
pub(super) async fn add_unit(store: &dyn Store, unit: &Unit, report: &mut Report) -> Result<(), TxError> {
    report.units += 1;
    let name = unit.to_string();
    report.per_unit.entry(name.clone()).or_default();
    for table in Table::ALL {
        report.tables.entry(table.name()).or_default();
        let mut scan = Scan::prefix("").limit(PAGE);
        loop {
            let rows = store.scan(unit, table, &scan).await?;
            let Some(last) = rows.last() else { break };
            scan = scan.after(last.key.clone());
            rows.iter().filter(|row| !is_own(table, &row.key)).for_each(|row| report.add(table.name(), &name, &row.key, &row.value));
        }
    }
    let mut after: Option<String> = None;
    loop {
        let names = store.journals(unit, after.as_deref(), PAGE).await?;
        let Some(last) = names.last() else { return Ok(()) };
        after = Some(last.clone());
        report.journals += names.len();
        for journal in names {
            let mut next = 1;
            loop {
                let lines = store.read_journal(unit, &journal, next, PAGE).await?;
                let Some((last, _)) = lines.last() else { break };
                next = last + 1;
                lines.iter().for_each(|(seq, event)| report.add("journal", &name, &format!("{journal}/{seq}"), event));
            }
        }
    }
}

/// In which tables two reports differ, for people.
pub(super) fn difference(source: &Report, target: &Report) -> String {
    let of = |report: &Report, table: &str| report.tables.get(table).copied().unwrap_or_default();
    let names = source.tables.keys().chain(target.tables.keys()).copied().collect::<BTreeSet<_>>();
    let differing = names.into_iter().filter(|table| of(source, table) != of(target, table));
    let parts: Vec<String> = differing.map(|table| format!("{table} has {} instead of {} rows", of(target, table).count, of(source, table).count)).collect();
    if parts.is_empty() { "the numbers of journals differ".into() } else { parts.join(", ") }
}
