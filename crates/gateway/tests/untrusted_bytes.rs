//! What strangers can send: the checks of the fuzz targets, with random bytes and with damaged good input.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{fs, path::PathBuf};

use proptest::prelude::*;

#[path = "../../../fuzz/src/checks.rs"]
mod checks;

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 4] = [("frame", checks::frame), ("config", checks::config), ("journal", checks::journal), ("sse", checks::sse)];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One way to damage bytes.
#[derive(Clone, Debug)]
enum Damage {
    Replace(prop::sample::Index, u8),
    Cut(prop::sample::Index, prop::sample::Index),
    Twice(prop::sample::Index, prop::sample::Index),
    /// Lines `0` and `1` change places.
    Swap(prop::sample::Index, prop::sample::Index),
    /// A line is left out.
    Without(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (at(), at()).prop_map(|(from, to)| Damage::Cut(from, to)),
        (at(), at()).prop_map(|(from, to)| Damage::Twice(from, to)),
        (at(), at()).prop_map(|(one, other)| Damage::Swap(one, other)),
        at().prop_map(Damage::Without),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let place = |index: &prop::sample::Index| index.index(bytes.len());
        match damage {
            Damage::Replace(at, byte) => {
                let at = place(at);
                bytes[at] = *byte;
            }
            Damage::Cut(one, other) => {
                let (one, other) = (place(one), place(other));
                bytes.drain(one.min(other)..one.max(other));
            }
            Damage::Twice(one, other) => {
                let (one, other) = (place(one), place(other));
                let piece = bytes[one.min(other)..one.max(other)].to_vec();
                let at = one.min(other);
                bytes.splice(at..at, piece);
            }
            Damage::Swap(one, other) => {
                let mut lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
                let count = lines.len();
                lines.swap(one.index(count), other.index(count));
                bytes = lines.join(&b'\n');
            }
            Damage::Without(at) => {
                let mut lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
                lines.remove(at.index(lines.len()));
                bytes = lines.join(&b'\n');
            }
        }
    }
    bytes
}

#[test]
fn seeds_are_good() {
    for (target, check) in TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target} has no seeds");
        seeds.iter().for_each(|seed| check(seed));
    }
    for journal in seeds("journal") {
        for line in journal.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            serde_json::from_slice::<clawstead_terms::JournalEvent>(line).unwrap_or_else(|err| panic!("{err}: {}", String::from_utf8_lossy(line)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        TARGETS.iter().for_each(|(_, check)| check(&bytes));
    }

    #[test]
    fn damaged_input_does_no_harm(target in 0..TARGETS.len(), which in any::<prop::sample::Index>(), damages in prop::collection::vec(damage(), 1..6)) {
        let (name, check) = TARGETS[target];
        let seeds = seeds(name);
        check(&damaged(seeds[which.index(seeds.len())].clone(), &damages));
    }
}
