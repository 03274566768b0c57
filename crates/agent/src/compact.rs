//! Making a context smaller: when, what to summarise, and the words for it. Pure; the lane asks the model.

use std::sync::Arc;

use clawstead_terms::{Message, MessageId, Millis, Part, Role};

use crate::{CompactionSettings, transcript::Transcript};

/// Tokens counted for one picture.
const IMAGE_TOKENS: u64 = 1_600;
/// Tokens counted for a message's frame.
const FRAME_TOKENS: u64 = 8;
/// Characters of one message that the summary request shows.
const SHOWN_CHARS_MAX: usize = 4_000;
/// Summary calls of one compaction at most; what is left then is dropped with a note.
pub const ROUNDS_MAX: u32 = 12;

/// Estimated tokens of a message: a quarter of its bytes, and a flat price for pictures.
#[must_use]
pub fn tokens_of(message: &Message) -> u64 {
    FRAME_TOKENS + message.parts.iter().map(part_tokens).sum::<u64>()
}

fn part_tokens(part: &Part) -> u64 {
    match part {
        Part::Text { text } | Part::Thinking { text, .. } => text_tokens(text),
        Part::Image { .. } => IMAGE_TOKENS,
        Part::File { name, .. } => 16 + text_tokens(name),
        Part::ToolCall { name, arguments, .. } => 12 + text_tokens(name) + arguments.to_string().len() as u64 / 4,
        Part::ToolResult { content, .. } => 12 + content.iter().map(part_tokens).sum::<u64>(),
    }
}

/// Estimated tokens of a text.
#[must_use]
pub const fn text_tokens(text: &str) -> u64 {
    text.len() as u64 / 4 + 1
}

/// Where compaction begins.
#[must_use]
pub fn threshold(settings: &CompactionSettings, context_window: u64) -> u64 {
    // A small model (tests, local ones) still gets a working share.
    context_window.saturating_sub(settings.reserve_tokens).max(context_window / 2)
}

/// One round: what is summarised and where the kept part begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// These are summarised, oldest first.
    pub older: Vec<Arc<Message>>,
    /// The first message kept; none keeps nothing.
    pub first_kept: Option<MessageId>,
    /// True when another round must follow: the older part did not fit into one request.
    pub more: bool,
}

/// Plans a round. The kept part begins at a user message and has about `keep_recent_tokens`; when a single turn
/// is larger than that, it begins at an assistant message. `room` is how many tokens of older messages one summary
/// request takes. None when there is nothing to summarise.
#[must_use]
pub fn plan(transcript: &Transcript, keep_recent_tokens: u64, room: u64) -> Option<Round> {
    let messages: Vec<&Arc<Message>> = transcript.messages().collect();
    let mut kept = 0;
    let mut cut = messages.len();
    for (index, message) in messages.iter().enumerate().rev() {
        kept += tokens_of(message);
        if kept > keep_recent_tokens {
            break;
        }
        cut = index;
    }
    // Prefer the next user message; the running turn's own must stay if anything stays.
    let legal = |index: &usize| messages.get(*index).is_some_and(|m| m.role == Role::User);
    let at = (cut..messages.len())
        .find(legal)
        .or_else(|| (0..=cut.min(messages.len().saturating_sub(1))).rev().find(|i| *i > 0 && legal(i)))
        .or_else(|| (cut..messages.len()).chain((1..cut).rev()).find(|index| messages[*index].role == Role::Assistant))?;
    if at == 0 {
        return None;
    }
    let mut used = 0;
    let mut end = 0;
    for (index, message) in messages[..at].iter().enumerate() {
        used += tokens_of(message).min(SHOWN_CHARS_MAX as u64 / 4 + FRAME_TOKENS);
        if used > room && end > 0 {
            break;
        }
        if index + 1 == at || messages[index + 1].role != Role::Tool {
            end = index + 1;
        }
    }
    let end = end.max(1).min(at);
    Some(Round { older: messages[..end].iter().map(|m| Arc::clone(m)).collect(), first_kept: messages.get(end).map(|m| m.id.clone()), more: end < at })
}

/// The system prompt of a summary request.
pub const SYSTEM: &str = "You condense conversations between a person and an agent so that the agent can go on without the original text. \
Write notes, not prose. Never invent anything.";

