//! Which lines of a transcript are the conversation: a transcript is a tree by `parentId`, the conversation is the
//! path from its root to the leaf in force. Built from the heads of lines alone; the text is read later.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer};

use super::lines::{Extent, Lines, Place, Scanned};

/// Lines of one session at most.
pub const ENTRIES_MAX: usize = 1_000_000;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something that is said: `message`, `custom_message`, `branch_summary`.
    Said,
    /// `compaction`.
    Compaction,
    /// `reset`.
    Reset,
    /// Known, and no part of the conversation.
    Aside,
    /// The lines of a collective that keeps its own files: `{timestamp, role, content, sessionId}`.
    Bare,
}

#[derive(Clone, Debug)]
struct Node {
    place: Place,
    kind: Kind,
    parent: Option<usize>,
    /// `firstKeptEntryId`.
    kept: Option<String>,
    /// The session of a bare line, as a number.
    session: u32,
    readable: bool,
}

/// What was found in a transcript and is not imported, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Odd {
    /// A last line without an end that is no JSON.
    pub torn: u64,
    /// Lines that are no JSON, or whose compressed form cannot be read.
    pub unreadable: u64,
    /// Lines, or messages in them, that are too long.
    pub too_long: u64,
    /// Entries whose parent is missing or comes after them: the line before them took its place.
    pub broken_links: u64,
    /// Entries on branches that were left.
    pub left_branches: u64,
    /// Entries and parts of types we do not know, by type.
    pub unknown: BTreeMap<String, u64>,
}

impl Odd {
    /// As words, empty when there is nothing to say. Branches that were left are normal and not told.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (count, what) in [
            (self.torn, "torn last line"),
            (self.unreadable, "unreadable lines"),
            (self.too_long, "lines too long to store"),
            (self.broken_links, "broken links between lines (the line before was taken)"),
        ] {
            if count > 0 {
                out.push(format!("{count} {what}"));
            }
        }
        out.extend(self.unknown.iter().map(|(kind, count)| format!("{count} of unknown type {kind:?}")));
        out
    }

    /// Counts something of an unknown type.
    pub fn strange(&mut self, kind: &str) {
        /// Different names at most; further ones are counted together.
        const NAMES_MAX: usize = 20;
        let name: String = kind.chars().take(40).collect();
        let name = if self.unknown.len() < NAMES_MAX || self.unknown.contains_key(&name) { name } else { "others".into() };
        *self.unknown.entry(name).or_default() += 1;
    }
}

/// One step of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where its line lies.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
    /// The line's number among the entries, from 1; names a bare line.
    pub number: usize,
    /// For a compaction: the number of the first entry that is kept and said.
    pub kept: Option<usize>,
    /// True when something later keeps from here on: its journal line is wanted.
    pub wanted: bool,
}

/// A conversation, ready to be read.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// Its steps in order.
    pub steps: Vec<Step>,
    /// What is not in it.
    pub odd: Odd,
    /// What was read.
    pub scanned: Scanned,
    /// Messages in it.
    pub said: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default, deserialize_with = "given")]
    parent_id: Option<Option<String>>,
    #[serde(default)]
    target_id: Option<String>,
    #[serde(default)]
    append_mode: Option<String>,
    #[serde(default)]
    first_kept_entry_id: Option<String>,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    session_id: Option<String>,
}

/// Tells `null` (`Some(None)`) from a missing key (`None`).
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

#[derive(Default)]
struct Tree {
    nodes: Vec<Node>,
    by_id: HashMap<String, usize>,
    leaf: Option<usize>,
    sessions: HashMap<String, u32>,
    odd: Odd,
    full: bool,
}

/// Scans a transcript and finds its conversation.
///
/// # Errors
/// When the source cannot be read, or has more than [`ENTRIES_MAX`] lines.
pub fn conversation(lines: &mut Lines) -> Result<Conversation, String> {
    let mut tree = Tree::default();
    let scanned = lines.scan(&mut |place, line, extent| tree.take(place, line, extent))?;
    if tree.full {
        return Err(format!("it has more than {ENTRIES_MAX} lines"));
    }
    Ok(tree.conversation(scanned))
}

