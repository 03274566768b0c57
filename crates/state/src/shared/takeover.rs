//! A gateway comes in: it takes its house, makes sure that the farm holds the global unit, and puts up its seal. The
//! first one takes over what a single gateway wrote there before.

use clawstead_terms::{Fence, Unit};
use serde::{Deserialize, Serialize};

use super::{FARM_OWNER, HEIR, SEALS, Seal, Shared, TRIES_MAX, Whose};
use crate::{Batch, Op, Scan, Table, TxError, get_json};

/// Rows or lines moved at a time.
const PAGE: usize = 64;

/// The row [`HEIR`]: rows that were in the global unit before the farm held it belong to one gateway, the first.
#[derive(Serialize, Deserialize)]
struct Heir {
    gateway: String,
    /// All of them were moved.
    done: bool,
}

impl Shared {
    /// What `claim` of the global unit means here.
    pub(super) async fn come_in(&self, fence: &Fence) -> Result<(), TxError> {
        self.inner.claim(&self.house, fence).await?;
        let farm = self.farm_fence().await?;
        let known = self.farm.get_or_init(|| farm.clone());
        if *known != farm {
            // Somebody who is not of the farm held the unit meanwhile.
            return Err(TxError::Fenced { unit: Unit::Global.to_string(), held: farm.epoch, ours: known.epoch, owner: farm.owner });
        }
        let version = self.put_up_seal(&farm, fence).await?;
        self.inherit(&farm, fence).await?;
        *self.seal() = Some(Seal { fence: fence.clone(), version });
        Ok(())
    }

    /// The fence that all gateways write common rows with; taken from whoever held the unit before.
    async fn farm_fence(&self) -> Result<Fence, TxError> {
        for _ in 0..TRIES_MAX {
            let held = self.inner.fence(&Unit::Global).await?;
            if let Some(farm) = held.as_ref().filter(|fence| fence.owner == FARM_OWNER) {
                return Ok(farm.clone());
            }
            let farm = Fence { epoch: held.map_or(0, |fence| fence.epoch).saturating_add(1), owner: FARM_OWNER.into(), incarnation: 0 };
            match self.inner.claim(&Unit::Global, &farm).await {
                Ok(()) => return Ok(farm),
                // Another gateway was faster, with the same fence or a higher one.
                Err(TxError::Fenced { .. }) => {}
                Err(err) => return Err(err),
            }
        }
        Err(TxError::Busy { path: self.inner.describe(), retry_after_ms: 1_000 })
    }

    /// Names `fence` as ours in the common rows. Answers the version of the row.
    async fn put_up_seal(&self, farm: &Fence, fence: &Fence) -> Result<u64, TxError> {
        for _ in 0..TRIES_MAX {
            let old = get_json::<Fence>(&*self.inner, &Unit::Global, Table::Meta, &self.seal_key).await?;
            let version = old.as_ref().map(|row| row.version);
            match old {
                Some(old) if old.value == *fence => return Ok(old.version),
                Some(old) if old.value.epoch >= fence.epoch => return Err(self.fenced(Some(old.value), fence.epoch)),
                _ => {}
            }
            let batch = Batch::new(Unit::Global).expect(Table::Meta, &self.seal_key, version).put_json(Table::Meta, &self.seal_key, fence)?;
            match self.inner.commit(farm, batch).await {
                Ok(()) => return Ok(version.map_or(1, |version| version + 1)),
                Err(TxError::Changed { .. }) => {}
                Err(err) => return Err(err),
            }
        }
        Err(TxError::Busy { path: self.inner.describe(), retry_after_ms: 1_000 })
    }

    /// Moves what a single gateway kept in the global unit into our house, if we are the first gateway of the farm.
    /// Goes on where an earlier start of ours ended.
    async fn inherit(&self, farm: &Fence, fence: &Fence) -> Result<(), TxError> {
        let Unit::House(us) = &self.house else { return Ok(()) };
        let heir = match get_json::<Heir>(&*self.inner, &Unit::Global, Table::Meta, HEIR).await? {
            Some(row) => row.value,
            None => {
                let ours = Heir { gateway: us.clone(), done: false };
                match self.inner.commit(farm, Batch::new(Unit::Global).insert_json(Table::Meta, HEIR, &ours)?).await {
                    Ok(()) => ours,
                    Err(TxError::Exists { .. }) => return Ok(()),
                    Err(err) => return Err(err),
                }
            }
        };
        if heir.done || heir.gateway != *us {
            return Ok(());
        }
        let mut moved = 0;
        for table in Table::ALL.into_iter().filter(|table| !matches!(table, Table::Devices | Table::Approvals)) {
            moved += self.inherit_table(farm, fence, table).await?;
        }
        moved += self.inherit_journals(farm, fence).await?;
        if moved > 0 {
            tracing::info!(gateway = %us, rows = moved, "what one gateway kept before the farm shared its store is this gateway's now");
        }
        let done = Heir { gateway: us.clone(), done: true };
        self.inner.commit(farm, Batch::new(Unit::Global).put_json(Table::Meta, HEIR, &done)?).await
    }

    async fn inherit_table(&self, farm: &Fence, fence: &Fence, table: Table) -> Result<usize, TxError> {
        let (mut scan, mut moved) = (Scan::prefix("").limit(PAGE), 0);
        loop {
            let rows = self.inner.scan(&Unit::Global, table, &scan).await?;
            let Some(last) = rows.last() else { return Ok(moved) };
            scan = scan.after(last.key.clone());
            let ours = rows.into_iter().filter(|row| {
                let of_the_store = table == Table::Meta && (row.key == HEIR || row.key.starts_with(SEALS));
                !of_the_store && self.whose_row(table, &row.key) == Whose::House
            });
            let (mut into, mut out) = (Batch::new(self.house.clone()), Batch::new(Unit::Global));
            for row in ours {
                out = out.delete(table, row.key.clone());
                into = into.op(Op::Put(table, row.key, row.value));
            }
            if into.is_empty() {
                continue;
            }
            moved += into.ops.len();
            // First in, then out: a crash between the two is repaired by doing both again, for we write nothing of our
            // own before.
            self.inner.commit(fence, into).await?;
            self.inner.commit(farm, out).await?;
        }
    }

    async fn inherit_journals(&self, farm: &Fence, fence: &Fence) -> Result<usize, TxError> {
        let mut moved = 0;
        while let Some(journal) = self.inner.journals(&Unit::Global, None, 1).await?.into_iter().next() {
            loop {
                let next = self.inner.journal_end(&self.house, &journal).await? + 1;
                let lines = self.inner.read_journal(&Unit::Global, &journal, next, PAGE).await?;
                if lines.is_empty() {
                    break;
                }
                moved += lines.len();
                let ops = lines.into_iter().map(|(seq, event)| Op::Append { journal: journal.clone(), seq, event }).collect();
                self.inner.commit(fence, Batch { unit: self.house.clone(), ops }).await?;
            }
            self.inner.commit(farm, Batch::new(Unit::Global).drop_journal(journal)).await?;
        }
        Ok(moved)
    }
}
