//! Makes any transcript, cut or shuffled anywhere, into a legal request. Pure; borrows everything it can.
//!
//! What holds for the pieces that come out, in order:
//! 1. Sides change only between `User` and `Assistant`; the first and the last piece are on the user's side.
//! 2. Every call is followed, before anything else on the user's side, by exactly one result; ids of calls are
//!    unique and legal for the target.
//! 3. No text is blank, no call lacks a name; there is at least one piece.
//! 4. Reasoning goes back only to the provider it came from, and only signed.
//! 5. Pictures appear only when the model reads them.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use clawstead_terms::{Message, Part, Role};
use serde_json::Value;

/// The result of a call whose real result was never stored.
pub const INTERRUPTED: &str = "[interrupted: the outcome of this call is unknown]";
/// Stands for a picture that a text-only model cannot see.
pub const IMAGE_OMITTED: &str = "[image omitted: this model reads text only]";
/// Said by the user when a request would otherwise begin with the assistant.
pub const EARLIER: &str = "(the conversation so far was cut here)";
/// Said by the user when a request would otherwise end with the assistant.
pub const CONTINUE: &str = "(continue)";

/// Which ids a host accepts for tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallIds {
    /// Letters, digits, `_` and `-`, at most 40.
    Word40,
    /// Exactly nine letters and digits (Mistral).
    Alnum9,
}

/// Whom a request is made for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The provider's id in the config.
    pub provider: &'a str,
    /// Whether the model reads pictures.
    pub images: bool,
    /// Whether the dialect takes signed reasoning back.
    pub reasoning: bool,
    /// Which call ids are legal there.
    pub call_ids: CallIds,
}

/// Whose turn a piece belongs to. Results are on the user's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The human and the tools.
    User,
    /// The model.
    Assistant,
}

/// One piece of a legal request.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece<'a> {
    /// Text, not blank.
    Text(Side, Cow<'a, str>),
    /// A picture of the user.
    Image {
        /// MIME type.
        mime: &'a str,
        /// Base64.
        data: &'a str,
    },
    /// Reasoning of the same provider, signed.
    Reasoning {
        /// May be empty.
        text: &'a str,
        /// The provider's payload.
        signature: &'a str,
    },
    /// A tool call.
    Call {
        /// Unique and legal.
        id: Cow<'a, str>,
        /// Not empty.
        name: &'a str,
        /// As the model gave them.
        arguments: &'a Value,
    },
    /// Its result.
    Result {
        /// The call's id.
        id: Cow<'a, str>,
        /// The tool.
        name: &'a str,
        /// Text and pictures; may be empty.
        content: &'a [Part],
        /// Said instead of `content` for a result that was never stored.
        note: Option<&'static str>,
        /// True when the tool failed.
        is_error: bool,
    },
}

impl Piece<'_> {
    /// Whose side it is on.
    #[must_use]
    pub const fn side(&self) -> Side {
        match self {
            Self::Text(side, _) => *side,
            Self::Image { .. } | Self::Result { .. } => Side::User,
            Self::Reasoning { .. } | Self::Call { .. } => Side::Assistant,
        }
    }
}

/// Makes `messages` legal for `target`. Linear in the number of parts; copies no text except notes and ids that
/// had to change.
#[must_use]
pub fn repair<'a>(messages: &'a [Arc<Message>], target: &Target<'_>) -> Vec<Piece<'a>> {
    let mut state = Repair { target: *target, out: Vec::with_capacity(messages.len() + 8), open: Vec::new(), waiting: Vec::new(), seen: BTreeSet::new() };
    for message in messages {
        match message.role {
            Role::Assistant => state.assistant(message),
            Role::Tool => state.results(message),
            Role::User | Role::System => state.user(message),
        }
    }
    state.close();
    if state.out.last().is_none_or(|p| p.side() == Side::Assistant) {
        state.out.push(Piece::Text(Side::User, Cow::Borrowed(CONTINUE)));
    }
    state.out
}

/// A call that waits for its result.
struct Open<'a> {
    original: &'a str,
    id: Cow<'a, str>,
    name: &'a str,
}

struct Repair<'a, 't> {
    target: Target<'t>,
    out: Vec<Piece<'a>>,
    open: Vec<Open<'a>>,
    /// What the user said while results were missing; results come first.
    waiting: Vec<Piece<'a>>,
    seen: BTreeSet<Cow<'a, str>>,
}

