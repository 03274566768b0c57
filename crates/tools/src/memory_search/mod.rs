//! `memory_search`: the parts of MEMORY.md and memory/*.md that fit a question, ranked by their words (BM25).

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    sync::Arc,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use clawstead_terms::EffectClass;

use crate::{
    Places, Tool, ToolCx, ToolError, ToolOutput, ToolSpec, bound,
    paths::{Confine, Paths},
    read::blocking,
};

/// What is read of one file, bytes.
pub const FILE_BYTES_MAX: u64 = 512 * 1024;
/// Files that are read; the names that sort last (the newest days) first.
const FILES_MAX: usize = 400;
/// What is read altogether, bytes.
const ALL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Lines of one part.
const PART_LINES: usize = 16;
/// Text shown of one part, bytes.
const SNIPPET_BYTES: usize = 700;
/// Parts of one answer.
const RESULTS_MAX: usize = 50;

/// Searches memory.
pub struct MemorySearch {
    /// The host.
    pub places: Arc<Places>,
}

/// Arguments of `memory_search`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// What to look for: the words that the text has.
    query: String,
    /// How many parts at most. Default 6.
    #[serde(default, alias = "max_results", alias = "limit")]
    max_results: Option<usize>,
}

#[async_trait]
impl Tool for MemorySearch {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "memory_search",
        title: "Search memory",
        description: "Search MEMORY.md and memory/*.md by words; gives files, lines and snippets. Use it before answering about earlier work, decisions, people or dates.",
        group: "group:memory",
        class: EffectClass::Read,
        timeout_ms: 30_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        let query: BTreeSet<String> = words(&args.query).into_iter().take(64).collect();
        if query.is_empty() {
            return Err(ToolError::BadArguments("field `query` must have at least one word".into()));
        }
        let max = args.max_results.unwrap_or(6).clamp(1, RESULTS_MAX);
        let paths = Paths::new(cx.workspace.clone(), self.places.clone(), Confine::Workspace);
        let found = blocking(move || Ok(rank(gather(&paths), &query, max))).await?;
        let results: Vec<_> = found
            .iter()
            .map(|(score, part)| {
                let snippet = bound::head(&part.text, SNIPPET_BYTES);
                json!({"path": part.path, "startLine": part.first, "endLine": part.last, "score": (score * 1000.0).round() / 1000.0, "snippet": snippet, "source": "memory"})
            })
            .collect();
        Ok(ToolOutput::json(json!({"results": results, "mode": "words"})))
    }
}

/// A few lines of a file.
struct Part {
    path: String,
    first: usize,
    last: usize,
    text: String,
    words: Vec<String>,
}

/// The words of a text: lower case, letters and digits.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

fn gather(paths: &Paths) -> Vec<Part> {
    let mut files = vec!["MEMORY.md".to_owned(), "memory.md".to_owned()];
    let mut folders = vec![("memory".to_owned(), 0)];
    let mut below = Vec::new();
    while let Some((folder, depth)) = folders.pop() {
        // A folder that is not there or may not be read has nothing to say.
        let Ok((names, _)) = paths.list(&folder, 5000) else { continue };
        for name in names {
            match name.strip_suffix('/') {
                Some(inner) if depth < 4 => folders.push((format!("{folder}/{inner}"), depth + 1)),
                None if name.ends_with(".md") => below.push(format!("{folder}/{name}")),
                _ => {}
            }
        }
    }
    below.sort_unstable_by(|a, b| b.cmp(a));
    files.extend(below.into_iter().take(FILES_MAX));
    let (mut parts, mut total) = (Vec::new(), 0);
    for path in files {
        let Ok(opened) = paths.open(&path) else { continue };
        let mut bytes = Vec::new();
        if opened.file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).is_err() {
            continue;
        }
        total += bytes.len();
        split(&path, &String::from_utf8_lossy(&bytes), &mut parts);
        if total > ALL_BYTES_MAX {
            break;
        }
    }
    parts
}

/// Cuts a file into parts: at headings, at blank lines when a part is long, never longer than [`PART_LINES`].
fn split(path: &str, text: &str, parts: &mut Vec<Part>) {
    let mut lines: Vec<&str> = Vec::new();
    let mut first = 1;
    let mut close = |lines: &mut Vec<&str>, first: usize| {
        let text = lines.join("\n");
        if !text.trim().is_empty() {
            parts.push(Part { path: path.to_owned(), first, last: first + lines.len() - 1, words: words(&text), text });
        }
        lines.clear();
    };
    for (index, line) in text.lines().enumerate() {
        let heading = line.starts_with('#');
        let full = lines.len() >= PART_LINES || (lines.len() >= PART_LINES / 2 && line.trim().is_empty());
        if !lines.is_empty() && (heading || full) {
            close(&mut lines, first);
        }
        if lines.is_empty() {
            first = index + 1;
        }
        lines.push(line);
    }
    if !lines.is_empty() {
        close(&mut lines, first);
    }
}