/// The request: one user message with the earlier summary and the messages as text.
#[must_use]
pub fn request(earlier: Option<&str>, older: &[Arc<Message>], instructions: Option<&str>, now: Millis) -> Message {
    let mut text = String::from(
        "Condense the conversation below. Keep: what the person wants and has decided; facts, names, paths, numbers and links that may be needed again; \
what was done and how it ended; what is still open; promises and preferences. Leave out greetings and repeated tool output. \
Use short lines under the headings Goal, Done, Facts, Open.\n",
    );
    if let Some(instructions) = instructions {
        text.push_str("Pay special attention to: ");
        text.push_str(instructions);
        text.push('\n');
    }
    if let Some(earlier) = earlier {
        text.push_str("\n<earlier-notes>\n");
        text.push_str(earlier);
        text.push_str("\n</earlier-notes>\nFold them into the new notes.\n");
    }
    text.push_str("\n<conversation>\n");
    for message in older {
        let who = match message.role {
            Role::User => "Person",
            Role::Assistant => "Agent",
            Role::Tool => "Tool",
            Role::System => "Note",
        };
        text.push_str(who);
        text.push_str(": ");
        let shown = shown(message);
        text.push_str(&shown);
        text.push('\n');
    }
    text.push_str("</conversation>");
    Message {
        id: MessageId::from("summary-request"),
        role: Role::User,
        parts: vec![Part::text(text)],
        at: now,
        run_id: None,
        model: None,
        usage: None,
        stop_reason: None,
        meta: None,
    }
}

fn shown(message: &Message) -> String {
    let mut out = String::new();
    for part in &message.parts {
        if !out.is_empty() {
            out.push(' ');
        }
        show_part(part, &mut out);
    }
    cut(&out, SHOWN_CHARS_MAX)
}

fn show_part(part: &Part, out: &mut String) {
    match part {
        Part::Text { text } => out.push_str(text),
        Part::Thinking { .. } => {}
        Part::Image { .. } => out.push_str("[picture]"),
        Part::File { name, .. } => {
            out.push_str("[file ");
            out.push_str(name);
            out.push(']');
        }
        Part::ToolCall { name, arguments, .. } => {
            out.push_str("[calls ");
            out.push_str(name);
            out.push(' ');
            out.push_str(&cut(&arguments.to_string(), 600));
            out.push(']');
        }
        Part::ToolResult { name, content, is_error, .. } => {
            out.push('[');
            out.push_str(name);
            out.push_str(if *is_error { " failed: " } else { " gave: " });
            for part in content {
                show_part(part, out);
            }
            out.push(']');
        }
    }
}

fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

/// The note that stands in for messages whose summary failed.
#[must_use]
pub fn dropped_note(earlier: Option<&str>, count: usize) -> String {
    let note = format!("({count} older messages were left out here because they could not be summarised.)");
    match earlier {
        Some(earlier) => format!("{earlier}\n{note}"),
        None => note,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawstead_terms::{Message, MessageId, Millis, Part, Role};

    use super::{plan, threshold, tokens_of};
    use crate::{CompactionSettings, transcript::Transcript};

    fn transcript(roles: &[(Role, usize)]) -> Transcript {
        let mut out = Transcript::default();
        for (number, (role, chars)) in roles.iter().enumerate() {
            let message = Message {
                id: MessageId::from(format!("m{number}")),
                role: *role,
                parts: vec![Part::text("x".repeat(*chars))],
                at: Millis(0),
                run_id: None,
                model: None,
                usage: None,
                stop_reason: Some(clawstead_terms::StopReason::Stop),
                meta: None,
            };
            out.say(number as u64 + 1, Arc::new(message));
        }
        out
    }

    #[test]
    fn the_kept_part_begins_at_a_user_message() {
        let all =
            transcript(&[(Role::User, 400), (Role::Assistant, 400), (Role::User, 400), (Role::Assistant, 400), (Role::User, 400), (Role::Assistant, 400)]);
        let round = plan(&all, 250, 100_000).unwrap();
        assert_eq!((round.older.len(), round.first_kept.unwrap().as_str().to_owned(), round.more), (4, "m4".into(), false));
        assert!(plan(&transcript(&[(Role::User, 400)]), 10, 1000).is_none(), "one message cannot be made smaller");
    }

    #[test]
    fn one_long_turn_is_cut_before_an_assistant_message() {
        let long = transcript(&[(Role::User, 40), (Role::Assistant, 4000), (Role::Tool, 4000), (Role::Assistant, 4000), (Role::Tool, 40)]);
        let round = plan(&long, 1_100, 100_000).unwrap();
        assert_eq!((round.older.len(), round.first_kept.unwrap().as_str().to_owned()), (3, "m3".into()));
    }

    #[test]
    fn an_older_part_that_does_not_fit_takes_several_rounds() {
        let all = transcript(&[(Role::User, 4000); 10]);
        let round = plan(&all, 1_100, 3_100).unwrap();
        assert_eq!((round.older.len(), round.more), (3, true));
        assert_eq!(tokens_of(&round.older[0]), 1009);
    }

    #[test]
    fn the_threshold_leaves_room_for_an_answer() {
        let settings = CompactionSettings::default();
        assert_eq!(threshold(&settings, 200_000), 183_616);
        assert_eq!(threshold(&settings, 8_000), 4_000);
    }
}
