//! What happens to letters that come while others wait: how long a turn waits for more, what joins it, and what is
//! left out when too many wait. Pure; the lane acts.

use std::collections::{BTreeMap, VecDeque};

use clawstead_terms::{Envelope, EnvelopeKind, Millis, Origin, Part, QueueMode};

use crate::{
    begin::may_merge,
    commands,
    session::{Queued, one_line},
};

/// However often more comes, a letter waits at most so many times the time it was meant to.
const HOLDS_MAX: i64 = 10;
/// Characters of a letter that was left out, in the summary.
const SUMMARY_CHARS_MAX: usize = 160;

/// Which letters go when more than [`QueueRules::cap`] wait (`messages.queue.drop`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest; each ends as stopped.
    Old,
    /// The one that comes.
    New,
    /// The oldest; the next turn is told in one line each what they said, and answers for them.
    #[default]
    Summarize,
}

/// `messages.queue` and `messages.inbound`. Only letters of people are held back or left out: jobs, heartbeats and
/// letters that another agent waits for never are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueRules {
    /// What to do with letters during a turn.
    pub mode: QueueMode,
    /// By platform.
    pub mode_by_channel: BTreeMap<String, QueueMode>,
    /// Waiting letters of one session at most; none means the bounds of the inbox alone.
    pub cap: Option<usize>,
    /// What goes beyond `cap`.
    pub overflow: Overflow,
    /// Letters that waited behind a turn begin when nothing came for so long, ms.
    pub debounce_ms: u64,
    /// By platform.
    pub debounce_by_channel: BTreeMap<String, u64>,
    /// Texts of one person on a chat platform are one turn when they come so close together, ms.
    pub inbound_ms: u64,
    /// By platform.
    pub inbound_by_channel: BTreeMap<String, u64>,
}

impl QueueRules {
    /// The mode for a letter that names none.
    #[must_use]
    pub fn mode_of(&self, letter: &Envelope) -> QueueMode {
        channel_of(letter).and_then(|channel| self.mode_by_channel.get(channel)).copied().unwrap_or(self.mode)
    }

    fn debounce_of(&self, letter: &Envelope) -> u64 {
        channel_of(letter).and_then(|channel| self.debounce_by_channel.get(channel)).copied().unwrap_or(self.debounce_ms)
    }

    /// How long this letter waits for more of the same person; 0 for what is taken up at once.
    pub(crate) fn inbound_of(&self, letter: &Envelope, triggers: &[String]) -> u64 {
        let Origin::Channel { channel, .. } = &letter.from else { return 0 };
        let text_only = letter.body.iter().all(|part| matches!(part, Part::Text { .. }));
        if !is_talk(letter) || !text_only || commands::of_letter(letter, triggers).is_some() {
            return 0;
        }
        self.inbound_by_channel.get(channel.as_str()).copied().unwrap_or(self.inbound_ms)
    }
}

/// The platform's name in `byChannel` maps.
fn channel_of(letter: &Envelope) -> Option<&str> {
    match &letter.from {
        Origin::Channel { channel, .. } => Some(channel.as_str()),
        Origin::Client { .. } => Some("webchat"),
        _ => None,
    }
}

/// True for what a person said, that nobody else waits for.
pub(crate) fn is_talk(letter: &Envelope) -> bool {
    letter.kind == EnvelopeKind::Request
        && letter.reply_to.is_none()
        && !letter.options.heartbeat
        && matches!(letter.from, Origin::Client { .. } | Origin::Channel { .. })
}

/// Letters that wait and that `cap` counts.
fn waits(queued: &Queued, triggers: &[String]) -> bool {
    queued.attempt == 0 && is_talk(&queued.letter) && commands::of_letter(&queued.letter, triggers).is_none()
}

/// How many letters `cap` counts in a queue.
pub(crate) fn waiting(queue: &VecDeque<Queued>, triggers: &[String]) -> usize {
    queue.iter().filter(|queued| waits(queued, triggers)).count()
}

fn same_person(a: &Envelope, b: &Envelope) -> bool {
    match (&a.from, &b.from) {
        (
            Origin::Channel { channel: channel_a, account: account_a, sender_id: a, .. },
            Origin::Channel { channel: channel_b, account: account_b, sender_id: b, .. },
        ) => channel_a == channel_b && account_a == account_b && a == b,
        _ => false,
    }
}

