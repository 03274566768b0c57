//! Looking around: which models providers and this machine have, how fast they answer, and whether they call tools.
//!
//! Listing costs nothing; a trial is one short question. At hosts that take a key only models that the config or the
//! catalogue names are tried, because somebody pays for it; on this machine all of them are.

use std::{sync::Arc, time::Duration};

use clawstead_terms::{Message, MessageId, Part, Role, ToolDefinition};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    Ask, Chunk, ErrorKind, ModelRef, Models, ProviderError,
    discovery::{LIST_TIMEOUT_MS, PROBE_TIMEOUT_MS, model_rows},
};

/// Time for one trial, milliseconds.
pub const SCAN_TIMEOUT_MS: u64 = 12_000;
/// Trials at a time.
pub const CONCURRENCY_DEFAULT: usize = 3;
/// Models of one host that are tried at most.
pub const PROBES_PER_HOST: usize = 24;
/// Listings at a time.
const LISTINGS: usize = 16;
/// Output of a trial at most, tokens.
const TRIAL_TOKENS: u32 = 256;
/// A picture of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mP8/x8AAwMCAO+X2ioAAAAASUVORK5CYII=";

/// Whether models are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probing {
    /// One short question each.
    Ask,
    /// Only listed.
    ListOnly,
}

/// What to look for.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// One provider only.
    pub provider: Option<String>,
    /// Whether models are tried.
    pub probing: Probing,
    /// Time for one trial, milliseconds.
    pub timeout_ms: u64,
    /// Trials at a time, at least 1.
    pub concurrency: usize,
    /// Models whose name says fewer billions of parameters, or nothing, are left out; 0 takes all.
    pub min_params_b: f64,
    /// Models that are known to be older are left out, days; 0 takes all.
    pub max_age_days: u64,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { provider: None, probing: Probing::Ask, timeout_ms: SCAN_TIMEOUT_MS, concurrency: CONCURRENCY_DEFAULT, min_params_b: 0.0, max_age_days: 0 }
    }
}

/// How one trial went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probed {
    /// It did what was asked.
    pub ok: bool,
    /// Until the whole answer was there; absent when it was not tried.
    pub latency_ms: Option<u64>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It was not tried.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

impl Probed {
    fn skipped() -> Self {
        Self { skipped: true, ..Self::default() }
    }
}

/// A model that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScanRow {
    /// Its id at its provider.
    pub id: String,
    /// For people.
    pub name: String,
    /// The provider.
    pub provider: String,
    /// `provider/model`.
    pub model_ref: String,
    /// On this machine.
    pub local: bool,
    /// Tokens it sees, where known.
    pub context_length: Option<u64>,
    /// Billions of parameters, as its name says.
    pub inferred_param_b: Option<f64>,
    /// When it was made, Unix milliseconds, where the host says.
    pub created_at_ms: Option<i64>,
    /// Whether the host says it calls tools; absent when it does not say.
    pub supports_tools_meta: Option<bool>,
    /// Whether it costs nothing: local, or priced at zero by its host.
    pub is_free: bool,
    /// Whether it called a tool when asked to.
    pub tool: Probed,
    /// Whether it read a picture.
    pub image: Probed,
}

/// A host that was asked for its models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostScan {
    /// The provider.
    pub provider: String,
    /// It answered with a list.
    pub ok: bool,
    /// Until then.
    pub latency_ms: u64,
    /// Models it has.
    pub models: usize,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scanned {
    /// The hosts that were asked. Local ones that nobody configured and that are not there are left out.
    pub hosts: Vec<HostScan>,
    /// Models, best first: those that call tools, then by speed.
    pub results: Vec<ScanRow>,
}

impl Models {
    /// Looks around. `progress` hears how many trials of how many are done.
    pub async fn scan(&self, options: &ScanOptions, progress: impl Fn(usize, usize) + Sync) -> Scanned {
        let wanted = options.provider.as_deref().map(crate::provider_id);
        let hosts: Vec<(String, bool)> = self.askable().into_iter().filter(|(id, _)| wanted.as_ref().is_none_or(|w| w == id)).collect();
        let listings: Vec<(HostScan, bool, Vec<ScanRow>)> =
            stream::iter(hosts).map(|(id, guessed)| self.list_host(id, guessed)).buffered(LISTINGS).collect().await;
        let mut scanned = Scanned::default();
        let mut trials = Vec::new();
        for (host, guessed, rows) in listings {
            if guessed && !host.ok && wanted.is_none() {
                continue;
            }
            let named = self.listed_of(&host.provider);
            let mut tried = 0;
            for row in rows.into_iter().filter(|row| self.is_wanted(row, options)) {
                let may = row.local
                    || named.iter().any(|n| row.id == *n || row.id.strip_prefix(n.as_str()).is_some_and(|rest| rest.starts_with(['-', ':', '@', '.'])));
                if options.probing == Probing::Ask && may && tried < PROBES_PER_HOST {
                    tried += 1;
                    trials.push(scanned.results.len());
                }
                scanned.results.push(row);
            }
            scanned.hosts.push(host);
        }
        let total = trials.len();
        let outcomes: Vec<(usize, Probed, Probed)> = stream::iter(trials)
            .map(|at| {
                let model = ModelRef { provider: scanned.results[at].provider.clone(), model: scanned.results[at].id.clone() };
                async move {
                    let tool = self.try_tool(&model, options.timeout_ms).await;
                    let reads = self.spec(&model).is_some_and(|spec| spec.images);
                    let image = if reads && (tool.ok || tool.error.is_some()) { self.try_image(&model, options.timeout_ms).await } else { Probed::skipped() };
                    (at, tool, image)
                }
            })
            .buffer_unordered(options.concurrency.max(1))
            .enumerate()
            .map(|(done, outcome)| {
                progress(done + 1, total);
                outcome
            })
            .collect()
            .await;
        for (at, tool, image) in outcomes {
            scanned.results[at].tool = tool;
            scanned.results[at].image = image;
        }
        scanned.results.sort_by(|a, b| {
            let rank = |row: &ScanRow| (!row.tool.ok, row.tool.skipped, row.tool.latency_ms.unwrap_or(u64::MAX));
            rank(a).cmp(&rank(b)).then_with(|| a.model_ref.cmp(&b.model_ref))
        });
        scanned
    }

