//! Moving everything, or some units, from one store to another, with proof.
//!
//! While a unit is copied the target's fence says so; a copy that was interrupted goes on where it was. At the end all
//! of it is read back from the target and compared. Nothing is removed from the source.

mod sum;

use clawstead_terms::{Fence, Unit};

use crate::{Batch, Op, Row, Scan, Store, Table, TxError, shared::CHANGES_ROW};

pub use sum::{Report, TableSum, sum};

/// Rows or lines read and written at a time; bounds the memory a copy takes.
const PAGE: usize = 64;
/// Who holds a unit in the target while it is copied. No gateway has a space in its name.
const COPY_OWNER: &str = "state copy";

/// How far a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The unit that is copied now.
    pub unit: Unit,
    /// Units that are done.
    pub done: usize,
    /// Of so many.
    pub units: usize,
    /// Rows and lines that were written, of all units.
    pub written: u64,
}

/// Copies all units, rows and journals into an empty store and verifies the result. Epochs of fences grow, row versions
/// start at 1 again. No gateway may use either store meanwhile.
///
/// # Errors
/// `Invalid` when `to` is not empty; `Corrupt` when the two differ afterwards (somebody wrote, or a store is
/// damaged); else what either store says.
pub async fn copy(from: &dyn Store, to: &dyn Store) -> Result<Report, TxError> {
    let units = from.units().await?;
    copy_units(from, to, &units, &mut |_| {}).await
}

/// Copies some units as [`copy`] does. Of other units the target may have rows; of these it may have none, unless an
/// interrupted copy left them. A target that the gateways of a farm share may have common rows (devices, approvals,
/// preferences): those that are there stay and are named in [`Report::kept`].
///
/// # Errors
/// As [`copy`]; `Invalid` for a unit that the source does not have.
pub async fn copy_units(from: &dyn Store, to: &dyn Store, units: &[Unit], told: &mut (dyn FnMut(&Progress) + Send)) -> Result<Report, TxError> {
    let mut fences = Vec::with_capacity(units.len());
    for unit in units {
        let Some(fence) = from.fence(unit).await? else {
            return Err(TxError::Invalid { what: unit.to_string(), why: format!("{} holds nothing of it", from.describe()) });
        };
        vacant(to, unit).await?;
        fences.push(fence);
    }
    let mut report = Report::default();
    let mut progress = Progress { unit: Unit::Global, done: 0, units: units.len(), written: 0 };
    for (unit, fence) in units.iter().zip(fences) {
        progress.unit = unit.clone();
        told(&progress);
        let held = to.fence(unit).await?.map_or(0, |held| held.epoch);
        let ours = Fence { epoch: fence.epoch.max(held + 1), owner: COPY_OWNER.into(), incarnation: fence.incarnation };
        to.claim(unit, &ours).await?;
        let mut copying = Copying { from, to, unit, fence: &ours, kept: Vec::new(), progress: &mut progress, told: &mut *told };
        copying.rows().await?;
        copying.journals().await?;
        let kept = copying.kept;
        verify(from, to, unit, &kept).await?;
        sum::add_unit(from, unit, &mut report).await?;
        report.kept.extend(kept.into_iter().map(|(table, key)| format!("{} {key}", table.name())));
        to.claim(unit, &Fence { epoch: ours.epoch + 1, ..fence }).await?;
        progress.done += 1;
        told(&progress);
    }
    Ok(report)
}

/// Refuses a target that holds something of the unit which no copy began.
async fn vacant(to: &dyn Store, unit: &Unit) -> Result<(), TxError> {
    let held = to.fence(unit).await?;
    let Some(held) = held.filter(|fence| fence.owner != COPY_OWNER) else { return Ok(()) };
    let mut found = to.is_shared() && *unit == Unit::Global;
    for table in Table::ALL {
        found = found || !to.scan(unit, table, &Scan::prefix("").limit(1)).await?.is_empty();
    }
    if found || !to.journals(unit, None, 1).await?.is_empty() {
        let what = if *unit == Unit::Global { "the gateway's own part".to_owned() } else { unit.to_string() };
        let why = format!("it holds {what} already (written by {}); copy into an empty database, file or schema", held.owner);
        return Err(TxError::Invalid { what: to.describe(), why });
    }
    Ok(())
}

/// Rows of the register's bookkeeping; each store has its own.
fn is_own(table: Table, key: &str) -> bool {
    table == Table::Devices && key == CHANGES_ROW
}

struct Copying<'a> {
    from: &'a dyn Store,
    to: &'a dyn Store,
    unit: &'a Unit,
    fence: &'a Fence,
    kept: Vec<(Table, String)>,
    progress: &'a mut Progress,
    told: &'a mut (dyn FnMut(&Progress) + Send),
}

