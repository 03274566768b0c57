//! I1: whatever the bus repeats, each letter is said to its agent once at most, and each run elsewhere has one run.

use std::collections::BTreeMap;

use clawstead_terms::{JournalEvent, Role};

use super::End;

pub fn end(end: &End<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    // The scripted model gives every letter a word that no other letter has.
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for session in &end.evidence.sessions {
        for (seq, event) in &session.journal {
            let JournalEvent::Said { message } = event else { continue };
            if message.role != Role::User {
                continue;
            }
            for word in message.plain_text().split_whitespace().filter(|word| is_of_one_letter(word)) {
                said.entry(word.to_owned()).or_default().push(format!("{} line {seq}", session.row.key));
            }
        }
    }
    faults.extend(said.into_iter().filter(|(_, places)| places.len() > 1).map(|(word, places)| format!("{word} was said {} times: {places:?}", places.len())));
    let mut keys: BTreeMap<(&str, &str, &str), &str> = BTreeMap::new();
    for ((unit, key), taken) in &end.books.taken {
        let head = &taken.row.head;
        for letter in &taken.letters {
            if let Some(other) = keys.insert((unit, &head.from, letter), key).filter(|other| other != key) {
                faults.push(format!("the letter {letter} to {unit} has two rows: {other} and {key}"));
            }
        }
    }
    faults
}

fn is_of_one_letter(word: &str) -> bool {
    ["#ask-", "#give-", "#strange-"].iter().any(|begin| word.starts_with(begin))
}
