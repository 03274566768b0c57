//! Answers that nobody should get: heartbeat acknowledgements and silent tokens. Pure.

/// The acknowledgement of a heartbeat.
pub const HEARTBEAT_OK: &str = "HEARTBEAT_OK";
/// The agent chose to say nothing.
pub const NO_REPLY: &str = "NO_REPLY";

/// What is left of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The text without tokens.
    pub text: String,
    /// True when it goes to nobody.
    pub silent: bool,
}

/// Judges a final text. `NO_REPLY` as the whole answer is always silent. In a heartbeat a text that begins or ends
/// with `HEARTBEAT_OK` (or `NO_REPLY`) and has at most `ack_chars_max` other characters is silent; with more, the
/// token is taken off and the rest is an answer. Inside a sentence the tokens mean nothing. Markup around a token
/// (`**HEARTBEAT_OK**`, backquotes, a full stop) is ignored.
#[must_use]
pub fn judge(text: &str, heartbeat: bool, ack_chars_max: usize) -> Heard {
    let bare = unwrap(text);
    if bare == NO_REPLY || (heartbeat && bare == HEARTBEAT_OK) {
        return Heard { text: String::new(), silent: true };
    }
    if !heartbeat {
        return Heard { text: text.to_owned(), silent: false };
    }
    for token in [HEARTBEAT_OK, NO_REPLY] {
        let Some(rest) = without(text.trim(), token) else { continue };
        let silent = rest.chars().count() <= ack_chars_max;
        return Heard { text: if silent { String::new() } else { rest }, silent };
    }
    Heard { text: text.to_owned(), silent: text.trim().is_empty() }
}

const MARKUP: &[char] = &['*', '_', '`', '"', '\'', '.', '!', '#', '<', '>', '~'];

fn unwrap(text: &str) -> &str {
    text.trim().trim_matches(MARKUP).trim()
}

/// The text without the token at its begin or end; none when the token is not there.
fn without(text: &str, token: &str) -> Option<String> {
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    let front = text.trim_start_matches(MARKUP);
    if let Some(rest) = front.strip_prefix(token)
        && edge(rest.chars().next())
    {
        return Some(rest.trim_start_matches(MARKUP).trim().to_owned());
    }
    let back = text.trim_end_matches(MARKUP);
    if let Some(rest) = back.strip_suffix(token)
        && edge(rest.chars().next_back())
    {
        return Some(rest.trim_end_matches(MARKUP).trim().to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn acknowledgements_are_taken_off_at_the_edges_only() {
        let long = "x".repeat(301);
        for (text, heartbeat, want, silent) in [
            ("HEARTBEAT_OK", true, "", true),
            (" **HEARTBEAT_OK**. ", true, "", true),
            ("HEARTBEAT_OK all quiet", true, "", true),
            ("All quiet. HEARTBEAT_OK", true, "", true),
            (&format!("{long} HEARTBEAT_OK"), true, &long, false),
            ("I answer HEARTBEAT_OK when quiet", true, "I answer HEARTBEAT_OK when quiet", false),
            ("HEARTBEAT_OKAY", true, "HEARTBEAT_OKAY", false),
            ("HEARTBEAT_OK", false, "HEARTBEAT_OK", false),
            ("NO_REPLY", false, "", true),
            ("NO_REPLY: really", false, "NO_REPLY: really", false),
            ("NO_REPLY", true, "", true),
            ("The disk is full!", true, "The disk is full!", false),
            ("", true, "", true),
        ] {
            let heard = judge(text, heartbeat, 300);
            assert_eq!((heard.text.as_str(), heard.silent), (want, silent), "{text:?} heartbeat={heartbeat}");
        }
    }
}