/// The best parts, best first; parts without any of the words are left out.
fn rank(parts: Vec<Part>, query: &BTreeSet<String>, max: usize) -> Vec<(f64, Part)> {
    const K1: f64 = 1.2;
    const B: f64 = 0.75;
    let count = parts.len() as f64;
    let average = parts.iter().map(|p| p.words.len()).sum::<usize>() as f64 / count.max(1.0);
    let mut holding: BTreeMap<&str, f64> = BTreeMap::new();
    let counts: Vec<BTreeMap<&str, f64>> = parts
        .iter()
        .map(|part| {
            let mut of = BTreeMap::new();
            for word in &part.words {
                if let Some(asked) = query.get(word) {
                    *of.entry(asked.as_str()).or_insert(0.0) += 1.0;
                }
            }
            for word in of.keys() {
                *holding.entry(word).or_insert(0.0) += 1.0;
            }
            of
        })
        .collect();
    let mut ranked: Vec<(f64, usize)> = counts
        .iter()
        .enumerate()
        .filter(|(_, of)| !of.is_empty())
        .map(|(index, of)| {
            let length = parts[index].words.len() as f64 / average.max(1.0);
            let score: f64 = of
                .iter()
                .map(|(word, times)| {
                    let rare = ((count - holding[word] + 0.5) / (holding[word] + 0.5) + 1.0).ln();
                    rare * times * (K1 + 1.0) / (times + K1 * (1.0 - B + B * length))
                })
                .sum();
            (score, index)
        })
        .collect();
    // Parts of the same score stay in the order they were read: MEMORY.md, then the newest day.
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    ranked.truncate(max);
    let mut parts: Vec<Option<Part>> = parts.into_iter().map(Some).collect();
    ranked.into_iter().filter_map(|(score, index)| Some((score, parts[index].take()?))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::split;
    use crate::test_kit::Kit;

    #[tokio::test]
    async fn the_rare_word_wins_and_lines_are_right() {
        let kit = Kit::new();
        kit.file("MEMORY.md", "# People\nThe user likes tea.\n\n# Servers\nThe Nomad cluster runs on hardware of the user.\n");
        kit.file("memory/2026-01-01.md", "The user said hello. The user left.\n");
        kit.file("memory/deep/x.md", "Zebra zebra\n");
        kit.file("notes.md", "nomad nomad nomad");
        let seen = kit.call("memory_search", json!({"query": "NOMAD user"})).await.unwrap().details.unwrap();
        let first = &seen["results"][0];
        assert_eq!((&first["path"], &first["startLine"], &first["endLine"]), (&json!("MEMORY.md"), &json!(4), &json!(5)));
        assert_eq!(seen["results"].as_array().unwrap().len(), 3);
        let seen = kit.call("memory_search", json!({"query": "zebra", "maxResults": 1})).await.unwrap().details.unwrap();
        assert_eq!(seen["results"][0]["path"], "memory/deep/x.md");
        assert!(kit.call("memory_search", json!({"query": " ?! "})).await.unwrap_err().to_string().contains("`query`"));
    }

    #[tokio::test]
    async fn a_link_out_of_the_workspace_is_not_read() {
        let kit = Kit::new();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("s.md"), "secretword").unwrap();
        std::fs::create_dir_all(kit.path("memory")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("s.md"), kit.path("memory/s.md")).unwrap();
        std::os::unix::fs::symlink(outside.path(), kit.path("memory/dir")).unwrap();
        let seen = kit.call("memory_search", json!({"query": "secretword"})).await.unwrap().details.unwrap();
        assert_eq!(seen["results"], json!([]));
    }

    proptest! {
        #[test]
        fn parts_point_at_their_lines(lines in prop::collection::vec(prop::sample::select(vec!["", "# h", "text", "more text"]), 0..80)) {
            let text = lines.join("\n");
            let mut parts = Vec::new();
            split("f", &text, &mut parts);
            for part in &parts {
                prop_assert_eq!(&part.text, &lines[part.first - 1..part.last].join("\n"));
            }
        }
    }
}
