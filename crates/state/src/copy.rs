//! Moving everything from one store to another, with proof.

use std::collections::BTreeMap;

use clawstead_terms::{Fence, Unit};

use crate::{Batch, Op, Scan, Store, Table, TxError};

/// Rows or lines read and written at a time; bounds the memory a copy takes.
const PAGE: usize = 64;

/// What was copied, and verified by reading both stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Units.
    pub units: usize,
    /// Journals.
    pub journals: usize,
    /// Per table name, and `journal` for lines.
    pub tables: BTreeMap<&'static str, TableSum>,
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

/// Copies all units, rows and journals into an empty store and verifies the result. Fences keep their epochs; row
/// versions start at 1 again. No gateway may use either store meanwhile.
///
/// # Errors
/// `Invalid` when `to` is not empty; `Corrupt` when the two differ afterwards (somebody wrote, or a store is
/// damaged); else what either store says.
pub async fn copy(from: &dyn Store, to: &dyn Store) -> Result<Report, TxError> {
    if let Some(unit) = to.units().await?.first() {
        let why = format!("it holds rows of {unit} already; copy into an empty store");
        return Err(TxError::Invalid { what: to.describe(), why });
    }
    for unit in from.units().await? {
        let Some(fence) = from.fence(&unit).await? else { continue };
        to.claim(&unit, &fence).await?;
        copy_rows(from, to, &unit, &fence).await?;
        copy_journals(from, to, &unit, &fence).await?;
    }
    let (source, target) = (sum(from).await?, sum(to).await?);
    if source == target {
        return Ok(source);
    }
    let why = format!("after copying it differs from {}: {}; start again with an empty target", from.describe(), difference(&source, &target));
    Err(TxError::Corrupt { path: to.describe(), why })
}

async fn copy_rows(from: &dyn Store, to: &dyn Store, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
    for table in Table::ALL {
        let mut scan = Scan::prefix("").limit(PAGE);
        loop {
            let rows = from.scan(unit, table, &scan).await?;
            let Some(last) = rows.last() else { break };
            scan = scan.after(last.key.clone());
            let ops = rows.into_iter().map(|row| Op::Insert(table, row.key, row.value)).collect();
            to.commit(fence, Batch { unit: unit.clone(), ops }).await?;
        }
    }
    Ok(())
}

async fn copy_journals(from: &dyn Store, to: &dyn Store, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
    let mut after: Option<String> = None;
    loop {
        let names = from.journals(unit, after.as_deref(), PAGE).await?;
        let Some(last) = names.last() else { return Ok(()) };
        after = Some(last.clone());
        for journal in names {
            let mut next = 1;
            loop {
                let lines = from.read_journal(unit, &journal, next, PAGE).await?;
                let Some((last, _)) = lines.last() else { break };
                next = last + 1;
                let ops = lines.into_iter().map(|(seq, event)| Op::Append { journal: journal.clone(), seq, event }).collect();
                to.commit(fence, Batch { unit: unit.clone(), ops }).await?;
            }
        }
    }
}

/// Counts and sums up everything a store holds. Reads all of it.
///
/// # Errors
/// When the store cannot be read.
pub async fn sum(store: &dyn Store) -> Result<Report, TxError> {
    let mut report = Report::default();
    for unit in store.units().await? {
        report.units += 1;
        let name = unit.to_string();
        for table in Table::ALL {
            let sum = report.tables.entry(table.name()).or_default();
            let mut scan = Scan::prefix("").limit(PAGE);
            loop {
                let rows = store.scan(&unit, table, &scan).await?;
                let Some(last) = rows.last() else { break };
                scan = scan.after(last.key.clone());
                rows.iter().for_each(|row| sum.add(&name, &row.key, &row.value));
            }
        }
        sum_journals(store, &unit, &name, &mut report).await?;
    }
    Ok(report)
}

async fn sum_journals(store: &dyn Store, unit: &Unit, name: &str, report: &mut Report) -> Result<(), TxError> {
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
                let sum = report.tables.entry("journal").or_default();
                lines.iter().for_each(|(seq, event)| sum.add(name, &format!("{journal}/{seq}"), event));
            }
        }
    }
}

fn difference(source: &Report, target: &Report) -> String {
    let of = |report: &Report, table: &str| report.tables.get(table).copied().unwrap_or_default();
    let names = source.tables.keys().chain(target.tables.keys()).copied().collect::<std::collections::BTreeSet<_>>();
    let differing = names.into_iter().filter(|table| of(source, table) != of(target, table));
    let parts: Vec<String> = differing.map(|table| format!("{table} has {} instead of {} rows", of(target, table).count, of(source, table).count)).collect();
    if parts.is_empty() { "the numbers of units or journals differ".into() } else { parts.join(", ") }
}