impl Copying<'_> {
    fn wrote(&mut self, count: usize) {
        self.progress.written += count as u64;
        (self.told)(self.progress);
    }

    async fn rows(&mut self) -> Result<(), TxError> {
        for table in Table::ALL {
            let mut scan = Scan::prefix("").limit(PAGE);
            loop {
                let mut rows = self.from.scan(self.unit, table, &scan).await?;
                let Some(last) = rows.last() else { break };
                scan = scan.after(last.key.clone());
                rows.retain(|row| !is_own(table, &row.key));
                let count = rows.len();
                if self.to.is_shared() && *self.unit == Unit::Global {
                    self.common_rows(table, rows).await?;
                } else {
                    let ops = rows.into_iter().map(|row| Op::Put(table, row.key, row.value)).collect();
                    self.to.commit(self.fence, Batch { unit: self.unit.clone(), ops }).await?;
                }
                self.wrote(count);
            }
        }
        Ok(())
    }

    /// One by one: rows of the gateway and of the farm go different ways, and what is there may be others'.
    async fn common_rows(&mut self, table: Table, rows: Vec<Row>) -> Result<(), TxError> {
        for row in rows {
            if let Some(there) = self.to.get(self.unit, table, &row.key).await? {
                if there.value != row.value {
                    self.kept.push((table, row.key));
                }
                continue;
            }
            let key = row.key.clone();
            match self.to.commit(self.fence, Batch::new(self.unit.clone()).op(Op::Insert(table, row.key, row.value))).await {
                Ok(()) => {}
                Err(TxError::Exists { .. }) => self.kept.push((table, key)),
                Err(err) => return Err(err),
            }
        }
        if table == Table::Devices {
            // Running gateways look at it.
            self.to.commit(self.fence, Batch::new(self.unit.clone()).op(Op::Put(table, CHANGES_ROW.into(), "true".into()))).await?;
        }
        Ok(())
    }

    async fn journals(&mut self) -> Result<(), TxError> {
        let mut after: Option<String> = None;
        loop {
            let names = self.from.journals(self.unit, after.as_deref(), PAGE).await?;
            let Some(last) = names.last() else { return Ok(()) };
            after = Some(last.clone());
            for journal in names {
                let mut next = self.to.journal_end(self.unit, &journal).await? + 1;
                loop {
                    let lines = self.from.read_journal(self.unit, &journal, next, PAGE).await?;
                    let Some((last, _)) = lines.last() else { break };
                    next = last + 1;
                    let count = lines.len();
                    let ops = lines.into_iter().map(|(seq, event)| Op::Append { journal: journal.clone(), seq, event }).collect();
                    self.to.commit(self.fence, Batch { unit: self.unit.clone(), ops }).await?;
                    self.wrote(count);
                }
            }
        }
    }
}

/// Reads all of a unit back and compares it with the source.
async fn verify(from: &dyn Store, to: &dyn Store, unit: &Unit, kept: &[(Table, String)]) -> Result<(), TxError> {
    let (mut source, mut target) = (Report::default(), Report::default());
    sum::add_unit(from, unit, &mut source).await?;
    sum::add_unit(to, unit, &mut target).await?;
    if to.is_shared() && *unit == Unit::Global {
        // Others' devices and preferences may be there too: each row of the source must be, and the journals.
        let journal = |report: &Report| report.tables.get("journal").copied();
        let mut missing = usize::from(journal(&source) != journal(&target));
        for table in Table::ALL {
            let mut scan = Scan::prefix("").limit(PAGE);
            loop {
                let rows = from.scan(unit, table, &scan).await?;
                let Some(last) = rows.last() else { break };
                scan = scan.after(last.key.clone());
                for row in rows.into_iter().filter(|row| !is_own(table, &row.key)) {
                    let there = to.get(unit, table, &row.key).await?;
                    let fits = there.is_some_and(|there| there.value == row.value || kept.contains(&(table, row.key)));
                    missing += usize::from(!fits);
                }
            }
        }
        return if missing == 0 { Ok(()) } else { Err(differs(from, to, unit, &format!("{missing} rows or journals differ"))) };
    }
    if source == target { Ok(()) } else { Err(differs(from, to, unit, &sum::difference(&source, &target))) }
}

fn differs(from: &dyn Store, to: &dyn Store, unit: &Unit, what: &str) -> TxError {
    let why = format!(
        "after copying {unit} it differs from {}: {what}. Somebody wrote meanwhile, or one of the two is damaged; start again with an empty target",
        from.describe()
    );
    TxError::Corrupt { path: to.describe(), why }
}
