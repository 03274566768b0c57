use clawstead_terms::Unit;

use crate::{
    Now,
    envelope::{BODY_BYTES_MAX, Envelope, Kind, Opened, Receipt, ReceiptType, Refusal, SKEW_MAX_MS, letter_of, open},
    keys::KeyRing,
    letter::{STATUS_CAPABILITY, StatusQuery},
    names::party_unit,
    policy::{Limiter, Policy, Subject},
};

/// What is known of a letter with the same source and id, or the same idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it is new.
    New,
    /// It is in the inbox, or was: repeat the last receipt, do nothing else.
    Repeat,
    /// It is there and failed, and this attempt asks to try again (see `letter::Row::is_reopened_by`).
    Reopen,
}

/// What the check may look at. All answers come from memory or from the transaction that will store the letter.
pub trait Checks {
    /// The farm we belong to.
    fn farm(&self) -> &str;
    /// Our own name.
    fn gateway(&self) -> &str;
    /// Who may sign.
    fn keys(&self) -> &KeyRing;
    /// Who may ask what.
    fn policy(&self) -> &Policy;
    /// Highest epoch seen of letters of this unit; `None` when there was none.
    fn epoch_seen(&self, source: &Unit) -> Option<u64>;
    /// Owner and epoch of a unit as we know them; `None` when we do not.
    fn owner(&self, unit: &Unit) -> Option<(String, u64)>;
    /// The epoch under which we hold the unit now; `None` when we do not.
    fn held(&self, unit: &Unit) -> Option<u64>;
    /// What is known of the letter.
    fn known(&self, letter: &Envelope) -> Known;
    /// The agent that a letter of ours, which is in the outbox here, went to; `None` when there is no such letter.
    fn sent_to(&self, message_id: &str) -> Option<String>;
}

/// What is to be done with a letter that arrived.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Store it in the inbox, remember the epoch, and receipt it. When its body travels by reference, that is had first
    /// and checked with [`crate::envelope::whole`].
    Take(Box<Envelope>),
    /// Known and failed: open its row again.
    Reopen(Box<Envelope>),
    /// Known: repeat the last receipt.
    Repeat(Box<Envelope>),
    /// Its source asks where a letter stands: answer with the row's receipt, or with `unknown_letter`.
    Asked(Box<Envelope>, StatusQuery),
    /// A receipt for a letter of ours; [`believed`] says which of the others in its envelope are, too.
    Receipt(Box<Envelope>, Receipt),
    /// Not for us: it may be passed on to this gateway.
    Forward(Box<Envelope>, String),
    /// Refused. With the envelope when it was authentic and its sender is to be told.
    Refuse {
        /// Why.
        refusal: Refusal,
        /// The letter, when a receipt is to be sent.
        answer: Option<Box<Envelope>>,
    },
}