impl Tree {
    fn take(&mut self, place: Place, line: &[u8], extent: Extent) {
        if self.nodes.len() >= ENTRIES_MAX {
            self.full = true;
            return;
        }
        let head = match extent {
            Extent::Unreadable => None,
            Extent::Beginning => {
                self.odd.too_long += 1;
                Some(beginning(line))
            }
            Extent::Whole | Extent::Unended => serde_json::from_slice::<Head>(line).ok(),
        };
        let Some(head) = head else {
            if extent == Extent::Unended {
                self.odd.torn += 1;
            } else {
                self.odd.unreadable += 1;
            }
            return;
        };
        let kind = match head.kind.as_deref() {
            Some("session") => return,
            Some("leaf") => {
                // The original's way to go back: what follows grows from the target.
                if head.append_mode.as_deref() != Some("side")
                    && let Some(at) = head.target_id.and_then(|id| self.by_id.get(&id).copied())
                {
                    self.leaf = Some(at);
                }
                return;
            }
            Some("message" | "custom_message" | "branch_summary") => Kind::Said,
            Some("compaction") => Kind::Compaction,
            Some("reset") => Kind::Reset,
            Some("model_change" | "thinking_level_change" | "custom" | "label" | "session_info") => Kind::Aside,
            None if head.role.is_some() => Kind::Bare,
            Some(other) => {
                self.odd.strange(other);
                Kind::Aside
            }
            None => {
                self.odd.strange("(none)");
                return;
            }
        };
        let at = self.nodes.len();
        // Chains hold over lines that are left out: the leaf before stands in for a parent that is not there. A
        // parent always comes first, so there are no cycles.
        let parent = match &head.parent_id {
            Some(None) => None,
            None => at.checked_sub(1),
            Some(Some(id)) => match self.by_id.get(id) {
                Some(parent) => Some(*parent),
                None => {
                    self.odd.broken_links += 1;
                    at.checked_sub(1)
                }
            },
        };
        let count = u32::try_from(self.sessions.len()).unwrap_or(u32::MAX);
        let session = head.session_id.filter(|_| kind == Kind::Bare).map_or(0, |name| *self.sessions.entry(name).or_insert(count));
        self.nodes.push(Node { place, kind, parent, kept: head.first_kept_entry_id, session, readable: extent != Extent::Beginning });
        if let Some(id) = head.id {
            self.by_id.insert(id, at);
        }
        self.leaf = Some(at);
    }

    fn conversation(self, scanned: Scanned) -> Conversation {
        let mut path = Vec::new();
        let mut at = self.leaf;
        while let Some(here) = at {
            path.push(here);
            at = self.nodes[here].parent;
        }
        path.reverse();
        let mut odd = self.odd;
        odd.left_branches = (self.nodes.len() - path.len()) as u64;
        let place_on_path = |id: &String| self.by_id.get(id).and_then(|node| path.binary_search(node).ok());
        let speaks = |node: usize| self.nodes[node].readable && matches!(self.nodes[node].kind, Kind::Said | Kind::Bare);
        let mut steps: Vec<Step> = Vec::new();
        let mut session = None;
        let mut wanted = std::collections::BTreeSet::new();
        for (position, node) in path.iter().copied().enumerate() {
            let one = &self.nodes[node];
            let step = |node: usize, kind: Kind, kept: Option<usize>| Step { place: self.nodes[node].place, kind, number: node + 1, kept, wanted: false };
            if !one.readable {
                continue;
            }
            match one.kind {
                Kind::Aside => {}
                Kind::Said => steps.push(step(node, Kind::Said, None)),
                Kind::Bare => {
                    if session.replace(one.session).is_some_and(|before| before != one.session) {
                        steps.push(step(node, Kind::Reset, None));
                    }
                    steps.push(step(node, Kind::Bare, None));
                }
                Kind::Compaction => {
                    let from = one.kept.as_ref().and_then(place_on_path).filter(|from| *from <= position);
                    let kept = from.and_then(|from| path[from..position].iter().copied().find(|node| speaks(*node))).map(|node| node + 1);
                    wanted.extend(kept);
                    steps.push(step(node, Kind::Compaction, kept));
                }
                Kind::Reset => {
                    steps.push(step(node, Kind::Reset, None));
                    // A reset that keeps the end of the conversation says it again after itself.
                    if let Some(from) = one.kept.as_ref().and_then(place_on_path) {
                        let again = path.get(from..position).unwrap_or_default().iter().copied().filter(|node| speaks(*node));
                        steps.extend(again.map(|node| step(node, Kind::Said, None)));
                    }
                }
            }
        }
        for step in &mut steps {
            step.wanted = wanted.contains(&step.number);
        }
        let said = steps.iter().filter(|step| matches!(step.kind, Kind::Said | Kind::Bare)).count() as u64;
        Conversation { steps, odd, scanned, said }
    }
}

/// The head of a line that is too long, from its beginning: enough to keep the chain.
fn beginning(line: &[u8]) -> Head {
    let text = String::from_utf8_lossy(line);
    let word = |name: &str| {
        let from = text.find(&format!("\"{name}\":\""))? + name.len() + 4;
        let rest = &text[from..];
        rest.find('"').map(|end| rest[..end].to_owned())
    };
    let id = word("id");
    let parent_id = if text.contains("\"parentId\":null") { Some(None) } else { word("parentId").map(Some) };
    Head {
        kind: Some(word("type").unwrap_or_else(|| "message".into())),
        id,
        parent_id,
        target_id: None,
        append_mode: None,
        first_kept_entry_id: None,
        role: None,
        session_id: None,
    }
}