/// True when `next` is said in one breath with what is before it: the same person, text only, close together.
pub(crate) fn one_breath(rules: &QueueRules, triggers: &[String], first: &Queued, before: &Queued, next: &Queued) -> bool {
    let within = rules.inbound_of(&next.letter, triggers);
    let close = before.since.zip(next.since).is_some_and(|(a, b)| b.since(a) <= i64::try_from(within).unwrap_or(i64::MAX));
    within > 0
        && rules.inbound_of(&first.letter, triggers) > 0
        && close
        && next.attempt == 0
        && same_person(&first.letter, &next.letter)
        && may_merge(&first.letter, &next.letter)
}

/// How long the front of a queue still waits for more to come, ms; 0 means that it begins.
pub(crate) fn hold_ms(rules: &QueueRules, triggers: &[String], queue: &VecDeque<Queued>, now: Millis) -> u64 {
    let Some(front) = queue.front().filter(|front| waits(front, triggers)) else { return 0 };
    // What a restart found has waited long enough.
    let Some(since) = front.since else { return 0 };
    let inbound = rules.inbound_of(&front.letter, triggers);
    let debounce = if front.behind { rules.debounce_of(&front.letter) } else { 0 };
    let mut quiet_since = since;
    let mut until = since;
    if inbound > 0 {
        let mut flushed = false;
        for pair in queue.iter().zip(queue.iter().skip(1)) {
            if one_breath(rules, triggers, front, pair.0, pair.1) {
                quiet_since = pair.1.since.unwrap_or(quiet_since);
            } else {
                // A picture or a command after a text says that the text is complete.
                flushed = same_person(&front.letter, &pair.1.letter);
                break;
            }
        }
        if !flushed {
            until = until.max(quiet_since.plus(signed(inbound)));
        }
    }
    if debounce > 0 {
        let newest = queue.iter().filter(|queued| waits(queued, triggers)).filter_map(|queued| queued.since).max().unwrap_or(since);
        until = until.max(newest.plus(signed(debounce)));
    }
    let bound = since.plus(signed(inbound.max(debounce)).saturating_mul(HOLDS_MAX));
    u64::try_from(until.min(bound).since(now)).unwrap_or(0)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// What goes before the next turn begins, because more wait than `cap` allows: the oldest of those that count.
/// With [`Overflow::Summarize`] only what may speak in the turn that tells of it: the rights and the way back of a
/// letter are its own.
pub(crate) fn left_out(rules: &QueueRules, triggers: &[String], queue: &VecDeque<Queued>) -> Vec<Queued> {
    let Some(cap) = rules.cap.filter(|_| rules.overflow != Overflow::New) else { return Vec::new() };
    if queue.front().is_none_or(|front| front.attempt > 0) {
        return Vec::new();
    }
    let waiting: Vec<&Queued> = queue.iter().filter(|queued| waits(queued, triggers)).collect();
    let over = waiting.len().saturating_sub(cap.max(1));
    let mut out: Vec<Queued> = waiting[..over].iter().map(|queued| (*queued).clone()).collect();
    if rules.overflow == Overflow::Summarize {
        // Nobody is overtaken: who tells of them is the next in the queue.
        let speaks_for = |out: &[Queued]| {
            let first = queue.iter().find(|queued| !is_among(queued, out)).filter(|first| waits(first, triggers));
            first.is_some_and(|first| out.iter().all(|queued| may_merge(&first.letter, &queued.letter)))
        };
        while !out.is_empty() && !speaks_for(&out) {
            out.pop();
        }
    }
    out
}

/// True when a letter is one of these.
pub(crate) fn is_among(queued: &Queued, some: &[Queued]) -> bool {
    some.iter().any(|other| other.letter.run_id == queued.letter.run_id)
}

/// What the next turn is told of the letters that were left out.
pub(crate) fn summary(out: &[Queued]) -> String {
    let mut text = format!("[{} earlier messages were left out because too many were waiting. In short, oldest first:]", out.len());
    for queued in out {
        let said: Vec<&str> = queued.letter.body.iter().filter_map(|part| if let Part::Text { text } = part { Some(text.as_str()) } else { None }).collect();
        let line = one_line(&said.join(" "), SUMMARY_CHARS_MAX);
        text.push_str("\n- ");
        text.push_str(if line.is_empty() { "(no text)" } else { &line });
    }
    text
}