    /// Asks a provider a trivial question; answers with the model that answered.
    ///
    /// # Errors
    /// When it does not.
    pub async fn try_provider(&self, provider: &str, limit: Duration) -> Result<String, ProviderError> {
        let fault = |kind, message: &str| self.listing_fault(provider, kind, message);
        let default = self.default_model();
        let model = if default.provider == provider {
            default.model
        } else {
            let host = crate::catalog::host(provider).map(|h| h.default_model).filter(|m| !m.is_empty());
            match host.map(str::to_owned).or_else(|| self.listed_of(provider).into_iter().next()) {
                Some(model) => model,
                None => {
                    let rows = self.list_live(provider, crate::Refresh::WhenOld).await?;
                    rows.into_iter().next().map(|row| row.id).ok_or_else(|| fault(ErrorKind::ModelNotFound, "the provider offers no model"))?
                }
            }
        };
        let model = ModelRef { provider: provider.to_owned(), model };
        let ask = question(vec![Part::text("Reply with OK.")]);
        tokio::time::timeout(limit, self.heard(&model, ask)).await.map_err(|_| fault(ErrorKind::Timeout, "no answer came in time"))??;
        Ok(model.to_string())
    }

    async fn list_host(&self, provider: String, guessed: bool) -> (HostScan, bool, Vec<ScanRow>) {
        let began = Instant::now();
        let answer = self.listing(&provider, if guessed { PROBE_TIMEOUT_MS } else { LIST_TIMEOUT_MS }).await;
        let latency_ms = millis(began);
        let rows: Result<Vec<ScanRow>, ProviderError> = answer.and_then(|value| match model_rows(&value) {
            Some(rows) => Ok(rows.map(|(id, said)| self.scan_row(&provider, &id, said)).collect()),
            None => Err(self.listing_fault(&provider, ErrorKind::Garbage, "the answer is no list of models")),
        });
        match rows {
            Ok(rows) => (HostScan { provider, ok: true, latency_ms, models: rows.len(), error: None }, guessed, rows),
            Err(error) => (HostScan { provider, ok: false, latency_ms, models: 0, error: Some(error.message) }, guessed, Vec::new()),
        }
    }

    fn scan_row(&self, provider: &str, id: &str, said: &Value) -> ScanRow {
        let spec = self.spec(&ModelRef { provider: provider.to_owned(), model: id.to_owned() });
        let number = |keys: &[&str]| keys.iter().find_map(|k| said.get(*k).and_then(Value::as_u64));
        let local = self.is_local(provider);
        let price = |key: &str| said.pointer(&format!("/pricing/{key}")).and_then(|v| v.as_f64().or_else(|| v.as_str()?.parse().ok()));
        ScanRow {
            id: id.to_owned(),
            name: said
                .get("display_name")
                .or_else(|| said.get("displayName"))
                .and_then(Value::as_str)
                .map(str::to_owned)
                .or_else(|| spec.as_ref().map(|s| s.name.clone()))
                .unwrap_or_else(|| id.to_owned()),
            provider: provider.to_owned(),
            model_ref: format!("{provider}/{id}"),
            local,
            context_length: number(&["context_length", "max_model_len", "inputTokenLimit"])
                .or_else(|| crate::catalog::known(provider, id).map(|(k, _)| u64::from(k.context))),
            inferred_param_b: params_b(id).or_else(|| said.pointer("/details/parameter_size").and_then(Value::as_str).and_then(params_b)),
            created_at_ms: number(&["created"]).filter(|s| *s > 0).and_then(|s| i64::try_from(s).ok()).map(|s| s.saturating_mul(1_000)),
            supports_tools_meta: said.get("supported_parameters").and_then(Value::as_array).map(|list| list.iter().any(|p| p == "tools")),
            is_free: local || (price("prompt") == Some(0.0) && price("completion") == Some(0.0)),
            tool: Probed::skipped(),
            image: Probed::skipped(),
        }
    }

