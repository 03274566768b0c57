//! `a2a_task`: what an agent does with a task that a caller gave it over A2A, besides answering in words: it hands over
//! results, asks for more, or declines. Kept as a row of the agent until the turn ends, so that a restart in between
//! forgets none of it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use clawstead_a2a::{
    proto::{Artifact, Part},
    server::{Piece, TurnEvent},
};
use clawstead_state::{Batch, Scan, Table};
use clawstead_terms::{AgentId, EffectClass, Failure, Millis, RunId, Unit};
use clawstead_tools::{AnyTool, ToolCx, ToolError, ToolOutput, ToolSpec};

use crate::keeper::{self, Keeper};

/// Before the key of what a run made.
const MADE: &str = "a2a/made/";
/// Results of one turn at most.
const RESULTS_MAX: usize = 32;
/// Bytes of a file that is handed over.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Rows are kept this long, ms: as long as runs.
const KEPT_MS: i64 = 7 * 86_400_000;
/// Old rows that one call removes at most.
const TIDY_MAX: usize = 100;

/// How the task stands after the turn, where the answer alone does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stands {
    InputRequired,
    AuthRequired,
    Rejected,
}

/// What a run made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MadeRow {
    at: Option<Millis>,
    #[serde(default)]
    results: Vec<Artifact>,
    #[serde(default)]
    state: Option<Stands>,
    #[serde(default)]
    words: Option<String>,
}

impl MadeRow {
    /// What a run made; nothing for most.
    pub(super) async fn of(keeper: &Keeper, agent: &AgentId, run: &RunId) -> Self {
        let found = keeper.get::<Self>(&Unit::Agent(agent.clone()), Table::Meta, &format!("{MADE}{run}")).await;
        found.ok().flatten().unwrap_or_default()
    }

    /// The results as events, and the last one instead of `done`.
    pub(super) fn events(self, done: TurnEvent) -> Vec<TurnEvent> {
        let mut events: Vec<TurnEvent> = self.results.into_iter().map(|artifact| TurnEvent::Artifact { artifact, piece: Piece::Whole }).collect();
        let parts = |words: Option<String>| words.filter(|words| !words.is_empty()).map(Part::text).into_iter().collect::<Vec<_>>();
        let said = |done: &TurnEvent| match done {
            TurnEvent::Done { answer, .. } if !answer.is_empty() => answer.clone(),
            _ => Vec::new(),
        };
        events.push(match (self.state, done) {
            (None, TurnEvent::Done { answer, words }) if answer.is_empty() && !events.is_empty() => {
                // The results are the answer: nothing has to be said about saying nothing.
                TurnEvent::Done {
                    answer,
                    words: if self.words.is_some() {
                        parts(self.words)
                    } else {
                        drop(words);
                        Vec::new()
                    },
                }
            }
            (None, done) => done,
            (Some(stands), done) => {
                let words = if self.words.is_some() { parts(self.words.clone()) } else { said(&done) };
                match stands {
                    Stands::InputRequired => TurnEvent::InputRequired(words),
                    Stands::AuthRequired => TurnEvent::AuthRequired(words),
                    Stands::Rejected => TurnEvent::Rejected(self.words.unwrap_or_else(|| "The agent declines".into())),
                }
            }
        });
        events
    }
}

/// See the module.
pub struct A2aTask {
    keeper: Keeper,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Args {
    #[serde(default)]
    results: Vec<ResultArg>,
    #[serde(default)]
    state: Option<Stands>,
    #[serde(default)]
    words: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResultArg {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    data: Option<Value>,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default, alias = "media_type")]
    media_type: Option<String>,
}

impl A2aTask {
    /// Over the rows of this gateway.
    #[must_use]
    pub fn new(keeper: Keeper) -> Self {
        Self { keeper }
    }

    async fn artifact(cx: &ToolCx, number: usize, wanted: ResultArg) -> Result<Artifact, ToolError> {
        let bad = |why: &str| ToolError::BadArguments(format!("field `results`: result {}: {why}", number + 1));
        let given = [wanted.text.is_some(), wanted.data.is_some(), wanted.file.is_some(), wanted.url.is_some()];
        if given.into_iter().filter(|given| *given).count() != 1 {
            return Err(bad("give one of text, data, file and url"));
        }
        let kind = |wanted: &ResultArg| wanted.media_type.clone().unwrap_or_else(|| "application/octet-stream".into());
        let part = match (&wanted.text, &wanted.data, &wanted.file, &wanted.url) {
            (Some(text), ..) => Part::text(text.clone()),
            (_, Some(data), ..) => Part::data(data.clone()),
            (_, _, Some(file), _) => {
                let bytes = read(cx, file).await.map_err(|why| bad(&why))?;
                let name = wanted.name.clone().unwrap_or_else(|| file.rsplit('/').next().unwrap_or(file).to_owned());
                Part::file(&bytes, name, kind(&wanted))
            }
            (.., Some(url)) => {
                if !url.starts_with("https://") && !url.starts_with("http://") {
                    return Err(bad("the url is no http or https address"));
                }
                Part::link(url.clone(), wanted.name.clone().unwrap_or_default(), kind(&wanted))
            }
            _ => return Err(bad("it is empty")),
        };
        Ok(Artifact { name: wanted.name, ..Artifact::new(format!("{}-{number}", cx.effect_id), vec![part]) })
    }
}