impl Verdict {
    /// The reason, when it is a refusal.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refuse { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}

/// Checks the bytes of a letter. Counts it against `limiter` when it is taken.
pub fn examine(raw: &[u8], checks: &dyn Checks, limiter: &mut Limiter, now: Now) -> Verdict {
    match open(raw) {
        Ok(opened) => examine_opened(opened, checks, limiter, now),
        Err(refusal) => Verdict::Refuse { refusal, answer: None },
    }
}

/// The same for a letter that was read already: reading is a good part of the whole check.
pub fn examine_opened(opened: Opened, checks: &dyn Checks, limiter: &mut Limiter, now: Now) -> Verdict {
    let refuse = |refusal: Refusal, letter: Option<Envelope>| {
        let answer = letter.filter(|letter| refusal.answered() && letter.kind != Kind::Receipt && letter.capability != STATUS_CAPABILITY).map(Box::new);
        Verdict::Refuse { refusal, answer }
    };
    if let Err(refusal) = authentic(&opened, checks, now) {
        return refuse(refusal, None);
    }
    let letter = opened.envelope;
    match admit(&letter, checks, limiter, now) {
        Ok(Step::Take) => Verdict::Take(Box::new(letter)),
        Ok(Step::Reopen) => Verdict::Reopen(Box::new(letter)),
        Ok(Step::Repeat) => Verdict::Repeat(Box::new(letter)),
        Ok(Step::Asked(query)) => Verdict::Asked(Box::new(letter), query),
        Ok(Step::Receipt(receipt)) => Verdict::Receipt(Box::new(letter), receipt),
        Ok(Step::Forward(gateway)) => Verdict::Forward(Box::new(letter), gateway),
        Err(refusal) => refuse(refusal, Some(letter)),
    }
}

enum Step {
    Take,
    Reopen,
    Repeat,
    Asked(StatusQuery),
    Receipt(Receipt),
    Forward(String),
}

/// Farm, keys and signatures: did a gateway of this farm write this, and did a gateway of this farm send it?
fn authentic(opened: &Opened, checks: &dyn Checks, now: Now) -> Result<(), Refusal> {
    let letter = &opened.envelope;
    if letter.farm_id != checks.farm() {
        return Err(Refusal::WrongFarm { theirs: letter.farm_id.clone() });
    }
    let kid = letter.sig.as_ref().map_or("", |sig| sig.kid.as_str());
    opened.verify_letter(checks.keys().key(kid, &letter.source_gateway, now)?)?;
    opened.verify_hop(checks.keys().keys_of(&letter.hop.sender_gateway, now)?)
}

/// Everything about an authentic letter.
fn admit(letter: &Envelope, checks: &dyn Checks, limiter: &mut Limiter, now: Now) -> Result<Step, Refusal> {
    let ahead_ms = u64::try_from(letter.created_at.since(now.wall)).unwrap_or(0);
    if ahead_ms > SKEW_MAX_MS {
        return Err(Refusal::ClockSkew { ahead_ms });
    }
    if let Some(body) = letter.body_ref.as_ref().filter(|body| body.size > BODY_BYTES_MAX as u64) {
        return Err(Refusal::TooLarge { bytes: usize::try_from(body.size).unwrap_or(usize::MAX), bytes_max: BODY_BYTES_MAX });
    }
    let target = unit_of(&letter.target_agent)?;
    let source = unit_of(&letter.source_agent)?;
    let held = checks.held(&target);
    let known = if held.is_some() && letter.kind != Kind::Receipt { checks.known(letter) } else { Known::New };
    let late_ms = u64::try_from(now.wall.since(letter.expires_at())).unwrap_or(0);
    if late_ms > 0 {
        return if known == Known::New { Err(Refusal::Expired { late_ms }) } else { Ok(Step::Repeat) };
    }
    check_hops(letter)?;
    check_epochs(letter, &source, checks)?;
    if letter.kind == Kind::Receipt {
        return check_receipt(letter, checks).map(Step::Receipt);
    }
    if held.is_none() {
        return forward(letter, &target, checks);
    }
    if let Some(query) = StatusQuery::of(letter)? {
        return Ok(Step::Asked(query));
    }
    match known {
        Known::Repeat => return Ok(Step::Repeat),
        Known::Reopen => return Ok(Step::Reopen),
        Known::New => {}
    }
    if crate::envelope::begins_with_slash(letter) {
        return Err(Refusal::CommandRefused);
    }
    letter_of(letter)?;
    match checks.policy().decide(Subject::of(letter), limiter, now.mono_ms).refusal {
        Some(refusal) => Err(refusal),
        None => Ok(Step::Take),
    }
}

fn unit_of(party: &str) -> Result<Unit, Refusal> {
    party_unit(party).ok_or_else(|| Refusal::malformed("not an agent or channel account"))
}

fn check_hops(letter: &Envelope) -> Result<(), Refusal> {
    let hops = &letter.hop.hops;
    if let Some(twice) = hops.iter().enumerate().find_map(|(at, name)| hops[..at].contains(name).then_some(name)) {
        return Err(Refusal::Loop { gateway: twice.clone() });
    }
    if hops.len() > letter.max_hops() { Err(Refusal::MaxHops { hops: hops.len(), hops_max: letter.max_hops() }) } else { Ok(()) }
}

fn check_epochs(letter: &Envelope, source: &Unit, checks: &dyn Checks) -> Result<(), Refusal> {
    let epoch = letter.hop.sender_epoch;
    let unit = || source.to_string();
    // Receipts of a gateway that does not own the target carry no epoch: there is none to compare.
    if letter.kind == Kind::Receipt && epoch == 0 {
        return Ok(());
    }
    if epoch < letter.source_epoch {
        return Err(Refusal::Fenced { unit: unit(), epoch, seen: letter.source_epoch });
    }
    if let Some(seen) = checks.epoch_seen(source).filter(|seen| epoch < *seen) {
        return Err(Refusal::Fenced { unit: unit(), epoch, seen });
    }
    match checks.owner(source) {
        Some((_, current)) if epoch < current => Err(Refusal::Fenced { unit: unit(), epoch, seen: current }),
        Some((owner, current)) if letter.source_epoch == current && owner != letter.source_gateway => {
            Err(Refusal::SourceMismatch { gateway: letter.source_gateway.clone(), unit: unit(), epoch: current })
        }
        _ => Ok(()),
    }
}

fn check_receipt(letter: &Envelope, checks: &dyn Checks) -> Result<Receipt, Refusal> {
    let all = Receipt::all_of(letter)?;
    let mut last = Err(Refusal::ReceiptUnknown);
    for receipt in all {
        last = believed(receipt, letter, checks);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Whether one of the receipts of an authentic envelope is believed.
///
/// # Errors
/// Why not.
pub fn believed(receipt: Receipt, letter: &Envelope, checks: &dyn Checks) -> Result<Receipt, Refusal> {
    if receipt.receiver_epoch != letter.source_epoch {
        return Err(Refusal::malformed("the receipt names another epoch than its envelope"));
    }
    // Who does not own the target can say that it will not take the letter, and nothing else.
    if receipt.receiver_epoch == 0 && receipt.kind != ReceiptType::Failed {
        return Err(Refusal::SourceMismatch { gateway: letter.source_gateway.clone(), unit: letter.source_agent.clone(), epoch: 0 });
    }
    match checks.sent_to(&receipt.of) {
        Some(target) if target == letter.source_agent => Ok(receipt),
        _ => Err(Refusal::ReceiptUnknown),
    }
}

fn forward(letter: &Envelope, target: &Unit, checks: &dyn Checks) -> Result<Step, Refusal> {
    let us = checks.gateway();
    let not_owner = || Refusal::NotOwner { unit: target.to_string() };
    let (owner, _) = checks.owner(target).ok_or_else(not_owner)?;
    // The sender looks the owner up again before its next attempt.
    if letter.no_rebroadcast() {
        return Err(not_owner());
    }
    if letter.hop.hops.iter().any(|hop| hop == us) {
        return Err(Refusal::Loop { gateway: us.into() });
    }
    // The record names us and we do not hold the unit (yet): nobody to pass it on to.
    if owner == us {
        return Err(not_owner());
    }
    if letter.hop.hops.len() >= letter.max_hops() {
        return Err(Refusal::MaxHops { hops: letter.hop.hops.len(), hops_max: letter.max_hops() });
    }
    if letter.hop.hops.contains(&owner) {
        return Err(Refusal::Loop { gateway: owner });
    }
    Ok(Step::Forward(owner))
}
