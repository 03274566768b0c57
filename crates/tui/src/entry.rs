//! One thing in the conversation.

/// Longest text of one entry, characters; what is beyond is left out with a note.
pub const TEXT_CHARS_MAX: usize = 200_000;
/// Longest arguments or output of a tool, characters.
pub const TOOL_CHARS_MAX: usize = 4_000;

/// Tells entries apart; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// One thing in the conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// Place of its message in the transcript, from 1; none while it is not known.
    pub seq: Option<u64>,
    /// The run it belongs to.
    pub run: Option<String>,
    /// Grows with every change, so that a painted copy is known to be stale.
    pub revision: u32,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Somebody's message.
    Said {
        /// The text.
        text: String,
        /// Who, when it was not us.
        from: Option<String>,
        /// How far it got.
        stage: Stage,
    },
    /// The agent's text.
    Answer {
        /// The text so far.
        text: String,
        /// The gateway's name for this piece of text, while it streams.
        item: Option<String>,
        /// More may come.
        open: bool,
    },
    /// What the model thought.
    Thinking {
        /// The text so far.
        text: String,
        /// More may come.
        open: bool,
    },
    /// A tool at work.
    Tool(ToolUse),
    /// A word of this program or of the gateway.
    Note {
        /// The text.
        text: String,
        /// How loud.
        level: Level,
    },
}

impl Kind {
    /// Bytes of text it holds.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Said { text, .. } | Self::Answer { text, .. } | Self::Thinking { text, .. } | Self::Note { text, .. } => text.len(),
            Self::Tool(tool) => tool.args.len() + tool.output.len(),
        }
    }
}

/// A tool call and what came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolUse {
    /// The call's id.
    pub call: String,
    /// The tool.
    pub name: String,
    /// Arguments as one line of JSON.
    pub args: String,
    /// Output so far.
    pub output: String,
    /// Where it stands.
    pub state: ToolState,
}

/// Where a tool call stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToolState {
    /// It works.
    #[default]
    Running,
    /// It is done.
    Done,
    /// It failed.
    Failed,
}

/// How far a message of ours got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No answer from the gateway yet.
    Sending,
    /// The gateway stored it.
    Stored,
    /// The gateway refused it.
    Refused,
}

/// How loud a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Plain,
    /// Something went wrong.
    Error,
}

/// `text` cut to `max` characters, with a note when something is left out.
#[must_use]
pub fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{} … (cut here, {} characters more)", &text[..end], text[end..].chars().count()),
        None => text.to_owned(),
    }
}