/// A file of the agent's workspace; links that lead out of it are refused.
async fn read(cx: &ToolCx, file: &str) -> Result<Vec<u8>, String> {
    let (root, path) = (cx.workspace.clone(), cx.workspace.join(file));
    let done = cx.world.tasks.blocking(move || {
        let real = |path: &std::path::Path| path.canonicalize().map_err(|err| err.to_string());
        let (root, path) = (real(&root)?, real(&path)?);
        if !path.starts_with(&root) {
            return Err("the file is not in the workspace".to_owned());
        }
        let size = std::fs::metadata(&path).map_err(|err| err.to_string())?.len();
        if size > FILE_BYTES_MAX {
            return Err(format!("the file has {size} bytes; {FILE_BYTES_MAX} at most"));
        }
        std::fs::read(&path).map_err(|err| err.to_string())
    });
    done.await.unwrap_or_else(|| Err("the gateway stops".into()))
}

#[async_trait]
impl AnyTool for A2aTask {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "a2a_task",
            title: "Results for a caller elsewhere",
            description: "Only in a turn whose message came over the A2A protocol: hand over results beside your answer (files of the workspace, data, links), \
                          ask the caller for more (state input-required), or decline the task (state rejected).",
            group: "group:agents",
            class: EffectClass::Idempotent,
            timeout_ms: 30_000,
        }
    }

    fn parameters(&self) -> Value {
        let text = |words: &str| json!({"type": "string", "description": words});
        json!({
            "type": "object",
            "properties": {
                "results": {"type": "array", "maxItems": RESULTS_MAX, "description": "Results, each with one of text, data, file and url.", "items": {
                    "type": "object",
                    "properties": {
                        "name": text("Its name for the caller."),
                        "text": text("A text."),
                        "data": {"description": "Any JSON value."},
                        "file": text("A file of the workspace."),
                        "url": text("An address where it is."),
                        "mediaType": text("Its media type; for files and addresses."),
                    },
                }},
                "state": {"type": "string", "enum": ["input-required", "auth-required", "rejected"], "description": "How the task stands after this turn. Without it your answer completes it."},
                "words": text("What to tell the caller about the state. Default: your answer."),
            },
        })
    }

    async fn call(&self, cx: ToolCx, args: Value) -> Result<ToolOutput, ToolError> {
        let args: Args = serde_json::from_value(args).map_err(|err| ToolError::BadArguments(format!("a2a_task: {err}")))?;
        if !cx.session.as_str().contains(":a2a:") {
            return Err(ToolError::BadArguments("a2a_task: this turn did not come over the A2A protocol; answer in words".into()));
        }
        if args.results.is_empty() && args.state.is_none() {
            return Err(ToolError::BadArguments("a2a_task: give results or a state".into()));
        }
        let (unit, key, now) = (Unit::Agent(cx.agent.clone()), format!("{MADE}{}", cx.run), cx.world.clock.now());
        let mut row: MadeRow = self.keeper.get(&unit, Table::Meta, &key).await.map_err(ToolError::from)?.unwrap_or_default();
        for (number, wanted) in args.results.into_iter().enumerate() {
            let artifact = Self::artifact(&cx, number, wanted).await?;
            // The same call again is the same results.
            row.results.retain(|one| one.artifact_id != artifact.artifact_id);
            row.results.push(artifact);
        }
        if row.results.len() > RESULTS_MAX {
            return Err(ToolError::BadArguments(format!("a2a_task: a turn hands over {RESULTS_MAX} results at most")));
        }
        row.at = Some(now);
        row.state = args.state.or(row.state);
        row.words = args.words.map(|words| words.trim().to_owned()).or(row.words);
        self.keep(unit, key, &row, now).await.map_err(ToolError::from)?;
        let state = row.state.map_or_else(|| json!("completed"), |state| json!(state));
        Ok(ToolOutput::json(json!({"ok": true, "results": row.results.len(), "state": state})))
    }
}

impl A2aTask {
    async fn keep(&self, unit: Unit, key: String, row: &MadeRow, now: Millis) -> Result<(), Failure> {
        let mut batch = Batch::new(unit.clone()).put_json(Table::Meta, key.clone(), row).map_err(keeper::sort)?;
        for old in self.keeper.scan::<MadeRow>(&unit, Table::Meta, &Scan::prefix(MADE).limit(TIDY_MAX)).await? {
            if old.key != key && old.value.at.is_some_and(|at| now.since(at) > KEPT_MS) {
                batch = batch.delete(Table::Meta, old.key);
            }
        }
        self.keeper.commit(batch).await.map_err(keeper::sort)
    }
}

#[cfg(test)]
mod tests {
    use clawstead_a2a::{
        proto::{Artifact, Part},
        server::TurnEvent,
    };

    use super::{MadeRow, Stands};

    #[test]
    fn what_was_made_comes_before_the_end_and_the_state_replaces_it() {
        let done = || TurnEvent::Done { answer: vec![Part::text("words")], words: Vec::new() };
        assert_eq!(MadeRow::default().events(done()), [done()]);
        let made = MadeRow { results: vec![Artifact::new("a", vec![Part::text("x")])], ..MadeRow::default() };
        assert_eq!(made.clone().events(done()).len(), 2);
        let silent = TurnEvent::Done { answer: Vec::new(), words: vec![Part::text("nothing to say")] };
        assert_eq!(made.events(silent)[1], TurnEvent::Done { answer: Vec::new(), words: Vec::new() });
        let asks = |words: Option<&str>| MadeRow { state: Some(Stands::InputRequired), words: words.map(str::to_owned), ..MadeRow::default() };
        assert_eq!(asks(Some("which?")).events(done()), [TurnEvent::InputRequired(vec![Part::text("which?")])]);
        assert_eq!(asks(None).events(done()), [TurnEvent::InputRequired(vec![Part::text("words")])]);
        let declines = MadeRow { state: Some(Stands::Rejected), words: Some("no".into()), ..MadeRow::default() };
        assert_eq!(declines.events(done()), [TurnEvent::Rejected("no".into())]);
    }
}
