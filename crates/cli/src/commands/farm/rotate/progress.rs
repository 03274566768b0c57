//! How far a change is: kept in the coordination store, so that it goes on after Ctrl-C, a crash or a night.

use std::{io::IsTerminal as _, time::Duration};

use clawstead_bus::{Coord, Version};
use clawstead_cluster::keys::RotationStep;
use clawstead_terms::Millis;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Args, Outcome};
use crate::{
    commands::farm::site::{Site, stopped},
    fail::Fail,
    format::{minute, span},
    print,
};

/// Where changes lie in the store.
const PLACE: &str = "openclaw/farm/v1/rotation/";
/// A wait is looked at so often.
const TICK: Duration = Duration::from_secs(1);

/// A change on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What is replaced.
    pub old: String,
    /// By what.
    pub new: String,
    /// When it began.
    pub started_at: Millis,
    /// Steps done.
    pub done: usize,
    /// When the last of them was.
    pub done_at: Millis,
    /// The plan as it was made.
    pub steps: Vec<Step>,
}

/// A step of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    number: u32,
    wait_ms: u64,
    what: String,
    event: String,
}

impl Step {
    fn of(step: &RotationStep) -> Self {
        Self { number: step.number, wait_ms: step.wait_ms, what: step.what.clone(), event: step.event.into() }
    }
}

/// What a step came to.
pub enum Carried {
    /// It is done.
    Done,
    /// Somebody else has to do something first.
    NotYet(String),
}

/// The progress of one change, with its place.
pub struct Kept {
    key: String,
    version: Option<Version>,
    /// What is there; none when nothing is under way.
    pub progress: Option<Progress>,
}

impl Kept {
    /// Reads it. `name` is what is changed, unique in the farm.
    ///
    /// # Errors
    /// When the store does not answer or holds something else.
    pub async fn read(coord: &dyn Coord, name: &str) -> Result<Self, Fail> {
        let key = format!("{PLACE}{name}");
        let Some(entry) = coord.get(&key).await? else { return Ok(Self { key, version: None, progress: None }) };
        let progress =
            serde_json::from_slice(&entry.value).map_err(|err| Fail::new(format!("{key} in the store cannot be read: {err}.")).hint("openclaw farm keys"))?;
        Ok(Self { key, version: Some(entry.version), progress: Some(progress) })
    }

    /// Begins a change.
    ///
    /// # Errors
    /// When somebody else began one at the same time.
    pub async fn begin(&mut self, coord: &dyn Coord, old: &str, new: &str, steps: &[RotationStep], now: Millis) -> Result<(), Fail> {
        let steps = steps.iter().map(Step::of).collect();
        self.progress = Some(Progress { old: old.into(), new: new.into(), started_at: now, done: 0, done_at: now, steps });
        self.save(coord).await
    }

    async fn save(&mut self, coord: &dyn Coord) -> Result<(), Fail> {
        let value = serde_json::to_vec(&self.progress).unwrap_or_default();
        self.version = Some(coord.put_if(&self.key, value.into(), self.version).await?);
        Ok(())
    }

    /// Does step after step, with the waits between them, and forgets the change after the last.
    ///
    /// # Errors
    /// When a step does not succeed; it is done again the next time.
    pub async fn carry_out(&mut self, args: &Args, site: &Site, work: impl AsyncFn(usize, &Progress) -> Result<Carried, Fail>) -> Outcome {
        loop {
            let Some(progress) = self.progress.clone() else { return Ok(0) };
            let Some(step) = progress.steps.get(progress.done) else {
                site.coord.delete(&self.key, self.version).await?;
                return finish(args, &progress, None);
            };
            let due = progress.done_at.plus(i64::try_from(step.wait_ms).unwrap_or(i64::MAX));
            if due > site.world.clock.now() {
                if args.no_wait {
                    return finish(args, &progress, Some(&format!("Step {} is due {}; type the same command then.", step.number, moment(due))));
                }
                wait(args, site, step, due).await;
            }
            match work(progress.done, &progress).await? {
                Carried::NotYet(why) => return finish(args, &progress, Some(&why)),
                Carried::Done => {
                    tracing::info!(event = %step.event, old = %progress.old, new = %progress.new, "{}", step.what);
                    if !args.json {
                        print::line(&format!("{}. done: {} [{}]", step.number, step.what, step.event));
                    }
                    self.progress = Some(Progress { done: progress.done + 1, done_at: site.world.clock.now(), ..progress });
                    self.save(&*site.coord).await?;
                }
            }
        }
    }
}

/// The steps of a change that is under way, for `--dry-run`.
pub fn show(args: &Args, progress: &Progress) -> Outcome {
    if args.json {
        print::json(
            &json!({"ok": true, "what": args.what, "dryRun": true, "underway": true, "old": progress.old, "new": progress.new, "done": progress.done, "doneAt": progress.done_at, "steps": progress.steps}),
        );
        return Ok(0);
    }
    for (at, step) in progress.steps.iter().enumerate() {
        let state = match at.cmp(&progress.done) {
            std::cmp::Ordering::Less => "done".to_owned(),
            std::cmp::Ordering::Equal => format!("due {}", moment(progress.done_at.plus(i64::try_from(step.wait_ms).unwrap_or(i64::MAX)))),
            std::cmp::Ordering::Greater => "later".to_owned(),
        };
        print::line(&format!("{}. {state}: {} [{}]", step.number, step.what, step.event));
    }
    Ok(0)
}

fn finish(args: &Args, progress: &Progress, left: Option<&str>) -> Outcome {
    let complete = left.is_none();
    if args.json {
        print::json(
            &json!({"ok": true, "what": args.what, "complete": complete, "old": progress.old, "new": progress.new, "done": progress.done, "doneAt": progress.done_at, "steps": progress.steps, "next": left}),
        );
    } else {
        print::line(left.unwrap_or("All steps are done."));
    }
    Ok(0)
}

async fn wait(args: &Args, site: &Site, step: &Step, due: Millis) {
    if !args.json {
        print::line(&format!("{}. waits until {}: {}", step.number, moment(due), step.what));
    }
    let shown = !args.json && std::io::stdout().is_terminal();
    loop {
        let left = due.0 - site.world.clock.now().0;
        if shown {
            print::piece(&format!("\r   {} left; Ctrl-C stops waiting, the same command goes on later   ", span(left)));
        }
        if left <= 0 {
            if shown {
                print::line("");
            }
            return;
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Says what Ctrl-C did not undo.
#[must_use]
pub fn told(args: &Args, done: Outcome) -> Outcome {
    if stopped(&done) && !args.json {
        print::line("");
        print::line("Stopped waiting. What is done stays done; the same command goes on.");
    }
    done
}

fn moment(at: Millis) -> String {
    minute(&clawstead_cluster::format_stamp(at))
}
