//! An answer or a result that one session owes another arrives there, once; nothing is given up that could arrive.

use crate::evidence::Evidence;

pub fn check(evidence: &Evidence) -> Vec<String> {
    let mut faults: Vec<String> = evidence.letters.iter().map(|row| format!("a letter to {} is still owed", row.to().session)).collect();
    for (key, row) in &evidence.dead_letters {
        // Rings are cut on purpose.
        if !row.contains("it ends here") && !row.contains("goes no further") {
            faults.push(format!("{key} was given up: {}", row.chars().rev().take(300).collect::<String>().chars().rev().collect::<String>()));
        }
    }
    faults
}
