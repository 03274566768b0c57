//! Names of agents and gateways as parts of subjects and consumer names.
//!
//! NATS gives a meaning to `.`, `*`, `>` and blanks. Letters, digits and `-` stay as they are; every other byte is `_`
//! and two hexadecimal digits. Different names give different tokens; an empty name is a lone `_`.

use std::fmt::Write as _;

use crate::mail::MailBox;

/// A name as one token.
pub(super) fn token(name: &str) -> String {
    if name.is_empty() {
        return "_".to_owned();
    }
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "_{byte:02X}");
        }
    }
    out
}

/// The name of a token; what is no token of ours comes back as it is.
pub(super) fn name(token: &str) -> String {
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token;
    while let Some(at) = rest.find('_') {
        let (head, tail) = rest.split_at(at);
        bytes.extend(head.bytes());
        let Some(byte) = tail.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            return if token == "_" { String::new() } else { token.to_owned() };
        };
        bytes.push(byte);
        rest = tail.get(3..).unwrap_or_default();
    }
    bytes.extend(rest.bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The stream of a farm.
pub(super) fn stream(farm_id: &str) -> String {
    format!("OPENCLAW_{}", token(farm_id))
}

/// Everything of a farm.
pub(super) fn subjects(farm_id: &str) -> String {
    format!("openclaw.{}.>", token(farm_id))
}

/// The subject of a box.
pub(super) fn subject(farm_id: &str, of: &MailBox) -> String {
    let farm = token(farm_id);
    match of {
        MailBox::Unit(unit) => format!("openclaw.{farm}.unit.{}", token(unit)),
        MailBox::Gateway(gateway) => format!("openclaw.{farm}.gw.{}", token(gateway)),
    }
}

/// What the subjects of a blob begin with.
pub(super) fn blob(farm_id: &str, name: &str) -> String {
    format!("openclaw.{}.blob.{}", token(farm_id), token(name))
}

/// One owner of a box, as its consumer is named: `unit=<box>=<number>=<owner>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// Grows from owner to owner.
    pub(super) number: u64,
    /// Who.
    pub(super) consumer: String,
}

/// What the names of all consumers of a box begin with.
pub(super) fn owners_prefix(of: &MailBox) -> String {
    match of {
        MailBox::Unit(unit) => format!("unit={}=", token(unit)),
        MailBox::Gateway(gateway) => format!("gw={}=", token(gateway)),
    }
}

impl Owner {
    /// The name of its consumer.
    pub(super) fn consumer_name(&self, of: &MailBox) -> String {
        format!("{}{}={}", owners_prefix(of), self.number, token(&self.consumer))
    }

    /// The owner a consumer of this box belongs to; none for other consumers.
    pub(super) fn of_consumer(consumer_name: &str, of: &MailBox) -> Option<Self> {
        let (number, consumer) = consumer_name.strip_prefix(&owners_prefix(of))?.split_once('=')?;
        Some(Self { number: number.parse().ok()?, consumer: name(consumer) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NAMES: [&str; 12] = ["", "_", "agents/bobby", "chan.slack.main", "a*b", "a>b", "a b\t", "ä€", "A-1", "a_2Fb", "a=b", "a/b"];

    #[test]
    fn any_name_is_a_legal_token_of_its_own_and_comes_back() {
        let mut seen = BTreeSet::new();
        for original in NAMES {
            let token = token(original);
            assert!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{token}");
            assert!(seen.insert(token.clone()), "{token}");
            assert_eq!(name(&token), original);
        }
    }

    #[test]
    fn the_owner_is_read_from_the_name_of_its_consumer() {
        for unit in NAMES {
            let (of, other) = (MailBox::Unit(unit.into()), MailBox::Gateway(unit.into()));
            let owner = Owner { number: 1_767_225_600_000, consumer: "jerry-gateway.7".into() };
            let consumer = owner.consumer_name(&of);
            assert_eq!(Owner::of_consumer(&consumer, &of), Some(owner));
            assert_eq!(Owner::of_consumer(&consumer, &other), None);
            assert_eq!(Owner::of_consumer(&consumer, &MailBox::Unit(format!("{unit}x"))), None);
        }
        assert_eq!(subject("octant", &MailBox::Unit("agents/bobby".into())), "openclaw.octant.unit.agents_2Fbobby");
        assert_eq!(stream("my.farm"), "OPENCLAW_my_2Efarm");
    }
}
