//! A command text split into words as a POSIX shell would, but only where no shell is needed: quotes and
//! backslashes are understood, everything that a shell would act upon is refused. So the words that are checked
//! are the words that are run.

use std::fmt;

/// Longest command, bytes.
pub const COMMAND_BYTES_MAX: usize = 64 * 1024;
/// Most words of one command.
const WORDS_MAX: usize = 4096;
/// Most commands of a pipe.
const STAGES_MAX: usize = 16;

/// Why a text is not a plain command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPlain {
    /// It needs a shell.
    Shell(&'static str),
    /// A quote is not closed.
    OpenQuote,
    /// There is nothing to run.
    Empty,
    /// Too long.
    TooLong,
}

impl fmt::Display for NotPlain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shell(what) => write!(f, "it uses {what}, which needs a shell"),
            Self::OpenQuote => f.write_str("a quote is not closed"),
            Self::Empty => f.write_str("there is nothing to run"),
            Self::TooLong => f.write_str("it is too long"),
        }
    }
}

/// Splits a command into the stages of a pipe, each into words. One stage for a command without `|`.
///
/// # Errors
/// When a shell would do more than split: expansion, substitution, globbing, redirection, several commands,
/// background, comments, assignments before the command.
pub fn split(text: &str) -> Result<Vec<Vec<String>>, NotPlain> {
    if text.len() > COMMAND_BYTES_MAX {
        return Err(NotPlain::TooLong);
    }
    let (mut stages, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    // Whether the word has a quoted part: `~` and `=` only mean something to a shell when bare.
    let mut bare = true;
    let mut chars = text.trim_matches([' ', '\t', '\n']).chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => finish(&mut words, &mut word, bare)?,
            '\'' => {
                let out = word.get_or_insert_default();
                bare = false;
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some('\0') => return Err(NotPlain::Shell("a NUL character")),
                        Some(inner) => out.push(inner),
                        None => return Err(NotPlain::OpenQuote),
                    }
                }
            }
            '"' => {
                let out = word.get_or_insert_default();
                bare = false;
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(escaped @ ('"' | '\\' | '$' | '`')) => out.push(escaped),
                            Some('\n') => {}
                            Some(other) => out.extend(['\\', other]),
                            None => return Err(NotPlain::OpenQuote),
                        },
                        Some('$') => return Err(NotPlain::Shell("$ in double quotes")),
                        Some('`') => return Err(NotPlain::Shell("a command substitution")),
                        // An interactive shell would look into its history.
                        Some('!') => return Err(NotPlain::Shell("! in double quotes")),
                        Some('\0') => return Err(NotPlain::Shell("a NUL character")),
                        Some(inner) => out.push(inner),
                        None => return Err(NotPlain::OpenQuote),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some('\0') => return Err(NotPlain::Shell("a NUL character")),
                Some(escaped) => {
                    bare = false;
                    word.get_or_insert_default().push(escaped);
                }
                None => return Err(NotPlain::Shell("a backslash at the end")),
            },
            '|' => {
                if matches!(chars.peek(), Some('|' | '&')) {
                    return Err(NotPlain::Shell("|| or |&"));
                }
                finish(&mut words, &mut word, bare)?;
                if words.is_empty() {
                    return Err(NotPlain::Empty);
                }
                stages.push(std::mem::take(&mut words));
                if stages.len() >= STAGES_MAX {
                    return Err(NotPlain::TooLong);
                }
            }
            '\n' | '\r' => return Err(NotPlain::Shell("several lines")),
            '\0' => return Err(NotPlain::Shell("a NUL character")),
            '$' => return Err(NotPlain::Shell("a variable or substitution ($)")),
            '`' => return Err(NotPlain::Shell("a command substitution (`)")),
            ';' => return Err(NotPlain::Shell("several commands (;)")),
            '&' => return Err(NotPlain::Shell("& or &&")),
            '<' | '>' => return Err(NotPlain::Shell("a redirection")),
            '(' | ')' => return Err(NotPlain::Shell("parentheses")),
            '{' | '}' => return Err(NotPlain::Shell("braces")),
            '*' | '?' | '[' | ']' => return Err(NotPlain::Shell("a file name pattern (quote it to mean it literally)")),
            '!' => return Err(NotPlain::Shell("!")),
            '^' => return Err(NotPlain::Shell("^")),
            '#' if word.is_none() => return Err(NotPlain::Shell("a comment")),
            '~' if word.as_ref().is_none_or(|w| w.ends_with(['=', ':'])) => return Err(NotPlain::Shell("~ (write the whole path)")),
            '=' if words.is_empty() && bare && word.as_deref().is_some_and(is_name) => return Err(NotPlain::Shell("an assignment (use env)")),
            // Other white space and control characters divide words in some shells and not in others.
            other if other.is_control() || (other.is_whitespace()) => return Err(NotPlain::Shell("a control character or odd space")),
            other => word.get_or_insert_default().push(other),
        }
        if word.is_none() {
            bare = true;
        }
    }
    finish(&mut words, &mut word, bare)?;
    if words.is_empty() {
        return Err(NotPlain::Empty);
    }
    stages.push(words);
    Ok(stages)
}

