//! What a person is told when something failed: what, what mends it, and the exit code.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a command ends: its exit code. The table is part of the contract for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Code {
    /// Done.
    Ok,
    /// What was asked for could not be done.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// The reader of our output has gone.
    BrokenPipe,
    /// No node answers for this state directory.
    Unreachable,
    /// The cell refused: token, ticket or certificate.
    Refused,
    /// A bug of ours.
    Bug,
}

impl Code {
    /// All codes, with what they mean.
    pub const TABLE: [(Self, &'static str); 7] = [
        (Self::Ok, "done"),
        (Self::Failed, "what was asked for could not be done"),
        (Self::Usage, "wrong command line or configuration"),
        (Self::BrokenPipe, "the reader of the output has gone"),
        (Self::Unreachable, "no node runs on this state directory"),
        (
            Self::Refused,
            "refused by the cell: token, ticket or certificate",
        ),
        (Self::Bug, "a bug in cellfs"),
    ];

    /// The number that the process exits with.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::BrokenPipe => 3,
            Self::Unreachable => 4,
            Self::Refused => 5,
            Self::Bug => 70,
        }
    }
}

impl From<Code> for u8 {
    fn from(c: Code) -> Self {
        c.number()
    }
}

impl From<u8> for Code {
    /// An unknown number, as from a newer node, is a plain failure.
    fn from(n: u8) -> Self {
        Self::TABLE
            .iter()
            .map(|(c, _)| *c)
            .find(|c| c.number() == n)
            .unwrap_or(Self::Failed)
    }
}

/// What went wrong, for a person: shown as `Error: WHAT` and `Hint: HINT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// What was wrong, in lower case, without a full stop.
    pub what: String,
    /// What mends it, with the command to type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The exit code.
    pub code: Code,
}

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(code: Code, what: impl fmt::Display) -> Self {
        Self {
            what: what.to_string(),
            hint: None,
            code,
        }
    }

    /// What was asked for could not be done.
    #[must_use]
    pub fn failed(what: impl fmt::Display) -> Self {
        Self::new(Code::Failed, what)
    }

    /// The command line or the configuration is wrong.
    #[must_use]
    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(Code::Usage, what)
    }

    /// A token, ticket or certificate was refused.
    #[must_use]
    pub fn refused(what: impl fmt::Display) -> Self {
        Self::new(Code::Refused, what)
    }

    /// A bug of ours.
    #[must_use]
    pub fn bug(what: impl fmt::Display) -> Self {
        Self::new(Code::Bug, what)
    }

    /// The same failure with what mends it.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

/// What a request comes to.
pub type Answer<T> = Result<T, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_survive_the_wire() {
        let mut seen = std::collections::BTreeSet::new();
        for (code, _) in Code::TABLE {
            assert!(seen.insert(code.number()));
            let text = serde_json::to_string(&code).expect("a number");
            assert_eq!(serde_json::from_str::<Code>(&text).ok(), Some(code));
        }
        assert_eq!(serde_json::from_str::<Code>("99").ok(), Some(Code::Failed));
    }
}