    fn is_wanted(&self, row: &ScanRow, options: &ScanOptions) -> bool {
        let big = options.min_params_b <= 0.0 || row.inferred_param_b.is_some_and(|b| b >= options.min_params_b);
        let age_ms = row.created_at_ms.map_or(0, |at| self.world.clock.now().0.saturating_sub(at));
        let limit_ms = i64::try_from(options.max_age_days.saturating_mul(86_400_000)).unwrap_or(i64::MAX);
        big && (options.max_age_days == 0 || age_ms <= limit_ms)
    }

    async fn try_tool(&self, model: &ModelRef, timeout_ms: u64) -> Probed {
        let mut ask = question(vec![Part::text("Call the ping tool with {} and nothing else.")]);
        ask.tools = Arc::from(vec![ToolDefinition {
            name: "ping".into(),
            description: "Answers with pong.".into(),
            parameters: json!({"type": "object", "properties": {}}),
        }]);
        ask.tool_choice = Some("required".into());
        let began = Instant::now();
        let mut heard = self.limited(model, ask.clone(), timeout_ms).await;
        // Some hosts know tools but not how to demand them.
        if heard.as_ref().is_err_and(|e| e.kind == ErrorKind::Request) {
            ask.tool_choice = None;
            heard = self.limited(model, ask, timeout_ms).await;
        }
        let called = |chunks: &[Chunk]| chunks.iter().any(|c| matches!(c, Chunk::ToolCall { name, .. } if name == "ping"));
        judged(began, heard, |chunks| if called(chunks) { None } else { Some("no tool call came back") })
    }

    async fn try_image(&self, model: &ModelRef, timeout_ms: u64) -> Probed {
        let ask = question(vec![Part::text("Reply with OK."), Part::Image { mime_type: "image/png".into(), data: PIXEL.into() }]);
        let began = Instant::now();
        let heard = self.limited(model, ask, timeout_ms).await;
        judged(began, heard, |chunks| if chunks.iter().any(|c| matches!(c, Chunk::Text(_))) { None } else { Some("the answer was empty") })
    }

    async fn limited(&self, model: &ModelRef, ask: Ask, timeout_ms: u64) -> Result<Vec<Chunk>, ProviderError> {
        match tokio::time::timeout(Duration::from_millis(timeout_ms), self.heard(model, ask)).await {
            Ok(heard) => heard,
            Err(_) => Err(self.listing_fault(&model.provider, ErrorKind::Timeout, &format!("no answer within {timeout_ms} ms"))),
        }
    }

    /// The whole answer of one model, asked once, without a trace in the memory of failures.
    async fn heard(&self, model: &ModelRef, mut ask: Ask) -> Result<Vec<Chunk>, ProviderError> {
        let fault = |kind, message: &str| self.listing_fault(&model.provider, kind, message);
        let spec = self.spec(model).ok_or_else(|| fault(ErrorKind::ModelNotFound, "no such provider"))?;
        let profile = self
            .profiles(&model.provider, None, self.world.clock.now())
            .into_iter()
            .next()
            .ok_or_else(|| fault(ErrorKind::Auth, &format!("no key is configured for {}", model.provider)))?;
        let profile = self.fresh(&profile).await.map_err(|stale| fault(ErrorKind::Auth, stale.words()))?;
        let provider = self.provider(&spec, &profile).map_err(|why| fault(ErrorKind::Request, &why))?;
        ask.model.clone_from(&model.model);
        ask.params.clone_from(&spec.params);
        let mut stream = provider.stream(ask).await?;
        let mut chunks = Vec::new();
        while let Some(chunk) = stream.next().await {
            chunks.push(chunk?);
        }
        Ok(chunks)
    }
}

fn question(parts: Vec<Part>) -> Ask {
    let message = Message {
        id: MessageId::from("scan"),
        role: Role::User,
        parts,
        at: clawstead_terms::Millis(0),
        run_id: None,
        model: None,
        usage: None,
        stop_reason: None,
        meta: None,
    };
    Ask { messages: Arc::from(vec![Arc::new(message)]), max_tokens: Some(TRIAL_TOKENS), ..Ask::default() }
}

fn judged(began: Instant, heard: Result<Vec<Chunk>, ProviderError>, missing: impl Fn(&[Chunk]) -> Option<&'static str>) -> Probed {
    let error = match &heard {
        Ok(chunks) => missing(chunks).map(str::to_owned),
        Err(error) => Some(error.message.clone()),
    };
    Probed { ok: error.is_none(), latency_ms: Some(millis(began)), error, skipped: false }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// `70b`, `8x7B`, `1.5b` in a name, billions; the largest.
pub(crate) fn params_b(name: &str) -> Option<f64> {
    let one = |word: &str| {
        let number = word.strip_suffix(['b', 'B'])?;
        let value = match number.split_once(['x', 'X']) {
            Some((times, each)) => times.parse::<f64>().ok()? * each.parse::<f64>().ok()?,
            None => number.parse().ok()?,
        };
        (value.is_finite() && value > 0.0).then_some(value)
    };
    name.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).filter_map(one).reduce(f64::max)
}