fn finish(words: &mut Vec<String>, word: &mut Option<String>, bare: bool) -> Result<(), NotPlain> {
    let Some(done) = word.take() else { return Ok(()) };
    if words.is_empty() {
        if done.is_empty() {
            return Err(NotPlain::Empty);
        }
        if bare && KEYWORDS.contains(&done.as_str()) {
            return Err(NotPlain::Shell("a word of the shell's own"));
        }
    }
    if words.len() >= WORDS_MAX {
        return Err(NotPlain::TooLong);
    }
    words.push(done);
    Ok(())
}

/// Words that mean something to a shell at the start of a command.
const KEYWORDS: [&str; 34] = [
    "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "in", "function", "select", "time", "coproc", "eval", "exec",
    "source", ".", ":", "export", "set", "unset", "alias", "builtin", "command", "trap", "cd", "declare", "local", "readonly", "typeset",
];

fn is_name(text: &str) -> bool {
    let text = text.trim_end_matches('+');
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Words written so that [`split`] and a shell read the same words back.
#[must_use]
pub fn join(words: &[String]) -> String {
    let quoted = |word: &String| {
        let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./,:@%+".contains(c));
        if plain { word.clone() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{NotPlain, join, split};

    fn one(text: &str) -> Vec<String> {
        let mut stages = split(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(stages.len(), 1);
        stages.remove(0)
    }

    #[test]
    fn quotes_are_read_as_a_shell_reads_them() {
        for (text, want) in [
            ("git status", vec!["git", "status"]),
            ("echo 'a b' \"c d\" e\\ f", vec!["echo", "a b", "c d", "e f"]),
            ("echo a'b'\"c\"", vec!["echo", "abc"]),
            ("echo '' \"\"", vec!["echo", "", ""]),
            (r#"echo "a\"b\\c\$d\e""#, vec!["echo", r#"a"b\c$d\e"#]),
            ("echo '*' '$HOME' '`x`'", vec!["echo", "*", "$HOME", "`x`"]),
            ("  ls\t-l ", vec!["ls", "-l"]),
            ("echo a#b a~b A=b", vec!["echo", "a#b", "a~b", "A=b"]),
            ("echo 'é ü'", vec!["echo", "é ü"]),
        ] {
            assert_eq!(one(text), want, "{text}");
        }
        assert_eq!(split("a 'x|y' | b").unwrap(), vec![vec!["a", "x|y"], vec!["b"]]);
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for text in [
            "a; b",
            "a && b",
            "a || b",
            "a & b",
            "a > f",
            "a < f",
            "a >> f",
            "a $(b)",
            "a `b`",
            "a $HOME",
            "a \"$HOME\"",
            "a \"`b`\"",
            "a *",
            "a ?",
            "a [x]",
            "a {b,c}",
            "(a)",
            "a\nb",
            "a\r\nb",
            "# a",
            "a #b",
            "A=b c",
            "A+=b c",
            "~/x",
            "a ~",
            "a b=~/c",
            "! a",
            "a |& b",
            "a |",
            "| a",
            "a 'b",
            "a \"b",
            "a \\",
            "",
            "  ",
            "''",
            "if a",
            "eval a",
            "exec a",
            ". a",
            "cd x",
            "a\u{a0}b",
            "a\u{7}b",
            "a\0b",
            "a ^b",
            "a <<< b",
            "a 'x\0'",
        ] {
            assert!(split(text).is_err(), "{text:?} gave {:?}", split(text));
        }
        assert_eq!(split("a 'b"), Err(NotPlain::OpenQuote));
    }

    proptest! {
        /// Whatever is written by `join` is read back as the same words.
        #[test]
        fn joined_words_come_back(words in prop::collection::vec("[ -~é\\t\\n]{0,12}", 1..6)) {
            prop_assume!(!words[0].is_empty());
            prop_assume!(!super::KEYWORDS.contains(&words[0].as_str()));
            prop_assert_eq!(split(&join(&words)).unwrap(), vec![words]);
        }

        /// Never yields a different command than shown: a real shell splits every accepted text the same way.
        #[test]
        fn a_shell_reads_the_same_words(text in "[a-c '\"\\\\=~#:$*|;&<>(){}!^\\-]{0,14}") {
            if let Ok(stages) = split(&text) {
                for (stage, words) in text_stages(&text, stages.len()).into_iter().zip(&stages) {
                    let script = format!("printf '%s\\0' {stage}");
                    let out = std::process::Command::new("/bin/sh").arg("-c").arg(&script).output().unwrap();
                    let mut seen: Vec<String> = String::from_utf8(out.stdout).unwrap().split('\0').map(str::to_owned).collect();
                    seen.pop();
                    prop_assert_eq!(&seen, words, "{}", text);
                }
            }
        }
    }

    /// The stages as text; only texts without a quoted bar are cut.
    fn text_stages(text: &str, count: usize) -> Vec<String> {
        let parts: Vec<String> = text.split('|').map(str::to_owned).collect();
        if parts.len() == count { parts } else { Vec::new() }
    }
}
