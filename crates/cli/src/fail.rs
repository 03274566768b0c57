//! What a command says when it does not work, as text and as JSON.

use serde_json::{Map, Value, json};

/// The kinds that scripts tell apart (`error.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A refusal of this program.
    Cli,
    /// The gateway answered with an error.
    Request,
    /// No connection.
    Transport,
    /// `--url` without credentials.
    Credentials,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Cli => "cli_error",
            Self::Request => "gateway_request_error",
            Self::Transport => "gateway_transport_error",
            Self::Credentials => "gateway_credentials_required",
        }
    }
}

/// A command that did not work.
#[derive(Clone, Debug)]
pub struct Fail {
    /// Its kind.
    pub kind: Kind,
    /// One sentence for people.
    pub message: String,
    /// The exit code.
    pub exit: u8,
    /// Further fields of `error`.
    pub error: Box<Map<String, Value>>,
    /// Further fields beside `error`.
    pub beside: Box<Map<String, Value>>,
    /// What to try next, instead of `openclaw doctor`.
    pub hint: Option<String>,
    /// Everything was printed already.
    pub said: bool,
}

impl Fail {
    /// A local refusal, exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { kind: Kind::Cli, message: message.into(), exit: 1, error: Box::default(), beside: Box::default(), hint: None, said: false }
    }

    /// Of another kind.
    pub fn of(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, ..Self::new(message) }
    }

    /// Everything is printed; only the exit code is left.
    pub fn silent(exit: u8) -> Self {
        Self { exit, said: true, ..Self::new("") }
    }

    /// With what to try next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a field beside `error`.
    #[must_use]
    pub fn beside(mut self, name: &str, value: Value) -> Self {
        self.beside.insert(name.into(), value);
        self
    }

    /// With a field inside `error`.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.error.insert(name.into(), value);
        self
    }

    /// The JSON envelope.
    #[must_use]
    pub fn envelope(&self) -> Value {
        let mut error = Map::new();
        error.insert("type".into(), self.kind.as_str().into());
        error.insert("message".into(), self.message.as_str().into());
        error.extend((*self.error).clone());
        let mut out = Map::new();
        out.insert("ok".into(), json!(false));
        out.insert("error".into(), Value::Object(error));
        out.extend((*self.beside).clone());
        Value::Object(out)
    }

    /// Prints it and answers the exit code.
    pub fn show(&self, json: bool) -> u8 {
        if self.said {
            return self.exit;
        }
        if json {
            crate::print::json(&self.envelope());
            return self.exit;
        }
        anstream::eprintln!("[openclaw] The CLI command failed.");
        anstream::eprintln!("[openclaw] Reason: {}", self.message);
        anstream::eprintln!("[openclaw] Try: {}", self.hint.as_deref().unwrap_or("openclaw doctor"));
        anstream::eprintln!("[openclaw] Help: openclaw --help");
        self.exit
    }
}

impl From<std::io::Error> for Fail {
    fn from(err: std::io::Error) -> Self {
        Self::new(err.to_string())
    }
}

impl From<clawstead_config::EditError> for Fail {
    fn from(err: clawstead_config::EditError) -> Self {
        Self::new(err.to_string())
    }
}

impl From<clawstead_state::TxError> for Fail {
    fn from(err: clawstead_state::TxError) -> Self {
        Self::new(err.to_string())
    }
}

impl From<clawstead_providers::AuthFileError> for Fail {
    fn from(err: clawstead_providers::AuthFileError) -> Self {
        Self::new(err.to_string())
    }
}