impl<'a> Repair<'a, '_> {
    fn assistant(&mut self, message: &'a Message) {
        // A model that speaks again while calls are open was interrupted before; they are answered first.
        let mut started = self.open.is_empty() && self.out.last().is_some_and(|p| p.side() == Side::Assistant);
        let mut spoke = false;
        let mut pushed = 0;
        for part in &message.parts {
            let piece = match part {
                Part::Text { text } if !is_blank(text) => Piece::Text(Side::Assistant, Cow::Borrowed(text)),
                Part::Thinking { text, signature: Some(signature) } if self.takes_reasoning(message) && !signature.is_empty() => {
                    Piece::Reasoning { text, signature }
                }
                Part::ToolCall { id, name, arguments } if !name.trim().is_empty() => {
                    if !started {
                        self.begin_assistant();
                        started = true;
                    }
                    let legal = self.legal_id(id);
                    self.seen.insert(legal.clone());
                    self.open.push(Open { original: id, id: legal.clone(), name });
                    Piece::Call { id: legal, name, arguments }
                }
                _ => continue,
            };
            if !started {
                self.begin_assistant();
                started = true;
            }
            spoke |= !matches!(piece, Piece::Reasoning { .. });
            self.out.push(piece);
            pushed += 1;
        }
        if !spoke {
            // Reasoning alone is not an answer.
            self.out.truncate(self.out.len() - pushed);
        }
    }

    fn begin_assistant(&mut self) {
        self.close();
        if self.out.is_empty() {
            self.out.push(Piece::Text(Side::User, Cow::Borrowed(EARLIER)));
        }
    }

    fn takes_reasoning(&self, message: &Message) -> bool {
        let from = message.model.as_deref().and_then(|m| m.split_once('/')).map(|(provider, _)| provider);
        self.target.reasoning && from == Some(self.target.provider)
    }

    fn results(&mut self, message: &'a Message) {
        for part in &message.parts {
            let Part::ToolResult { id, content, is_error, .. } = part else { continue };
            let Some(at) = self.open.iter().position(|o| o.original == id.as_str()) else { continue };
            let open = self.open.remove(at);
            self.out.push(Piece::Result { id: open.id, name: open.name, content, note: None, is_error: *is_error });
        }
        if self.open.is_empty() {
            self.out.append(&mut self.waiting);
        }
    }

    fn user(&mut self, message: &'a Message) {
        for part in &message.parts {
            let piece = match part {
                Part::Text { text } if !is_blank(text) => Piece::Text(Side::User, Cow::Borrowed(text)),
                Part::Image { mime_type, data } if self.target.images => Piece::Image { mime: mime_type, data },
                Part::Image { .. } => Piece::Text(Side::User, Cow::Borrowed(IMAGE_OMITTED)),
                Part::File { name, mime_type, path } => Piece::Text(Side::User, Cow::Owned(file_note(name, mime_type, path))),
                _ => continue,
            };
            if self.open.is_empty() { self.out.push(piece) } else { self.waiting.push(piece) }
        }
    }

    /// Answers what is still open, then lets the user speak.
    fn close(&mut self) {
        for open in self.open.drain(..) {
            self.out.push(Piece::Result { id: open.id, name: open.name, content: &[], note: Some(INTERRUPTED), is_error: true });
        }
        self.out.append(&mut self.waiting);
    }

    fn legal_id(&self, id: &'a str) -> Cow<'a, str> {
        let legal = match self.target.call_ids {
            CallIds::Word40 => (1..=40).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
            CallIds::Alnum9 => id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()),
        };
        if legal && !self.seen.contains(id) {
            return Cow::Borrowed(id);
        }
        let mut salt = 0u64;
        loop {
            let made = made_id(id, salt, self.target.call_ids);
            if !self.seen.contains(made.as_str()) {
                return Cow::Owned(made);
            }
            salt += 1;
        }
    }
}

/// How a file is shown to a model.
#[must_use]
pub fn file_note(name: &str, mime: &str, path: &str) -> String {
    format!("[file {name} ({mime}) at {path}]")
}

pub(crate) fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// The same id and salt give the same text on every gateway and every turn, so that prompt caches keep working.
fn made_id(id: &str, salt: u64, style: CallIds) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in id.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    match style {
        CallIds::Word40 => format!("call_{hash:016x}"),
        CallIds::Alnum9 => {
            let mut text = String::with_capacity(9);
            for _ in 0..9 {
                text.push(char::from(DIGITS[usize::try_from(hash % 36).unwrap_or(0)]));
                hash /= 36;
            }
            text
        }
    }
}
